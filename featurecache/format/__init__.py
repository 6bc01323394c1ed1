"""The cache's HDF5 format: names, types, version, and the checks before anything is trusted.

Private: `featurecache` has the public names.
"""

"""Files on disk: written whole, durably and once; opened safely.

Private: `featurecache` has the public names.
"""

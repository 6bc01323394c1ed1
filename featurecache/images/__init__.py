"""Which images there are, and how their bytes become pixels.

Private: `featurecache` has the public names.
"""

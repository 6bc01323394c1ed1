"""An extraction by several workers: a driver deals units to them, and packs what they have published.

Private: `featurecache` has the public names.
"""

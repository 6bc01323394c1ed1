"""One extraction run: look at each image, forward what is new, commit, pack.

Private: `featurecache` has the public names.
"""

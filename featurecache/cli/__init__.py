"""The command line: the only package that parses arguments, prints and exits.

Private: programs call `featurecache` and `heads` instead.
"""

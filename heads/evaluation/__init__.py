"""From a predictions table to numbers with intervals, comparisons and galleries.

Private: `heads` has the public names.
"""

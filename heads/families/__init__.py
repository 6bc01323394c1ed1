"""The heads: one module a family, with its parameters, its training and its model.

Private: `heads` has the public names.
"""

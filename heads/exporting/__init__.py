"""Export of heads to Keras (with the network) and to scikit-learn (without).

Private: `heads` has the public names.
"""

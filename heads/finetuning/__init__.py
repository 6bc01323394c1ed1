"""Fine-tuning: training a head together with the upper layers of its network, on images.

Private: `heads` has the public names.
"""

"""Trained heads, and the two files that store a head.

Private: `heads` has the public names.
"""

from heads.artifact.record import TrainingGroups, TrainingRecord
from heads.artifact.trained import NumberRange, TrainedHead, require_free

__all__ = ["NumberRange", "TrainedHead", "TrainingGroups", "TrainingRecord", "require_free"]

"""Trained heads, and the files that store a head.

Private: `heads` has the public names.
"""

from heads.artifact.record import Growth, TrainingGroups, TrainingRecord
from heads.artifact.rows import HeadRows
from heads.artifact.trained import NumberRange, TrainedHead, require_free

__all__ = ["Growth", "HeadRows", "NumberRange", "TrainedHead", "TrainingGroups", "TrainingRecord", "require_free"]

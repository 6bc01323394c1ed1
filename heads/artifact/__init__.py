"""A trained head and the two files that it is stored as."""

from heads.artifact.record import TrainingRecord
from heads.artifact.trained import TrainedHead, require_free

__all__ = ["TrainedHead", "TrainingRecord", "require_free"]

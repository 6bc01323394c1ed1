"""A trained head and the two files that it is stored as."""

from heads.artifact.trained import TrainedHead, TrainingRecord, require_free

__all__ = ["TrainedHead", "TrainingRecord", "require_free"]

"""The errors that heads raise, one tree below featurecache's own; every one is also the builtin it specialises.

::

    FeatureCacheError
    └── HeadError
        ├── ParameterError   (ValueError)   a head's parameter that does not exist, or a value that it cannot take
        ├── RowError         (ValueError)   something is wrong with rows; it knows the first of them
        │   ├── TrainingError                rows that no head can be trained on, or a training that diverged
        │   └── EvaluationError              rows that a head cannot be used or judged on
        ├── ArtifactError    (ValueError)   a head's files are damaged, or are not what they were taken for
        └── MismatchError    (ValueError)   a head used on features of another recipe, tap, width or classes
"""

from featurecache.errors import FeatureCacheError


class HeadError(FeatureCacheError):
    """Anything that this package raises on purpose; its message is one line that names the remedy."""


class ParameterError(HeadError, ValueError):
    """A head's parameter that does not exist, or a value that it cannot take."""


class RowError(HeadError, ValueError):
    """Rows that something is wrong with; never raised as such.

    Parameters
    ----------
    message
        What is wrong.
    row
        The first row at fault, counted from 0 in what was given; None if it is no single row.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class TrainingError(RowError):
    """Rows that no head can be trained on, or a training that diverged."""


class EvaluationError(RowError):
    """Rows that a head cannot be used or judged on."""


class ArtifactError(HeadError, ValueError):
    """A head's files are damaged, or are not what they were taken for."""


class MismatchError(HeadError, ValueError):
    """A head used on features of another recipe, tap, width or classes."""

"""Errors of heads. They form one tree below featurecache's own; most of them are the matching builtin too.

::

    FeatureCacheError
    └── HeadError
        ├── ParameterError   (ValueError)   unknown parameter, or a value out of its range
        ├── RowError         (ValueError)   base class of errors about rows; knows the first row at fault
        │   ├── TrainingError                rows cannot train a head, or the training diverged
        │   └── EvaluationError              a head cannot predict or be evaluated on rows
        ├── ArtifactError    (ValueError)   the files of a head are damaged, or there is no head
        └── MismatchError    (ValueError)   features of another recipe, tap, width or classes than the head's
"""

from featurecache.errors import FeatureCacheError


class HeadError(FeatureCacheError):
    """Base class of all errors of `heads`. The message is one line that names the remedy."""


class ParameterError(HeadError, ValueError):
    """A head has no such parameter, or the value is out of the parameter's range."""


class RowError(HeadError, ValueError):
    """Base class of errors about rows; never raised itself.

    Parameters
    ----------
    message
        What is wrong.
    row
        The first row at fault, counted from 0 in the given rows; None if no single row is at fault.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class TrainingError(RowError):
    """The rows cannot train a head, or the training diverged."""


class EvaluationError(RowError):
    """A head cannot predict these rows, or cannot be evaluated on them."""


class ArtifactError(HeadError, ValueError):
    """The files of a head are damaged, or there is no head."""


class MismatchError(HeadError, ValueError):
    """The features have another recipe, tap, width or classes than the head."""

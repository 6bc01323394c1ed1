"""The errors that featurecache raises, one tree; every one is also the builtin it specialises.

::

    FeatureCacheError
    ├── ManifestError      (ValueError)   the list of images cannot be made from what was given
    ├── NoImagesError      (ValueError)   there is nothing to extract, or nothing that could be used
    ├── UnknownNameError   (ValueError)   a backbone, tap, head, split or option that does not exist
    ├── OptionError        (ValueError)   an option's value is out of its range
    ├── WeightsError       (ValueError)   the weights are not there or belong to another network
    ├── DeviceError        (RuntimeError) the device that was asked for is not there
    ├── EngineError        (RuntimeError) the engine that was asked for is not installed, or cannot do what is asked
    ├── RecipeError        (ValueError)   features of one recipe were offered where another is needed
    ├── CacheFormatError   (ValueError)   a file is damaged, or is not what it was taken for
    └── OutputError        (OSError)      a result cannot be written where it was asked for
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FeatureCacheError(Exception):
    """Anything that this project raises on purpose; its message is one line that names the remedy."""


class ManifestError(FeatureCacheError, ValueError):
    """The list of images cannot be made from what was given."""


class NoImagesError(FeatureCacheError, ValueError):
    """There is nothing to extract, or nothing that could be used."""


class UnknownNameError(FeatureCacheError, ValueError):
    """A backbone, tap, head, split or option that does not exist.

    Parameters
    ----------
    kind
        What was named, in the singular: ``"backbone"``, ``"tap"``, …
    name
        The name that does not exist.
    known
        The names that do.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")
        self._arguments = (kind, name, tuple(names))

    def __reduce__(self) -> tuple[type, tuple[str, str, tuple[str, ...]]]:
        """Return what makes it again in another process."""
        return type(self), self._arguments


class OptionError(FeatureCacheError, ValueError):
    """An option's value is out of its range."""


class WeightsError(FeatureCacheError, ValueError):
    """The weights are not there, or belong to another network."""


class DeviceError(FeatureCacheError, RuntimeError):
    """The device that was asked for is not there."""


class EngineError(FeatureCacheError, RuntimeError):
    """The engine that was asked for is not installed, or cannot do what is asked."""


class RecipeError(FeatureCacheError, ValueError):
    """Features of one recipe were offered where another is needed."""


class CacheFormatError(FeatureCacheError, ValueError):
    """A file is damaged, or is not what it was taken for."""


class OutputError(FeatureCacheError, OSError):
    """A result cannot be written where it was asked for."""

"""The errors that featurecache raises, in one tree; each is also a built-in exception.

::

    FeatureCacheError
    ├── ManifestError      (ValueError)   the folder, table or manifest of images is not valid
    ├── NoImagesError      (ValueError)   there are no images, or none that can be used
    ├── UnknownNameError   (ValueError)   a backbone, tap, head, split or option that does not exist
    ├── OptionError        (ValueError)   an option's value is out of its range
    ├── WeightsError       (ValueError)   the weights are missing or belong to another network
    ├── DeviceError        (RuntimeError) the requested device is not available
    ├── EngineError        (RuntimeError) the requested engine is not installed, or does not support the request
    ├── ClusterError       (RuntimeError) there is no cluster, or its workers cannot do the work
    ├── EntryPointError    (RuntimeError) a head or network of an installed package cannot be used
    ├── RecipeError        (ValueError)   a recipe differs from the required one
    ├── CacheFormatError   (ValueError)   a cache or one of its files is damaged, or is not a cache
    └── OutputError        (OSError)      a result cannot be written to the requested path
"""

from collections.abc import Iterable, Sequence
from typing import Any

from featurecache.text import did_you_mean, nearest


class FeatureCacheError(Exception):
    """The base of all errors of this project; the message is one line and names the remedy."""


class ManifestError(FeatureCacheError, ValueError):
    """The folder, table or manifest of images is not valid."""


class NoImagesError(FeatureCacheError, ValueError):
    """There are no images, or none that can be used."""


class UnknownNameError(FeatureCacheError, ValueError):
    """A backbone, tap, head, split or option that does not exist.

    Parameters
    ----------
    kind
        What the name stands for, in the singular: ``"backbone"``, ``"tap"``, …
    name
        The name that does not exist.
    known
        The existing names.
    others
        What else can be given than a name, if anything.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], others: str = "") -> None:
        names = sorted(known)
        accepted = f"known: {nearest(name, names)}{others and f', or {others}'}"
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, names)} ({accepted})")
        self._arguments = (kind, name, tuple(names), others)

    def __reduce__(self) -> tuple[type, tuple[str, str, tuple[str, ...], str]]:
        """Make the error picklable, so that it can pass between processes."""
        return type(self), self._arguments


class OptionError(FeatureCacheError, ValueError):
    """An option's value is out of its range."""


class WeightsError(FeatureCacheError, ValueError):
    """The weights are missing, or belong to another network."""


class DeviceError(FeatureCacheError, RuntimeError):
    """The requested device is not available."""


class EngineError(FeatureCacheError, RuntimeError):
    """The requested engine is not installed, or does not support the request."""


class ClusterError(FeatureCacheError, RuntimeError):
    """There is no cluster, or its workers cannot do the work."""


class EntryPointError(FeatureCacheError, RuntimeError):
    """A head or network of an installed package cannot be used."""


class RecipeError(FeatureCacheError, ValueError):
    """A recipe differs from the required one.

    ``differences`` lists the fields that differ (`featurecache.recipe.Difference`), if two recipes were compared.
    """

    differences: Sequence[Any] = ()


class CacheFormatError(FeatureCacheError, ValueError):
    """A cache or one of its files is damaged, or is not a cache."""


class OutputError(FeatureCacheError, OSError):
    """A result cannot be written to the requested path."""

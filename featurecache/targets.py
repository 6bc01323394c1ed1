"""What labels stand for: a class, several labels of an image, or a number."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from featurecache.errors import ManifestError, UnknownNameError
from featurecache.images.classes import ordered, same_classes
from featurecache.images.flags import SEPARATOR
from featurecache.text import listed

Target: TypeAlias = Literal["class", "labels", "number"]
"""What a head learns: the class of an image, which of several labels it has, or a number."""

TARGETS: Final[tuple[Target, ...]] = get_args(Target)
_LARGEST = 1e100  # sums of squares of such numbers are finite


@dataclass(frozen=True, slots=True, eq=False)
class TargetValues:
    """What the rows of a feature set are to be learned as.

    Parameters
    ----------
    y
        Of a class: indices, shape (n,), int64, -1 without a label. Of several labels: 1 for a label that an image has
        and 0 for one that it has not, shape (n, k), int8, and -1 throughout without a label. Of a number: float64,
        shape (n,), NaN without a label.
    names
        The names of the classes, or of the k labels; empty for numbers.
    """

    y: NDArray[Any]
    names: tuple[str, ...]


def require_target(target: str) -> Target:
    """Return a target by its name; raise `UnknownNameError` if there is none."""
    for known in TARGETS:
        if target == known:
            return known
    raise UnknownNameError("target", target, TARGETS)


def is_labelled(target: Target, y: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows have a label, shape (n,)."""
    known = ~np.isnan(y) if target == "number" else y >= 0
    return np.asarray(known.any(axis=1) if target == "labels" else known)


def read_targets(target: Target, y: NDArray[np.int64], classes: Sequence[str]) -> TargetValues:
    """Read class names as several labels, or as numbers.

    Parameters
    ----------
    target
        What they are read as.
    y, classes
        Class indices, shape (n,), -1 without a label, and the names of the classes.

    Raises
    ------
    ManifestError
        If a name is not such a text; the message shows some of them.

    Examples
    --------
    >>> values = read_targets("labels", np.array([0, 1, -1, 2]), ["dog|indoors", "dog", "|"])
    >>> values.names
    ('dog', 'indoors')
    >>> values.y.tolist()
    [[1, 1], [1, 0], [-1, -1], [0, 0]]
    >>> read_targets("number", np.array([1, -1]), ["2.5", "1e3"]).y.tolist()
    [1000.0, nan]
    """
    if target == "class":
        return TargetValues(y, tuple(classes))
    return _numbers(y, classes) if target == "number" else _labels(y, classes)


def _numbers(y: NDArray[np.int64], classes: Sequence[str]) -> TargetValues:
    values = np.array([*map(_number, classes), np.nan])[y]
    wrong = np.isinf(values)
    if wrong.any():
        texts = [classes[index] for index in np.unique(y[wrong])]
        raise ManifestError(
            f"{np.count_nonzero(wrong):,} of {np.count_nonzero(y >= 0):,} labels are no numbers from -1e100 to 1e100: "
            f"{listed(texts, sort=False)}; give a column of numbers, with an empty field where there is none"
        )
    return TargetValues(values, ())


def _number(text: str) -> float:
    """Return the number that a text is; infinite for any other text, and for a number whose square may overflow."""
    try:
        number = float(text)
    except ValueError:
        return np.inf
    return number if abs(number) <= _LARGEST else np.inf


def _labels(y: NDArray[np.int64], classes: Sequence[str]) -> TargetValues:
    sets = [_parts(name) for name in classes]
    one_of = same_classes({name for names in sets for name in names})
    sets = [[one_of.get(name, name) for name in names] for names in sets]
    faults = [name for name, names in zip(classes, sets, strict=True) if "" in names]
    if faults:
        raise ManifestError(
            f"{len(faults):,} of {len(classes):,} different texts of labels name an empty label: "
            f"{listed(faults, sort=False)}; write names with one {SEPARATOR} between them, and {SEPARATOR} alone for "
            "an image that has none of the labels"
        )
    twice = [name for name, names in zip(classes, sets, strict=True) if max(Counter(names).values(), default=1) > 1]
    if twice:
        raise ManifestError(f"the labels {listed(twice, sort=False)} name a label twice; name it once")
    used = np.unique(y[y >= 0])
    names = ordered({name for index in used for name in sets[index]}, None)
    if not names and len(used):
        raise ManifestError("no row has any of several labels; give labels as names with | between them")
    places = {name: place for place, name in enumerate(names)}
    has = np.zeros((len(classes) + 1, len(names)), np.int8)
    has[-1] = -1
    for index in used:
        has[index, [places[name] for name in sets[index]]] = 1
    return TargetValues(has[y], names)


def _parts(name: str) -> list[str]:
    """Return the labels in a text; none for the separator alone."""
    return [] if name.strip() == SEPARATOR else [part.strip() for part in name.split(SEPARATOR)]

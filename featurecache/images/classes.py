"""The names of classes: their order, names that mean the same, and names that are hardly meant as classes."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Final

from featurecache.errors import ManifestError
from featurecache.images.flags import SEPARATOR
from featurecache.images.splits import split_named, splits_within
from featurecache.notices import Notice
from featurecache.text import listed

BY_NAME, NATURAL = "name", "natural"
SUSPICIOUS, SIMILAR = "suspicious_class", "similar_classes"

_PLACEHOLDERS: Final = frozenset(
    [
        *("nan", "na", "nat", "none", "null", "nil", "undefined", "unknown", "missing", "tbd", "todo"),
        *("unlabeled", "unlabelled", "notlabeled", "notlabelled", "nolabel", "unassigned"),
    ]
)
_MISSING_VALUES: Final = frozenset(["-1", "-1.0", "-999", "-9999", r"\n"])
_MARKS = re.compile(r"[\W_]+")
_NUMBER = re.compile(r"((?:^-)?\d{1,18})")
_DECIMAL = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)


def class_warnings(classes: Sequence[str]) -> Iterator[Notice]:
    """Yield a warning for each class that is likely a placeholder or a split, and for classes that look alike.

    Classes that are all numbers, and not all whole ones, give a warning as well, as do names of several labels.
    """
    several = [name for name in classes if SEPARATOR in name]
    if several:
        fact = f"the classes {listed(several, sort=False)} look like several labels each"
        yield Notice(SUSPICIOUS, f"{fact}; if an image can have several, train with --target labels")
    if all(map(_DECIMAL.fullmatch, classes)) and any("." in name for name in classes):
        fact = f"the classes are numbers: {listed(classes, sort=False)}"
        yield Notice(SUSPICIOUS, f"{fact}; if a number is to be predicted, train with --target number")
    if len(set().union(*map(splits_within, classes))) > 1:
        named = [name for name in classes if splits_within(name) and not split_named(name)]
        if named:
            fact = f"the classes {listed(named)} contain names of splits"
            yield Notice(SUSPICIOUS, f"{fact}; if they are splits, name them train, valid and test")
    for name in classes:
        if name != SEPARATOR and _is_placeholder(name):
            fact = f"the class {name!r} looks like a placeholder for a missing label"
            yield Notice(SUSPICIOUS, f"{fact}; leave the label empty if it is one")
        elif split_named(name):
            yield Notice(SUSPICIOUS, f"the class {name!r} has the name of a split; check that it is a label")
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[_look(name)].append(name)
    for names in alike.values():
        if len(names) > 1:
            seen = {unicodedata.normalize("NFKC", name) for name in names}
            quoted = ", ".join(map(repr if len(seen) == len(names) else ascii, names))
            differ = "differ in case, blanks or the form of letters alone"
            yield Notice(SIMILAR, f"the classes {quoted} {differ}; name them alike if they are one")


def same_name(name: str) -> str:
    """Return what names of one class have in common: the composed form of Unicode, without blanks at the ends."""
    return unicodedata.normalize("NFC", name.strip())


def same_classes(names: Collection[str]) -> dict[str, str]:
    """Map the names that mean the same class to one name: those that differ in Unicode form or blanks at the ends.

    Such a name on its own is not in the mapping, and stays as it is.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings[same_name(name)].append(name)
    return {name: one for one, found in spellings.items() if one and len(found) > 1 for name in found}


def ordered(names: Set[str], order: str | None, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of classes in order.

    Parameters
    ----------
    names
        The names.
    order
        ``"name"``, ``"natural"`` (numbers in names by their value), or the path of a text file with one name per line.
        If None, the order of ``known``, or else by name.
    known
        The classes of an existing cache; its new classes follow the order by which the others are sorted, or else come
        last.

    Raises
    ------
    ManifestError
        If the file cannot be read, has a name twice, or lacks a name.
    """
    by_name = sorted(names)
    natural = sorted(names, key=_natural)
    if order is None:
        kept = [name for name in known if name in names]
        if kept == sorted(kept):
            return tuple(by_name)
        return tuple(natural) if kept == sorted(kept, key=_natural) else tuple(dict.fromkeys([*kept, *by_name]))
    if order in {BY_NAME, NATURAL}:
        return tuple(by_name if order == BY_NAME else natural)
    places = _places_in(Path(order))
    if missing := set(by_name) - places.keys():
        raise ManifestError(f"the class order {order} lacks {listed(missing)}; add one line for each class")
    return tuple(sorted(by_name, key=places.__getitem__))


def numbers_are_sorted_as_text(classes: Sequence[str]) -> bool:
    """Return whether names that are numbers, begin with them or differ by them alone are sorted as text: 1, 10, 2."""
    alike = len({_NUMBER.sub("", name) for name in classes}) == 1
    numbered = [name for name in classes if alike or name[:1].isdecimal()]
    return list(classes) == sorted(classes) and numbered != sorted(numbered, key=_natural)


def _is_placeholder(name: str) -> bool:
    plain = name.strip().casefold()
    bare = _MARKS.sub("", plain)
    return bare in _PLACEHOLDERS or plain in _MISSING_VALUES or (plain.isascii() and not bare)


def _look(name: str) -> str:
    """Return what names that look alike have in common."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(letter for letter in plain if unicodedata.category(letter) != "Cf").split())


def _natural(name: str) -> tuple[list[str | int], str]:
    """Return the sort key of a name whose numbers count by their value."""
    parts = _NUMBER.split(name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _places_in(path: Path) -> Mapping[str, int]:
    """Return the lines of a file, without blanks around them, with their places."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, ValueError) as e:
        reason = (getattr(e, "strerror", None) or "it is not UTF-8 text").lower()
        raise ManifestError(
            f"the class order {path} cannot be read: {reason}; expected {BY_NAME}, {NATURAL}, or a text file with one "
            "class per line"
        ) from e
    names = [line for line in lines if line]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ManifestError(f"the class order {path} has {listed(twice)} twice; expected one line for each class")
    return {name: place for place, name in enumerate(names)}

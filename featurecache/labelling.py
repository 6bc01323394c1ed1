"""Labels, groups and weights that the rows of a cache are given, and what is asked of them."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featurecache.errors import OptionError
from featurecache.format.layout import CacheIndex
from featurecache.images.classes import ordered, same_classes
from featurecache.images.table import LabelsTable
from featurecache.images.views import are_views, images_of


def relabelled(
    index: CacheIndex, paths: NDArray[np.object_], labels: Mapping[str, str | None]
) -> tuple[CacheIndex, dict[str, str | None]]:
    """Return the index of a cache with other labels and classes, and the labels by path, or by what no row has.

    Parameters
    ----------
    index
        The index.
    paths
        The path of each row, as files are named.
    labels
        The class of rows, by path or by the SHA-256 of their content; None for no label.
    """
    images = index.images
    before = [*index.classes, None]  # the last one for label -1
    names: list[str | None] = []
    given: dict[str, str | None] = {}
    unmatched = dict(labels)
    keys = _keys(labels, paths.tolist(), images["sha256"].astype(str).tolist())
    views = are_views(paths).tolist()
    for path, key, label, is_view in zip(paths.tolist(), keys, images["label"].tolist(), views, strict=True):
        names.append(before[label] if key is None else labels[key])
        if key is not None:
            unmatched.pop(key, None)
            if key == path or not is_view:  # a view has the label of its image
                given[path] = labels[key]
    one_of = same_classes({name for name in names if name is not None})
    classes = ordered({one_of.get(name, name) for name in names if name is not None}, None, index.classes)
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)} | {None: -1}
    changed = [numbers[name if name is None else one_of.get(name, name)] for name in names]
    images = {**images, "label": np.array(changed, dtype=images["label"].dtype)}
    return replace(index, classes=classes, images=images), given | unmatched


def with_slashes(labels: LabelsTable, paths: Collection[str]) -> LabelsTable:
    r"""Return labels with ``\`` in paths read as ``/`` where this makes them paths of rows."""
    renamed = {image: image.replace("\\", "/") for image in labels if "\\" in image and image not in paths}
    meant = {image: path for image, path in renamed.items() if path in paths and path not in labels}
    if not meant:
        return labels
    return LabelsTable({meant.get(image, image): label for image, label in labels.items()}, labels.columns)


def columns_of(table: LabelsTable, index: CacheIndex, paths: NDArray[np.object_]) -> dict[str, NDArray[np.object_]]:
    """Return the further columns of a table of labels, with a text for each row of a cache."""
    numbers = {image: number for number, image in enumerate(table)}
    keys = _keys(numbers, paths.tolist(), index.images["sha256"].astype(str).tolist())
    found = np.array([-1 if key is None else numbers[key] for key in keys], dtype=np.intp)
    columns = {}
    for name, texts in table.columns.items():
        given = np.array([*texts, ""], dtype=object)[found]
        columns[name] = np.where(found >= 0, given, index.columns.get(name, ""))
    return columns


def _keys(given: Collection[str], paths: list[str], contents: list[str]) -> Iterator[str | None]:
    """Yield by which name a row is given something: its path, that of its image, or the content of that; or None."""
    for path, image, content in zip(paths, *images_of(paths, contents), strict=True):
        yield next((name for name in (path, image, content) if name in given), None)


def require_groups(
    column: str, groups: NDArray[np.object_], labelled: NDArray[np.bool_], paths: NDArray[np.object_]
) -> None:
    """Raise `OptionError` unless all labelled rows have a group, and there are two groups or more."""
    empty = np.flatnonzero(labelled & (groups == ""))
    if len(empty):
        raise OptionError(
            f"the group column {column!r} is empty for {len(empty):,} of {labelled.sum():,} labelled rows, first "
            f"for {paths[empty[0]]!r}; give each a group: its own path, if it belongs to no other row"
        )
    names = set(groups[labelled])
    if len(names) == 1:
        raise OptionError(
            f"all {labelled.sum():,} labelled rows are in the group {names.pop()!r} of the column {column!r}; "
            "expected at least two groups"
        )


def require_weights(
    column: str,
    texts: NDArray[np.object_],
    weights: NDArray[np.float64],
    labelled: NDArray[np.bool_],
    paths: NDArray[np.object_],
) -> None:
    """Raise `OptionError` unless all labelled rows have a finite weight of at least 0, and one of them above 0."""
    wrong = np.flatnonzero(labelled & ~((weights >= 0) & (weights < np.inf)))
    if len(wrong):
        raise OptionError(
            f"the weight column {column!r} has no finite number of at least 0 for {len(wrong):,} of "
            f"{labelled.sum():,} labelled rows, first {texts[wrong[0]]!r} for {paths[wrong[0]]!r}"
        )
    if labelled.any() and not weights[labelled].any():
        raise OptionError(
            f"all {labelled.sum():,} labelled rows have the weight 0 in the column {column!r}; expected one above 0"
        )


def weights(texts: NDArray[np.object_], labelled: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the weight of each row, shape (n,): 0 for an empty text of a row without a label, NaN for no number."""
    rows = zip(texts, labelled.tolist(), strict=True)
    return np.array([_number(text) if text.strip() or needed else 0.0 for text, needed in rows])


def _number(text: str) -> float:
    """Return the number that a text is; not a number if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan

"""The use case ``merge``: joins caches of one recipe into one cache, by content, without a forward pass."""

import json
import os
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.cache import FeatureCache, work_directory
from featurecache.errors import ManifestError, NoImagesError, OptionError, OutputError
from featurecache.format.feature_file import RowPlaces
from featurecache.format.layout import FAILURE_COLUMNS, IMAGE_COLUMNS, LABEL, CacheIndex
from featurecache.images.classes import ordered, same_classes
from featurecache.images.names import shown_name
from featurecache.images.splits import SPLITS
from featurecache.options import ImagePart
from featurecache.packing import PartsFolder, pack, pack_of_links
from featurecache.provenance import Provenance
from featurecache.recipe import require_recipe
from featurecache.rows import parts_folder
from featurecache.run.store import unfinished_recipe
from featurecache.storage.output_errors import require_place
from featurecache.storage.publish import make_directory, remove_directory
from featurecache.text import counted, listed


def merge(
    out: str | os.PathLike[str],
    caches: Sequence[str | os.PathLike[str]],
    *,
    parts: bool = False,
    progress: Callable[[int, int], object] = lambda *_: None,
    notify: Callable[[str], None] = lambda _: None,
) -> FeatureCache:
    """Join caches of one recipe into a new cache.

    Rows with the same path, content, label and split become one row. Classes are joined by name, in the order of the
    first cache. A path that failed in one cache and has features in another keeps the features. The new cache has the
    further columns of all caches; a column is empty for the rows of caches that lack it.

    Parameters
    ----------
    out
        The cache file to create; it must not exist.
    caches
        The cache files; one alone becomes one file, or a cache in parts.
    parts
        Make a cache in parts and copy no features: the files of the caches, or their parts, are the parts of the new
        one, under a second name where the file system allows it.
    progress
        Called with the number of blocks of rows that are written, and of all; with ``parts`` of parts.
    notify
        Called with one-line status messages for the user.

    Raises
    ------
    OptionError
        If no cache is given, or the new one cannot be in parts because its name does not end in ``.h5``.
    RecipeError
        If their recipes differ; the message names the fields.
    ManifestError
        If a path has different contents, labels, splits or texts of a further column in different caches, or if some
        parts of a list of images are missing (``part`` of `featurecache.extract`).
    NoImagesError
        If no cache has a row.
    OutputError
        If the new cache exists or cannot be written.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> train = featurecache.extract(images / "train", folder / "a.h5", backbone=FakeBackbone())
    >>> valid = featurecache.extract(images / "valid", folder / "b.h5", backbone=FakeBackbone())
    >>> len(featurecache.merge(folder / "all.h5", [train.path, valid.path]))
    48
    """
    out = Path(out)
    if not caches:
        raise OptionError("merging needs at least one cache; got none")
    require_place(out)
    folder = PartsFolder(out)
    if parts:
        parts_folder(out)  # its name must be one of a cache in parts
    if out.exists():
        raise OutputError(f"{out} exists already; choose another path for the merged cache")
    if unfinished_recipe(out):
        raise OutputError(f"{out} has an unfinished run; finish it, or choose another path for the merged cache")
    opened = [FeatureCache.open(path) for path in caches]
    for other in opened[1:]:
        remedy = f"{opened[0].path} has this recipe; extract the images of one cache again with the recipe of the other"
        require_recipe(other.recipe, opened[0].recipe, other.path, remedy)
    _require_all_parts(opened)
    names = {name for cache in opened for name in cache.classes}
    same = same_classes(names)
    classes = ordered({same.get(name, name) for name in names}, None, opened[0].classes)
    columns = {name: np.concatenate([cache.index.images[name] for cache in opened]) for name in IMAGE_COLUMNS}
    columns["label"] = np.concatenate([_numbers(cache, same, classes) for cache in opened])
    rows = _joined(columns)
    if not rows:
        raise NoImagesError(f"none of the {len(opened)} caches has a row, so there is nothing to merge")
    order = [rows[path] for path in sorted(rows)]
    splits = columns["split"].astype(str).tolist()
    order.sort(key=lambda row: SPLITS.index(splits[row]))  # keeps the order within a split
    index = CacheIndex(
        recipe=opened[0].recipe,
        provenance=json.dumps(_provenance(opened, parts=parts), sort_keys=True),
        classes=classes,
        images={name: column[order] for name, column in columns.items()},
        failures=_failures(opened, rows),
        columns=_further_columns(opened, columns["path"][order], notify),
    )
    places = RowPlaces.joined([cache.places() for cache in opened])[np.array(order)]
    scratch = work_directory(out)
    make_directory(scratch)
    in_use: frozenset[str] = frozenset()
    try:
        folder.remove_unused(in_use)  # of a merge that was killed
        if parts:
            in_use = pack_of_links(out, index, places, scratch=scratch, progress=progress, notify=notify)
        else:
            pack(out, index, places, replace=False, scratch=scratch, progress=progress)
    except FileExistsError as e:
        raise OutputError(f"another process made {out} in the meantime; choose another path") from e
    finally:
        folder.remove_unused(in_use)
        remove_directory(scratch)
    return FeatureCache.open(out)


def _require_all_parts(caches: Sequence[FeatureCache]) -> None:
    """Raise `ManifestError` if there is a part of a list of images, and not all parts of the same list."""
    lists: dict[tuple[str, int], dict[int, FeatureCache]] = {}
    for cache in caches:
        made_by = cache.made_by
        if made_by.part is not None:
            part, manifest = ImagePart.read(made_by.part), made_by.manifest or {}
            lists.setdefault((str(manifest.get("sha256")), part.of), {})[part.number] = cache
    for (_, of), found in lists.items():
        missing = [f"{number}/{of}" for number in range(1, of + 1) if number not in found]
        if missing:
            number, cache = next(iter(found.items()))
            raise ManifestError(
                f"{cache.path} is part {number}/{of} of a list of images, and {listed(missing, quoted=False)} of the "
                "same list are missing; extract all parts from the same images, and merge all of them"
            )


def _numbers(cache: FeatureCache, same: Mapping[str, str], classes: Sequence[str]) -> NDArray[np.int32]:
    """Return the labels of a cache's rows as numbers of the joined classes, shape (n,)."""
    numbers = np.array([*(classes.index(same.get(name, name)) for name in cache.classes), -1], dtype=LABEL)
    return np.take(numbers, cache.index.images["label"])


def _joined(columns: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return the first row of every path; raise `ManifestError` for paths with different contents, labels or splits."""
    rows: dict[str, int] = {}
    firsts = np.fromiter((rows.setdefault(path, row) for row, path in enumerate(columns["path"])), np.intp)
    differs = np.zeros(len(firsts), dtype=bool)
    for name in ("sha256", "label", "split"):
        differs |= columns[name] != columns[name][firsts]
    conflicts = set(columns["path"][differs].tolist())
    if conflicts:
        raise ManifestError(
            f"{counted(len(conflicts), 'path')} with different contents, labels or splits in different caches: "
            f"{listed(map(shown_name, conflicts))}; rename the images of one cache, or extract it from a parent "
            "folder, and merge again"
        )
    return rows


def _further_columns(
    caches: Sequence[FeatureCache], paths: Collection[str], notify: Callable[[str], None]
) -> dict[str, NDArray[np.object_]]:
    """Return the further columns of all caches, with a text for each of the paths; "" where no cache has one.

    Raises
    ------
    ManifestError
        If a path has different texts in caches that have the same column.
    """
    columns = {}
    for name in sorted({name for cache in caches for name in cache.columns}):
        texts: dict[str, str] = {}
        conflicts = set()
        for cache in caches:
            if name in cache.columns:
                for path, text in zip(cache.index.images["path"], cache.column(name), strict=True):
                    if texts.setdefault(path, text) != text:
                        conflicts.add(path)
        if conflicts:
            raise ManifestError(
                f"{counted(len(conflicts), 'path')} with different texts of the column {name!r} in different caches: "
                f"{listed(map(shown_name, conflicts))}; extract one of the caches again with the table of the other"
            )
        without = [str(cache.path) for cache in caches if name not in cache.columns]
        absent = sum(path not in texts for path in paths)
        if absent:
            lacking = listed(without, sort=False, quoted=False)
            notify(f"the column {name!r} is empty for {counted(absent, 'row')}, since it is not in {lacking}")
        columns[name] = np.array([texts.get(path, "") for path in paths], dtype=object)
    return columns


def _failures(caches: Sequence[FeatureCache], rows: Container[str]) -> dict[str, NDArray[Any]]:
    """Return the failures of all caches at paths that have no row, sorted by path; the last one of a path holds."""
    columns = {name: np.concatenate([cache.index.failures[name] for cache in caches]) for name in FAILURE_COLUMNS}
    last = {path: number for number, path in enumerate(columns["path"]) if path not in rows}
    return {name: column[[last[path] for path in sorted(last)]] for name, column in columns.items()}


def _provenance(caches: Sequence[FeatureCache], *, parts: bool) -> dict[str, Any]:
    first = caches[0].made_by
    merged = Provenance(
        weights_source=first.weights_source,
        max_pixels=max(cache.made_by.max_pixels or 0 for cache in caches) or None,
        images=first.images,
        views=next((cache.made_by.views for cache in caches if cache.made_by.views), None),
        frames=next((cache.made_by.frames for cache in caches if cache.made_by.frames), None),
        part_rows=max((cache.made_by.part_rows or 0 for cache in caches), default=0) or None if parts else None,
        merged=[{"path": str(cache.path.absolute()), "provenance": dict(cache.provenance)} for cache in caches],
    )
    return {"weights_source": None, "images": None} | merged.to_dict()

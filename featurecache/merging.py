"""The use case ``merge``: caches of one recipe into one cache, by content, without a forward pass."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurecache.cache import FeatureCache, RowPlace, pack, work_directory
from featurecache.errors import ManifestError, OptionError, OutputError
from featurecache.layout import CacheIndex
from featurecache.manifest import SPLITS
from featurecache.names import listed
from featurecache.publish import make_directory, remove_directory, require_place
from featurecache.sightings import Sighting, failure_columns, image_columns, sightings_of
from featurecache.store import require_recipe, unfinished_recipe


@dataclass(frozen=True, slots=True)
class _Row:
    """One image of one of the caches, its label by name."""

    split: str
    path: str
    label: str | None
    sighting: Sighting
    place: RowPlace


def merge(out: str | os.PathLike[str], caches: Sequence[str | os.PathLike[str]]) -> FeatureCache:
    """Join caches of one recipe into a new cache.

    An image that several caches hold under the same path, with the same content, label and split, becomes one row.
    Classes are joined by name. A path that failed in one cache and has features in another has features.

    Parameters
    ----------
    out
        The cache file to make; it must not be there.
    caches
        Two or more cache files.

    Raises
    ------
    OptionError
        If there are fewer than two caches.
    RecipeError
        If they are not all of one recipe; names the fields.
    ManifestError
        If one path has different contents, labels or splits in them.
    OutputError
        If the new cache exists already or cannot be written.
    """
    out = Path(out)
    if len(caches) < 2:  # noqa: PLR2004
        raise OptionError(f"merging takes two caches or more, and {len(caches)} was given")
    require_place(out)
    if out.exists():
        raise OutputError(f"{out} exists already; choose another path for the merged cache")
    if unfinished_recipe(out):
        raise OutputError(f"an unfinished run makes {out}; let it end, or choose another path for the merged cache")
    opened = [FeatureCache.open(path) for path in caches]
    for other in opened[1:]:
        remedy = f"{opened[0].path} has it: extract the images of one again with the other's recipe"
        require_recipe(other.recipe, opened[0].recipe, other.path, remedy)
    rows = _joined(opened)
    failed = {
        sighting.path: sighting
        for cache in opened
        for sighting in sightings_of(cache.index.failures)
        if sighting.path not in rows
    }
    ordered = sorted(rows.values(), key=lambda row: (SPLITS.index(row.split), row.path))
    classes = tuple(sorted({name for cache in opened for name in cache.classes}))
    labels = [-1 if row.label is None else classes.index(row.label) for row in ordered]
    index = CacheIndex(
        recipe=opened[0].recipe,
        provenance=json.dumps(_provenance(opened), sort_keys=True),
        classes=classes,
        images=image_columns([row.sighting for row in ordered], labels, [row.split for row in ordered]),
        failures=failure_columns([failed[path] for path in sorted(failed)]),
    )
    scratch = work_directory(out)
    make_directory(scratch)
    try:
        pack(out, index, [row.place for row in ordered], replace=False, scratch=scratch)
    except FileExistsError as e:
        raise OutputError(f"{out} was made by someone else meanwhile; choose another path") from e
    finally:
        remove_directory(scratch)
    return FeatureCache.open(out)


def _joined(caches: Sequence[FeatureCache]) -> dict[str, _Row]:
    """Return the rows of all caches by path; refuse paths that do not mean one thing."""
    rows: dict[str, _Row] = {}
    conflicts: set[str] = set()
    for cache in caches:
        images = cache.index.images
        columns = zip(images["label"].tolist(), images["split"].tolist(), sightings_of(images), strict=True)
        for number, (label, split, sighting) in enumerate(columns):
            row = _Row(
                split=split.decode("ascii"),
                path=sighting.path,
                label=cache.classes[label] if label >= 0 else None,
                sighting=sighting,
                place=RowPlace(cache, number),
            )
            first = rows.setdefault(row.path, row)
            if (first.sighting.sha256, first.label, first.split) != (sighting.sha256, row.label, row.split):
                conflicts.add(row.path)
    if conflicts:
        raise ManifestError(
            f"{len(conflicts):,} path(s) have another content, label or split in another cache: {listed(conflicts)}; "
            "rename the images of one, or extract it from a folder further up, and merge again"
        )
    return rows


def _provenance(caches: Sequence[FeatureCache]) -> dict[str, Any]:
    first = caches[0].provenance
    return {
        "weights_source": first.get("weights_source"),
        "images": first.get("images"),
        "merged": [{"path": str(cache.path.absolute()), "provenance": dict(cache.provenance)} for cache in caches],
    }

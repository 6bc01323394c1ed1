"""The use case ``why``: what an extraction would reuse, compute or refuse, and why, before it is run."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurecache.ahead import ahead
from featurecache.backbones.protocol import Backbone
from featurecache.cache import FeatureCache
from featurecache.decode import DecodeRules
from featurecache.manifest import ImageEntry, Manifest, read_manifest
from featurecache.recipe import Difference, Recipe
from featurecache.sightings import Sighting
from featurecache.source import recipe_of, source_of
from featurecache.store import Store, unfinished_recipe

REUSED = ("unchanged", "moved", "touched", "duplicate")
COMPUTED = ("new", "changed")
FAILED = ("failed before", "unreadable")
"""Why an image would be reused, computed, or fail without being tried.

- unchanged: path, size and modification time are known;
- moved: the content is known from another path;
- touched: the path's content is known, its modification time is not;
- duplicate: the same content comes earlier in this run;
- new: the content has no features yet;
- changed: it has none either, and the path had another content;
- failed before: the same bytes could not be decoded;
- unreadable: the file cannot be read.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an extraction would do.

    Parameters
    ----------
    reasons
        For each reason (`REUSED`, `COMPUTED`, `FAILED`) the paths of the images that it holds for, in order.
    gone
        Paths of the cache that are no longer among the images.
    refused
        The fields in which the cache, or an unfinished run, has another recipe; nothing is reused then.
    """

    reasons: dict[str, list[str]]
    gone: list[str]
    refused: list[Difference]

    def count(self, reasons: Iterable[str]) -> int:
        """Return how many images there are for these reasons."""
        return sum(len(self.reasons.get(reason, ())) for reason in reasons)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the first field that is refused, ready for JSON."""
        first = self.refused[0] if self.refused else None
        return {
            "reuse": self.count(REUSED),
            "compute": self.count(COMPUTED),
            "failures": self.count(FAILED),
            "gone": len(self.gone),
            "refused": {"field": first.field, "cache": first.ours, "wanted": first.theirs} if first else None,
            "reasons": {reason: len(paths) for reason, paths in self.reasons.items()},
        }


def why(
    images: str | os.PathLike[str],
    cache_path: str | os.PathLike[str],
    *,
    backbone: str | Backbone = "vgg16",
    weights: str = "imagenet",
    taps: Iterable[str] | None = None,
    precision: str = "float32",
    dtype: str = "float32",
    resize: str = "squash",
    filter: str = "bilinear",
    root: str | os.PathLike[str] | None = None,
    label_from_name: bool = False,
    rehash: bool = False,
) -> Plan:
    """Say what `featurecache.extract` would do with the same arguments; nothing is written, decoded or forwarded.

    Files whose path, size and modification time are not known are read and hashed.

    Raises
    ------
    ManifestError, NoImagesError, UnknownNameError, WeightsError, CacheFormatError
        As `featurecache.extract` would.
    """
    cache_path = Path(cache_path)
    manifest = read_manifest(Path(images), root=None if root is None else Path(root), label_from_name=label_from_name)
    source = source_of(backbone, weights, taps=taps, precision=precision, rehash=rehash, download=False)
    rules = DecodeRules(source.spec.input_size, resize, filter)
    recipe = recipe_of(source.spec, rules, dtype)
    refused = _refused(cache_path, recipe)
    if refused:
        return Plan({"new": [entry.path for entry in manifest.entries]}, [], refused)
    store = Store.beside(cache_path, recipe)
    reasons = _reasons(manifest, store, rules, rehash=rehash)
    present = {entry.path for entry in manifest.entries}
    gone = sorted(path for path in store.sightings if path not in present)
    return Plan(reasons, gone, [])


def _refused(cache_path: Path, recipe: Recipe) -> list[Difference]:
    """Return how the recipe of what is there differs from the one that is wanted."""
    found = FeatureCache.open(cache_path).recipe if cache_path.exists() else unfinished_recipe(cache_path)
    return found.differences(recipe) if found else []


def _reasons(manifest: Manifest, store: Store, rules: DecodeRules, *, rehash: bool) -> dict[str, list[str]]:
    """Return the paths of all images by the reason that holds for each."""

    def look(entry: ImageEntry) -> Sighting:
        return store.look(entry.path, manifest.file(entry), max_bytes=rules.max_bytes, rehash=rehash)[0]

    reasons: dict[str, list[str]] = {}
    planned: set[str] = set()
    workers = len(os.sched_getaffinity(0))
    for sighting in ahead(look, manifest.entries, workers=workers, window=4 * workers):
        reasons.setdefault(_reason(sighting, store, planned), []).append(sighting.path)
        planned.add(sighting.sha256)
    return reasons


def _reason(sighting: Sighting, store: Store, planned: set[str]) -> str:
    before = store.sightings.get(sighting.path)
    if sighting.reason:
        return "failed before" if sighting.sha256 else "unreadable"
    if sighting.sha256 in store.places:
        if before is None:
            return "moved"
        return "unchanged" if before == sighting else "touched" if before.sha256 == sighting.sha256 else "moved"
    if sighting.sha256 in planned:
        return "duplicate"
    return "changed" if before and before.sha256 != sighting.sha256 else "new"

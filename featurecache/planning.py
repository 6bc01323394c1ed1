"""The use case ``why``: reports what an extraction would reuse, compute or refuse, without running it."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from featurecache.backbones.protocol import Backbone
from featurecache.cache import FeatureCache
from featurecache.errors import RecipeError
from featurecache.format.file_records import FileRecord
from featurecache.images.decode import DecodeRules
from featurecache.images.image_source import threads_for
from featurecache.images.manifest import ImageEntry, Images, Manifest
from featurecache.images.names import shown_name
from featurecache.images.sources import example_of
from featurecache.notices import Notice, to_dicts
from featurecache.options import DecodeOptions, ImageOptions, NetworkOptions, RunOptions
from featurecache.prefetch import ahead
from featurecache.preparation import find, open_store, prepare, read_images
from featurecache.recipe import Difference
from featurecache.run.known_images import KnownImages

REUSED = ("unchanged", "moved", "touched", "duplicate")
COMPUTED = ("new", "changed", "retried")
FAILED = ("failed before", "unreadable")
ELSEWHERE = ("elsewhere",)
"""Reasons why an image would be reused, be computed, fail without another attempt, or be left to another part.

- unchanged: path, size and modification time are known;
- moved: the content is known from another path;
- touched: the content is the same, but the modification time has changed;
- duplicate: the same content comes earlier in this run;
- new: the content has no features yet;
- changed: the content has no features yet, and the path had another content;
- retried: the same bytes could not be decoded before, and are decoded again (``retry_failures``);
- failed before: the same bytes could not be decoded before;
- unreadable: the file cannot be read;
- elsewhere: its content is in another part of the images (``part``).
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of an extraction, as `why` returns it.

    Parameters
    ----------
    reasons
        Maps each reason (`REUSED`, `COMPUTED`, `FAILED`, `ELSEWHERE`) to the paths of its images, in order.
    gone
        Paths that are in the cache, but no longer among the images.
    refused
        The fields in which the recipe of the cache or unfinished run differs; if any differ, nothing is reused.
    warnings
        Warnings about the names of the classes.
    columns
        Maps the names of further columns to ``"new"``, ``"changed"`` or ``"gone"``; a column of the cache that stays as
        it is is not listed.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> plan = featurecache.why(images, folder / 'new.h5', backbone=FakeBackbone())
    >>> plan.count(['new', 'changed'])
    48
    """

    reasons: dict[str, list[str]]
    gone: list[str]
    refused: list[Difference]
    warnings: tuple[Notice, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    def count(self, reasons: Iterable[str]) -> int:
        """Return the number of images with one of these reasons."""
        return sum(len(self.reasons.get(reason, ())) for reason in reasons)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and the first refused field, ready for JSON."""
        first = self.refused[0] if self.refused else None
        return {
            "reuse": self.count(REUSED),
            "compute": self.count(COMPUTED),
            "failures": self.count(FAILED),
            "gone": len(self.gone),
            "refused": {"field": first.field, "cache": first.ours, "wanted": first.theirs} if first else None,
            "reasons": {reason: len(paths) for reason, paths in self.reasons.items()},
            "columns": dict(self.columns),
            "warnings": to_dicts(self.warnings),
        }


def why(
    images: Images,
    cache_path: str | os.PathLike[str],
    *,
    backbone: str | Backbone | None = None,
    weights: str | None = None,
    taps: Iterable[str] | None = None,
    preprocess: str | None = None,
    input_size: str | None = None,
    precision: str | None = None,
    dtype: str | None = None,
    resize: str | None = None,
    filter: str | None = None,
    max_pixels: int | None = None,
    views: str | None = None,
    root: str | os.PathLike[str] | None = None,
    label_from_name: bool = False,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    frames: str | None = None,
    class_order: str | None = None,
    batch_size: int | Literal["auto"] | None = None,
    workers: int | None = None,
    device: str = "auto",
    engine: str = "auto",
    part_rows: int | None = None,
    part: str | None = None,
    rehash: bool = False,
    retry_failures: bool = False,
    replace: bool = False,
    notify: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Return what `featurecache.extract` would do with the same options, without writing, decoding or computing.

    Files with an unknown path, size or modification time are read and hashed. The options are those of
    `featurecache.extract`; ``max_pixels``, ``batch_size`` and ``part_rows`` are only checked. ``notify`` is called with
    the same lines on the images.

    Raises
    ------
    ManifestError, NoImagesError, UnknownNameError, OptionError, WeightsError, EngineError, CacheFormatError
        As in `featurecache.extract`; also `WeightsError` if ImageNet weights must be downloaded first.
    RecipeError
        If the cache's backbone is not in the catalogue, and no backbone is given.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> plan = featurecache.why(images, cache.path, backbone=FakeBackbone())
    >>> plan.to_dict()['reasons']
    {'unchanged': 48}
    """
    cache_path = Path(cache_path)
    network = NetworkOptions(
        backbone=backbone if isinstance(backbone, str) else None,
        weights=weights,
        taps=None if taps is None else tuple(taps),
        preprocess=preprocess,
        input_size=input_size,
        precision=precision,
        dtype=dtype,
    )
    decode = DecodeOptions(resize=resize, filter=filter, max_pixels=max_pixels, views=views)
    run = RunOptions(
        batch_size=batch_size,
        workers=workers,
        device=device,
        engine=engine,
        part_rows=part_rows,
        part=part,
        rehash=rehash,
        retry_failures=retry_failures,
        replace=replace,
    )
    options = ImageOptions(
        root=None if root is None else Path(root),
        label_from_name=label_from_name,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        frames=frames,
        class_order=class_order,
    )
    found = None if replace else find(cache_path)
    manifest = read_images(images, options, views, found, notify)
    try:
        prepared = prepare(found, backbone=backbone, network=network, decode=decode, run=run, download=False)
        known = open_store(cache_path, prepared, run, read_only=True).known
    except RecipeError as e:
        if not e.differences:
            raise
        new = [shown_name(entry.path) for entry in manifest.entries]
        return Plan({"new": new}, [], list(e.differences), manifest.warnings)
    reasons = _reasons(manifest, known, prepared.rules, run)
    if reasons.keys() == {"unreadable"}:
        notify(f"none of the images can be read; {example_of(manifest.source, reasons['unreadable'][0])}")
    present = {entry.path for entry in manifest.entries}
    gone = sorted(path for path in known.file_records if path not in present)
    shown = {reason: [shown_name(path) for path in paths] for reason, paths in reasons.items()}
    columns = _changed_columns(manifest, prepared.found.cache if prepared.found else None)
    warnings = (*manifest.warnings, *known.warnings)
    return Plan(shown, [shown_name(path) for path in gone], [], warnings, columns)


def _reasons(manifest: Manifest, known: KnownImages, rules: DecodeRules, run: RunOptions) -> dict[str, list[str]]:
    """Return the paths of all images by reason."""

    def look(entry: ImageEntry) -> FileRecord:
        return known.inspect(entry.path, manifest.source, max_bytes=rules.max_bytes, rehash=run.rehash)[0]

    reasons: dict[str, list[str]] = {}
    planned: set[str] = set()
    workers = threads_for(manifest.source, run.workers)
    for file_record in ahead(look, manifest.entries, workers=workers, window=4 * workers):
        is_elsewhere = known.is_elsewhere(file_record.sha256)
        reason = "elsewhere" if is_elsewhere else _reason(file_record, known, planned)
        reasons.setdefault(reason, []).append(file_record.path)
        planned.add(file_record.sha256)
    return reasons


def _changed_columns(manifest: Manifest, cache: FeatureCache | None) -> dict[str, str]:
    """Return the further columns that a cache has not, has with other texts, or has alone, by name."""
    ours = {} if cache is None else cache.index.columns
    if cache is None or not ours:
        return dict.fromkeys(manifest.columns, "new")
    numbers = {entry.path: number for number, entry in enumerate(manifest.entries)}
    both = [(row, numbers[path]) for row, path in enumerate(cache.index.images["path"]) if path in numbers]
    changed = {}
    for name in [*manifest.columns, *sorted(ours.keys() - manifest.columns.keys())]:
        if name not in ours:
            changed[name] = "new"
        elif name not in manifest.columns:
            changed[name] = "gone"
        elif any(ours[name][row] != manifest.columns[name][number] for row, number in both):
            changed[name] = "changed"
    return changed


def _reason(file_record: FileRecord, known: KnownImages, planned: set[str]) -> str:
    before = known.file_records.get(file_record.path)
    if file_record.reason:
        return "failed before" if file_record.sha256 else "unreadable"
    if file_record.sha256 in known.places:
        if before is None:
            return "moved"
        return "unchanged" if before == file_record else "touched" if before.sha256 == file_record.sha256 else "moved"
    if file_record.sha256 in planned:
        return "duplicate"
    if before and before.reason and before.sha256 == file_record.sha256:
        return "retried"
    return "changed" if before and before.sha256 != file_record.sha256 else "new"

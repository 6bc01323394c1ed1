"""Writes, checks and reads the HDF5 files of caches, as described in `docs/format.md`.

There are three kinds of files. A *cache* is the finished result (version 1); a *shard* holds features of an unfinished
run. In both, features are contiguous, uncompressed datasets, so that rows are read and written at byte offsets without
HDF5. The *index* of a cache in parts (version 2) holds no features: it says in which part, a cache in one file, those
of each row lie. A cache or an index with further columns is of version 3.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from featurecache.format.checks import TEXT, Checks, FeatureBlock, opened
from featurecache.format.header import (
    CACHE_FORMAT,
    COLUMNS_VERSION,
    FORMAT_VERSION,
    HEADER_BYTES,
    PARTS_VERSION,
    encode_header,
    structure_digest,
)
from featurecache.format.memory_file import MemoryFile
from featurecache.images.splits import SPLITS
from featurecache.recipe import Recipe
from featurecache.storage.publish import Draft

SHARD_FORMAT = "featurecache-shard"
BLOCK_ROWS = 1024
ALIGNMENT = 4096
_COLUMN_ROWS = 1 << 16  # of a column, at a time

SHA256 = np.dtype("S64")
SPLIT = np.dtype("S5")
LABEL = np.dtype("<i4")
INTEGER = np.dtype("<i8")

IMAGE_COLUMNS: Mapping[str, np.dtype[Any]] = {
    "path": TEXT,
    "label": LABEL,
    "split": SPLIT,
    "sha256": SHA256,
    "size": INTEGER,
    "mtime_ns": INTEGER,
}
FAILURE_COLUMNS: Mapping[str, np.dtype[Any]] = {
    "path": TEXT,
    "reason": TEXT,
    "sha256": SHA256,
    "size": INTEGER,
    "mtime_ns": INTEGER,
}
FURTHER_COLUMN: Mapping[str, np.dtype[Any]] = {"values": TEXT, "codes": LABEL}
PART_COLUMNS: Mapping[str, np.dtype[Any]] = {"file": TEXT, "rows": INTEGER, "size": INTEGER, "sha256": SHA256}

_PART_FILE = re.compile(r"\w[\w.-]*\.h5", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ESCAPES = {"%": "%25", "/": "%2F"}  # HDF5 has no such names
_IS_DIGIT = np.isin(np.arange(256), list(b"0123456789abcdef"))
_Later = list[tuple[FeatureBlock, NDArray[Any]]]
"""Columns that are written when HDF5 has ended, with their places."""

_SPLITS = np.array([split.encode("ascii") for split in SPLITS], dtype=SPLIT)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a cache, as the index names it.

    Parameters
    ----------
    file
        Its file name in the folder of parts.
    rows, size
        Its rows, and the bytes of its file.
    sha256
        The SHA-256 of its header and checksums, which determine every byte of it; see
        `featurecache.format.feature_file.digest`.
    blocks
        The places of its features and checksums, as `encode_cache` returns them.
    """

    file: str
    rows: int
    size: int
    sha256: str
    blocks: Mapping[str, FeatureBlock]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """The places of a cache's features in its parts.

    Parameters
    ----------
    parts
        The parts, in order.
    positions
        For each row of the cache its position among the rows of all parts, one part after the other; shape (n,), int64.
    """

    parts: tuple[Part, ...]
    positions: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CacheIndex:
    """Everything in a cache except its features and checksums; `encode_cache` writes it, `read_cache` returns it.

    ``images`` and ``failures`` map the names of `IMAGE_COLUMNS` and `FAILURE_COLUMNS` to columns of equal length;
    text columns hold `str` objects. ``places`` is None if the features lie in the same file. ``columns`` maps the names
    of further columns to a `str` for each image, "" where it has none.
    """

    recipe: Recipe
    provenance: str
    classes: tuple[str, ...]
    images: Mapping[str, NDArray[Any]]
    failures: Mapping[str, NDArray[Any]]
    places: Places | None = None
    columns: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images["path"])

    def holds_same_as(self, other: "CacheIndex") -> bool:
        """Whether two caches of one recipe have the same images, labels, further columns and failures.

        Provenance and places of features are not compared.
        """
        pairs = ((self.images, other.images), (self.failures, other.failures), (self.columns, other.columns))
        return self.classes == other.classes and all(
            ours.keys() == theirs.keys() and all(np.array_equal(theirs[name], column) for name, column in ours.items())
            for ours, theirs in pairs
        )


def encode_cache(draft: Draft, index: CacheIndex) -> dict[str, FeatureBlock]:
    """Write a cache without features and checksums into a draft, and return the places of those.

    Space for the whole file is reserved first, so that a full disk is found before HDF5 writes.

    Returns
    -------
    dict
        For every tap the block of its features, and under ``"checksums/<tap>"`` the block of its checksums; empty for a
        cache in parts.
    """
    version = COLUMNS_VERSION if index.columns else FORMAT_VERSION if index.places is None else PARTS_VERSION
    columns = {_member(name): _encoded(texts) for name, texts in index.columns.items()}
    draft.reserve(_estimated_size(index, columns))
    target = MemoryFile()
    blocks: dict[str, FeatureBlock] = {}
    alignment = {"alignment_threshold": ALIGNMENT // 4, "alignment_interval": ALIGNMENT}
    with h5py.File(target, "w", userblock_size=HEADER_BYTES, **alignment) as file:
        _write_header(file, CACHE_FORMAT, index.recipe, version)
        file.create_dataset("recipe", data=index.recipe.to_json(), dtype=TEXT)
        file.create_dataset("provenance", data=index.provenance, dtype=TEXT)
        file.create_dataset("classes", data=np.array(index.classes, dtype=object), dtype=TEXT)
        later = _write_columns(file.create_group("images"), index.images, IMAGE_COLUMNS)
        later += _write_columns(file.create_group("failures"), index.failures, FAILURE_COLUMNS)
        for name, column in columns.items():
            later += _write_columns(file.create_group(f"columns/{name}"), column, FURTHER_COLUMN)
        if index.places is None:
            blocks = _allocate_features(file, index.recipe, len(index))
        else:
            later += _write_places(file, index.places, index.recipe)
    target.write_to(draft)
    for block, values in later:
        for start in range(0, len(values), _COLUMN_ROWS):
            some = np.ascontiguousarray(values[start : start + _COLUMN_ROWS], block.dtype)
            draft.write(some.view(np.uint8).data, block.offset + start * block.row_bytes)
    draft.truncate(target.size)
    spans = sorted([block.offset, block.size] for block in blocks.values())
    digest = structure_digest(draft.read_into, target.size, spans)
    draft.write(encode_header({"sha256": digest, "size": target.size, "spans": spans}, version), 0)
    return blocks


def encode_shard(recipe: Recipe, batches: Sequence[tuple[Sequence[str], Mapping[str, NDArray[Any]]]]) -> bytes:
    """Return the bytes of a shard.

    Parameters
    ----------
    batches
        Hashes of m contents with the features of every tap, shape (m, d), in any number of batches.
    """
    contents = [content for batch, _ in batches for content in batch]
    with h5py.File.in_memory() as file:
        _write_header(file, SHARD_FORMAT, recipe)
        file.create_dataset("sha256", data=np.array(contents, dtype=SHA256))
        group = file.create_group("features")
        for tap, width in recipe.taps.items():
            data = group.create_dataset(tap, (len(contents), width), recipe.stored_dtype(tap))
            start = 0
            for batch, features in batches:
                if features[tap].shape != (len(batch), width):
                    raise ValueError(f"{tap} has the shape {features[tap].shape}, expected {(len(batch), width)}")
                data[start : start + len(batch)] = features[tap]
                start += len(batch)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def read_cache(stream: BinaryIO) -> tuple[CacheIndex, dict[str, FeatureBlock]]:
    """Check the whole structure of an open cache file, and read everything except the features.

    Returns
    -------
    index : CacheIndex
    blocks : dict
        As `encode_cache` returns them; for a cache in parts, the place of ``positions`` alone.

    Raises
    ------
    CacheFormatError
        If the file is not a cache of these versions, or an object is missing, additional, compressed, stored in another
        file, larger than the file, or of a type or shape that does not match the recipe.
    """
    with opened(stream, CACHE_FORMAT) as (file, check):
        in_parts = check.version == PARTS_VERSION or (check.version == COLUMNS_VERSION and "parts" in file)
        further = {"columns"} if check.version == COLUMNS_VERSION else set()
        of_features = {"parts", "positions"} if in_parts else {"features", "checksums"}
        check.members(file, {"recipe", "provenance", "classes", "images", "failures"} | further | of_features)
        recipe = Recipe.from_json(check.text(file, "recipe"))
        check.that(file.attrs["fingerprint"] == recipe.fingerprint, "the fingerprint does not belong to the recipe")
        images = check.columns(file, "images", IMAGE_COLUMNS)
        failures = check.columns(file, "failures", FAILURE_COLUMNS)
        rows = len(images["path"])
        classes = tuple(check.column(file, "classes", TEXT, None))
        known = (images["label"] >= -1) & (images["label"] < len(classes))
        check.that(bool(known.all()), "images/label has a value that is neither -1 nor the index of a class")
        check.that(bool(np.isin(images["split"], _SPLITS).all()), "images/split has a value that is not a split")
        for columns in (images, failures):
            hashes = columns["sha256"]
            if columns is failures:
                hashes = hashes[hashes != b""]  # a file that could not be read has none
            _require_hashes(check, hashes)
        places, blocks, spans = None, {}, []
        if in_parts:
            places = _read_places(file, check, recipe, rows)
            blocks = {"positions": check.block(file, "positions", (rows,), INTEGER)}
        else:
            for group in ("features", "checksums"):
                check.members(file[group], set(recipe.taps))
            for tap, width in recipe.taps.items():
                blocks[tap] = check.block(file, f"features/{tap}", (rows, width), recipe.stored_dtype(tap))
                blocks[f"checksums/{tap}"] = check.block(file, f"checksums/{tap}", (-(-rows // BLOCK_ROWS),), SHA256)
            spans = sorted([block.offset, block.size] for block in blocks.values())
        check.that(spans == check.spans, "its features are not at the places that its header says")
        provenance = check.text(file, "provenance")
        check.that(_is_plain_object(provenance), "its provenance is not a JSON object")
        columns = _read_further_columns(file, check, rows) if further else {}
        index = CacheIndex(recipe, provenance, classes, images, failures, places, columns)
    return index, blocks


def _member(name: str) -> str:
    """Return the name of the group of a further column."""
    return "%2E" if name == "." else "".join(_ESCAPES.get(letter, letter) for letter in name)


def _encoded(texts: NDArray[np.object_]) -> dict[str, NDArray[Any]]:
    """Return a further column as it is stored: its different texts in ascending order, and for each row which one."""
    numbers: dict[str, int] = {}
    codes = np.fromiter((numbers.setdefault(text, len(numbers)) for text in texts), LABEL, len(texts))
    values = sorted(numbers)
    ranks = np.empty(len(values), LABEL)
    ranks[np.fromiter(map(numbers.__getitem__, values), np.intp, len(values))] = np.arange(len(values))
    return {"values": np.array(values, dtype=object), "codes": ranks[codes]}


def _read_further_columns(file: h5py.File, check: Checks, rows: int) -> dict[str, NDArray[np.object_]]:
    """Check and read the further columns of so many rows, by name in ascending order."""
    check.that(isinstance(file["columns"], h5py.Group), "columns is not a group")
    members = sorted(file["columns"])
    check.members(file["columns"], set(members))
    check.that(bool(members), "columns is empty")
    columns = {}
    for member in members:
        group, name = f"columns/{member}", member
        for letter, escape in reversed([*_ESCAPES.items(), (".", "%2E")]):
            name = name.replace(escape, letter)
        check.that(_member(name) == member, f"{group} is not the name of a column")
        check.members(file[group], {*FURTHER_COLUMN})
        values = check.column(file, f"{group}/values", TEXT, None)
        codes = check.column(file, f"{group}/codes", LABEL, rows)
        check.that(all(one < other for one, other in pairwise(values)), f"{group}/values is not in ascending order")
        known = (codes >= 0) & (codes < len(values))
        check.that(bool(known.all()), f"{group}/codes has a value that is no index of a text")
        columns[name] = values[codes]
    return dict(sorted(columns.items()))


def _read_places(file: h5py.File, check: Checks, recipe: Recipe, rows: int) -> Places:
    """Check and read the table of parts, and the positions of ``rows`` rows in them."""
    offsets = ("features", "checksums")
    columns = check.columns(file, "parts", PART_COLUMNS, "file", groups=offsets)
    names, count = columns["file"].tolist(), len(columns["file"])
    sane = len(set(names)) == count and all(map(_PART_FILE.fullmatch, names))
    check.that(sane, f"parts/file has a name that is no file of a part, or one twice: {names}")
    digests = [value.decode("ascii", "replace") for value in columns["sha256"].tolist()]
    check.that(all(map(_DIGEST.fullmatch, digests)), "parts/sha256 has a value that is no SHA-256")
    check.that(bool((columns["rows"] > 0).all()), "parts/rows has a part without rows")
    for group in offsets:
        check.members(file[f"parts/{group}"], set(recipe.taps))
    blocks: list[dict[str, FeatureBlock]] = [{} for _ in names]
    for tap, width in recipe.taps.items():
        places = [check.column(file, f"parts/{group}/{tap}", INTEGER, count).tolist() for group in offsets]
        for part, length, offset, sums in zip(blocks, columns["rows"].tolist(), *places, strict=True):
            part[tap] = FeatureBlock(offset, length, width, recipe.stored_dtype(tap))
            part[f"checksums/{tap}"] = FeatureBlock(sums, -(-length // BLOCK_ROWS), 1, SHA256)
    for part, size in zip(blocks, columns["size"].tolist(), strict=True):
        within = all(block.offset >= 0 and block.offset + block.size <= size for block in part.values())
        check.that(within, "parts/features or parts/checksums has a place beyond the end of a part")
    positions = check.column(file, "positions", INTEGER, rows)
    known = (positions >= 0) & (positions < columns["rows"].sum())
    check.that(bool(known.all()), "positions has a value that is no row of a part")
    found = zip(names, columns["rows"].tolist(), columns["size"].tolist(), digests, blocks, strict=True)
    return Places(tuple(Part(*values) for values in found), positions)


def read_shard(stream: BinaryIO, recipe: Recipe) -> tuple[list[str], dict[str, FeatureBlock]]:
    """Check a shard's structure; return the hashes of its contents, in order, and the places of its features.

    Raises
    ------
    CacheFormatError
        If it is damaged, or belongs to another recipe.
    """
    with opened(stream, SHARD_FORMAT) as (file, check):
        check.members(file, {"sha256", "features"})
        check.that(file.attrs["fingerprint"] == recipe.fingerprint, "it belongs to another recipe")
        hashes = check.column(file, "sha256", SHA256, None)
        _require_hashes(check, hashes)
        contents = hashes.astype(str).tolist()
        check.members(file["features"], set(recipe.taps))
        blocks = {
            tap: check.block(file, f"features/{tap}", (len(contents), width), recipe.stored_dtype(tap))
            for tap, width in recipe.taps.items()
        }
    return contents, blocks


def _require_hashes(check: Checks, hashes: NDArray[np.bytes_]) -> None:
    blocks = (hashes[start : start + _COLUMN_ROWS] for start in range(0, len(hashes), _COLUMN_ROWS))
    are_digits = all(_IS_DIGIT[block.view(np.uint8)].all() for block in blocks)
    check.that(are_digits, "a sha256 is not 64 hexadecimal digits")


def _is_plain_object(text: str) -> bool:
    """Whether a text is a JSON object without NaN or infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except (ValueError, RecursionError):
        return False


def _write_header(file: h5py.File, kind: str, recipe: Recipe, version: int = FORMAT_VERSION) -> None:
    file.attrs["format"] = kind
    file.attrs["format_version"] = np.int64(version)
    file.attrs["fingerprint"] = recipe.fingerprint


def _write_columns(
    group: h5py.Group, columns: Mapping[str, NDArray[Any]], types: Mapping[str, np.dtype[Any]]
) -> _Later:
    """Write the texts among columns; return the others with their places, so that memory does not hold them twice."""
    later = []
    for name, dtype in types.items():
        column = columns[name]
        if dtype is not TEXT:
            later.append((_allocate(group, name, (len(column),), dtype), column))
            continue
        dataset = group.create_dataset(name, len(column), dtype)
        for start in range(0, len(column), _COLUMN_ROWS):  # HDF5 copies what it writes
            dataset[start : start + _COLUMN_ROWS] = column[start : start + _COLUMN_ROWS]
    return later


def _allocate_features(file: h5py.File, recipe: Recipe, rows: int) -> dict[str, FeatureBlock]:
    """Reserve the places of the features and checksums of so many rows, and return them."""
    blocks = {}
    checksums, features = file.create_group("checksums"), file.create_group("features")
    for tap, width in recipe.taps.items():
        blocks[f"checksums/{tap}"] = _allocate(checksums, tap, (-(-rows // BLOCK_ROWS),), SHA256)
        blocks[tap] = _allocate(features, tap, (rows, width), recipe.stored_dtype(tap))
    return blocks


def _write_places(file: h5py.File, places: Places, recipe: Recipe) -> _Later:
    """Write the table of parts and the positions of rows in them; return what is to be written later."""
    positions = _allocate(file, "positions", (len(places.positions),), INTEGER)
    group = file.create_group("parts")
    columns = {
        name: np.array([getattr(part, name) for part in places.parts], dtype) for name, dtype in PART_COLUMNS.items()
    }
    later = _write_columns(group, columns, PART_COLUMNS)
    for kind, prefix in (("features", ""), ("checksums", "checksums/")):
        offsets = group.create_group(kind)
        for tap in recipe.taps:
            offsets.create_dataset(tap, data=[part.blocks[prefix + tap].offset for part in places.parts], dtype=INTEGER)
    return [(positions, places.positions), *later]


def _allocate(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureBlock:
    """Reserve a contiguous dataset's place in the file; nothing is written into it."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(dtype), space, properties)
    return FeatureBlock(dataset.get_offset() or 0, shape[0], shape[1] if len(shape) > 1 else 1, dtype)


def _estimated_size(index: CacheIndex, further: Mapping[str, Mapping[str, NDArray[Any]]]) -> int:
    """Return an upper bound of the file's size in bytes, with its further columns as they are stored."""
    rows, taps = len(index), index.recipe.taps
    features = rows * index.recipe.row_bytes
    if index.places is not None:
        features = 8 * rows + len(index.places.parts) * (512 + 16 * len(taps))
    columns = [*index.images.values(), *index.failures.values(), *(column["values"] for column in further.values())]
    features += len(further) * (4 * rows + 4 * ALIGNMENT)
    texts = [column for column in columns if column.dtype == object]
    text = sum(64 * len(column) + sum(len(value.encode()) for value in column) for column in texts)
    numbers = sum(
        len(stored[name]) * dtype.itemsize
        for stored, types in ((index.images, IMAGE_COLUMNS), (index.failures, FAILURE_COLUMNS))
        for name, dtype in types.items()
    )
    return features + numbers + 2 * text + len(taps) * (rows // 8 + 2 * ALIGNMENT) + (1 << 20)

"""The HDF5 format, version 1: names, types, writing, and the checks before anything is trusted (`docs/format.md`).

Two kinds of file share one rule for features: contiguous, uncompressed datasets whose place in the file is known, so
that rows are read and written at byte offsets, without HDF5. A *cache* is the finished result; a *shard* holds the
features of a few contents while a run is under way.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from featurecache.errors import CacheFormatError
from featurecache.header import CACHE_FORMAT, FORMAT_VERSION, HEADER_BYTES, encode_header, read_header, structure_digest
from featurecache.pages import Pages
from featurecache.publish import Draft
from featurecache.recipe import Recipe

SHARD_FORMAT = "featurecache-shard"
BLOCK_ROWS = 1024
ALIGNMENT = 4096

TEXT = h5py.string_dtype("utf-8")
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

_TEXT_REFERENCE = 16  # bytes in the dataset for one variable-length text: length, place of its heap, number in it
_ATTRIBUTES = frozenset({"format", "format_version", "fingerprint"})
_SPLITS = np.array([b"train", b"valid", b"test", b""], dtype=SPLIT)


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """Where the features of one tap lie in a file: ``rows`` x ``width`` values of ``dtype`` from ``offset`` on."""

    offset: int
    rows: int
    width: int
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.row_bytes

    def read(self, descriptor: int, start: int, count: int) -> NDArray[Any]:
        """Read ``count`` rows from row ``start`` on from an open file, shape (count, width)."""
        data = os.pread(descriptor, count * self.row_bytes, self.offset + start * self.row_bytes)
        if len(data) != count * self.row_bytes:
            raise CacheFormatError(f"the file ends within its features, at row {start + len(data) // self.row_bytes}")
        return np.frombuffer(data, dtype=self.dtype).reshape(count, self.width)


@dataclass(frozen=True, slots=True)
class CacheIndex:
    """All of a cache but its features: what `encode_cache` writes and `read_cache` returns.

    ``images`` and ``failures`` map the names of `IMAGE_COLUMNS` and `FAILURE_COLUMNS` to columns of equal length;
    text columns hold `str` objects.
    """

    recipe: Recipe
    provenance: str
    classes: tuple[str, ...]
    images: Mapping[str, NDArray[Any]]
    failures: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.images["path"])

    def holds_same_as(self, other: "CacheIndex") -> bool:
        """Whether two caches of one recipe hold the same images, labels and failures, whatever made them."""
        return self.classes == other.classes and all(
            np.array_equal(theirs[name], column)
            for ours, theirs in ((self.images, other.images), (self.failures, other.failures))
            for name, column in ours.items()
        )


def encode_cache(draft: Draft, index: CacheIndex) -> dict[str, FeatureBlock]:
    """Write a cache but its features and checksums into a draft, and return where each of those belongs.

    Space for the whole file is reserved first, so that a full disk shows here and HDF5 never meets it.

    Returns
    -------
    dict
        For every tap the block of its features, and under ``"checksums/<tap>"`` the block of its checksums.
    """
    draft.reserve(_estimated_size(index))
    target = Pages()
    blocks = {}
    alignment = {"alignment_threshold": ALIGNMENT // 4, "alignment_interval": ALIGNMENT}
    with h5py.File(target, "w", userblock_size=HEADER_BYTES, **alignment) as file:
        _write_header(file, CACHE_FORMAT, index.recipe)
        file.create_dataset("recipe", data=index.recipe.to_json(), dtype=TEXT)
        file.create_dataset("provenance", data=index.provenance, dtype=TEXT)
        file.create_dataset("classes", data=np.array(index.classes, dtype=object), dtype=TEXT)
        _write_columns(file.create_group("images"), index.images, IMAGE_COLUMNS)
        _write_columns(file.create_group("failures"), index.failures, FAILURE_COLUMNS)
        checksums, features = file.create_group("checksums"), file.create_group("features")
        rows = len(index)
        for tap, width in index.recipe.taps.items():
            blocks[f"checksums/{tap}"] = _allocate(checksums, tap, (-(-rows // BLOCK_ROWS),), SHA256)
            blocks[tap] = _allocate(features, tap, (rows, width), index.recipe.stored_dtype(tap))
    target.write_to(draft)
    draft.truncate(target.size)
    spans = sorted([block.offset, block.size] for block in blocks.values())
    digest = structure_digest(draft.read_into, target.size, spans)
    draft.write(encode_header({"sha256": digest, "size": target.size, "spans": spans}), 0)
    return blocks


def encode_shard(recipe: Recipe, batches: Sequence[tuple[Sequence[str], Mapping[str, NDArray[Any]]]]) -> bytes:
    """Return the bytes of a shard.

    Parameters
    ----------
    batches
        Hashes of m contents with the features of every tap, shape (m, d), in any number of parts.
    """
    contents = [content for part, _ in batches for content in part]
    with h5py.File.in_memory() as file:
        _write_header(file, SHARD_FORMAT, recipe)
        file.create_dataset("sha256", data=np.array(contents, dtype=SHA256))
        group = file.create_group("features")
        for tap, width in recipe.taps.items():
            data = group.create_dataset(tap, (len(contents), width), recipe.stored_dtype(tap))
            start = 0
            for part, features in batches:
                if features[tap].shape != (len(part), width):
                    raise ValueError(f"{tap} has the shape {features[tap].shape}, expected {(len(part), width)}")
                data[start : start + len(part)] = features[tap]
                start += len(part)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def read_cache(stream: BinaryIO) -> tuple[CacheIndex, dict[str, FeatureBlock]]:
    """Check the whole structure of an open cache file and read all but the features.

    Returns
    -------
    index : CacheIndex
    blocks : dict
        As `encode_cache` returns them.

    Raises
    ------
    CacheFormatError
        If the file is not a cache of this version, or anything in it is missing, superfluous, of another type or
        shape than the recipe says, stored elsewhere, compressed, or does not fit the file.
    """
    with _opened(stream, CACHE_FORMAT) as (file, check):
        check.members(file, {"recipe", "provenance", "classes", "images", "features", "failures", "checksums"})
        recipe = Recipe.from_json(check.text(file, "recipe"))
        check.that(file.attrs["fingerprint"] == recipe.fingerprint, "the fingerprint does not belong to the recipe")
        images = check.columns(file, "images", IMAGE_COLUMNS)
        failures = check.columns(file, "failures", FAILURE_COLUMNS)
        rows = len(images["path"])
        classes = tuple(check.column(file, "classes", TEXT, None))
        known = (images["label"] >= -1) & (images["label"] < len(classes))
        check.that(bool(known.all()), "images/label names a class that is not there")
        check.that(bool(np.isin(images["split"], _SPLITS).all()), "images/split names a split that does not exist")
        for columns in (images, failures):
            ascii_only = columns["sha256"].view(np.int8) >= 0
            check.that(bool(ascii_only.all()), "a sha256 is not text")
        for group in ("features", "checksums"):
            check.members(file[group], set(recipe.taps))
        blocks = {}
        for tap, width in recipe.taps.items():
            blocks[tap] = check.block(file, f"features/{tap}", (rows, width), recipe.stored_dtype(tap))
            blocks[f"checksums/{tap}"] = check.block(file, f"checksums/{tap}", (-(-rows // BLOCK_ROWS),), SHA256)
        spans = sorted([block.offset, block.size] for block in blocks.values())
        check.that(spans == check.spans, "its features do not lie where its header says")
        provenance = check.text(file, "provenance")
        check.that(_is_plain_object(provenance), "its provenance is not a JSON object")
        index = CacheIndex(recipe, provenance, classes, images, failures)
    return index, blocks


def read_shard(stream: BinaryIO, recipe: Recipe) -> tuple[list[str], dict[str, FeatureBlock]]:
    """Check a shard's structure; return the hashes of its contents, in order, and where its features lie.

    Raises
    ------
    CacheFormatError
        If it is not a whole shard of this recipe.
    """
    with _opened(stream, SHARD_FORMAT) as (file, check):
        check.members(file, {"sha256", "features"})
        check.that(file.attrs["fingerprint"] == recipe.fingerprint, "it belongs to another recipe")
        contents = [value.decode("ascii") for value in check.column(file, "sha256", SHA256, None)]
        check.members(file["features"], set(recipe.taps))
        blocks = {
            tap: check.block(file, f"features/{tap}", (len(contents), width), recipe.stored_dtype(tap))
            for tap, width in recipe.taps.items()
        }
    return contents, blocks


def _is_plain_object(text: str) -> bool:
    """Whether a text is a JSON object without NaN or infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except (ValueError, RecursionError):
        return False


def _write_header(file: h5py.File, kind: str, recipe: Recipe) -> None:
    file.attrs["format"] = kind
    file.attrs["format_version"] = np.int64(FORMAT_VERSION)
    file.attrs["fingerprint"] = recipe.fingerprint


def _write_columns(group: h5py.Group, columns: Mapping[str, NDArray[Any]], types: Mapping[str, np.dtype[Any]]) -> None:
    for name, dtype in types.items():
        group.create_dataset(name, data=columns[name], dtype=dtype)


def _allocate(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureBlock:
    """Give a contiguous dataset its place in the file without writing a byte of it."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(dtype), space, properties)
    return FeatureBlock(dataset.get_offset(), shape[0], shape[1] if len(shape) > 1 else 1, dtype)


def _estimated_size(index: CacheIndex) -> int:
    """Return an upper bound of the file's size in bytes; what is reserved too much is given back."""
    rows, taps = len(index), index.recipe.taps
    features = rows * index.recipe.row_bytes
    columns = [*index.images.values(), *index.failures.values()]
    text = sum(len(value.encode()) for column in columns if column.dtype == object for value in column)
    cells = sum(64 * len(column) for column in columns)
    return features + 2 * (text + cells) + len(taps) * (rows // 8 + 2 * ALIGNMENT) + (1 << 20)


@contextmanager
def _opened(stream: BinaryIO, kind: str) -> Iterator[tuple[h5py.File, "_Check"]]:
    """Read an open file as HDF5 and check its header; every fault of HDF5 becomes a `CacheFormatError`."""
    what = f"{stream.name} is not a {'cache' if kind == CACHE_FORMAT else 'shard'} that can be read"
    try:
        spans = read_header(stream) if kind == CACHE_FORMAT else []
        with h5py.File(stream, "r") as file:
            check = _Check(stream.fileno(), os.fstat(stream.fileno()).st_size, spans)
            found = file.attrs.get("format")
            check.that(found == kind, f"its format is {found!r}, expected {kind!r}")
            version = file.attrs.get("format_version")
            check.that(version == FORMAT_VERSION, f"its format version is {version!r}, expected {FORMAT_VERSION}")
            check.that(set(file.attrs) == _ATTRIBUTES, f"its attributes are {sorted(file.attrs)}")
            yield file, check
    except CacheFormatError as e:
        raise CacheFormatError(f"{what}: {e}") from e
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as e:
        raise CacheFormatError(f"{what}: {str(e).splitlines()[0]}") from e


class _Check:
    """The checks on one file of ``size`` bytes, ``spans`` of which are features; the first fault ends the reading."""

    def __init__(self, descriptor: int, size: int, spans: list[list[int]]) -> None:
        self._descriptor = descriptor
        self._size = size
        self.spans = spans

    def that(self, condition: bool, fault: str) -> None:  # noqa: FBT001 - reads as a sentence: check.that(...)
        if not condition:
            raise CacheFormatError(fault)

    def members(self, group: h5py.Group, names: set[str]) -> None:
        """Check that a group holds exactly these objects, by hard links."""
        self.that(isinstance(group, h5py.Group), "a dataset stands where a group belongs")
        found = set(group)
        self.that(found == names, f"{group.name} holds {sorted(found)}, expected {sorted(names)}")
        for name in names:
            link = group.get(name, getlink=True)
            self.that(isinstance(link, h5py.HardLink), f"{group.name}/{name} is a link to somewhere else")

    def dataset(self, file: h5py.File, name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> h5py.Dataset:
        """Check a dataset's storage, type and shape (None: any length) before anything of it is read."""
        data = file[name]
        self.that(isinstance(data, h5py.Dataset), f"{name} is not a dataset")
        properties = data.id.get_create_plist()
        self.that(
            properties.get_layout() == h5py.h5d.CONTIGUOUS
            and properties.get_external_count() == 0
            and properties.get_nfilters() == 0,
            f"{name} is not stored plainly in this file",
        )
        same = h5py.check_string_dtype(data.dtype) == h5py.check_string_dtype(dtype)
        self.that(data.dtype == dtype and same, f"{name} is of type {data.dtype}, expected {dtype}")
        self.that(len(data.shape) == 1 if shape is None else data.shape == shape, f"{name} has the shape {data.shape}")
        stored, offset = data.id.get_storage_size(), data.id.get_offset()
        each = _TEXT_REFERENCE if dtype is TEXT else dtype.itemsize
        self.that(stored == data.size * each, f"{name} declares {data.size} values, and {stored // each} are stored")
        self.that(stored == 0 or offset is not None, f"{name} has no place in the file")
        self.that((offset or 0) + stored <= self._size, f"{name} ends behind the end of the file")
        if dtype is TEXT and stored:
            references = np.frombuffer(os.pread(self._descriptor, stored, offset), "<u4").reshape(-1, 4)
            length = int(references[:, 0].astype(np.int64).sum())
            self.that(length <= self._size, f"{name} declares {length} bytes of text, the file has {self._size}")
        return data

    def text(self, file: h5py.File, name: str) -> str:
        return str(self.dataset(file, name, (), TEXT).asstr()[()])

    def column(self, file: h5py.File, name: str, dtype: np.dtype[Any], rows: int | None) -> NDArray[Any]:
        data = self.dataset(file, name, None if rows is None else (rows,), dtype)
        values: NDArray[Any] = data.asstr()[()] if dtype is TEXT else data[()]
        return values

    def columns(self, file: h5py.File, name: str, types: Mapping[str, np.dtype[Any]]) -> dict[str, NDArray[Any]]:
        self.members(file[name], set(types))
        rows = len(file[name]["path"])
        return {column: self.column(file, f"{name}/{column}", dtype, rows) for column, dtype in types.items()}

    def block(self, file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureBlock:
        """Check a dataset and return where it lies; no row of it is read."""
        data = self.dataset(file, name, shape, dtype)
        return FeatureBlock(data.id.get_offset() or 0, shape[0], shape[1] if len(shape) > 1 else 1, dtype)

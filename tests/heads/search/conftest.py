"""Cache files made of numbers, to sweep on."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest

from featurecache.cache import FeatureCache
from featurecache.format.feature_file import RowPlaces
from featurecache.format.file_records import FileRecord, FileRecordColumns, failure_columns, image_columns
from featurecache.format.layout import CacheIndex
from featurecache.images.manifest import ImageEntry
from featurecache.packing import pack
from featurecache.recipe import Recipe

CLASSES = ("ant", "bee", "cow", "dog")


@dataclass(frozen=True)
class Numbers:
    """A source of rows that lie in memory."""

    taps: dict

    def read(self, tap, start, count):
        return self.taps[tap][start : start + count]


def write(path, taps, y, splits, *, contents=None, classes=CLASSES[:3], dtype="float32"):
    n = len(y)
    contents = range(n) if contents is None else contents
    hashes = [hashlib.sha256(str(content).encode()).hexdigest() for content in contents]
    entries = [ImageEntry(f"{row:05}.jpg", int(y[row]), splits[row]) for row in range(n)]
    found = FileRecordColumns(FileRecord("", 1, row, sha256) for row, sha256 in enumerate(hashes))
    recipe = Recipe(
        decode_version=1,
        resize="squash",
        filter="bilinear",
        backbone="vgg16",
        weights="random:0",
        input_size=(224, 224),
        preprocessing="caffe",
        taps={tap: X.shape[1] for tap, X in sorted(taps.items())},
        precision="float32",
        dtype=dtype,
    )
    index = CacheIndex(
        recipe=recipe,
        provenance="{}",
        classes=classes,
        images=image_columns(entries, found, np.arange(n)),
        failures=failure_columns(entries, found, np.arange(0)),
    )
    places = RowPlaces.in_one(Numbers({tap: X.astype(dtype) for tap, X in taps.items()}), 0, n)
    pack(path, index, places, replace=True, scratch=path.parent)
    return FeatureCache.open(path)


@pytest.fixture(scope="session")
def write_cache():
    """Write a cache file of features by tap, labels and splits (train, valid, test, none, in this order); open it."""
    return write


@pytest.fixture
def blob_file(tmp_path, blobs):
    """A cache file of 90 train, 60 valid and 30 test rows in three clouds that overlap, under the taps fc1 and fc2."""
    X, y = blobs(180, 6, 3, spread=3.0)
    splits = ["train"] * 90 + ["valid"] * 60 + ["test"] * 30
    return write(tmp_path / "blobs.h5", {"fc1": X[:, :4], "fc2": X}, y, splits)

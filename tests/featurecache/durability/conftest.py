"""Folders of images and the caches of uninterrupted runs, for the tests of durability."""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

import featurecache.run.units
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone

sys.path.insert(0, str(Path(__file__).parent))  # the driver, a process of its own, shares these modules

from runs import Driver, Reference, make_images


@pytest.fixture(scope="session")
def drivers():
    """Return two drivers: as many runs side by side as the machine is sure to have processors for."""
    started = [Driver(), Driver()]
    yield started
    for driver in started:
        driver.close()


@pytest.fixture
def memory_path(tmp_path):
    """Return a folder in memory if possible: a kill does not depend on the disk, and fsync takes time."""
    memory = Path("/dev/shm")  # noqa: S108
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    """Make runs of a few images have several shards."""
    monkeypatch.setattr(featurecache.run.units, "SHARD_ROWS", 24)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """Return 300 images, 20 of them twice and 12 broken, and the expected cache."""
    return _reference(tmp_path_factory.mktemp("many"), range(300))


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """Return 40 images like `many`, in two shards: the first is full."""
    return _reference(tmp_path_factory.mktemp("few"), range(40))


@pytest.fixture(scope="session")
def before_few(tmp_path_factory):
    """Return an older state of `few`: some images are not there yet, some others still are."""
    return _reference(tmp_path_factory.mktemp("before_few"), [*range(13), *range(1000, 1005)])


@pytest.fixture(scope="session")
def in_parts(tmp_path_factory):
    """Return 9 images, and the expected cache; runs make a cache in two parts, of at most 5 rows."""
    return replace(_reference(tmp_path_factory.mktemp("in_parts"), range(9)), part_rows=5)


@pytest.fixture(scope="session")
def before_in_parts(tmp_path_factory):
    """Return an older state of `in_parts`, in three parts of 3 rows; all images of the second are gone since."""
    numbers = [*range(5), 1000, 1001, 1008, 1009]
    return _reference(tmp_path_factory.mktemp("before_in_parts"), numbers, part_rows=3)


@pytest.fixture(scope="session")
def before_many(tmp_path_factory):
    """Return an older state of `many`."""
    return _reference(tmp_path_factory.mktemp("before_many"), [*range(100), *range(1000, 1020)])


def _reference(folder, numbers, part_rows=None):
    images = make_images(folder / "images", numbers)
    cache = extract(images, folder / "reference.h5", backbone=FakeBackbone(), part_rows=part_rows)
    return Reference(images, cache.path, part_rows)

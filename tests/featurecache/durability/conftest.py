"""Folders of images, and what an uninterrupted run makes of them, for the tests of what must never be lost."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

import featurecache.run
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
    """Return a folder in memory where there is one: a kill does not ask what is on the disk, and fsync takes time."""
    memory = Path("/dev/shm")  # noqa: S108
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    """Make runs of a few images have several shards."""
    monkeypatch.setattr(featurecache.run, "SHARD_ROWS", 24)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """Return 300 images, of which 20 are there twice and 12 are broken, and what has to become of them."""
    return _reference(tmp_path_factory.mktemp("many"), range(300))


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """Return 60 images like `many`."""
    return _reference(tmp_path_factory.mktemp("few"), range(60))


@pytest.fixture(scope="session")
def before_few(tmp_path_factory):
    """Return an older state of `few`: some images are not there yet, some others still are."""
    return _reference(tmp_path_factory.mktemp("before_few"), [*range(25), *range(1000, 1005)])


@pytest.fixture(scope="session")
def before_many(tmp_path_factory):
    """Return an older state of `many`."""
    return _reference(tmp_path_factory.mktemp("before_many"), [*range(100), *range(1000, 1020)])


def _reference(folder, numbers):
    images = make_images(folder / "images", numbers)
    return Reference(images, extract(images, folder / "reference.h5", backbone=FakeBackbone()).path)

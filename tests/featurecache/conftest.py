"""Images and caches that the tests of featurecache share."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

import featurecache.storage.publish
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.storage.publish import FileSystem


def write_image(path, seed):
    """Write a small noise image that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """Return a folder with 2 x 2 x 5 images, train and valid, cats and dogs."""
    root = tmp_path / "photos"
    seed = 0
    for split in ("train", "valid"):
        for label in ("cats", "dogs"):
            for number in range(5):
                write_image(root / split / label / f"{number}.png", seed)
                seed += 1
    return root


class CountingBackbone(FakeBackbone):
    """The fake backbone; it counts images and can stop after a given number."""

    def __init__(self, *args, stop_after=None, error=KeyboardInterrupt, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = 0
        self._stop_after = stop_after
        self._error = error

    def forward(self, images):
        if self._stop_after is not None and self.seen >= self._stop_after:
            raise self._error
        self.seen += len(images)
        return super().forward(images)


@pytest.fixture
def make_backbone():
    """Return a factory of counting backbones."""
    return CountingBackbone


@pytest.fixture
def cache(photos, tmp_path):
    """Return an open cache of `photos`."""
    return extract(photos, tmp_path / "photos.h5", backbone=FakeBackbone())


class RecordingFileSystem(FileSystem):
    """The real calls, by name in order; one of them may fail."""

    def __init__(self, fail=None, error=errno.EIO):
        self.calls = []
        self._fail = fail
        self._error = error

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name.startswith("_") or not callable(value):
            return value

        def call(*args):
            self.calls.append(name)
            if name == self._fail:
                raise OSError(self._error, os.strerror(self._error))
            return value(*args)

        return call


@pytest.fixture
def use_file_system(monkeypatch):
    """Return a function that puts a recording file system, in which one call fails, in the place of the real one."""

    def use(fail=None, error=errno.EIO):
        double = RecordingFileSystem(fail, error)
        monkeypatch.setattr(featurecache.storage.publish, "FILE_SYSTEM", double)
        return double

    return use

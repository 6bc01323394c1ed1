"""Images and caches that the tests of featurecache share."""

import numpy as np
import pytest
from PIL import Image

from featurecache import extract
from featurecache.backbones.fake import FakeBackbone


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
    """The fake backbone, which remembers how many images it saw and can be told to stop."""

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

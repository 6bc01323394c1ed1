"""Images in batches: order, failures, bounded reading ahead."""

import hashlib
import threading

import numpy as np
import pytest
from PIL import Image

from featurecache.images.batches import image_batches
from featurecache.images.decode import DecodeRules, decode
from featurecache.images.failures import Failure
from featurecache.images.manifest import ImageEntry
from featurecache.images.sources import FolderSource
from tests.featurecache.conftest import write_image

RULES = DecodeRules((16, 12))


@pytest.fixture
def folder(tmp_path):
    """Return a folder with eleven images; images 3 and 4 cannot be read."""
    for number in range(11):
        write_image(tmp_path / f"{number}.png", number)
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "4.png").unlink()
    return tmp_path


def batches_of(folder, numbers, **options):
    return image_batches([entry(number) for number in numbers], FolderSource(folder), RULES, **options)


def entry(number):
    return ImageEntry(f"{number}.png", -1, "")


def numbers_of(batch):
    return tuple(int(found.path.removesuffix(".png")) for found in batch.entries)


@pytest.mark.parametrize("workers", [1, 5])
def test_images_come_in_order_and_batches_are_full(folder, workers):
    order, failures = [7, 3, 0, 9, 4, 1, 2, 10], {}
    found = list(batches_of(folder, order, batch_size=2, failures=failures, workers=workers))
    assert [numbers_of(batch) for batch in found] == [(7, 0), (9, 1), (2, 10)]
    for batch in found:
        assert batch.pixels.dtype == np.uint8
        for number, sha256, pixels in zip(numbers_of(batch), batch.sha256, batch.pixels, strict=True):
            data = (folder / f"{number}.png").read_bytes()
            assert sha256 == hashlib.sha256(data).hexdigest()
            np.testing.assert_array_equal(pixels, decode(data, RULES))
    assert failures == {
        "3.png": Failure(
            "not_an_image",
            "a text that begins with 'no image', not an image; put the image itself in its place",
        ),
        "4.png": Failure("not_found", "no such file"),
    }


def test_the_last_batch_may_be_shorter_and_there_may_be_none(folder):
    assert [len(batch.entries) for batch in batches_of(folder, [0, 1, 2], batch_size=2, failures={})] == [2, 1]
    assert list(batches_of(folder, [3, 4], batch_size=2, failures={})) == []
    assert list(batches_of(folder, [], batch_size=2, failures={})) == []


def test_failures_are_known_when_the_next_batch_comes(folder):
    failures = {}
    images = batches_of(folder, [0, 3, 1, 4, 2], batch_size=1, failures=failures)
    assert [(numbers_of(next(images)), dict(failures).keys()) for _ in range(3)] == [
        ((0,), set()),
        ((1,), {"3.png"}),
        ((2,), {"3.png", "4.png"}),
    ]


def test_no_more_is_read_ahead_than_two_batches(folder, monkeypatch):
    asked, lock = [], threading.Lock()
    read = FolderSource.read

    def counting(source, path, **options):
        with lock:
            asked.append(path)
        return read(source, path, **options)

    monkeypatch.setattr(FolderSource, "read", counting)
    many = [0, 1, 2] * 20
    images = batches_of(folder, many, batch_size=3, failures={}, workers=2)
    next(images)
    images.close()
    assert 3 <= len(asked) <= 3 + 6


def test_the_geometry_is_that_of_the_rules(tmp_path):
    Image.fromarray(np.zeros((50, 20, 3), np.uint8)).save(tmp_path / "0.png")
    (batch,) = batches_of(tmp_path, [0], batch_size=4, failures={})
    assert batch.pixels.shape == (1, 16, 12, 3)

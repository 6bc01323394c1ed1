"""Images in batches: order, failures, bounded reading ahead."""

import hashlib
import threading

import numpy as np
import pytest
from PIL import Image

from featurecache import batches
from featurecache.batches import image_batches
from featurecache.decode import DecodeRules, decode
from tests.featurecache.conftest import write_image

RULES = DecodeRules((16, 12))


@pytest.fixture
def folder(tmp_path):
    """Return a folder with eleven images, of which 3 and 4 cannot be read."""
    for number in range(11):
        write_image(tmp_path / f"{number}.png", number)
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "4.png").unlink()
    return tmp_path


def batches_of(folder, numbers, **options):
    return image_batches(numbers, lambda number: bytes(folder / f"{number}.png"), RULES, **options)


@pytest.mark.parametrize("workers", [1, 5])
def test_images_come_in_order_and_batches_are_full(folder, workers):
    order, failures = [7, 3, 0, 9, 4, 1, 2, 10], {}
    found = list(batches_of(folder, order, batch_size=2, failures=failures, workers=workers))
    assert [batch.items for batch in found] == [(7, 0), (9, 1), (2, 10)]
    for batch in found:
        assert batch.pixels.dtype == np.uint8
        for number, sha256, pixels in zip(batch.items, batch.sha256, batch.pixels, strict=True):
            data = (folder / f"{number}.png").read_bytes()
            assert sha256 == hashlib.sha256(data).hexdigest()
            np.testing.assert_array_equal(pixels, decode(data, RULES))
    assert failures == {
        3: "not a JPEG, PNG, WEBP, BMP, GIF or TIFF image; the file begins with b'no image'",
        4: "no such file",
    }


def test_the_last_batch_may_be_shorter_and_there_may_be_none(folder):
    assert [len(batch.items) for batch in batches_of(folder, [0, 1, 2], batch_size=2, failures={})] == [2, 1]
    assert list(batches_of(folder, [3, 4], batch_size=2, failures={})) == []
    assert list(batches_of(folder, [], batch_size=2, failures={})) == []


def test_failures_are_known_when_the_next_batch_comes(folder):
    failures = {}
    images = batches_of(folder, [0, 3, 1, 4, 2], batch_size=1, failures=failures)
    assert [(next(images).items, dict(failures).keys()) for _ in range(3)] == [
        ((0,), set()),
        ((1,), {3}),
        ((2,), {3, 4}),
    ]


def test_no_more_is_read_ahead_than_two_batches(folder, monkeypatch):
    asked, lock = [], threading.Lock()
    read = batches.read_file

    def counting(file, **options):
        with lock:
            asked.append(file)
        return read(file, **options)

    monkeypatch.setattr(batches, "read_file", counting)
    many = [0, 1, 2] * 20
    images = batches_of(folder, many, batch_size=3, failures={}, workers=2)
    next(images)
    images.close()
    assert 3 <= len(asked) <= 3 + 6


def test_the_geometry_is_that_of_the_rules(tmp_path):
    Image.fromarray(np.zeros((50, 20, 3), np.uint8)).save(tmp_path / "0.png")
    (batch,) = batches_of(tmp_path, [0], batch_size=4, failures={})
    assert batch.pixels.shape == (1, 16, 12, 3)

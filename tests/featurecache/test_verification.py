import dataclasses

import h5py
import numpy as np
import pytest

from featurecache import FeatureCache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, OptionError, RecipeError
from featurecache.format.feature_file import RowPlaces
from featurecache.packing import pack
from featurecache.verification import verify
from tests.featurecache.conftest import write_image
from tests.featurecache.test_extraction import contents


def test_a_whole_cache_is_ok(cache):
    found = verify(cache.path)
    assert found.ok
    assert found.to_dict() == {
        "ok": True,
        "problems": [],
        "recomputed": 0,
        "max_relative_error": None,
        "skipped": 0,
    }


def test_a_word_is_no_batch_size(cache):
    with pytest.raises(OptionError, match=r"batch_size is 'auto'; expected a whole number from 1 to 4,096$"):
        verify(cache.path, recompute=1, backbone=FakeBackbone(), batch_size="auto")


def test_rows_are_recomputed_from_their_images(cache):
    found = verify(cache.path, recompute=7, backbone=FakeBackbone())
    assert found.ok
    assert found.recomputed == 7
    assert found.max_relative_error == 0


def test_a_row_that_is_not_its_image_is_found(cache):
    class OtherBackbone(FakeBackbone):
        def forward(self, images):
            features = super().forward(images)
            features["features"][-1, 3] += 0.5 * np.abs(features["features"][-1]).max()
            return features

    found = verify(cache.path, recompute=20, backbone=OtherBackbone())
    assert not found.ok
    assert found.max_relative_error == pytest.approx(0.5, abs=0.2)
    assert "differ from their images" in found.problems[0]


def test_values_that_are_not_finite_are_a_problem(cache):
    class LostBackbone(FakeBackbone):
        def forward(self, images):
            return {tap: np.full_like(values, 1e-3) for tap, values in super().forward(images).items()}

    features = cache.features("features").X.copy()
    features[7, 2] = np.nan

    class Rows:
        def read(self, tap, start, count):
            rows = features if tap == "features" else cache.read("predictions", 0, 20)
            return rows[start : start + count]

    places = RowPlaces.in_one(Rows(), 0, 20)
    pack(cache.path, cache.index, places, replace=True, scratch=cache.path.parent)
    found = verify(cache.path, recompute=20, backbone=FakeBackbone())
    assert not found.ok
    assert found.max_relative_error is None
    assert not verify(cache.path, recompute=20, backbone=LostBackbone()).ok


def test_images_that_changed_or_moved(cache, photos):
    for number in range(5):
        (photos / "train" / "cats" / f"{number}.png").write_bytes(b"other")
    found = verify(cache.path, recompute=100, backbone=FakeBackbone())
    assert (found.recomputed, found.skipped, found.ok) == (15, 5, True)
    moved = photos.rename(photos.with_name("elsewhere"))
    with pytest.raises(ManifestError, match="--images"):
        verify(cache.path, recompute=3, backbone=FakeBackbone())
    assert verify(cache.path, recompute=100, backbone=FakeBackbone(), images=moved).recomputed == 15


def test_images_that_were_exchanged_are_skipped_and_the_rows_beside_them_compared(cache, photos):
    for name in ("train/cats/1.png", "train/dogs/0.png", "valid/dogs/4.png"):
        write_image(photos / name, seed=1000)
    found = verify(cache.path, recompute=100, backbone=FakeBackbone(), batch_size=4)
    assert (found.recomputed, found.skipped, found.max_relative_error) == (17, 3, 0)


def test_another_network_is_refused(cache):
    with pytest.raises(RecipeError, match="weights is 'random:0', wanted 'random:1'"):
        verify(cache.path, recompute=3, backbone=FakeBackbone(seed=1))
    with pytest.raises(OptionError):
        verify(cache.path, recompute=-1)


def test_every_flipped_bit_of_a_feature_is_a_problem(cache):
    with h5py.File(cache.path, "r+") as file:
        file["features/predictions"][11, 2] += 1e-6
    (problem,) = verify(cache.path).problems
    assert problem.startswith("features/predictions: rows 0 to 19 are damaged; move the file away")


def reorder(cache, order):
    """Write the cache again with its rows in another order, as a program that ignores the rules might."""
    images = {name: column[order] for name, column in cache.index.images.items()}
    index = dataclasses.replace(cache.index, images=images)
    places = RowPlaces.in_one(cache, 0, 20)[np.array(order)]
    pack(cache.path, index, places, replace=True, scratch=cache.path.parent)


def test_disorder_is_a_problem(cache):
    reorder(cache, [1, 0, *range(2, 20)])
    assert verify(cache.path).problems == ("rows are not sorted by split and path",)
    reorder(cache, [0, 0, *range(2, 20)])
    assert verify(cache.path).problems == ("1 path in more than one row: 'train/cats/0.png'",)


def test_what_is_no_cache_is_a_problem(tmp_path):
    (tmp_path / "c.h5").write_bytes(b"no cache")
    found = verify(tmp_path / "c.h5")
    assert not found.ok
    assert "is not a cache" in found.problems[0]


def test_no_flipped_bit_goes_unnoticed_or_crashes(cache):
    """Change every byte outside the features in turn: it is refused, found by `verify`, or has no effect on reading."""
    whole = cache.path.read_bytes()
    reference = contents(cache)
    with h5py.File(cache.path) as file:
        spans = [(d.id.get_offset(), d.id.get_storage_size()) for d in file["features"].values()]
    inside = {position for start, size in spans for position in range(start, start + size)}
    unnoticed = []
    for position in range(0, len(whole), 7):
        if position in inside:
            continue
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        cache.path.write_bytes(damaged)
        if verify(cache.path).ok and contents(FeatureCache.open(cache.path)) != reference:
            unnoticed.append(position)
    assert unnoticed == []


def test_a_cache_that_does_not_record_its_images_asks_for_them(cache, monkeypatch):
    images = cache.provenance["images"]
    monkeypatch.setattr(FeatureCache, "provenance", {"images": None})
    with pytest.raises(ManifestError, match=r"does not record the folder of its images; give it by --images$"):
        verify(cache.path, recompute=1, backbone=FakeBackbone())
    assert verify(cache.path, images=images, recompute=1, backbone=FakeBackbone()).ok

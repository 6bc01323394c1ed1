"""Which batch size is found, with backbones whose speed and memory are told beforehand."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from featurecache import extract
from featurecache.backbones import batch_size, engines
from featurecache.backbones.batch_size import SIZES, find_batch_size
from featurecache.backbones.fake import FakeBackbone
from featurecache.backbones.keras_engine import KerasBackbone


class Told(FakeBackbone):
    """A backbone that is resized, and whose device holds only so many images."""

    def __init__(self, holds=10_000):
        super().__init__()
        self.holds, self.sizes, self.seen = holds, [], []

    def resize(self, size):
        self.batch_size = size
        self.sizes.append(size)

    def forward(self, images):
        self.seen.append(len(images))
        self.batch_size = min(self.batch_size, self.holds)
        return super().forward(images)


@pytest.fixture
def find(monkeypatch):
    """Return a function from images a second of sizes to the size found, what was tried, and what was said."""

    def run(rates, backbone, free=1e12, growth=0, images=10_000):
        resident = iter(range(0, 10**15, growth or 1))

        def seconds(backbone, count):
            backbone.forward(np.zeros((min(count, backbone.batch_size), 32, 32, 3), np.uint8))
            return count / rates.get(backbone.batch_size, 1)

        monkeypatch.setattr(batch_size, "_seconds", seconds)
        monkeypatch.setattr(batch_size, "free_memory", lambda: free)
        monkeypatch.setattr(batch_size, "resident_memory", lambda: next(resident))
        said = []
        find_batch_size(backbone, images, said.append)
        return backbone.batch_size, list(dict.fromkeys(backbone.seen)), said

    return run


def test_the_fastest_is_found_and_nothing_beyond_two_that_bring_nothing_more(find):
    size, tried, said = find({16: 10, 32: 20, 64: 30, 128: 29, 256: 28}, Told())
    assert (size, tried) == (64, [16, 32, 64, 128, 256])
    assert said == [
        "looking for the fastest batch size",
        "batches of 64 images; images/s were 10.0 with 16, 20.0 with 32, 30.0 with 64, 29.0 with 128, 28.0 with 256",
    ]
    assert find({16: 30, 32: 29, 64: 28, 128: 99}, Told())[:2] == (16, [16, 32, 64])


def test_one_measure_that_went_wrong_does_not_end_the_search(find):
    assert find({16: 10, 32: 9, 64: 20, 128: 40, 256: 39}, Told())[0] == 128


def test_a_little_faster_does_not_count(find):
    assert find({16: 100, 32: 101, 64: 102, 128: 999}, Told())[:2] == (16, [16, 32, 64])


def test_the_largest_is_taken_if_it_is_the_fastest(find):
    assert find({size: size for size in SIZES}, Told())[:2] == (256, list(SIZES))


def test_a_size_that_the_device_does_not_hold_ends_it(find):
    assert find({size: size for size in SIZES}, Told(holds=64))[:2] == (64, [16, 32, 64, 128])


def test_a_device_that_holds_less_than_the_smallest_keeps_what_it_holds(find):
    assert find({}, Told(holds=4))[::2] == (4, ["looking for the fastest batch size", "batches of 4 images"])


@pytest.mark.parametrize(("images", "tried"), [(159, []), (160, [16]), (1500, [16, 32, 64, 128])])
def test_no_batch_is_larger_than_a_tenth_of_the_images(find, images, tried):
    size, found, said = find({size: size for size in SIZES}, Told(), images=images)
    assert found == tried
    assert size == (max(tried) if tried else 32)
    assert bool(said) == bool(tried)


def test_no_size_is_tried_that_this_machine_has_not_the_memory_for(find):
    """Each size takes 10 more, and the next at most twice that."""
    for free, tried in ((19, [16]), (20, [16, 32]), (40, [16, 32, 64]), (80, [16, 32, 64, 128])):
        assert find({size: size for size in SIZES}, Told(), free=free, growth=10)[:2] == (max(tried), tried)


def test_passes_are_measured_as_they_are_made(monkeypatch):
    backbone = Told()
    backbone.batch_size, backbone.passes_at_once = 16, 2
    assert 0 < batch_size._seconds(backbone, 40) < 1
    assert sorted(backbone.seen) == [8, 16, 16]


@pytest.mark.slow
def test_a_real_network_goes_on_as_it_was(weights_of, photographs):
    row, weights = weights_of("mobilenet_v2")
    backbone = KerasBackbone(replace(row, input_size=(64, 64)), weights, taps=("avg_pool",), batch_size=4)
    before = backbone.forward(photographs(5, (64, 64)))["avg_pool"]
    find_batch_size(backbone, 320)
    assert backbone.batch_size in {16, 32}
    assert backbone.provenance["batch_size"] == str(backbone.batch_size)
    np.testing.assert_allclose(backbone.forward(photographs(5, (64, 64)))["avg_pool"], before, rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_goes_on_with_the_size_that_it_had_found(photographs, tmp_path, monkeypatch):
    for index, pixels in enumerate(photographs(7)):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    sizes = iter((2, 3))
    monkeypatch.setattr(engines, "find_batch_size", lambda backbone, *_: backbone.resize(next(sizes)))

    def interrupt(progress):
        if progress.done == 7:  # the third batch was submitted, so the first one was kept
            raise KeyboardInterrupt

    options = {"weights": "random:0", "taps": ["block1_pool"], "engine": "numba", "batch_size": "auto"}
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path, tmp_path / "x.h5", progress=interrupt, **options)
    said = []
    cache = extract(tmp_path, tmp_path / "x.h5", notify=said.append, **options)
    assert "batches of 2 images, as at the start of this run" in said
    assert cache.provenance["engine"]["batch_size"] == "2"
    assert cache.provenance["run"]["forwarded"] in {1, 3, 5}  # the others may have been under way
    for index, pixels in enumerate(photographs(9, seed=1)):
        Image.fromarray(pixels).save(tmp_path / f"new{index}.png")
    assert extract(tmp_path, tmp_path / "x.h5", **options).provenance["engine"]["batch_size"] == "3"


def test_a_run_that_was_killed_while_it_measured_does_not_measure_again(photographs, tmp_path, monkeypatch):
    for index, pixels in enumerate(photographs(3)):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    measured = []

    def killed(*_):
        measured.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, "find_batch_size", killed)
    options = {"weights": "random:0", "taps": ["block1_pool"], "engine": "numba", "batch_size": "auto"}
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path, tmp_path / "x.h5", **options)
    said = []
    cache = extract(tmp_path, tmp_path / "x.h5", notify=said.append, **options)
    assert measured == [True]
    assert cache.provenance["engine"]["batch_size"] == str(engines.BATCH_SIZES["numba"])
    assert any(
        line.startswith(f"batches of {engines.BATCH_SIZES['numba']} images: an earlier run ended") for line in said
    )


def test_a_backbone_that_is_there_already_has_its_own(photographs, tmp_path):
    for index, pixels in enumerate(photographs(5)):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    backbone = Told()
    backbone.batch_size = 2
    for name, options in (("x.h5", {}), ("y.h5", {"batch_size": "auto"})):
        backbone.seen.clear()
        extract(tmp_path, tmp_path / name, backbone=backbone, **options)
        assert backbone.seen == [2, 2, 1]

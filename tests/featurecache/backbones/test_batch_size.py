"""Which batch size is found, with backbones whose speed and memory are told beforehand."""

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

    def run(rates, backbone, free=1e12, growth=0):
        peaks = iter(range(0, 10**15, growth or 1))
        monkeypatch.setattr(batch_size, "_rate", lambda _, images: rates[len(images)])
        monkeypatch.setattr(batch_size, "_free_memory", lambda: free)
        monkeypatch.setattr(batch_size, "_peak_memory", lambda: next(peaks))
        said = []
        find_batch_size(backbone, said.append)
        return backbone.batch_size, backbone.seen, said

    return run


def test_the_fastest_is_found_and_nothing_beyond_what_brings_nothing_more(find):
    size, tried, said = find({16: 10, 32: 20, 64: 30, 128: 29, 256: 99}, Told())
    assert (size, tried) == (64, [16, 32, 64, 128])
    assert said == ["batches of 64 images; images/s were 10.0 with 16, 20.0 with 32, 30.0 with 64, 29.0 with 128"]


def test_a_little_faster_does_not_count(find):
    assert find({16: 100, 32: 101, 64: 999}, Told())[:2] == (16, [16, 32])


def test_the_largest_is_taken_if_it_is_the_fastest(find):
    assert find({size: size for size in SIZES}, Told())[:2] == (256, list(SIZES))


def test_a_size_that_the_device_does_not_hold_ends_it(find):
    assert find({size: size for size in SIZES}, Told(holds=64))[:2] == (64, [16, 32, 64, 128])


def test_a_device_that_holds_less_than_the_smallest_keeps_what_it_holds(find):
    assert find({}, Told(holds=4)) == (4, [16], ["batches of 4 images"])


def test_no_size_is_tried_that_this_machine_has_not_the_memory_for(find):
    assert find({size: size for size in SIZES}, Told(), free=5, growth=1)[1] == list(SIZES)
    size, tried, _ = find({size: size for size in SIZES}, Told(), free=25, growth=10)
    assert tried == [16, 32, 64]  # which have taken 10, 20 and 30
    assert size == 64


def test_free_memory_is_what_the_machine_has_or_its_container_allows(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:  4 kB\n")
    monkeypatch.setattr(batch_size, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(batch_size, "_CGROUP", tmp_path)
    assert batch_size._free_memory() == 4096
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert batch_size._free_memory() == 4096
    (tmp_path / "memory.max").write_text("3000\n")
    assert batch_size._free_memory() == 2000


def test_free_memory_of_this_machine():
    assert 10**7 < batch_size._free_memory() < 10**14


def test_a_real_network_goes_on_as_it_was(weights_of, photographs):
    backbone = KerasBackbone(*weights_of("mobilenet_v2"), taps=("avg_pool",), batch_size=4)
    before = backbone.forward(photographs(5))["avg_pool"]
    find_batch_size(backbone)
    assert backbone.batch_size in SIZES
    assert backbone.provenance["batch_size"] == str(backbone.batch_size)
    np.testing.assert_allclose(backbone.forward(photographs(5))["avg_pool"], before, rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_goes_on_with_the_size_that_it_had_found(photographs, tmp_path, monkeypatch):
    for index, pixels in enumerate(photographs(7)):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    sizes = iter((2, 3))
    monkeypatch.setattr(engines, "find_batch_size", lambda backbone, _: backbone.resize(next(sizes)))

    def interrupt(progress):
        if progress.forwarded == 4:
            raise KeyboardInterrupt

    options = {"weights": "random:0", "taps": ["block5_pool"], "engine": "numba", "batch_size": "auto"}
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path, tmp_path / "x.h5", progress=interrupt, **options)
    cache = extract(tmp_path, tmp_path / "x.h5", **options)
    assert cache.provenance["engine"]["batch_size"] == "2"
    assert cache.provenance["run"]["forwarded"] == 3
    for index, pixels in enumerate(photographs(9, seed=1)):
        Image.fromarray(pixels).save(tmp_path / f"new{index}.png")
    assert extract(tmp_path, tmp_path / "x.h5", **options).provenance["engine"]["batch_size"] == "3"


def test_a_backbone_that_is_there_already_has_its_own(photographs, tmp_path):
    for index, pixels in enumerate(photographs(5)):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    backbone = Told()
    backbone.batch_size = 2
    extract(tmp_path, tmp_path / "x.h5", backbone=backbone, batch_size="auto")
    assert backbone.seen == [2, 2, 1]

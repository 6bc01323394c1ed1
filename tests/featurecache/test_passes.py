"""Passes through a network: how many at once, in which order, and what is counted."""

import threading
import time

import numpy as np
import pytest

from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.passes import Passes

SECONDS = 0.05


class Device(FakeBackbone):
    """The fake backbone on a device that takes its time, beside the processors."""

    def __init__(self, passes_at_once=2, stop_at=None):
        super().__init__()
        self.passes_at_once = passes_at_once
        self._stop_at, self._lock = stop_at, threading.Lock()
        self.running = self.most = self.passes = 0

    def forward(self, images):
        with self._lock:
            self.running += 1
            self.passes += 1
            number, self.most = self.passes, max(self.most, self.running)
        try:
            time.sleep(SECONDS)
            if number == self._stop_at:
                raise KeyboardInterrupt
            return super().forward(images)
        finally:
            with self._lock:
                self.running -= 1


@pytest.mark.parametrize("most", [1, 2])
def test_as_many_passes_are_under_way_as_the_network_allows_and_rows_stay_in_order(photos, tmp_path, most):
    backbone = Device(most)
    found = extract(photos, tmp_path / "x.h5", backbone=backbone, batch_size=3)
    expected = extract(photos, tmp_path / "y.h5", backbone=FakeBackbone())
    assert (backbone.passes, backbone.most) == (7, most)
    features = {name: cache.features("features") for name, cache in (("found", found), ("expected", expected))}
    assert features["found"].paths.tolist() == features["expected"].paths.tolist()
    np.testing.assert_array_equal(features["found"].X, features["expected"].X)


@pytest.mark.parametrize("at_once", [1, 2])
def test_while_a_network_computes_the_next_batch_is_made_ready(photos, tmp_path, at_once):
    seen = []

    def slow(progress):
        time.sleep(SECONDS / 5)  # what the main thread does with each image
        seen.append((progress.waiting, progress.computing))

    backbone = Device(at_once)
    extract(photos, tmp_path / "x.h5", backbone=backbone, batch_size=3, workers=1, progress=slow)
    waiting, computing = seen[-1]
    assert computing > backbone.passes * SECONDS / at_once
    assert waiting < 2 * SECONDS  # of 20 images at a fifth of SECONDS each, those of the first batch and a little


@pytest.mark.parametrize("at_once", [1, 2])
def test_after_an_interruption_what_was_kept_is_known_and_the_rest_is_made(photos, tmp_path, at_once):
    with pytest.raises(KeyboardInterrupt):
        extract(photos, tmp_path / "x.h5", backbone=Device(at_once, stop_at=4), batch_size=3)
    again = Device(at_once)
    cache = extract(photos, tmp_path / "x.h5", backbone=again, batch_size=3)
    assert cache.provenance["run"]["reused"] == 9
    assert again.passes == 4
    whole = extract(photos, tmp_path / "y.h5", backbone=FakeBackbone()).features("features")
    np.testing.assert_array_equal(cache.features("features").X, whole.X)


def test_overlapping_passes_count_once():
    clock = [0.0]
    passes = Passes(FakeBackbone(), lambda: clock[0])
    counted = []
    for clock[0], more in ((5.0, 1), (6.0, 1), (8.0, -1), (9.0, -1), (12.0, 1)):
        passes._count(more)
        counted.append((passes.waiting, passes.computing))
    assert counted == [(5, 0), (5, 1), (5, 3), (5, 4), (8, 4)]
    clock[0] = 20.0
    assert (passes.waiting, passes.computing) == (8, 12)

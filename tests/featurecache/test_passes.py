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

    def __init__(self, device="gpu", stop_at=None):
        super().__init__()
        self.provenance = {"engine": "numpy", "device": device}
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


@pytest.mark.parametrize(("device", "most"), [("cpu", 1), ("gpu", 2)])
def test_two_passes_are_under_way_on_a_gpu_and_rows_stay_in_order(photos, tmp_path, device, most):
    backbone = Device(device)
    found = extract(photos, tmp_path / "x.h5", backbone=backbone, batch_size=3)
    expected = extract(photos, tmp_path / "y.h5", backbone=FakeBackbone())
    assert (backbone.passes, backbone.most) == (7, most)
    features = {name: cache.features("features") for name, cache in (("found", found), ("expected", expected))}
    assert features["found"].paths.tolist() == features["expected"].paths.tolist()
    np.testing.assert_array_equal(features["found"].X, features["expected"].X)


def test_while_a_gpu_computes_the_next_batch_is_made_ready(photos, tmp_path):
    seen = []

    def slow(progress):
        time.sleep(SECONDS / 10)  # what the main thread does with each image
        seen.append((progress.waiting, progress.computing))

    backbone = Device()
    extract(photos, tmp_path / "x.h5", backbone=backbone, batch_size=3, workers=1, progress=slow)
    waiting, computing = seen[-1]
    assert computing == pytest.approx(backbone.passes * SECONDS, abs=4 * SECONDS)
    assert waiting < 3 * SECONDS  # but for the first batch


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_after_an_interruption_what_was_kept_is_known_and_the_rest_is_made(photos, tmp_path, device):
    with pytest.raises(KeyboardInterrupt):
        extract(photos, tmp_path / "x.h5", backbone=Device(device, stop_at=4), batch_size=3)
    again = Device(device)
    cache = extract(photos, tmp_path / "x.h5", backbone=again, batch_size=3)
    assert cache.provenance["run"]["reused"] == 9
    assert again.passes == 4
    whole = extract(photos, tmp_path / "y.h5", backbone=FakeBackbone()).features("features")
    np.testing.assert_array_equal(cache.features("features").X, whole.X)


def test_overlapping_passes_count_once():
    passes = Passes(Device())
    batch = {"a": np.zeros((32, 32, 3), np.uint8)}
    time.sleep(SECONDS)
    threads = [threading.Thread(target=passes.forward, args=(batch,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS / 2)
    assert SECONDS / 4 < passes.computing < SECONDS
    for thread in threads:
        thread.join()
    time.sleep(SECONDS)
    assert SECONDS <= passes.computing < 2 * SECONDS
    assert 2 * SECONDS <= passes.waiting < 4 * SECONDS

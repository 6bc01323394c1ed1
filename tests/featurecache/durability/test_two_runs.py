"""Two processes make one cache at once, and readers have it open meanwhile."""

import shutil
import time

import numpy as np
import pytest
from file_systems import CALLS, TracingFileSystem
from runs import BATCH_SIZE, StoppingBackbone, contents

import featurecache.run.store
import featurecache.storage.publish
from featurecache import FeatureCache, extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import OutputError


def both(reference, cache_path, drivers, options, pause, other=None):
    """Run two extractions at once, of the same images or of others; check how both end."""
    first = drivers[0].start(reference.images, cache_path, *options)
    first.wait_for("pid")
    time.sleep(pause)
    second = drivers[1].start((other or reference).images, cache_path, *options)
    for attempt in (first, second):
        assert attempt.end() in {0, 3}
        if attempt.error:
            assert attempt.error.startswith("OutputError: ")
            assert "run the same command again" in attempt.error.lower()
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_two_runs_at_once(few, before_few, drivers, memory_path, replaces, seed):
    cache_path = memory_path / "c.h5"
    if replaces:
        shutil.copy(before_few.path, cache_path)
    pause = float(np.random.default_rng(seed).uniform(0, 0.25))
    first, second = both(few, cache_path, drivers, ["--slow", 0.002], pause)
    assert 0 in {first.status, second.status}
    few.check_crash(cache_path, first.acknowledged | second.acknowledged, before_few if replaces else None)
    few.finish(cache_path)


@pytest.mark.parametrize("replaces", [False, True])
def test_a_run_that_starts_while_another_packs(few, before_few, drivers, memory_path, tmp_path, replaces):
    cache_path = memory_path / "c.h5"
    if replaces:
        shutil.copy(before_few.path, cache_path)
    first = drivers[0].start(few.images, cache_path, "--pack-after", tmp_path / "second-has-ended")
    first.wait_for("packing")
    second = drivers[1].start(few.images, cache_path)
    assert second.end() == 3
    assert "another run is at work" in second.error
    (tmp_path / "second-has-ended").touch()
    assert first.end() == 0
    few.finish(cache_path)


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.05, 0.1, 0.2])
def test_two_runs_over_other_images_lose_nothing(few, before_few, drivers, memory_path, pause):
    cache_path = memory_path / "c.h5"
    first, second = both(few, cache_path, drivers, ["--slow", 0.002], pause, other=before_few)
    known = {*few.known(cache_path)}
    for attempt in (first, second):
        if attempt.status:
            assert attempt.acknowledged <= known


LIES = (["no locks"], ["locks for all", "no links"], ["no locks", "old lists", "other clock"])


@pytest.mark.slow
@pytest.mark.parametrize("lies", LIES, ids=", ".join)
@pytest.mark.parametrize("seed", range(4))
def test_two_runs_lose_nothing_on_a_file_system_that_lies(few, before_few, drivers, memory_path, lies, seed):
    cache_path = memory_path / "c.h5"
    pause = float(np.random.default_rng(seed).uniform(0, 0.3))
    first, second = both(few, cache_path, drivers, ["--slow", 0.002, "--lies", *lies], pause, other=before_few)
    known = few.known(cache_path)
    for attempt in (first, second):
        if attempt.status:
            assert attempt.acknowledged <= known
    assert contents(cache_path) in [few.contents, before_few.contents]
    few.finish(cache_path)


def test_a_run_that_reads_while_another_removes_says_so(few, memory_path, monkeypatch):
    work = memory_path / "c.h5.work"

    with pytest.raises(MemoryError):
        extract(few.images, memory_path / "c.h5", backbone=StoppingBackbone(work), batch_size=BATCH_SIZE)
    reading = featurecache.run.store.read_record
    with monkeypatch.context() as patch:
        patch.setattr(featurecache.run.store, "read_record", lambda path: (reading(path), shutil.rmtree(work))[0])
        with pytest.raises(OutputError, match="by another run, which has ended; run the same command again"):
            few.known(memory_path / "c.h5")
    few.finish(memory_path / "c.h5")


def test_who_has_the_old_cache_open_goes_on_reading_it(few, before_few, memory_path, monkeypatch):
    cache_path = memory_path / "c.h5"
    shutil.copy(before_few.path, cache_path)
    reader = FeatureCache.open(cache_path)
    X = {tap: reader.features(tap).X for tap in reader.taps}
    expected = {tap: before_few.cache.features(tap).X.copy() for tap in reader.taps}
    read = []

    class ReadFileSystem(TracingFileSystem):
        def before(self, step, name, args):
            for tap, rows in expected.items():
                assert np.array_equal(X[tap], rows)
                assert np.array_equal(FeatureCache.open(cache_path).features(tap).X[: len(rows)], rows) or replaced(
                    self
                )
            read.append(name)

    def replaced(file_system):
        return ("replace", "cache") in file_system.trace

    with monkeypatch.context() as patch:
        patch.setattr(featurecache.storage.publish, "FILE_SYSTEM", ReadFileSystem())
        new = extract(few.images, cache_path, backbone=FakeBackbone(), batch_size=BATCH_SIZE)
    assert set(read) <= set(CALLS)
    assert "replace" in read
    for tap, rows in expected.items():
        assert np.array_equal(X[tap], rows)
        assert np.array_equal(reader.features(tap).X, rows)
        assert len(new.features(tap)) == len(few.cache)
    assert reader.problems() == []
    few.check_finished(cache_path)

"""Runs are killed without warning, at every step of publishing and at random moments, and then go on."""

import queue
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from file_systems import TracingFileSystem

import featurecache.publish
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone

KILLS = 20
PACKING_WRITES = 8


def steps_to_kill_at(trace):
    """Return (step, half) for every kind of step, early and late in a run, and for every step of packing."""
    chosen, seen = set(), {}
    for step, (name, role) in enumerate(trace):
        seen.setdefault((role, name), []).append(step)
    for (role, name), steps in seen.items():
        some = steps
        if role == "cache" and name == "write":
            some = steps[:: max(1, len(steps) // PACKING_WRITES)]
        elif role in {"shards", "commits"}:
            some = [*steps[:2], steps[-1]]
        for step in some:
            chosen.add((step, False))
            if name in {"write", "remove_tree"}:
                chosen.add((step, True))
    return sorted(chosen)


def trace_of(reference, cache_path, monkeypatch):
    tracing = TracingFileSystem()
    with monkeypatch.context() as patch:
        patch.setattr(featurecache.publish, "FILE_SYSTEM", tracing)
        extract(reference.images, cache_path, backbone=FakeBackbone(), batch_size=8)
    return tracing.trace


def side_by_side(function, drivers, items):
    """Do ``function(driver, item)`` for all items, with as many at a time as there are drivers."""
    free = queue.SimpleQueue()
    for driver in drivers:
        free.put(driver)

    def one(item):
        driver = free.get()
        try:
            return function(driver, item)
        finally:
            free.put(driver)

    with ThreadPoolExecutor(len(drivers)) as pool:
        return list(pool.map(one, items))


@pytest.mark.slow
@pytest.mark.parametrize("replaces", [False, True])
def test_killed_at_every_step_of_publishing(few, before_few, drivers, memory_path, monkeypatch, replaces):
    old = before_few if replaces else None

    def folder(name):
        path = memory_path / name / "c.h5"
        path.parent.mkdir()
        if old:
            shutil.copy(old.path, path)
        return path

    def kill(driver, point):
        step, half = point
        cache_path = folder(f"{step}-{half}")
        attempt = driver.start(few.images, cache_path, "--kill", step, *(["--half"] if half else []))
        assert attempt.end() == -signal.SIGKILL, trace[step]
        few.check_crash(cache_path, attempt.acknowledged, old)
        again = driver.start(few.images, cache_path, "--kill", random.Random(step).randrange(len(trace)))  # noqa: S311
        assert again.end() in {0, -signal.SIGKILL}
        few.check_crash(cache_path, attempt.acknowledged | again.acknowledged, old)
        few.finish(cache_path)

    trace = trace_of(few, folder("traced"), monkeypatch)
    points = steps_to_kill_at(trace)
    assert {trace[step] for step, _ in points} == set(trace)
    assert {role for _, role in trace} >= {"shards", "commits", "recipe.json", "cache", "work"}
    assert len(points) >= 60
    side_by_side(kill, drivers, points)


@pytest.mark.slow
@pytest.mark.parametrize("replaces", [False, True])
def test_killed_at_random_moments_again_and_again(many, before_many, drivers, memory_path, replaces):
    old = before_many if replaces else None

    def chain(driver, seed):
        generator = random.Random(seed)  # noqa: S311
        cache_path = memory_path / str(seed) / "c.h5"
        cache_path.parent.mkdir()
        kills = 0
        while kills < KILLS:
            if old:
                shutil.copy(old.path, cache_path)
            attempt, acknowledged = None, set()
            while kills < KILLS and (attempt is None or attempt.status):
                attempt = driver.start(many.images, cache_path, "--slow", 0.001)
                attempt.wait_for("pid")
                time.sleep(generator.uniform(0, 0.3))
                attempt.kill()
                assert attempt.end() in {0, -signal.SIGKILL}
                kills += attempt.status == -signal.SIGKILL
                acknowledged |= attempt.acknowledged
                many.check_crash(cache_path, acknowledged, old)
            many.finish(cache_path)
            cache_path.unlink()
        return kills

    assert side_by_side(chain, drivers, range(2)) == [KILLS, KILLS]

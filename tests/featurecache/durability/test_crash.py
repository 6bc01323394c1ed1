"""Runs are killed at every step of publishing and at random moments, and then continue."""

import queue
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from file_systems import TracingFileSystem
from runs import copy_cache

import featurecache.storage.publish
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone

KILLS = 20
PACKING_WRITES = 8


def steps_to_kill_at(trace):
    """Return (step, half) for every kind of step, early and late in a run, and for every step of packing.

    Of the writes into a file that is packed, which no run reads before it is published, at most `PACKING_WRITES` count.
    """
    chosen, seen = set(), {}
    for step, (name, role) in enumerate(trace):
        seen.setdefault((role, name), []).append(step)
    for (role, name), steps in seen.items():
        some = steps
        if role in {"cache", "part"} and name == "write":
            some = steps[:: -(-len(steps) // PACKING_WRITES)]
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
        patch.setattr(featurecache.storage.publish, "FILE_SYSTEM", tracing)
        extract(reference.images, cache_path, backbone=FakeBackbone(), batch_size=8, part_rows=reference.part_rows)
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
def test_a_run_that_is_killed_again_and_again_soon_after_its_first_pass_ends(many, drivers, memory_path):
    cache_path, kept = memory_path / "c.h5", []
    while len(kept) < 100:
        options = ("--slow", 0.06, "--first", 0.2, "--lifetime", 0.8)
        attempt = drivers[0].start(many.images, cache_path, *options)
        status = attempt.end()
        if status == 0:
            break
        assert status == -signal.SIGKILL
        many.check_crash(cache_path, attempt.acknowledged)
        kept.append(len(many.known(cache_path)))
    assert 2 <= len(kept) < 100
    assert kept == sorted(kept)
    many.check_finished(cache_path)


class Kills:
    """Runs in folders of their own, each killed at a step of publishing, then again, and finished."""

    def __init__(self, reference, old, memory_path, monkeypatch):
        self._reference, self._old, self._memory_path = reference, old, memory_path
        self.trace = trace_of(reference, self._folder("traced"), monkeypatch)

    def at(self, driver, point):
        step, half = point
        cache_path = self._folder(f"{step}-{half}")
        options = ("--part-rows", self._reference.part_rows) if self._reference.part_rows else ()
        attempt = driver.start(
            self._reference.images, cache_path, *options, "--kill", step, *(["--half"] if half else [])
        )
        assert attempt.end() == -signal.SIGKILL, self.trace[step]
        self._reference.check_crash(cache_path, attempt.acknowledged, self._old)
        then = random.Random(step).randrange(len(self.trace))  # noqa: S311
        again = driver.start(self._reference.images, cache_path, *options, "--kill", then)
        assert again.end() in {0, -signal.SIGKILL}
        known = self._reference.check_crash(cache_path, attempt.acknowledged | again.acknowledged, self._old)
        self._reference.finish(cache_path, known=known)

    def _folder(self, name):
        path = self._memory_path / name / "c.h5"
        path.parent.mkdir()
        if self._old:
            copy_cache(self._old.path, path)
        return path


@pytest.mark.slow
@pytest.mark.parametrize("replaces", [False, True])
def test_killed_at_every_step_of_publishing(few, before_few, drivers, memory_path, monkeypatch, replaces):
    kills = Kills(few, before_few if replaces else None, memory_path, monkeypatch)
    points = steps_to_kill_at(kills.trace)
    assert {kills.trace[step] for step, _ in points} == set(kills.trace)
    assert {role for _, role in kills.trace} >= {"shards", "commits", "recipe.json", "cache", "work"}
    assert len(points) >= 60
    side_by_side(kills.at, drivers, points)


@pytest.mark.slow
def test_killed_at_every_step_of_writing_parts(in_parts, before_in_parts, drivers, memory_path, monkeypatch):
    kills = Kills(in_parts, before_in_parts, memory_path, monkeypatch)
    first = [role for _, role in kills.trace].index("part")
    assert ("unlink", "part") in kills.trace
    points = [point for point in steps_to_kill_at(kills.trace) if point[0] >= first]
    assert len(points) >= 40
    side_by_side(kills.at, drivers, points)


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

"""Forward passes of a run: how many at once, in which order, and what an interruption leaves."""

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import featurecache.run.commit_records
import featurecache.run.committer
import featurecache.run.forward_passes
import featurecache.run.run
import featurecache.run.units
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import OutputError
from featurecache.run.commit_records import read_record
from featurecache.run.forward_passes import BusyTimer, ForwardPasses
from featurecache.run.store import Store

SECONDS = 20  # after which a test that waits has failed
BATCH = 3  # 20 photographs make 7 batches


class Device(FakeBackbone):
    """The fake backbone, which calls ``act`` with the images of a pass before it computes."""

    def __init__(self, passes_at_once=1, act=lambda images: None):
        super().__init__()
        self.passes_at_once = passes_at_once
        self.rows = 0  # of passes that gave a result
        self.most_running = self._running = 0
        self._act, self._lock = act, threading.Lock()

    def forward(self, images):
        with self._lock:
            self._running += 1
            self.most_running = max(self.most_running, self._running)
        try:
            self._act(images)
            features = super().forward(images)
            with self._lock:
                self.rows += len(images)
            return features
        finally:
            with self._lock:
                self._running -= 1


@pytest.fixture
def batches(photos, tmp_path):
    """Return the batches of `photos` in the order of the manifest."""
    seen = []
    extract(photos, tmp_path / "batches.h5", backbone=Device(act=seen.append), batch_size=BATCH)
    assert len(seen) == 7
    return seen


def number_of(images, batches):
    """Return which batch these images are, from 1 on."""
    return next(number for number, batch in enumerate(batches, 1) if np.array_equal(batch, images))


class Watch:
    """How many images a run has handled; passes can wait for that."""

    def __init__(self):
        self._done, self._changed = 0, threading.Condition()

    def __call__(self, progress):
        with self._changed:
            self._done = progress.done
            self._changed.notify_all()

    def wait_for(self, done):
        with self._changed:
            assert self._changed.wait_for(lambda: self._done >= done, SECONDS)


@pytest.mark.parametrize("most", [1, 2])
def test_as_many_passes_are_under_way_as_the_network_allows_and_rows_stay_in_order(photos, tmp_path, batches, most):
    watch, reached = Watch(), threading.Event()

    def act(images):
        if number_of(images, batches) == 1:
            watch.wait_for(BATCH * 2)  # the second batch has been submitted, or is about to be
        if backbone.most_running == most:
            reached.set()
        assert reached.wait(SECONDS)

    backbone = Device(most, act)
    found = extract(photos, tmp_path / "x.h5", backbone=backbone, batch_size=BATCH, progress=watch)
    expected = extract(photos, tmp_path / "y.h5", backbone=FakeBackbone())
    assert (backbone.rows, backbone.most_running) == (20, most)
    features = {name: cache.features("features") for name, cache in (("found", found), ("expected", expected))}
    assert features["found"].paths.tolist() == features["expected"].paths.tolist()
    np.testing.assert_array_equal(features["found"].X, features["expected"].X)


@pytest.mark.parametrize("at_once", [1, 2])
def test_while_a_network_computes_the_batch_after_the_next_is_made_ready(photos, tmp_path, batches, at_once):
    watch = Watch()

    def act(images):
        # the next batch is submitted and waits for the network; the one after it is complete but for its last image
        watch.wait_for(min(20, BATCH * (number_of(images, batches) + 2) - 1))

    backbone = Device(at_once, act)
    extract(photos, tmp_path / "x.h5", backbone=backbone, batch_size=BATCH, workers=1, progress=watch)
    assert backbone.rows == 20


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("at_once", [1, 2])
def test_after_a_pass_that_failed_what_came_before_it_is_known_and_the_rest_is_made(
    photos, tmp_path, batches, monkeypatch, at_once, error
):
    monkeypatch.setattr(featurecache.run.units, "SHARD_ROWS", 2 * BATCH)

    def fail(images):
        if number_of(images, batches) == 4:
            raise error

    with pytest.raises(error):
        extract(photos, tmp_path / "x.h5", backbone=Device(at_once, fail), batch_size=BATCH)
    again = Device(at_once)
    cache = extract(photos, tmp_path / "x.h5", backbone=again, batch_size=BATCH)
    assert cache.provenance["run"]["reused"] == 3 * BATCH
    assert again.rows == 20 - 3 * BATCH
    whole = extract(photos, tmp_path / "y.h5", backbone=FakeBackbone()).features("features")
    np.testing.assert_array_equal(cache.features("features").X, whole.X)


def committed_rows(cache_path):
    """Return the number of rows of each commit record of an unfinished run."""
    return [read_record(path).rows for path in cache_path.parent.glob(f"{cache_path.name}.work/commits/*.json")]


def check_interrupted(photos, cache_path, backbone):
    """Check that every pass that ended was committed, and once; finish the run."""
    assert sum(committed_rows(cache_path)) == backbone.rows
    again = Device()
    cache = extract(photos, cache_path, backbone=again, batch_size=BATCH)
    assert again.rows == 20 - backbone.rows
    whole = extract(photos, cache_path.with_name("whole.h5"), backbone=FakeBackbone()).features("features")
    np.testing.assert_array_equal(cache.features("features").X, whole.X)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("during", ["pass", "conversion", "commit"])
def test_an_interruption_of_the_main_thread_loses_no_finished_pass(
    photos, tmp_path, batches, monkeypatch, default_signals, at_once, during
):
    interrupted = threading.Event()

    def interrupt():
        if not interrupted.is_set():
            interrupted.set()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # wakes it, as Ctrl-C does

    monkeypatch.setattr(featurecache.run.units, "SHARD_ROWS", 2 * BATCH)
    act = (lambda images: number_of(images, batches) == 4 and interrupt()) if during == "pass" else lambda _: None
    if during == "commit":
        commit = Store.commit
        monkeypatch.setattr(Store, "commit", lambda *arguments: (interrupt(), commit(*arguments)))
    if during == "conversion":
        converted = featurecache.run.committer.as_stored
        monkeypatch.setattr(
            featurecache.run.committer, "as_stored", lambda *arguments: (interrupt(), converted(*arguments))[1]
        )
    backbone = Device(at_once, act)
    held = threading.Event()

    def hold(progress):  # the main thread cannot finish before it is interrupted
        if progress.done == 20:
            held.wait(SECONDS)

    with default_signals(), pytest.raises(KeyboardInterrupt):
        extract(photos, tmp_path / "x.h5", backbone=backbone, batch_size=BATCH, progress=hold)
    assert backbone.rows >= BATCH
    check_interrupted(photos, tmp_path / "x.h5", backbone)


@pytest.mark.parametrize("start", range(0, 600, 37))
def test_an_interruption_at_any_line_of_the_main_thread_loses_no_finished_pass(photos, tmp_path, monkeypatch, start):
    monkeypatch.setattr(featurecache.run.units, "SHARD_ROWS", 2 * BATCH)
    folder = str(Path(featurecache.run.run.__file__).parent)
    lines = iter(range(start, -1, -1))

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.startswith(folder):
            return None
        if event == "line" and next(lines, None) == 0:
            raise KeyboardInterrupt
        return trace

    backbone, path, before = Device(), tmp_path / "x.h5", sys.gettrace()
    sys.settrace(trace)
    try:
        extract(photos, path, backbone=backbone, batch_size=BATCH)
    except KeyboardInterrupt:
        sys.settrace(before)
        check_interrupted(photos, path, backbone)
    else:
        pytest.fail("the run has fewer lines")
    finally:
        sys.settrace(before)


def raise_at(line, code_names):
    """Return a trace function that raises at a line of functions of the passes' module, and the lines left."""
    lines = iter(range(line, -1, -1))

    def trace(frame, event, argument):
        if frame.f_code.co_filename != featurecache.run.forward_passes.__file__:
            return None
        if event == "line" and frame.f_code.co_name in code_names and next(lines, None) == 0:
            raise KeyboardInterrupt
        return trace

    return trace, lines


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("line", range(7))
def test_a_second_interruption_at_any_line_of_the_end_leaves_no_thread(photos, tmp_path, monkeypatch, error, line):
    monkeypatch.setattr(featurecache.run.units, "SHARD_ROWS", 2 * BATCH)
    leave, path = ForwardPasses.__exit__, tmp_path / "x.h5"
    trace, lines = raise_at(line, {"__exit__", "_end_queue"})

    def leave_traced(*arguments):
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            return leave(*arguments)
        finally:
            sys.settrace(before)

    def fail(progress):
        if progress.done == 15:
            raise error

    monkeypatch.setattr(ForwardPasses, "__exit__", leave_traced)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, backbone=Device(), batch_size=BATCH, progress=fail)
    started = [thread for thread in threading.enumerate() if thread not in before]
    for thread in started:
        thread.join(SECONDS)
    assert [thread.name for thread in started if thread.is_alive()] == []
    kept = sum(committed_rows(path))
    assert kept in range(0, 16, BATCH)
    monkeypatch.undo()
    again = Device()
    extract(photos, path, backbone=again, batch_size=BATCH)
    assert again.rows == 20 - kept
    assert next(lines, None) is None  # the line was reached


def test_a_commit_under_way_at_a_second_interruption_keeps_other_runs_out(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(featurecache.run.units, "SHARD_ROWS", 2 * BATCH)
    committing, going, publish = threading.Event(), threading.Event(), featurecache.run.commit_records.publish_once

    def hold(path, data):
        if path.suffix == ".h5":
            committing.set()
            assert going.wait(SECONDS)
        publish(path, data)

    def interrupt(progress):
        if progress.done == 15:
            assert committing.wait(SECONDS)
            raise KeyboardInterrupt

    monkeypatch.setattr(featurecache.run.commit_records, "publish_once", hold)
    join, here = threading.Thread.join, threading.current_thread()

    def interrupted(thread, timeout=None):
        if threading.current_thread() is here:
            raise KeyboardInterrupt
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    before, path = set(threading.enumerate()), tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, backbone=Device(), batch_size=BATCH, progress=interrupt, workers=1)
    monkeypatch.undo()
    started = [thread for thread in threading.enumerate() if thread not in before]
    with pytest.raises(OutputError, match="another run is at work"):
        extract(photos, path, backbone=Device(), batch_size=BATCH)
    going.set()
    for thread in started:
        thread.join(SECONDS)
    assert committed_rows(path) == [2 * BATCH]
    again = Device()
    extract(photos, path, backbone=again, batch_size=BATCH)
    assert again.rows == 20 - 2 * BATCH
    assert [name.name for name in tmp_path.glob("x.h5*")] == ["x.h5"]


def test_batches_after_one_that_was_not_forwarded_are_not_kept(photos, tmp_path, monkeypatch):
    entered, going, forward, second = threading.Event(), threading.Event(), ForwardPasses._forward, threading.Event()

    def begin_late(passes, batch):
        if not entered.is_set():
            entered.set()
            assert going.wait(SECONDS)
            return forward(passes, batch)
        features = forward(passes, batch)
        second.set()
        return features

    def interrupt(progress):
        if progress.done == 3 * BATCH:
            assert second.wait(SECONDS)
            raise KeyboardInterrupt

    leave = ForwardPasses._end_queue
    monkeypatch.setattr(ForwardPasses, "_forward", begin_late)
    monkeypatch.setattr(ForwardPasses, "_end_queue", lambda passes: (leave(passes), going.set()))
    with pytest.raises(KeyboardInterrupt):
        extract(photos, tmp_path / "x.h5", backbone=Device(2), batch_size=BATCH, progress=interrupt)
    assert sum(committed_rows(tmp_path / "x.h5")) == 0


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_pass_that_failed_before_an_interruption_loses_no_finished_pass(photos, tmp_path, batches, at_once):
    failed = threading.Event()

    def fail(images):
        if number_of(images, batches) == 3:
            failed.set()
            raise MemoryError

    def interrupt(progress):
        if progress.done == (4 + at_once) * BATCH - 1:  # so many batches were submitted that the third is waited for
            assert failed.wait(SECONDS)
            for thread in threading.enumerate():
                if thread.name == "coordinate":
                    thread.join(SECONDS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(photos, tmp_path / "x.h5", backbone=Device(at_once, fail), batch_size=BATCH, progress=interrupt)
    assert sum(committed_rows(tmp_path / "x.h5")) == 2 * BATCH


def test_a_commit_records_the_batch_size_that_the_memory_allowed(photos, tmp_path):
    forwarding = threading.Event()

    class Halving(Device):
        def forward(self, images):
            forwarding.set()
            self.provenance = {"engine": "fake", "batch_size": "4"}
            return super().forward(images)

    backbone = Halving()
    backbone.provenance = {"engine": "fake", "batch_size": "8"}
    cache = extract(photos, tmp_path / "x.h5", backbone=backbone, batch_size=8)
    assert cache.provenance["engine"] == {"engine": "fake", "batch_size": "4"}

    def interrupt(progress):
        if progress.done == 20:
            assert forwarding.wait(SECONDS)
            raise KeyboardInterrupt

    forwarding.clear()
    backbone.provenance = {"engine": "fake", "batch_size": "8"}
    with pytest.raises(KeyboardInterrupt):
        extract(photos, tmp_path / "y.h5", backbone=backbone, batch_size=8, progress=interrupt)
    records = [read_record(path) for path in tmp_path.glob("y.h5.work/commits/*.json")]
    assert [record.environment.engine["batch_size"] for record in records] == ["4"]


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_first_pass_is_committed_while_no_further_image_comes(photos, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(featurecache.run.committer, "FIRST_SECONDS", 0.01)
    has_committed = threading.Event()
    commit = Store.commit

    def committing(*arguments):
        commit(*arguments)
        has_committed.set()

    def wait(progress):
        if progress.done == BATCH + 1:  # the first batch was submitted, and the second one is not complete
            assert has_committed.wait(SECONDS)

    monkeypatch.setattr(Store, "commit", committing)
    extract(photos, tmp_path / "x.h5", backbone=Device(at_once), batch_size=BATCH, progress=wait)


def test_file_records_are_committed_while_a_batch_is_not_complete(photos, tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    extract(photos, path, backbone=FakeBackbone())
    for number, image in enumerate(sorted(photos.rglob("*.png"))):
        if number:
            os.utime(image, (number, number))  # the same content, to be read again
        else:
            image.write_bytes(image.with_name("1.png").read_bytes() + b"new")
    monkeypatch.setattr(featurecache.run.committer, "SHARD_SECONDS", -1.0)  # every commit is due
    committed = set()

    def look(progress):
        if progress.done == 20:
            records = [read_record(record) for record in tmp_path.glob("x.h5.work/commits/*.json")]
            committed.update(file_record.path for record in records for file_record in record.file_records)

    backbone = Device()
    cache = extract(photos, path, backbone=backbone, progress=look)
    assert len(committed) >= 16  # three may be under way
    assert "train/cats/0.png" in committed
    assert (backbone.rows, len(cache)) == (1, 20)


def test_overlapping_passes_count_once():
    clock = [0.0]
    timer = BusyTimer(lambda: clock[0])
    counted = []
    for clock[0], change in ((5.0, 1), (6.0, 1), (8.0, -1), (9.0, -1), (12.0, 1)):
        timer.count(change)
        counted.append((timer.waiting, timer.computing))
    assert counted == [(5, 0), (5, 1), (5, 3), (5, 4), (8, 4)]
    clock[0] = 20.0
    assert (timer.waiting, timer.computing) == (8, 12)


def test_file_records_of_known_images_are_committed_during_a_run_without_new_images(photos, tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    extract(photos, path, backbone=FakeBackbone())
    (photos / "train").rename(photos / "test")
    monkeypatch.setattr(featurecache.run.committer, "SHARD_SECONDS", -1.0)  # every commit is due
    committed = []

    def look(progress):
        if progress.done == 20:
            records = [read_record(record) for record in tmp_path.glob("x.h5.work/commits/*.json")]
            committed.extend(file_record.path for record in records for file_record in record.file_records)

    extract(photos, path, backbone=FakeBackbone(), progress=look)
    assert len(committed) >= 6  # of nine that were handed over, three may be under way
    assert {name.partition("/")[0] for name in committed} == {"test"}

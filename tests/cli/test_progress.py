"""What commands say about their progress in a log: count, rate and time left, soon and then once a minute."""

import io
import re
import threading

import pytest

import featurecache
import featurecache.cli.console.progress
import heads
from featurecache.backbones.fake import FakeBackbone
from featurecache.cli.console.progress import FIRST_SECONDS, LINE_SECONDS, Pace, progress

SECONDS = 60  # after which a test that waits has failed


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_line_has_count_rate_and_time_left(clock):
    pace = Pace("extracting", "image", clock)
    pace.update(10, 10_000)
    clock.now += 100
    pace.update(510, 10_000)
    assert pace.line() == "extracting: 510 of 10,000 images after 0:01:40, 5.0 images/s, 0:31:38 left"


def test_a_given_rate_counts_and_none_is_known_before_the_first_result(clock):
    pace = Pace("extracting", "image", clock)
    clock.now += 61
    assert pace.line() == "extracting: 0:01:01 so far"
    pace.update(900, 1000, rate=0.0)
    assert pace.line() == "extracting: 900 of 1,000 images after 0:01:01"
    assert (pace.rate_text, pace.left_text) == ("-", "-:--:--")
    pace.update(900, 101_000, rate=1.0)
    assert (pace.rate_text, pace.left_text) == ("1.0 images/s", "27:48:20")


def test_slow_work_counts_by_the_minute_and_names_its_step(clock):
    pace = Pace("sweeping", "fit", clock)
    pace.update(0, 40, "preparing fc2")
    clock.now += 120
    pace.update(3, 40, "fc2")
    assert pace.line() == "sweeping: 3 of 40 fits (fc2) after 0:02:00, 1.5 fits/min, 0:24:40 left"


@pytest.mark.parametrize("second", [(1, 5), (0, 20)])
def test_a_new_phase_has_a_rate_of_its_own(clock, second):
    pace = Pace("auditing", "step", clock)
    for done in (0, 10, 20):
        pace.update(done, 20, "comparing images")
        clock.now += 1
    done, total = second
    pace.update(done, total, "checking labels")
    assert pace.rate_text == "-"
    clock.now += 10
    pace.update(done + 1, total, "checking labels")
    assert pace.rate_text == "6.0 steps/min"


def test_a_limit_bounds_the_time_left_and_counts_down(clock):
    pace = Pace("sweeping", "fit", clock, limit=120)
    pace.update(0, 40, "fc2")
    clock.now += 30
    assert pace.line() == "sweeping: 0 of 40 fits (fc2) after 0:00:30, 0:01:30 left"
    pace.update(1, 40, "fc2")
    assert pace.line() == "sweeping: 1 of 40 fits (fc2) after 0:00:30, 2.0 fits/min, 0:01:30 left"
    clock.now += 30
    pace.update(36, 40, "fc2")
    assert pace.left_text == "0:00:07"
    clock.now += 100
    pace.update(37, 40, "fc2")
    assert pace.left_text == "0:00:00"


class Queue:
    """In the place of the queue of the thread that speaks: time passes when the test says so."""

    def __init__(self):
        self.timeouts, self._asked, self._answers = [], threading.Semaphore(0), []
        self._has_answer = threading.Semaphore(0)

    def put(self, item):
        self._answers.append(item)
        self._has_answer.release()

    def get(self, timeout):
        self.timeouts.append(timeout)
        self._asked.release()
        assert self._has_answer.acquire(timeout=SECONDS)
        answer = self._answers.pop(0)
        if answer is featurecache.cli.console.progress.Empty:
            raise answer
        return answer

    def pass_time(self):
        """Let the time pass that the thread waits for, and return when it waits again."""
        self.wait()
        self.put(featurecache.cli.console.progress.Empty)

    def wait(self):
        assert self._asked.acquire(timeout=SECONDS)


def test_the_first_line_comes_soon_after_the_first_result_then_one_a_minute(monkeypatch, capsys):
    queue = Queue()
    monkeypatch.setattr(featurecache.cli.console.progress, "SimpleQueue", lambda: queue)
    with progress("predicting", "image") as update:
        queue.pass_time()
        queue.wait()
        update(4, 8)
        for _ in range(3):
            queue.pass_time()
        queue.wait()
    assert queue.timeouts == [LINE_SECONDS, LINE_SECONDS, FIRST_SECONDS, LINE_SECONDS, LINE_SECONDS, LINE_SECONDS]
    before, *lines = capsys.readouterr().err.splitlines()
    assert before == "predicting: 0:00:00 so far"
    assert lines == ["predicting: 4 of 8 images after 0:00:00"] * 3


def test_a_short_command_says_nothing(capsys):
    with progress("predicting", "image") as update:
        update(8, 8)
    assert capsys.readouterr().err == ""


def test_the_thread_ends_with_the_work_and_a_log_that_cannot_be_written_does_not_matter(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            said.set()
            raise BrokenPipeError

    said = threading.Event()
    monkeypatch.setattr(featurecache.cli.console.progress, "LINE_SECONDS", 0.001)
    monkeypatch.setattr("sys.stderr", Full())
    with pytest.raises(ZeroDivisionError), progress("x"):  # noqa: PT012
        assert said.wait(SECONDS)
        raise ZeroDivisionError
    assert "progress" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def speaking(monkeypatch):
    """Make lines come at once; return a function that waits until a line of this form was said."""
    lines, changed = [], threading.Condition()

    def hear(line):
        with changed:
            lines.append(line)
            changed.notify_all()

    def wait_for(pattern):
        with changed:
            assert changed.wait_for(lambda: any(re.fullmatch(pattern, line) for line in lines), SECONDS), lines

    for name in ("FIRST_SECONDS", "LINE_SECONDS"):
        monkeypatch.setattr(featurecache.cli.console.progress, name, 0.001)
    monkeypatch.setattr(featurecache.cli.console.progress, "say", hear)
    return wait_for


AFTER = r" after \d:\d\d:\d\d(, .* left)?"


def waiting(wait_for, calls):
    """Return a function in the place of a progress callback's source: it holds the work until the log has its line."""

    def wrap(update):
        def held(done, total, *doing, **options):
            update(done, total, *doing, **options)
            calls.append((done, total))
            wait_for(rf".*\b{done:,} of {total:,} \w+( \(.*\))?{AFTER}")

        return held

    return wrap


@pytest.fixture
def held(monkeypatch, speaking):
    """Hold a use case of a package at each step until its line is in the log; return the steps."""
    calls = []
    hold = waiting(speaking, calls)

    def put(module, name):
        use_case = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, progress, **options: use_case(*args, progress=hold(progress), **options)
        )
        return calls

    return put


def test_verify_says_how_far_it_is(held, invoke, fake_cache):
    calls = held(featurecache, "verify")
    assert invoke("verify", fake_cache).code == 0
    assert calls == [(1, 2), (2, 2)]


def test_merge_says_how_far_it_is(held, invoke, images, tmp_path):
    parts = [tmp_path / f"{name}.h5" for name in ("a", "b")]
    for part in parts:
        featurecache.extract(images, part, backbone=FakeBackbone())
    calls = held(featurecache, "merge")
    done = invoke("merge", tmp_path / "all.h5", *parts)
    assert done.code == 0, done.err
    assert calls == [(1, 2), (2, 2)]


def test_curve_says_how_far_it_is(held, invoke, fake_cache):
    calls = held(heads, "learning_curve")
    done = invoke("curve", fake_cache, "--tap", "features", "--head", "centroid", "--repeats", "1")
    assert done.code == 0, done.err
    assert calls[-1][0] == calls[-1][1] > 1


@pytest.mark.usefixtures("fast_network")
def test_predict_says_how_far_it_is(held, invoke, real_head, images):
    calls = held(heads, "predict")
    done = invoke("predict", real_head, images / "valid", "--batch-size", "5")
    assert done.code == 0, done.err
    assert calls == [(5, 12), (10, 12), (12, 12)]


def test_extract_says_how_far_it_is_with_json_too(monkeypatch, speaking, invoke, images, tmp_path):
    extract = featurecache.extract

    def held(images, cache, *, progress, notify, **_):
        def report(state):
            progress(state)
            if state.done == 30:
                speaking(rf"extracting: 30 of 40 images{AFTER}")

        return extract(images, cache, backbone=FakeBackbone(), progress=report, notify=notify)

    monkeypatch.setattr(featurecache, "extract", held)
    assert invoke("extract", images, tmp_path / "c.h5", "--json").json["rows"] == 40


def test_a_command_without_steps_says_that_it_is_at_work(monkeypatch, speaking, invoke, fake_cache, tmp_path):
    train = heads.train

    def held(*args, **options):
        speaking(r"training: \d:\d\d:\d\d so far")
        return train(*args, **options)

    monkeypatch.setattr(heads, "train", held)
    done = invoke("train", fake_cache, tmp_path / "head", "--head", "centroid", "--tap", "features")
    assert done.code == 0, done.err

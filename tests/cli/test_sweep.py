"""``featurecache sweep``: its output and errors; an interruption or a kill loses nothing."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import time

import pytest

from tests.cli.conftest import said

pytestmark = pytest.mark.slow

GRID = (
    "--head",
    "logreg",
    "--head",
    "softmax",
    "-p",
    "C=0.1,1",
    "-p",
    "softmax.lr=0.01,0.1",
    "-p",
    "l2=0",
    "-p",
    "epochs=3",
)
SLOW = (
    "--head",
    "softmax",
    "-p",
    "lr=0.001",
    "-p",
    "l2=0",
    "-p",
    "epochs=50",
    "-p",
    "batch_size=1,2,3,4,5,6",
)
SLOW_TASKS = 2 * 6 + 1


@pytest.fixture(scope="module")
def swept(tmp_path_factory, invoke, fake_cache):
    """A sweep over few candidates: its directory, and how the command ended."""
    directory = tmp_path_factory.mktemp("swept") / "sweep"
    return directory, invoke("sweep", fake_cache, directory, *GRID, "--jobs", "1")


def test_the_best_of_each_head_and_tap_is_listed_with_what_differs_from_the_defaults(swept):
    directory, done = swept
    assert (done.code, done.err) == (0, "")
    table, notes, end = done.out.rstrip().split("\n\n")
    header, *rows = table.splitlines()
    assert re.split(r"  +", header) == [
        "head",
        "tap",
        "parameters",
        "accuracy",
        "95 % interval",
        "loss",
        "seconds, all tried",
    ]
    cells = [re.split(r"  +", row) for row in rows]
    assert sorted((head, tap) for head, tap, *_ in cells) == [
        ("logreg", "features"),
        ("logreg", "predictions"),
        ("majority", "features"),
        ("softmax", "features"),
        ("softmax", "predictions"),
    ]
    board = json.loads((directory / "leaderboard.json").read_bytes())["leaderboard"]
    for head, tap, params, accuracy, interval, _, _ in cells:
        best = next(each for each in board if (each["head"], each["tap"]) == (head, tap))
        shown = {
            "logreg": "-" if best["params"].get("C") == 1 else "C=0.1",
            "softmax": f"lr={best['params'].get('lr')}, epochs=3",
            "majority": "-",
        }
        assert params == shown[head]
        assert accuracy == f"{best['valid_accuracy']:.4f}"
        assert interval == f"{best['low']:.4f} to {best['high']:.4f}"
    assert all(line.startswith("notice: ") for line in notes.splitlines())
    assert "the best of 9 tries on the same 12 rows is optimistic" in notes
    spent, where = end.splitlines()
    assert re.fullmatch(
        r"[\d.]+ s: preparing rows [\d.]+, training the best head [\d.]+; all workers .*logreg.*", spent
    )
    assert where.startswith(f"{directory}: leaderboard.csv and leaderboard.json; best: {cells[0][0]} on {cells[0][1]}")


def test_a_limit_of_time_that_suffices_changes_nothing(tmp_path, invoke, fake_cache, swept):
    directory, _ = swept
    done = invoke("sweep", fake_cache, tmp_path / "sweep", *GRID, "--jobs", "1", "--time", "1h", "--json")
    board = json.loads((directory / "leaderboard.json").read_bytes())["leaderboard"]
    drop = {"seconds"}
    expected = [{name: value for name, value in entry.items() if name not in drop} for entry in board]
    assert candidates(done) == expected


@pytest.mark.parametrize("text", ["2x", "90", "m", ""])
def test_a_time_without_number_or_unit_is_refused(text, tmp_path, invoke, fake_cache):
    done = invoke("sweep", fake_cache, tmp_path / "sweep", "--time", text)
    assert done.code == 2
    message = " ".join(done.err.replace("│", "").split())
    assert f"'{text}' is no number with s, m or h, such as 90s, 2m or 1.5h" in message
    assert list(tmp_path.iterdir()) == []


def test_json_is_what_lies_in_the_directory(tmp_path, command, fake_cache):
    done = command("sweep", fake_cache, tmp_path / "sweep", *GRID, "--json", "--folds", "2", "--jobs", "2")
    assert done.err == ""
    assert done.json == json.loads((tmp_path / "sweep" / "leaderboard.json").read_bytes())
    assert list(done.json) == ["leaderboard", "best", "notes", "seconds"]
    assert {"head", "tap", "params", "valid_accuracy"} < set(done.json["leaderboard"][0])
    assert done.json["best"]["params"] == done.json["leaderboard"][0]["params"]


def test_the_table_on_disk_has_a_row_for_each_candidate(swept):
    directory, _ = swept
    rows = list(csv.DictReader(io.StringIO((directory / "leaderboard.csv").read_bytes().decode(), newline="")))
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 10)]
    assert list(rows[0])[:4] == ["rank", "head", "tap", "params"]
    assert {"C", "lr", "valid_accuracy", "low", "high", "valid_loss", "seconds", "p_value", "warnings"} < set(rows[0])


def test_the_best_head_can_be_evaluated(swept, invoke, fake_cache):
    directory, _ = swept
    first = json.loads((directory / "leaderboard.json").read_bytes())["leaderboard"][0]
    assert (
        invoke("evaluate", directory / "best", fake_cache, "--json").json["accuracy"]["value"]
        == first["valid_accuracy"]
    )


def test_networks_of_several_layers_are_separated_by_semicolons(tmp_path, invoke, fake_cache):
    options = (
        "--head",
        "mlp",
        "--tap",
        "features",
        "-p",
        "hidden=4;3,2",
        "-p",
        "lr=0.01",
        "-p",
        "l2=0",
        "-p",
        "epochs=1",
    )
    board = invoke("sweep", fake_cache, tmp_path / "sweep", *options, "--jobs", "1", "--json").json["leaderboard"]
    assert {each["params"].get("hidden") for each in board} == {"4", "3,2", None}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tap", "fc2"), r"unknown tap 'fc2' \(known: features, predictions\)"),
        (("--head", "logrek"), "unknown head 'logrek'; did you mean 'logreg'"),
        (("--head", "logreg", "-p", "C=0"), "head 'logreg': C is 0.0, expected a number above 0"),
        (("--head", "logreg", "-p", "c"), "c has no values, expected c=VALUE,VALUE"),
        (("--head", "logreg", "-p", "lr=1"), r"no head that is tried has a parameter 'lr' \(logreg: C, max_iter"),
        (("--head", "imagenet_map", "--tap", "features"), "imagenet_map takes the tap predictions alone, not features"),
        (("--folds", "1"), "folds is 1, expected at least 2, or 0 to validate on valid rows"),
        (("--folds", "15"), "15 folds need as many different training images of each class, and 'blue' has 14"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(options, said, tmp_path, invoke, fake_cache):
    done = invoke("sweep", fake_cache, tmp_path / "sweep", *options, "--jobs", "1")
    assert done.code == 1
    assert re.match(said, done.error)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_refused(tmp_path, invoke, fake_cache):
    done = invoke("sweep", fake_cache, tmp_path)
    assert done.error == f"{tmp_path} exists already; remove it or choose another directory for the sweep"


def results(directory):
    folder = directory.with_name("sweep.work") / "results"
    return sorted(folder.glob("*.json")) if folder.is_dir() else []


def stop(process, directory, number):
    """Send a signal to all processes of a session after the first finished task; return their ids."""
    while len(results(directory)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    pids = {int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and session_of(pid) == process.pid}
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    return pids


def session_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:  # noqa: PTH123 - a device of the kernel
            state, _, _, session = stream.read().rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return int(session) if state != "Z" else None


def gone(pids, session):
    """Whether all processes have ended, within some seconds."""
    end = time.monotonic() + 30
    while (left := {pid for pid in pids if session_of(pid) == session}) and time.monotonic() < end:
        time.sleep(0.05)
    return not left


def candidates(done):
    drop = {"seconds"}
    return [{name: value for name, value in entry.items() if name not in drop} for entry in done.json["leaderboard"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, invoke, fake_cache):
    """The candidates of the slow sweep, which nothing interrupted."""
    directory = tmp_path_factory.mktemp("whole") / "sweep"
    return candidates(invoke("sweep", fake_cache, directory, *SLOW, "--jobs", "1", "--json"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_sweep_that_was_ended_by_a_signal_goes_on(number, tmp_path, start, command, invoke, fake_cache, whole):
    directory = tmp_path / "sweep"
    arguments = ("sweep", fake_cache, directory, *SLOW, "--json", "--jobs")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = start(*arguments, "2", start_new_session=True, **pipes)
    pids = stop(process, directory, number)
    out, err = process.communicate(timeout=60)
    assert len(pids) >= 3
    assert gone(pids, process.pid)
    assert out == ""
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        by = {signal.SIGINT: ""}.get(number, f" by {number.name}")
        # that the resource tracker has nothing to say means that no semaphore is left
        assert said(err) == [f"interrupted{by}; finished work is kept: run the same command again to continue"]
        assert sorted(path.name for path in tmp_path.glob("sweep.work/*")) == ["plan.json", "results"]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.work"]
    kept = len(results(directory))
    assert 2 <= kept < SLOW_TASKS
    # every signal leaves the same: for the others a process without workers, which is quicker, goes on
    resumed = command(*arguments, "2") if number == signal.SIGINT else invoke(*arguments, "1")
    assert said(resumed.err) == [f"known from before and kept: {kept} tasks"]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]
    assert candidates(resumed) == whole

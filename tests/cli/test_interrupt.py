"""Ctrl-C in the middle of an extraction: one line, nothing lost, and the same command continues."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.cli.conftest import SLOW, said

OPTIONS = ("--backbone", "mobilenet_v2", "--weights", "random:0", "--batch-size", "8")
IMAGES = 240
ENOUGH = 24
SPEED = rb"\d+\.\d images/s"


@pytest.fixture(scope="module", autouse=True)
def _default_signals(default_signals):
    with default_signals():
        yield


@pytest.fixture(scope="module")
def many(tmp_path_factory, write_images):
    folder = tmp_path_factory.mktemp("many") / "photos"
    write_images(folder / "a", IMAGES // 2, seed=2)
    write_images(folder / "b", IMAGES // 2, seed=3)
    (folder / "a" / "bad.png").write_bytes(b"bad")
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, start, many):
    """Interrupt an extraction, on a terminal, when it has passed images through the network and shows its speed."""
    cache = tmp_path_factory.mktemp("interrupted") / "c.h5"
    master, terminal = pty.openpty()
    process = start("extract", many, cache, *OPTIONS, stdout=subprocess.PIPE, stderr=terminal, start_new_session=True)
    os.close(terminal)
    screen = b""
    while done_images(screen) < ENOUGH or not re.search(SPEED, screen):
        screen += os.read(master, 65536)
    process.send_signal(signal.SIGINT)
    screen += read_all(master)
    out, _ = process.communicate(timeout=60)
    return cache, process.returncode, out.decode(), screen.decode()


def done_images(screen):
    counts = re.findall(rb"(\d+)/%d" % (IMAGES + 1), screen)
    return int(counts[-1]) if counts else 0


def read_all(descriptor):
    text = b""
    while True:
        try:
            text += os.read(descriptor, 65536)
        except OSError:  # the other side is closed
            os.close(descriptor)
            return text


@pytest.mark.slow
def test_it_says_in_one_line_how_to_go_on(interrupted):
    _, code, out, screen = interrupted
    assert code == 130
    assert out == ""
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).splitlines()[-1]
    assert last == "interrupted; finished work is kept: run the same command again to continue"
    assert "Traceback" not in screen
    assert "Error" not in screen


@pytest.mark.slow
def test_the_bar_shows_speed_and_time_left_and_the_cursor_comes_back(interrupted):
    screen = interrupted[3]
    assert re.search(SPEED, screen.encode())
    assert re.search(r"0:00:\d\d.* left", screen)
    assert screen.rfind("\x1b[?25h") > screen.rfind("\x1b[?25l")


@pytest.mark.slow
def test_nothing_bears_the_final_name(interrupted):
    cache = interrupted[0]
    assert [path.name for path in cache.parent.iterdir()] == ["c.h5.work"]


@pytest.mark.slow
def test_the_recipe_of_the_interrupted_run_is_known(interrupted, many, command):
    plan = command("why", many, interrupted[0], "--json").json
    assert plan["refused"] is None
    assert 8 <= plan["reuse"] < IMAGES
    refused = command("why", many, interrupted[0], "--backbone", "vgg16", "--json").json["refused"]
    assert refused == {"field": "backbone", "cache": "mobilenet_v2", "wanted": "vgg16"}


@pytest.mark.slow
def test_the_same_command_goes_on_to_the_same_result(interrupted, many, command, invoke, tmp_path):
    cache = interrupted[0]
    resumed = command("extract", many, cache, *OPTIONS, "--json")
    kept = int(re.search(r"^kept from an earlier run: the features of (\d+) images$", resumed.err, re.MULTILINE)[1])
    ledger = resumed.json
    assert 8 <= kept < IMAGES
    assert kept % 8 == 0
    assert (ledger["images"], ledger["rows"], ledger["failures"]) == (IMAGES + 1, IMAGES, 1)
    assert (ledger["reused"], ledger["forwarded"]) == (kept, IMAGES - kept)
    assert [path.name for path in cache.parent.iterdir()] == ["c.h5"]
    whole = tmp_path / "whole.h5"
    assert invoke("extract", many, whole, *OPTIONS).code == 0
    assert arrays(cache) == arrays(whole)


def arrays(path):
    """Return type, shape and bytes of every array of features, images and failures."""
    found = {}

    def look(name, item):
        if isinstance(item, h5py.Dataset) and name.startswith(("features/", "images/", "failures/")):
            values = np.asarray(item[()])
            found[name] = (
                str(values.dtype),
                values.shape,
                values.tolist() if values.dtype == object else values.tobytes(),
            )

    with h5py.File(path) as file:
        file.visititems(look)
    assert {name.partition("/")[0] for name in found} == {"features", "images", "failures"}
    return found


@pytest.mark.slow
def test_an_interrupted_demo_can_be_started_again(start, tmp_path):
    process = start("demo", "--weights", "random:0", cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    while not (tmp_path / "featurecache-demo" / "digits" / "test").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.01, 0.03])
def test_whoever_is_impatient_gets_the_same_end(gap, start, many, tmp_path):
    options = ("--weights", "random:0", "--taps", "block4_pool", "--engine", "numba", "--batch-size", "8", "--json")
    process = start("extract", many, tmp_path / "x.h5", *options, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stderr.readline().startswith(f"found {IMAGES + 1} images: ")
        assert process.stderr.readline() == "starting vgg16 with random:0 weights on numba\n"
        while not (tmp_path / "x.h5.work").exists():
            time.sleep(0.01)
        time.sleep(0.5)  # the first batch is in the network
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            time.sleep(gap)
        err = process.communicate(timeout=60)[1]
    assert process.returncode in {130, -signal.SIGINT}  # the last may come when Python has put its handlers away
    assert said(err) == ["interrupted; finished work is kept: run the same command again to continue"]


def test_a_second_interruption_does_not_wait_for_the_pass_under_way(default_signals, many, tmp_path):
    arguments = [sys.executable, "-c", SLOW, "extract", many, tmp_path / "x.h5", *OPTIONS]
    with default_signals():
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "forwarding\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):  # the first one waits for the pass
            process.wait(timeout=2)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=50)[1]
    assert time.monotonic() - began < 30  # the pass takes 60 seconds
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted; finished work is kept: run the same command again to continue"
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_keep_what_is_finished_as_ctrl_c_does(number, many, monkeypatch, tmp_path):
    monkeypatch.setenv("PASS_SECONDS", "1")
    arguments = [sys.executable, "-c", SLOW, "extract", many, tmp_path / "x.h5", *OPTIONS]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "forwarding\n"
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    kept = "finished work is kept: run the same command again to continue"
    assert err.splitlines()[-1] == f"interrupted by {number.name}; {kept}"
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5.work"]
    monkeypatch.setenv("PASS_SECONDS", "0")
    done = subprocess.run([*arguments, "--json"], capture_output=True, text=True, check=True)
    ledger = json.loads(done.stdout[done.stdout.index("{") :])
    assert (ledger["rows"], ledger["reused"] + ledger["forwarded"]) == (IMAGES, IMAGES)
    assert ledger["reused"] >= 8
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


IN_TERMINAL = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)  # the first one that the leader of a session opens controls it
for descriptor in range(3):
    os.dup2(terminal, descriptor)
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_terminal_that_is_closed_ends_a_command_and_keeps_what_is_finished(many, monkeypatch, tmp_path):
    monkeypatch.setenv("PASS_SECONDS", "1")
    master, terminal = pty.openpty()
    command = [sys.executable, "-c", SLOW, "extract", many, tmp_path / "x.h5", *OPTIONS]
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, os.ttyname(terminal), *command], start_new_session=True
    )
    screen = b""
    while b"forwarding\r\n" not in screen:  # the whole line: a terminal that closes in its middle fails the print
        screen += os.read(master, 65536)
    os.close(terminal)
    os.close(master)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5.work"]
    assert list((tmp_path / "x.h5.work").rglob("*.h5"))


def test_a_signal_that_is_ignored_stays_ignored(many, monkeypatch, tmp_path):
    """As nohup does with SIGHUP."""
    monkeypatch.setenv("PASS_SECONDS", "0.3")
    command = [sys.executable, "-c", SLOW, "extract", many / "a", tmp_path / "x.h5", *OPTIONS]
    with subprocess.Popen([shutil.which("nohup"), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"forwarding\n"
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "x.h5").exists()


@pytest.mark.parametrize("command", ["train", "audit"])
def test_commands_without_a_work_directory_end_by_sigterm_in_one_line(command, start, fake_cache, tmp_path):
    options = ("--tap", "features", "--head", "softmax", "-p", "epochs=1000000", "-p", "batch_size=1")
    arguments = (fake_cache, *([tmp_path / "head"] if command == "train" else []), *options, "--json")
    process = start(command, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "h5py" not in Path(f"/proc/{process.pid}/maps").read_text():  # the command is at work
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(1)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert (out, said(err), process.returncode) == ("", ["interrupted by SIGTERM"], 143)
    assert list(tmp_path.iterdir()) == []

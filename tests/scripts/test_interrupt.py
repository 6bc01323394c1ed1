"""Ctrl-C in the middle of an extraction: one line, nothing lost, and the same command goes on."""

import os
import pty
import re
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest

OPTIONS = ("--backbone", "mobilenet_v2", "--weights", "random:0", "--batch-size", "8")
IMAGES = 240
ENOUGH = 64


@pytest.fixture(scope="module")
def many(tmp_path_factory, write_images):
    folder = tmp_path_factory.mktemp("many") / "photos"
    write_images(folder / "a", IMAGES // 2, seed=2)
    write_images(folder / "b", IMAGES // 2, seed=3)
    (folder / "a" / "bad.png").write_bytes(b"bad")
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, start, many):
    """Interrupt an extraction, on a terminal, when it has passed images through the network."""
    cache = tmp_path_factory.mktemp("interrupted") / "c.h5"
    master, terminal = pty.openpty()
    process = start("extract", many, cache, *OPTIONS, stdout=subprocess.PIPE, stderr=terminal, start_new_session=True)
    os.close(terminal)
    screen = b""
    while done_images(screen) < ENOUGH:
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


def test_it_says_in_one_line_how_to_go_on(interrupted):
    _, code, out, screen = interrupted
    assert code == 130
    assert out == ""
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).splitlines()[-1]
    assert last == "interrupted; what was finished is kept: run the same command again to go on"
    assert "Traceback" not in screen
    assert "Error" not in screen


def test_the_bar_shows_speed_and_time_left_and_the_cursor_comes_back(interrupted):
    screen = interrupted[3]
    assert re.search(r"\d+\.\d images/s", screen)
    assert re.search(r"0:00:\d\d.* left", screen)
    assert screen.rfind("\x1b[?25h") > screen.rfind("\x1b[?25l")


def test_nothing_bears_the_final_name(interrupted):
    cache = interrupted[0]
    assert [path.name for path in cache.parent.iterdir()] == ["c.h5.work"]


def test_the_same_command_goes_on_to_the_same_result(interrupted, many, command, invoke, tmp_path):
    cache = interrupted[0]
    resumed = command("extract", many, cache, *OPTIONS, "--json")
    kept = int(
        re.search(r"^known from before and kept: the features of (\d+) image\(s\)$", resumed.err, re.MULTILINE)[1]
    )
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


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.03])
def test_whoever_is_impatient_gets_the_same_end(gap, start, many, tmp_path):
    options = ("--weights", "random:0", "--taps", "block4_pool", "--engine", "numba", "--json")
    process = start("extract", many, tmp_path / "x.h5", *options, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stderr.readline() == "starting vgg16 with random:0 weights on numba\n"
        while not (tmp_path / "x.h5.work").exists():
            time.sleep(0.01)
        time.sleep(0.5)  # the first batch is in the network
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            time.sleep(gap)
        said = process.communicate(timeout=60)[1]
    assert process.returncode in {130, -signal.SIGINT}  # the last may come when Python has put its handlers away
    assert said == "interrupted; what was finished is kept: run the same command again to go on\n"

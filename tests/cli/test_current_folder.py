"""Commands in a folder of untrusted files: modules there are never run, by no process that a command starts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = ("signal", "numpy", "json", "multiprocessing", "queue", "random", "socket", "heads", "scipy", "sitecustomize")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def untrusted(tmp_path):
    """A folder with files that say so when they are run, under the names of modules."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the current folder was run')\n")
    return folder


SWEEP = ("--head", "centroid", "--tap", "features", "--jobs", "2")


def test_the_processes_of_a_sweep_run_nothing_there(untrusted, command, fake_cache, tmp_path):
    done = command("sweep", fake_cache, tmp_path / "sweep", *SWEEP, cwd=untrusted)
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "sweep" / "leaderboard.csv").exists()


def test_neither_does_python_m(untrusted, command, fake_cache, tmp_path):
    program = (sys.executable, "-m", "featurecache")
    assert "softmax" in command("heads", cwd=untrusted, program=program).out
    done = command("sweep", fake_cache, tmp_path / "sweep", *SWEEP, cwd=untrusted, program=program)
    assert (done.code, done.err) == (0, "")


def test_python_m_finds_the_package_in_the_current_folder(command, tmp_path):
    """In a clone that is not installed, the current folder has the package itself."""
    for name in ("featurecache", "heads"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    app = tmp_path / "featurecache" / "cli" / "app.py"
    app.write_text(app.read_text().replace("Images pass through", "In this clone images pass through"))
    done = command("--help", cwd=tmp_path, program=(sys.executable, "-m", "featurecache"))
    assert "In this clone" in done.out


def test_a_notebook_in_the_folder_starts_safe_processes(untrusted, fake_cache, tmp_path):
    """An interactive interpreter looks in the current folder; its worker processes do not."""
    code = (
        "import sys, json, signal, random, queue, socket, multiprocessing.process, numpy, scipy.linalg, heads\n"
        "from featurecache import FeatureCache\n"
        "sys.path.insert(0, '')\n"
        "swept = heads.sweep(FeatureCache.open(sys.argv[1]), sys.argv[2], heads=['centroid'], jobs=2)\n"
        "print(len(swept.leaderboard), sys.path[0] == '')\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, fake_cache, tmp_path / "sweep"],
        cwd=untrusted,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(" True\n")

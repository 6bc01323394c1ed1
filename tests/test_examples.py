"""The examples: each runs as a program of its own and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
ACCURACY = re.compile(r"accuracy (\d\.\d+), 95 % interval (\d\.\d+) to (\d\.\d+)")


def run(name, folder, *arguments):
    """Run an example in a folder; return what it prints on standard output."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracy(printed):
    """Return the accuracy that an example prints, which lies in its interval."""
    value, low, high = map(float, ACCURACY.search(printed).groups())
    assert low <= value <= high
    return value


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Run the example that the others start from; return its folder and what it printed."""
    folder = tmp_path_factory.mktemp("examples")
    return folder, run("extract_and_train.py", folder)


def test_a_head_is_trained_on_images_that_the_example_makes(first):
    folder, printed = first
    assert printed.startswith("360 images, taps {'avg_pool': 1280}, classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n")
    assert accuracy(printed) > 0.3  # by chance 0.1; the network has random weights
    assert (folder / "digits-logreg" / "head.json").exists()


def test_an_own_keras_model_is_evaluated_like_a_head(first):
    folder, _ = first
    assert accuracy(run("own_keras_head.py", folder)) > 0.3
    assert (folder / "digits-own-layers" / "head.json").exists()


def test_requests_are_answered_by_a_network_that_is_started_once(first):
    folder, _ = first
    *answers, failure, total = run("serve_from_your_program.py", folder).splitlines()
    assert len(answers) == 6  # two lines for each of three images
    assert answers[:2] == answers[2:4]  # a path and the bytes of the same file
    assert ", one of 10" in answers[0]
    assert failure.startswith("failed with the code not_an_image: a text that begins with")
    right, n = re.fullmatch(r"(\d+) of (\d+) images are classified correctly", total).groups()
    assert int(n) == 60
    assert int(right) > 18  # by chance 6


def test_a_cache_is_read_without_this_project(tmp_path):
    printed = run("read_cache_with_h5py_and_pandas.py", tmp_path, str(ROOT / "tests" / "data" / "cache-v1.h5"))
    assert printed.startswith("cache-v1.h5: ")
    assert (tmp_path / "cache-v1.csv").read_text("utf-8").startswith("path,split,label,bytes,mean\n")
    run("read_cache_with_h5py_and_pandas.py", tmp_path, str(ROOT / "tests" / "data" / "cache-v3.h5"))
    assert "mean,breed,owner%2Fid\n" in (tmp_path / "cache-v3.csv").read_text("utf-8")


def test_every_example_is_short_listed_and_tested():
    listed = re.findall(r"^\| \[.+\]\((.+)\) \|", (EXAMPLES / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py"))
    assert len(listed) == 5
    for name in listed[:-1]:
        assert len((EXAMPLES / name).read_text("utf-8").splitlines()) < 60, name
        assert f'run("{name}"' in Path(__file__).read_text("utf-8"), name
    assert listed[-1].startswith("new_head_package/")  # tests/cli/test_plugins.py installs and uses it

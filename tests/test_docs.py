"""The documents: their commands run and print what they say; the files and commands they name are there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
WEIGHTS = "mobilenet_v2_1.0_224.weights.h5"


def sessions(text):
    """Return every command of the console blocks with what it prints."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part]
    split = [re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", command, re.DOTALL) for command in commands]
    return [(match[1].replace("\\\n", " "), match[2]) for match in split]


def shape(text):
    """Return text with every number masked, and white space made even."""
    return [" ".join(re.sub(r"[\d.,]*\d(e[-+]?\d+)?", "#", line).split()) for line in text.strip().splitlines()]


def compared(text):
    """Return which heads and taps a leaderboard compares, in no order."""
    return sorted(line.split()[:2] for line in text.strip().partition("\n\n")[0].splitlines())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shared_data):
    """Return a folder with the photographs and weights that the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "catsdogs").symlink_to(shared_data / "catsdogs")
    shutil.copy(shared_data / "weights" / WEIGHTS, folder)
    return folder


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_the_walk_through_prints_what_the_readme_says(folder):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    walked = sessions(README)
    assert len(walked) >= 10
    for command, expected in walked:
        done = subprocess.run(
            shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if "sweep" in command and "leaderboard" in expected:
            # which of equally good heads comes first, and what there is to say of them, differs by rounding and time
            assert compared(done.stdout) == compared(expected), command
        else:
            assert shape(done.stdout) == shape(expected), command


@pytest.mark.real_data
@pytest.mark.timeout(300)
def test_the_python_example_runs(folder):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1].replace("WEIGHTS", repr(WEIGHTS))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    accuracy, doubtful = done.stdout.splitlines()
    assert accuracy.startswith("Interval(value=0.99")
    assert doubtful == "valid/cats/cat.4085.jpg"


def test_every_file_that_a_document_names_is_there():
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
        for name in re.findall(r"`((?:featurecache|heads|scripts|tests|docs)/[\w./]+)`", text):
            assert (ROOT / name).exists(), f"{path.name}: {name}"
    for name in re.findall(r"`((?:durability/|backbones/|\.\./)?\w*\.?\w+\.py|\.\./heads/)`", README):
        assert (ROOT / "tests" / "featurecache" / name).exists(), name


def test_the_readme_lists_every_command():
    done = subprocess.run(
        [sys.executable, "-m", "scripts.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    commands = set(re.findall(r"^│ (\w+)  ", done.stdout, re.MULTILINE))
    listed = README[README.index("## Commands") : README.index("Images are a folder")]
    assert commands == set(re.findall(r"`(\w+)", listed)) - {"command"}

"""The documents: their commands run and print what they say; the files and commands they name are there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from scripts.lesson.catalog import LESSONS
from scripts.lesson.notebook import write_notebook

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
LESSON = (ROOT / "docs" / "lesson.md").read_text("utf-8")
WEIGHTS = "mobilenet_v2_1.0_224.weights.h5"
UNLIKE = 1  # of 255: what a palette and another processor do to a picture


def sessions(text):
    """Return every command of the console blocks with what it prints, which may go on in further blocks."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    commands = [part for part in re.split(r"^\$ ", "\n".join(blocks), flags=re.MULTILINE) if part]
    split = [re.match(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", command, re.DOTALL) for command in commands]
    return [(match[1], match[2]) for match in split]


def printed(command, folder):
    """Run a command of a document as a shell does; return what it prints on standard output."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shape(text):
    """Return text with every number masked, and white space made even."""
    return [" ".join(re.sub(r"[\d.,]*\d(e[-+]?\d+)?", "#", line).split()) for line in text.strip().splitlines()]


def words(text):
    """Return text with every number masked, whatever its lines: paragraphs break where their numbers' lengths say."""
    return " ".join(shape(text)).replace("-#", "#").split()


def unlikeness(first, second):
    """Return the mean difference of two pictures of one size, of 255."""
    pictures = []
    for path in (first, second):
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB"), dtype=np.float32))
    assert pictures[0].shape == pictures[1].shape, (first, second)
    return np.abs(pictures[0] - pictures[1]).mean()


def compared(text):
    """Return which heads and taps a leaderboard compares, in no order."""
    return sorted(line.split()[:2] for line in text.strip().partition("\n\n")[0].splitlines())


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory, shared_data):
    """Make a folder with the photographs and weights that the documents speak of."""

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        (folder / "catsdogs").symlink_to(shared_data / "catsdogs")
        shutil.copy(shared_data / "weights" / WEIGHTS, folder)
        return folder

    return make


@pytest.fixture(scope="module")
def folder(new_folder):
    """Return the README's folder."""
    return new_folder("readme")


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_the_walk_through_prints_what_the_readme_says(folder):
    walked = sessions(README)
    assert len(walked) >= 10
    for command, expected in walked:
        found = printed(command, folder)
        if "sweep" in command and "leaderboard" in expected:
            # which of equally good heads comes first, and what there is to say of them, differs by rounding and time
            assert compared(found) == compared(expected), command
        else:
            assert shape(found) == shape(expected), command


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_the_lesson_prints_and_draws_what_its_text_shows(new_folder):
    folder = new_folder("lesson")
    walked = sessions(LESSON)
    assert {name for command, _ in walked for name in re.findall("lesson ([a-z-]+)", command)} == set(LESSONS)
    for command, expected in walked:
        assert words(printed(command, folder)) == words(expected), command
    for path in (ROOT / "docs" / "lesson").iterdir():
        assert unlikeness(path, folder / "featurecache-lesson" / path.name) < UNLIKE, f"{path} is drawn otherwise now"


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_the_notebook_runs_from_top_to_bottom(new_folder, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    run = nbformat.read(ROOT / "docs" / "lesson.ipynb", as_version=4)
    NotebookClient(run, timeout=300, resources={"metadata": {"path": str(new_folder("notebook"))}}).execute()
    cells = [cell for cell in run.cells if cell.cell_type == "code"]
    spoken = ["".join(output.text for output in cell.outputs) for cell in cells if cell.source.startswith("!")]
    for found, (command, expected) in zip(spoken, sessions(LESSON), strict=True):
        end = words(expected)[-10:]  # messages stand before it
        assert words(found)[-len(end) :] == end, command
    drawn = [[sorted(output.data) for output in cell.outputs] for cell in cells if cell.source.startswith("Image")]
    assert len(drawn) >= 10
    assert all(outputs == [["image/png", "text/plain"]] for outputs in drawn)


def test_the_notebook_is_what_its_text_makes_it(tmp_path):
    made = tmp_path / "lesson.ipynb"
    write_notebook(made)
    assert (ROOT / "docs" / "lesson.ipynb").read_text("utf-8") == made.read_text("utf-8"), (
        "write it again: python -m scripts.lesson.notebook"
    )


def test_pictures_of_the_lesson_are_small_and_shown():
    paths = sorted((ROOT / "docs" / "lesson").iterdir())
    assert [f"lesson/{path.name}" for path in paths] == sorted(re.findall(r"^!\[.+\]\((.*)\)$", LESSON, re.MULTILINE))
    sizes = [path.stat().st_size for path in paths]
    assert max(sizes) < 120_000
    assert sum(sizes) < 1_000_000


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
    for path in [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md"))]:
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

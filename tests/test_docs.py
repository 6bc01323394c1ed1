"""The documents: their commands run and print what they say; the files and commands they name are there."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from featurecache.backbones.catalog import NETWORKS
from featurecache.cli.lesson.catalog import LESSONS
from scripts.command_reference import REFERENCE, command_reference
from scripts.module_map import MAP, module_map
from scripts.network_table import PAGE, network_page, network_row
from scripts.notebook import write_notebook

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
WALKTHROUGH = (ROOT / "docs" / "walkthrough.md").read_text("utf-8")
LESSON = (ROOT / "docs" / "lesson.md").read_text("utf-8")
WEIGHTS = "mobilenet_v2_1.0_224.weights.h5"
UNLIKE = 4.0  # of 255: a curve that diverges depends on how the processor rounds


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


@pytest.fixture
def extracted(all_cats_and_dogs):
    """Return a folder in which the documents' first command has run, which takes longest, and what it has printed.

    What a test adds to the folder goes when the test has ended.
    """
    (first,) = {sessions(README)[0][0], sessions(WALKTHROUGH)[0][0], sessions(LESSON)[1][0]}
    options = f"--backbone mobilenet_v2 --weights {WEIGHTS}"
    assert " ".join(first.replace("\\\n", " ").split()) == f"featurecache extract catsdogs catsdogs.h5 {options}"
    there = set(all_cats_and_dogs.iterdir())
    yield all_cats_and_dogs, {first: (all_cats_and_dogs / "extracted.txt").read_text("utf-8")}
    for path in set(all_cats_and_dogs.iterdir()) - there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(900)
def test_every_command_of_walkthrough_and_readme_prints_what_it_shows(extracted):
    """The README shows the beginning of the walk-through: a command that both have runs once."""
    folder, known = extracted
    shown = [sessions(text) for text in (WALKTHROUGH, README)]
    assert [len(commands) >= least for commands, least in zip(shown, (15, 4), strict=True)] == [True, True]
    for command, expected in chain(*shown):
        found = known[command] if command in known else known.setdefault(command, printed(command, folder))
        if "sweep" in command and "leaderboard" in expected:
            # which of equally good heads comes first, and what there is to say of them, differs by rounding and time
            assert compared(found) == compared(expected), command
        else:
            assert shape(found) == shape(expected), command


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_the_lesson_and_its_notebook_print_and_draw_what_the_text_shows(
    extracted, lesson_on_photographs, tmp_path, monkeypatch
):
    """The notebook runs from top to bottom, in the lesson's words; messages go aside, as the text leaves them out.

    Lessons on the photographs, which take longest, are given once for this test and for their own ones.
    """
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    (folder, known), shown = extracted, sessions(LESSON)
    assert {name for command, _ in shown for name in re.findall("lesson ([a-z-]+)", command)} == set(LESSONS)
    run = nbformat.read(ROOT / "docs" / "lesson.ipynb", as_version=4)
    cells = [cell for cell in run.cells if cell.cell_type == "code"]
    commands = [cell for cell in cells if cell.source.startswith("!")]
    assert [cell.source for cell in commands] == [f"!{command}" for command, _ in shown]
    for cell in commands:
        cell.source = f"!({cell.source[1:]}) 2>>messages.txt | cat"  # to a pipe, as a program reads it
    first = next(cell for cell, (command, _) in zip(commands, shown, strict=True) if command in known)
    first.source = "!cat extracted.txt"
    for cell, (command, _) in zip(commands, shown, strict=True):
        if given := re.fullmatch(r"featurecache lesson ([a-z-]+) catsdogs\.h5", command):
            taught = lesson_on_photographs(given[1])
            cell.source = f"!cat {taught / 'said.txt'}"
            shutil.copytree(taught / "featurecache-lesson", folder / "featurecache-lesson", dirs_exist_ok=True)
    NotebookClient(run, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for cell, (command, expected) in zip(commands, shown, strict=True):
        assert words("".join(output.text for output in cell.outputs)) == words(expected), command
    drawn = [[sorted(output.data) for output in cell.outputs] for cell in cells if cell.source.startswith("Image")]
    assert len(drawn) >= 10
    assert all(outputs == [["image/png", "text/plain"]] for outputs in drawn)
    for path in (ROOT / "docs" / "lesson").iterdir():
        assert unlikeness(path, folder / "featurecache-lesson" / path.name) < UNLIKE, f"{path} is drawn otherwise now"


def test_the_notebook_is_what_its_text_makes_it(tmp_path):
    made = tmp_path / "lesson.ipynb"
    write_notebook(made)
    assert (ROOT / "docs" / "lesson.ipynb").read_text("utf-8") == made.read_text("utf-8"), (
        "write it again: python -m scripts.notebook"
    )


def test_pictures_of_the_lesson_are_small_and_shown():
    paths = sorted((ROOT / "docs" / "lesson").iterdir())
    assert [f"lesson/{path.name}" for path in paths] == sorted(re.findall(r"^!\[.+\]\((.*)\)$", LESSON, re.MULTILINE))
    sizes = [path.stat().st_size for path in paths]
    assert max(sizes) < 120_000
    assert sum(sizes) < 1_000_000


@pytest.mark.real_data
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("text", "photographs", "least", "suspects"),
    [
        pytest.param(README, "cats_and_dogs", 0.95, [], id="readme"),
        pytest.param(
            WALKTHROUGH,
            "all_cats_and_dogs",
            0.99,
            ["valid/cats/cat.4085.jpg"],
            id="walkthrough",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_python_example_runs(tmp_path, request, text, photographs, least, suspects):
    given = request.getfixturevalue(photographs)
    (tmp_path / "catsdogs").symlink_to(given / "catsdogs")
    shutil.copy(given / "catsdogs.h5", tmp_path)
    shutil.copy(given / WEIGHTS, tmp_path)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].replace("WEIGHTS", repr(WEIGHTS))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    accuracy, *rest = done.stdout.splitlines()
    assert least <= float(re.match(r"Interval\(value=(\d\.\d+), low=", accuracy)[1]) <= 1
    assert rest == suspects


def test_every_file_that_a_document_names_is_there():
    for path in [
        *sorted(ROOT.glob("README*.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
    ]:
        text = path.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
        for name in re.findall(r"`((?:featurecache|heads|scripts|tests|docs)/[\w./]+)`", text):
            assert (ROOT / name).exists(), f"{path.name}: {name}"
    for name in re.findall(r"`((?:durability/|backbones/|\.\./)?\w*\.?\w+\.py|\.\./heads/)`", README):
        assert (ROOT / "tests" / "featurecache" / name).exists(), name


def test_the_readmes_are_short():
    assert len(README.splitlines()) <= 150
    assert len((ROOT / "README.zh-CN.md").read_text("utf-8").splitlines()) <= 160


def test_the_command_reference_is_what_the_command_line_makes_it():
    assert REFERENCE.read_text("utf-8") == command_reference(), "write it again: python -m scripts.command_reference"


def test_the_module_map_is_what_the_layers_and_docstrings_make_it():
    assert MAP.read_text("utf-8") == module_map(), "write it again: python -m scripts.module_map"


def test_the_table_of_networks_is_what_the_catalogue_makes_it():
    assert PAGE.read_text("utf-8") == network_page(), "write it again: python -m scripts.network_table"


def test_the_table_of_networks_has_no_speed_of_one_that_was_not_measured():
    network = NETWORKS["mobilenet"]
    assert network_row(network, {}).endswith("| - |")
    assert network_row(network, {"float32": 97.0, "mixed": 123.5}).endswith("| 97, 123.5 |")


def test_the_command_reference_lists_every_command():
    done = subprocess.run(
        [sys.executable, "-m", "featurecache", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    commands = re.findall(r"^│ (\w+)  ", done.stdout, re.MULTILINE)
    assert commands == re.findall(r"^## (\w+)$", REFERENCE.read_text("utf-8"), re.MULTILINE)


def test_every_command_has_json_as_the_readmes_say():
    sections = re.split(r"^## ", REFERENCE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    assert len(sections) > 15
    assert [section.split()[0] for section in sections if "| `--json` |" not in section] == []


def test_usage_and_defaults_of_the_command_reference_are_readable():
    text = REFERENCE.read_text("utf-8")
    assert "[[" not in text
    assert "`True`" not in text


def test_architecture_names_every_dependency_and_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## Dependencies")[2]
    packages, _, extras = text.partition("| extra |")
    first_cells = "\n".join(re.findall(r"^\| ([^|]+) \|", packages, re.MULTILINE))
    for requirement in project["dependencies"]:
        assert re.search(rf"\b{_name(requirement)}\b", first_cells), requirement
    for extra, requirements in project["optional-dependencies"].items():
        row = re.search(rf"^\| `{extra}` \| (.+) \|$", extras, re.MULTILINE)[1]
        for requirement in requirements:
            assert re.search(rf"\b{_name(requirement)}\b", row) or requirement.startswith("featurecache["), requirement


def test_the_changelog_names_public_names_alone():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    named = set(re.findall(r"`((?:featurecache|heads)\.\w+[\w.]*)", text))
    groups = {"featurecache.heads", "featurecache.backbones"}
    public = set((ROOT / "tests" / "data" / "public_names.txt").read_text("ascii").split())
    assert len(named) > 4
    assert named <= public | groups, named - public - groups


def _name(requirement):
    return re.match(r"[\w-]+", requirement)[0]


def test_the_glossary_defines_every_word_once():
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8").partition("## We say")[0]
    words = [word for cell in re.findall(r"^\| ([a-z][^|]*) \|", text, re.MULTILINE) for word in cell.split(", ")]
    defined = [word for word in words if word != "word"]
    assert len(defined) > 50
    assert len(defined) == len(set(defined)), sorted(defined)

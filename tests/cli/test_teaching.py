"""``featurecache lesson, filters``: the list, bad input, JSON, and that no display is needed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurecache.cli.lesson import catalog
from featurecache.cli.lesson.catalog import LESSONS, Lesson
from heads.figures.canvas import drawing

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture
def toy(monkeypatch):
    """A lesson of this test's own, in place of the catalogue's."""

    def run(board, cache):
        board.say(f"the cache is {cache}")
        with drawing((1.0, 1.0)) as figure:
            pass
        board.draw("toy-nothing", figure)
        return {"answer": 42, "cache": str(cache)}

    monkeypatch.setattr(catalog, "LESSONS", {"toy": Lesson("a toy", needs_cache=False, takes_cache=True)})
    monkeypatch.setattr(catalog, "load_lesson", lambda _: run)


def test_without_a_name_the_lessons_are_listed(invoke):
    lines = invoke("lesson").out.splitlines()
    assert lines[0].split() == ["lesson", "cache", "what", "it", "shows"]
    listed = [line.split()[0] for line in lines[1 : 1 + len(LESSONS)]]
    assert listed == list(LESSONS)
    assert "needed" in next(line for line in lines if line.startswith("cats-and-dogs"))
    assert "optional" in next(line for line in lines if line.startswith("filters"))
    assert lines[-1] == "Run one with: featurecache lesson NAME, or featurecache lesson NAME CACHE"


def test_the_list_as_json(invoke):
    listed = invoke("lesson", "--json").json
    assert list(listed) == list(LESSONS)
    assert listed["epochs"] == {"summary": LESSONS["epochs"].summary, "needs_cache": True, "takes_cache": True}
    assert [name for name, each in listed.items() if each["takes_cache"]] == ["filters", "epochs", "cats-and-dogs"]


def test_a_lesson_prints_and_draws(invoke, toy, tmp_path):
    done = invoke("lesson", "toy", "c.h5", "--out", tmp_path / "out")
    path = tmp_path / "out" / "toy-nothing.png"
    assert (done.code, done.out, done.err) == (0, f"the cache is c.h5\n\nfigure: {path}\n\n", "")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_lesson_as_json(invoke, toy, tmp_path):
    done = invoke("lesson", "toy", "--out", tmp_path / "out", "--json")
    assert done.json == {
        "lesson": "toy",
        "results": {"answer": 42, "cache": "None"},
        "pictures": [str(tmp_path / "out" / "toy-nothing.png")],
    }


def test_an_unknown_lesson(invoke):
    done = invoke("lesson", "cats_and_dogs")
    assert done.code == 1
    assert done.error.startswith("unknown lesson 'cats_and_dogs'; did you mean 'cats-and-dogs'? (known: ")


@pytest.mark.parametrize("name", [name for name, lesson in LESSONS.items() if lesson.needs_cache])
def test_a_cache_that_is_not_given(invoke, name):
    done = invoke("lesson", name)
    assert done.code == 2
    for words in (f"featurecache lesson {name} CACHE", "featurecache extract", "featurecache demo"):
        assert words in done.error


@pytest.mark.parametrize("name", [name for name, lesson in LESSONS.items() if lesson.cache])
def test_a_cache_that_is_not_there(invoke, tmp_path, name):
    done = invoke("lesson", name, tmp_path / "nowhere.h5", "--out", tmp_path / "out")
    assert done.code == 1
    assert "there is no cache" in done.error
    assert not (tmp_path / "out").exists()


def test_a_cache_that_no_lesson_asked_for_is_left_aside(invoke, monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "load_lesson", lambda _: lambda board, _: board.say("text") or {})
    done = invoke("lesson", "matrices", "c.h5", "--out", tmp_path / "out")
    assert done.err == "the lesson 'matrices' uses no cache; c.h5 is not read\n"
    assert done.out == "text\n\n"


def test_an_out_that_is_a_file_or_in_no_folder_is_refused_before_the_lesson_begins(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "load_lesson", lambda _: pytest.fail("the lesson began"))
    (tmp_path / "file").write_text("text")
    for out, words in (("file", "it is not a folder"), ("nowhere/out", "nowhere does not exist")):
        done = invoke("lesson", "structure", "--out", tmp_path / out)
        assert done.code == 1
        assert words in done.error


def test_an_out_that_cannot_be_written(invoke, open_folder, unprivileged):
    (open_folder / "closed").mkdir(mode=0o555)
    with unprivileged():
        done = invoke("lesson", "structure", "--out", open_folder / "closed" / "out")
    assert done.code == 1
    assert "no permission to write" in done.error


@pytest.mark.slow
def test_pictures_need_no_display(command, tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    pictures = command("lesson", "gradient-descent", "--out", tmp_path / "out", "--json").json["pictures"]
    assert pictures
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_filters_draws_a_picture_in_the_right_grid(invoke, tmp_path):
    out = tmp_path / "f.png"
    done = invoke("filters", "--weights", "random:0", "--out", out)
    assert done.code == 0
    assert done.out == f"{out}: 64 filters of 3 x 3 places and 3 colours, of vgg16 with random:0 weights\n"
    with Image.open(out) as image:
        assert image.format == "PNG"
        width, height = image.size
    assert abs(width - height) < 0.2 * width  # 8 x 8, and a title
    again = invoke("filters", "mobilenet_v2", "--weights", "random:0", "--out", out)
    assert again.code == 0, again.err
    with Image.open(out) as image:
        assert image.size[1] < 0.65 * image.size[0]  # 4 rows of 8


def test_filters_as_json(invoke, tmp_path):
    done = invoke("filters", "--weights", "random:1", "--out", tmp_path / "f.png", "--json").json
    assert np.array(done.pop("filters")).shape == (64, 3, 3, 3)
    assert done == {"backbone": "vgg16", "weights": "random:1", "picture": str(tmp_path / "f.png")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("vgg17 --weights random:0", ["unknown backbone 'vgg17'", "vgg16"]),
        ("", ["ImageNet weights of vgg16 are not available", "--weights random:0"]),
        ("--weights nowhere.h5", ["nowhere.h5", "no such file"]),
        ("--weights text.weights.h5", ["text.weights.h5 is not an HDF5 file", "it begins with"]),
        ("mobilenet_v2 --weights text.weights.h5", ["text.weights.h5 is not an HDF5 file", "it begins with"]),
        ("--weights random:0 --out photo.png", ["photo.png exists already and was not drawn by featurecache"]),
        ("--weights random:0 --out filters.jpg", ["give filters.jpg the suffix .png"]),
        ("--weights random:0 --out nowhere/f.png", ["the folder nowhere does not exist"]),
    ],
)
def test_filters_that_cannot_be_drawn(invoke, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("photo.png")
    Path("text.weights.h5").write_text("no weights")
    kept = Path("photo.png").read_bytes()
    done = invoke("filters", *arguments.split())
    assert done.code == 1
    for word in words:
        assert word in done.error
    assert Path("photo.png").read_bytes() == kept
    assert not Path("filters.png").exists()

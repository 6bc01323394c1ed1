"""Caches that lessons are given on: with learned weights that are no download, and of the real photographs."""

import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import featurecache
from featurecache.backbones.catalog import find_network
from featurecache.backbones.network import build
from featurecache.backbones.weights import resolve_weights
from featurecache.cli.commands.demo import write_digits
from featurecache.cli.lesson.catalog import load_lesson
from featurecache.cli.lesson.lesson_writer import LessonWriter

# NumPy 2's word on TensorFlow's variables; reading them gives the right numbers
TENSORFLOW_AND_NUMPY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(TENSORFLOW_AND_NUMPY))


@pytest.fixture(scope="session")
def teach(tmp_path_factory):
    """Give a lesson; return what it found, what it said (its words, whatever the lines), and its pictures by name."""

    def give(name, cache=None):
        writer = LessonWriter(tmp_path_factory.mktemp("lesson") / "out")
        with redirect_stdout(io.StringIO()) as out:
            results = load_lesson(name)(writer, cache)
        return results, " ".join(out.getvalue().split()), {path.stem: path for path in writer.pictures}

    return give


@pytest.fixture(scope="session")
def weight_file(made_once):
    """A weight file of MobileNetV2, whatever is in it."""

    def fill(folder):
        row = find_network("mobilenet_v2")
        build(row, resolve_weights("random:3", row)).save_weights(folder / "some.weights.h5")

    return made_once("some-weights", fill) / "some.weights.h5"


@pytest.fixture(scope="session")
def learned_cache(made_once, images, weight_file):
    """A cache of the red and blue images, made with the weights of that file."""

    def fill(folder):
        featurecache.extract(images, folder / "learned.h5", backbone="mobilenet_v2", weights=str(weight_file))

    return made_once("learned", fill) / "learned.h5"


@pytest.fixture(scope="session")
def photographs(all_cats_and_dogs):
    """A cache of the real photographs of cats and dogs, through the pretrained MobileNetV2."""
    return all_cats_and_dogs / "catsdogs.h5"


@pytest.fixture(scope="session")
def teach_on_photographs(lesson_on_photographs):
    """Give a lesson on that cache; return what it found and what it said, as `teach` does."""

    def give(name):
        folder = lesson_on_photographs(name)
        results = json.loads((folder / "results.json").read_text("utf-8"))
        return results, " ".join((folder / "said.txt").read_text("utf-8").split())

    return give


@pytest.fixture(scope="session")
def digits(made_once):
    """A cache of handwritten digits through a random network, with no valid split: what the demo makes, but faster."""

    def fill(folder):
        write_digits(folder / "digits")
        featurecache.extract(folder / "digits", folder / "digits.h5", backbone="mobilenet_v2", weights="random:0")

    return made_once("digits", fill) / "digits.h5"


@pytest.fixture(scope="session")
def movable(tmp_path_factory, images, weight_file):
    """A cache with its images and weights, and a copy of all three to restore them from."""
    folder = tmp_path_factory.mktemp("movable")
    place, copy = folder / "place", folder / "copy"
    place.mkdir()
    shutil.copytree(images, place / "photos")
    shutil.copy(weight_file, place / "w.weights.h5")
    weights = str(place / "w.weights.h5")
    featurecache.extract(place / "photos", place / "c.h5", backbone="mobilenet_v2", weights=weights)
    shutil.copytree(place, copy)
    return place, copy


@pytest.fixture
def moved(movable):
    """A cache whose images and weights lie in a folder that may be changed."""
    place, copy = movable
    shutil.rmtree(place)
    shutil.copytree(copy, place)
    return place / "c.h5"

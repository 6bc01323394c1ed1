"""Caches that lessons are given on: with learned weights that are no download, and of the real photographs."""

import io
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import featurecache
from featurecache.backbones.catalog import application
from featurecache.backbones.network import build
from featurecache.backbones.weights import resolve_weights
from scripts.demo import write_digits
from scripts.lesson.board import Board
from scripts.lesson.catalog import load_lesson

MOBILENET = "mobilenet_v2_1.0_224.weights.h5"

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
        board = Board(tmp_path_factory.mktemp("lesson") / "out")
        with redirect_stdout(io.StringIO()) as out:
            results = load_lesson(name)(board, cache)
        return results, " ".join(out.getvalue().split()), {path.stem: path for path in board.pictures}

    return give


@pytest.fixture(scope="session")
def weight_file(tmp_path_factory):
    """A weight file of MobileNetV2, whatever is in it."""
    row = application("mobilenet_v2")
    path = tmp_path_factory.mktemp("weights") / "some.weights.h5"
    build(row, resolve_weights("random:3", row)).save_weights(path)
    return path


@pytest.fixture(scope="session")
def learned_cache(tmp_path_factory, images, weight_file):
    """A cache of the red and blue images, made with the weights of that file."""
    path = tmp_path_factory.mktemp("learned") / "learned.h5"
    featurecache.extract(images, path, backbone="mobilenet_v2", weights=str(weight_file))
    return path


@pytest.fixture(scope="session")
def photographs(tmp_path_factory, shared_data):
    """A cache of the real photographs of cats and dogs, through the pretrained MobileNetV2."""
    path = tmp_path_factory.mktemp("photographs") / "catsdogs.h5"
    weights = shared_data / "weights" / MOBILENET
    featurecache.extract(shared_data / "catsdogs", path, backbone="mobilenet_v2", weights=str(weights))
    return path


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A cache of handwritten digits through a random network, with no valid split: what the demo makes, but faster."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "digits")
    path = folder / "digits.h5"
    featurecache.extract(folder / "digits", path, backbone="mobilenet_v2", weights="random:0")
    return path


@pytest.fixture
def moved(tmp_path, images, weight_file):
    """A cache whose images and weights lie in a folder that may be changed."""
    shutil.copytree(images, tmp_path / "photos")
    shutil.copy(weight_file, tmp_path / "w.weights.h5")
    made = featurecache.extract(
        tmp_path / "photos", tmp_path / "c.h5", backbone="mobilenet_v2", weights=str(tmp_path / "w.weights.h5")
    )
    return made.path

"""Images for the networks, and the networks that several modules of tests share."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featurecache.backbones.catalog import find_network
from featurecache.backbones.weights import resolve_weights
from featurecache.cli.app import app

# NumPy 2's word on TensorFlow's variables; reading them gives the right numbers
TENSORFLOW_AND_NUMPY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(TENSORFLOW_AND_NUMPY))


@pytest.fixture(scope="session")
def photographs():
    """Return a function that makes n different images, from smooth to busy: uint8, shape (n, height, width, 3)."""

    def make(n, size=(224, 224), seed=0):
        generator = np.random.default_rng(seed)
        coarse = [generator.integers(0, 256, (2 ** (1 + i % 5),) * 2 + (3,), dtype=np.uint8) for i in range(n)]
        return np.stack([np.asarray(Image.fromarray(c).resize(size[::-1], Image.Resampling.BICUBIC)) for c in coarse])

    return make


@pytest.fixture
def invoke():
    """Return a function that runs a command in this process, and returns the JSON object that it prints."""

    def run(*arguments):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def weights_of():
    """Return a function from a network's name and ``--weights`` to its row and its weights."""

    def find(name, text="random:0"):
        row = find_network(name)
        return row, resolve_weights(text, row)

    return find


def vgg_of_size(row, side):
    """Return the row of a VGG network for images of ``side`` x ``side`` pixels."""
    maps = {tap: width * side**2 // 224**2 for tap, width in row.taps.items() if tap.startswith(("block", "flatten"))}
    return replace(row, input_size=(side, side), taps=row.taps | maps)


@pytest.fixture(scope="session")
def smaller_vgg(weights_of):
    """Return a function from a VGG network's name to its row for images of 64 x 64 pixels, and its weights.

    Its first dense layer has a twelfth of the weights. The numba engine needs larger images.
    """

    def find(name):
        row, weights = weights_of(name)
        return vgg_of_size(row, 64), weights

    return find


@pytest.fixture(scope="session")
def small_vgg16(weights_of):
    """Return VGG16 for images of 128 x 128 pixels, with few units in its dense layers, and its weights.

    Only the numba engine runs it: in a tenth of the time and memory, through the same code.
    """
    row, weights = weights_of("vgg16")
    row = vgg_of_size(row, 128)
    return replace(row, taps=row.taps | {"fc1": 64, "fc2": 64}), weights


@pytest.fixture(scope="session")
def mobilenet_file(weights_of, tmp_path_factory):
    """Return a weight file of mobilenet_v2, in the format that Keras writes today."""
    from featurecache.backbones.network import build

    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.weights.h5"
    build(*weights_of("mobilenet_v2", "random:1")).save_weights(path)
    return path


@pytest.fixture(scope="session")
def legacy_mobilenet_file(weights_of, tmp_path_factory):
    """Return the same weights in the format of the files that Keras downloads."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    from featurecache.backbones.network import build

    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, build(*weights_of("mobilenet_v2", "random:1")))
    return path


@pytest.fixture(scope="session")
def run_python():
    """Return a function that runs a program in a fresh interpreter, whose warnings are as Python sets them.

    It ends as a command does, without a last look for garbage: with Keras that takes a second.
    """
    quick_end = "import atexit, gc\natexit.register(gc.freeze)\n"

    def run(program, *arguments, **environment):
        clean = {name: value for name, value in os.environ.items() if name not in {"KERAS_BACKEND", "PYTHONWARNINGS"}}
        return subprocess.run(
            [sys.executable, "-c", quick_end + program, *map(str, arguments)],
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run

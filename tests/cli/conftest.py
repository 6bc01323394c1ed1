"""Runs the command line in a process and in this one; makes caches and heads for commands."""

import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import featurecache.named_backbone
from featurecache.backbones.fake import FakeBackbone
from featurecache.cli.app import app

PROGRAM = Path(sys.executable).with_name("featurecache")
RED, BLUE = (220, 40, 30), (30, 40, 220)
HOSTILE = "\x1b[31mred\x07\nline"
"""A name that would colour the terminal, ring its bell and break the line."""
SLOW = """
import os, sys, time
from dataclasses import replace
import featurecache.preparation
from featurecache.backbones.fake import FakeBackbone
from featurecache.cli import app

class Slow(FakeBackbone):
    def forward(self, images):
        print("forwarding", flush=True)
        time.sleep(float(os.environ.get("PASS_SECONDS", "60")))
        return super().forward(images)

find = featurecache.preparation.source_of
def source_of(*arguments, **options):
    slow = Slow({"avg_pool": 1280, "predictions": 1000}, input_size=(224, 224))
    return replace(find(*arguments, **options), start=lambda *_: slow)
featurecache.preparation.source_of = source_of
app.main()
"""
"""The command line, with a network in NumPy in the place of MobileNetV2; a pass takes PASS_SECONDS, or 60."""


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code, standard output, and standard error without progress and conversions."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one JSON object that standard output must be."""
        assert self.code == 0, self.err
        value = json.loads(self.out)
        assert isinstance(value, dict)
        assert self.out == json.dumps(value, indent=2) + "\n"
        return value

    @property
    def error(self):
        """The one line that says what is wrong, the last on standard error; only notices may stand before it."""
        assert self.out == ""
        *notices, last = self.err.splitlines()
        assert self.err.endswith("\n")
        assert last.startswith("error: "), self.err
        assert "Traceback" not in self.err
        assert not [line for line in notices if not line.startswith(("starting ", "found ", "left out: "))], self.err
        assert last.isprintable()
        return last.removeprefix("error: ")


def without_progress(err):
    """Return what stands on standard error but some lines that not every machine gets.

    Slow machines get progress after some seconds. A network is converted once on a machine.
    """
    progress, conversion = r"[a-z]+ing: .*\b(?:after \d+:\d\d:\d\d.*|so far)", "converting .* once for .*"
    return re.sub(rf"^(?:{progress}|{conversion})\n", "", err, flags=re.MULTILINE)


def said(err):
    """Return the lines on standard error but those of progress."""
    return without_progress(err).splitlines()


def _environment(keras_home):
    return os.environ | {"KERAS_HOME": str(keras_home), "COLUMNS": "100"}


@pytest.fixture(scope="session")
def keras_home(tmp_path_factory):
    """Keras's own folder, empty: no ImageNet weights are to be had."""
    return tmp_path_factory.getbasetemp() / "keras"


@pytest.fixture(scope="session")
def command(keras_home):
    """Run the installed command in a process of its own."""

    def run(*arguments, cwd=None, timeout=240, program=(PROGRAM,)):
        done = subprocess.run(
            [*program, *map(os.fspath, arguments)],
            capture_output=True,
            check=False,
            cwd=cwd,
            env=_environment(keras_home),
            timeout=timeout,
        )
        return Done(done.returncode, done.stdout.decode(), without_progress(done.stderr.decode()))

    return run


@pytest.fixture(scope="session")
def start(keras_home, default_signals):
    """Start the installed command, to be watched and interrupted."""

    def popen(*arguments, **options):
        with default_signals():
            return subprocess.Popen([PROGRAM, *map(os.fspath, arguments)], env=_environment(keras_home), **options)

    return popen


@pytest.fixture(scope="session")
def invoke(keras_home):
    """Run a command in this process: the same from the arguments on, without the start of an interpreter."""

    def run(*arguments):
        environment = {"KERAS_HOME": str(keras_home), "COLUMNS": "100"}
        result = CliRunner().invoke(app, list(map(os.fspath, arguments)), env=environment, prog_name=PROGRAM.name)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, without_progress(result.stderr))

    return run


@pytest.fixture
def fast_network(monkeypatch):
    """Put a network that computes in NumPy in the place of MobileNetV2 in this process."""
    fast = FakeBackbone({"avg_pool": 1280, "predictions": 1000}, input_size=(224, 224))
    monkeypatch.setattr(featurecache.named_backbone, "start_engine", lambda *_, **__: fast)


@pytest.fixture(scope="session")
def write_images():
    """Write noisy images of one colour, each different from all others of another seed."""

    def write(folder, count, colour=RED, seed=0, size=(40, 32)):
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng([seed, *colour])
        for number in range(count):
            noise = random.integers(-30, 30, (*size, 3))
            pixels = np.clip(noise + np.array(colour), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")

    return write


@pytest.fixture(scope="session")
def images(made_once, write_images):
    """40 red and blue images, in a train and a valid split; only to be read."""

    def fill(folder):
        for split, count, seed in (("train", 14, 0), ("valid", 6, 1)):
            for name, colour in (("red", RED), ("blue", BLUE)):
                write_images(folder / "photos" / split / name, count, colour, seed)

    return made_once("red-and-blue", fill) / "photos"


@pytest.fixture(scope="session")
def image(images):
    """One of the red images."""
    return images / "valid" / "red" / "000.png"


@pytest.fixture(scope="session")
def fake_cache(tmp_path_factory, images):
    """A cache of the images, made without a framework: taps features and predictions."""
    path = tmp_path_factory.mktemp("fake") / "fake.h5"
    featurecache.extract(images, path, backbone=FakeBackbone())
    return path


@pytest.fixture(scope="session")
def fake_part(tmp_path_factory, images):
    """A cache of the first of two parts of the images."""
    path = tmp_path_factory.mktemp("fake") / "part.h5"
    featurecache.extract(images, path, part="1/2", backbone=FakeBackbone())
    return path


@pytest.fixture(scope="session")
def fake_head(tmp_path_factory, invoke, fake_cache):
    """A head trained on the features of that cache."""
    directory = tmp_path_factory.mktemp("fake") / "head"
    done = invoke("train", fake_cache, directory, "--head", "logreg", "--tap", "features")
    assert done.code == 0, done.err
    return directory


@pytest.fixture(scope="session")
def extracted(made_once, command, images):
    """A real extraction in a process of its own: the cache file, and how the command ended."""

    def fill(folder):
        options = ("--backbone", "mobilenet_v2", "--weights", "random:0", "--batch-size", "8", "--json")
        done = command("extract", images, folder / "photos.h5", *options)
        (folder / "done.json").write_text(json.dumps(asdict(done)))

    folder = made_once("extracted", fill)
    return folder / "photos.h5", Done(**json.loads((folder / "done.json").read_text()))


@pytest.fixture(scope="session")
def real_cache(extracted):
    """A cache of the images, made by a real network with random weights: taps avg_pool and predictions."""
    path, done = extracted
    assert done.code == 0, done.err
    return path


@pytest.fixture(scope="session")
def real_head(tmp_path_factory, invoke, real_cache):
    """A head trained on the tap avg_pool of that cache."""
    directory = tmp_path_factory.mktemp("real") / "head"
    done = invoke("train", real_cache, directory, "--head", "logreg", "--tap", "avg_pool")
    assert done.code == 0, done.err
    return directory


@pytest.fixture(scope="session")
def contents():
    """Return the content of a folder: every path below it, with the bytes of every file."""

    def look(folder):
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
        }

    return look


@pytest.fixture(scope="session")
def hostile():
    """Return a name that would colour the terminal, ring its bell and break the line."""
    return HOSTILE


@pytest.fixture(scope="session")
def unprivileged():
    """Run a block without the rights of the superuser."""

    @contextmanager
    def block():
        if os.geteuid() != 0:
            yield
            return
        os.setresuid(65534, 65534, 0)
        try:
            yield
        finally:
            os.setresuid(0, 0, 0)

    return block


@pytest.fixture
def open_folder():
    """A folder that everybody can reach, whoever runs the tests."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)

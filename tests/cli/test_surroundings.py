"""What surrounds a command, its home folder, ``keras.json`` and the environment, costs no traceback and no noise."""

import os
import subprocess

import pytest

from tests.cli.conftest import PROGRAM

pytestmark = pytest.mark.slow

NETWORK = ("--backbone", "mobilenet_v2", "--weights", "random:0")


@pytest.fixture
def run():
    """Return a function that runs the installed command in an environment; its exit code and standard error."""

    def run(*arguments, without=(), **environment):
        kept = {name: value for name, value in os.environ.items() if name not in without}
        command = [PROGRAM, *map(os.fspath, arguments)]
        done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=False, timeout=240)
        return done.returncode, done.stderr

    return run


@pytest.mark.parametrize(
    ("settings", "environment", "words"),
    [
        ('{"backend": "theano"}', {}, ['"backend" in', "keras.json", "'theano'", "tensorflow, jax or torch"]),
        ('{"backend": "tensorflow"}', {"KERAS_BACKEND": "cntk"}, ["environment variable KERAS_BACKEND", "'cntk'"]),
        ('{"floatx": "float8"}', {}, ['"floatx" in', "keras.json", "'float8'", "correct or delete the file"]),
    ],
)
@pytest.mark.parametrize("home", ["KERAS_HOME", "HOME"])
def test_a_setting_that_keeps_keras_from_starting_is_one_line(
    settings, environment, words, home, run, images, tmp_path
):
    folder = tmp_path if home == "KERAS_HOME" else tmp_path / ".keras"
    folder.mkdir(exist_ok=True)
    (folder / "keras.json").write_text(settings)
    variables = {home: str(tmp_path)} | environment
    without = ("KERAS_HOME", "KERAS_BACKEND")
    code, err = run("extract", images, tmp_path / "c.h5", *NETWORK, "--engine", "keras", without=without, **variables)
    *notices, last = err.splitlines()
    assert (code, len(notices)) == (1, 2), err
    assert notices[0].startswith("found ")
    assert notices[1].startswith("starting mobilenet_v2")
    assert last.startswith("error: ")
    for word in words:
        assert word in last
    assert not (tmp_path / "c.h5").exists()


NO_HOME = {"HOME": "/dev/null"}  # nothing can be created there, whoever runs the tests
FOLDERS = ("KERAS_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "PYTHONWARNINGS")


def test_a_home_folder_that_cannot_be_written_makes_no_noise(run, images, real_head, real_cache, tmp_path):
    said = [
        run("extract", images, tmp_path / "c.h5", *NETWORK, without=FOLDERS, **NO_HOME),
        run("evaluate", real_head, real_cache, "--report", tmp_path / "r.html", without=FOLDERS, **NO_HOME),
        run("export", real_head, tmp_path / "m.joblib", without=FOLDERS, **NO_HOME),
    ]
    assert [code for code, _ in said] == [0, 0, 0], said
    lines = [line for _, err in said for line in err.splitlines()]
    first = {line.split()[0] for line in lines}
    assert first <= {"found", "starting", "converting", "extracting:", "warning:", "a"}, lines


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("extract IMAGES NEW --backbone MobileNetV2", "mobilenet_v2"),
        ("extract IMAGES NEW --backbone mobilenet_v2 --weights random:0 --taps AvgPool", "avg_pool"),
        ("train CACHE OUT --head LogReg", "logreg"),
        ("train CACHE OUT --head knn --tap features -p N-Neighbors=3", "n_neighbors"),
        ("sweep CACHE OUT --tap features --head naive-bayes", "naive_bayes"),
    ],
)
def test_names_are_recognised_in_another_spelling(line, meant, invoke, images, fake_cache, tmp_path):
    places = {"IMAGES": images, "NEW": tmp_path / "new.h5", "CACHE": fake_cache, "OUT": tmp_path / "out"}
    done = invoke(*[places.get(word, word) for word in line.split()])
    assert done.code == 1
    assert f"did you mean {meant!r}?" in done.error

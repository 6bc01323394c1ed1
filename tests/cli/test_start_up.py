"""Imports and start-up times of commands, measured in fresh interpreters."""

import os
import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

FRAMEWORKS = ("tensorflow", "keras", "jax", "torch", "sklearn", "matplotlib", "jinja2")
COMMANDS = (
    "demo",
    "extract",
    "info",
    "backbones",
    "heads",
    "summary",
    "why",
    "verify",
    "merge",
    "train",
    "evaluate",
    "compare",
    "sweep",
    "audit",
    "curve",
    "predict",
    "precision",
    "similar",
    "serve",
    "export",
    "export-features",
    "finetune",
    "lesson",
    "filters",
)


def loaded(code, *arguments):
    """Return the top-level modules that are loaded when the code has run."""
    report = "import sys; print('loaded:', *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    program = f"import atexit\natexit.register(lambda: exec({report!r}))\n{code}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("loaded: ")[2].split())


def loaded_by(*arguments):
    return loaded("import featurecache.cli.app; featurecache.cli.app.main()", *arguments)


@pytest.mark.parametrize("module", ["featurecache", "heads", "featurecache.cli.app"])
def test_importing_loads_no_framework(module):
    modules = loaded(f"import {module}")
    assert modules.isdisjoint({*FRAMEWORKS, "h5py"})
    assert module.partition(".")[0] in modules


def test_help_loads_no_framework_and_no_hdf5():
    assert loaded_by("--help").isdisjoint({*FRAMEWORKS, "h5py", "numpy", "PIL"})


def test_what_needs_no_network_loads_none(images, real_cache):
    options = ("--backbone", "mobilenet_v2", "--weights", "random:0")
    for arguments in (
        ("extract", images, real_cache, *options),
        ("why", images, real_cache, *options),
        ("verify", real_cache),
        ("info", real_cache),
    ):
        assert loaded_by(*arguments).isdisjoint(FRAMEWORKS), arguments


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_network_starts_without_what_keras_would_import_and_no_command_uses(images, tmp_path, monkeypatch, backend):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    options = ("--backbone", "mobilenet_v2", "--weights", "random:0", "--engine", "keras")
    modules = loaded_by("extract", images, tmp_path / "c.h5", *options)
    assert {"keras", backend} <= modules
    left_out = {"sklearn", "pandas", "matplotlib", "IPython", "jax"} - {backend}
    assert modules.isdisjoint(left_out)


LEFT_OUT = """
import sys, types
from featurecache.cli.console.quick_keras import start_keras_quickly
start_keras_quickly()
for name in ("keras.src.wrappers", "keras.src.backend.jax", "tensorflow.lite", "kerastuner"):
    for wanted in ("sklearn", "jax"):
        try:
            exec(f"import {wanted}", {"__name__": name})
        except ModuleNotFoundError:
            print(name, wanted)
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == wanted]:
            del sys.modules[loaded]
"""


def test_no_time_is_spent_at_the_end_on_garbage():
    program = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # the first that is registered runs last
from featurecache.cli.app import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


def test_others_import_what_is_left_out_for_keras(tmp_path, monkeypatch):
    for name in ("sklearn", "jax"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    done = subprocess.run([sys.executable, "-c", LEFT_OUT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "keras.src.wrappers sklearn",
        "keras.src.backend.jax sklearn",
        "tensorflow.lite sklearn",
        "tensorflow.lite jax",
    ]


ONE_COMMAND = """
import typer
app = typer.Typer()
app.command()(lambda: None)
app()
"""


def test_help_answers_at_once():
    """Measured in processor time, beside a program of one command: other programs may slow this machine down."""
    ours, bare = [], []
    for _ in range(7):
        for seconds, arguments in ((ours, ("-m", "featurecache")), (bare, ("-c", ONE_COMMAND))):
            before = children_seconds()
            done = subprocess.run([sys.executable, *arguments, "--help"], capture_output=True, check=True)
            seconds.append(children_seconds() - before)
            assert b"Usage" in done.stdout
    assert min(ours) < 0.5 or min(ours) < 1.6 * min(bare), (ours, bare)


def children_seconds():
    """Return the processor time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(invoke, name):
    for option in ("--help", "-h"):
        done = invoke(name, option)
        assert done.code == 0
        assert f"Usage: featurecache {name} " in done.out
        assert done.err == ""


def test_help_lists_every_command(invoke):
    done = invoke("--help")
    rows = [line.removeprefix("│ ") for line in done.out.partition("Commands")[2].splitlines() if "│" in line]
    assert [row.split()[0] for row in rows if row[0] != " "] == list(COMMANDS)


def test_no_command_lists_them_and_is_wrong_usage(command):
    done = command()
    assert done.code == 2
    assert "Commands" in done.out + done.err
    assert "error" not in done.err


@pytest.mark.parametrize("name", ["heads", "backbones"])
def test_catalogues_are_data(name):
    assert loaded_by(name, "--json").isdisjoint({*FRAMEWORKS, "h5py"})


def test_inspecting_a_cache_loads_no_framework(fake_cache):
    assert loaded_by("info", fake_cache).isdisjoint(FRAMEWORKS)


def test_an_extraction_of_what_is_known_loads_no_framework(tmp_path, images, real_cache):
    again = tmp_path / "again.h5"
    again.write_bytes(real_cache.read_bytes())
    options = ("--backbone", "mobilenet_v2", "--weights", "random:0", "--batch-size", "8")
    assert loaded_by("extract", images, again, *options).isdisjoint(FRAMEWORKS)


@pytest.mark.parametrize(("name", "frameworks"), [("logreg", set()), ("sgd", {"sklearn"})])
def test_training_a_head_loads_scikit_learn_where_that_trains_it(name, frameworks, tmp_path, fake_cache):
    modules = loaded_by("train", fake_cache, tmp_path / "head", "--head", name, "--tap", "features")
    assert modules & set(FRAMEWORKS) == frameworks


def test_a_sweep_leaves_scikit_learn_to_its_workers(tmp_path, fake_cache):
    options = ("--tap", "features", "--head", "softmax", "-p", "lr=0.1", "-p", "l2=0", "--folds", "2", "--jobs", "2")
    assert loaded_by("sweep", fake_cache, tmp_path / "sweep", *options).isdisjoint(FRAMEWORKS)


def test_evaluating_a_softmax_head_loads_scikit_learn_alone(tmp_path, invoke, fake_cache):
    done = invoke("train", fake_cache, tmp_path / "head", "--head", "softmax", "--tap", "features", "-p", "epochs=1")
    assert done.code == 0, done.err
    assert loaded_by("evaluate", tmp_path / "head", fake_cache) & set(FRAMEWORKS) == {"sklearn"}
    load = "import sys, heads; heads.TrainedHead.load(sys.argv[1])"
    assert loaded(load, tmp_path / "head").isdisjoint(FRAMEWORKS)


def test_a_prediction_that_is_refused_loads_no_framework(tmp_path, fake_head):
    code = "import featurecache.cli.app\ntry: featurecache.cli.app.main()\nexcept SystemExit as e: assert e.code == 1"
    assert loaded(code, "predict", fake_head, tmp_path / "nowhere.png").isdisjoint(FRAMEWORKS)


@pytest.mark.parametrize("line", ["export HEAD m.keras", "finetune HEAD photos m.keras --unfreeze block16"])
def test_a_model_that_is_refused_loads_no_framework(fake_head, line):
    code = "import featurecache.cli.app\ntry: featurecache.cli.app.main()\nexcept SystemExit as e: assert e.code == 1"
    assert loaded(code, *line.replace("HEAD", str(fake_head)).split()).isdisjoint(FRAMEWORKS)

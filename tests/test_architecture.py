"""The rules of the house: who imports whom, what is loaded when, and what no file may contain."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = {"tensorflow", "keras", "jax", "torch", "sklearn", "scipy", "matplotlib"}


def loaded_after(code):
    """Return the top-level modules that a fresh interpreter has loaded after some code."""
    code += "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_imports_point_one_way():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", ["featurecache", "heads", "scripts.cli"])
def test_importing_a_package_loads_no_framework(package):
    assert not loaded_after(f"import {package}") & (FRAMEWORKS | {"h5py"})


def test_every_public_name_can_be_imported():
    code = "import featurecache, heads\nfor p in (featurecache, heads):\n for n in p.__all__: getattr(p, n)"
    assert not loaded_after(code) & FRAMEWORKS


def test_opening_a_cache_loads_no_framework():
    assert not loaded_after("from featurecache import FeatureCache, extract; FeatureCache") & FRAMEWORKS


@pytest.mark.parametrize("package", ["featurecache", "heads", "scripts"])
def test_no_code_can_unpickle(package):
    allowed = {  # a model that this module has exported itself a moment before, and as a learner would load it
        ROOT / "scripts" / "lesson" / "exported.py": "keras.saving.load_model(file, safe_mode=True)"
    }
    banned = re.compile(  # Keras's load_model, not the one of ncnn's networks, which reads numbers alone
        r"\b(pickle|dill|cloudpickle|joblib\.load|allow_pickle\s*=\s*True|(?<!net\.)load_model|eval|exec)\b\s*[(.=]"
    )
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text("utf-8")
        assert not banned.search(text.replace(allowed[path], "") if path in allowed else text), path


def test_library_code_neither_prints_nor_exits():
    for package in ("featurecache", "heads"):
        for path in (ROOT / package).rglob("*.py"):
            assert not re.search(r"^\s*(print|exit|sys\.exit)\(", path.read_text("utf-8"), re.MULTILINE), path

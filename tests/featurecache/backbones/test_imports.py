"""What a fresh interpreter loads, and what reaches its standard error."""

import gc

import pytest

from featurecache.backbones.keras_runtime import without_collection

FRAMEWORKS = ("keras", "tensorflow", "jax", "torch", "numba", "openvino", "h5py", "sklearn")


@pytest.mark.parametrize(
    "module",
    [
        "catalog",
        "weights",
        "protocol",
        "fake",
        "keras_runtime",
        "network",
        "keras_engine",
        "openvino_network",
        "engines",
    ],
)
def test_importing_loads_no_framework(module, run_python):
    program = f"import sys, featurecache.backbones.{module}; print([m for m in {FRAMEWORKS} if m in sys.modules])"
    result = run_python(program)
    assert result.stdout.strip() == "[]", result.stderr


START = """
import numpy as np
from featurecache.backbones.catalog import find_network
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.weights import resolve_weights
row = find_network("mobilenet")
backbone = KerasBackbone(row, resolve_weights("random:0", row), batch_size=1)
print(backbone.forward(np.zeros((2, 224, 224, 3), np.uint8))["avg_pool"].shape)
"""


@pytest.mark.slow
def test_starting_up_is_silent(run_python):
    result = run_python(START)
    assert result.stdout.strip() == "(2, 1024)"
    assert result.stderr == ""


def test_what_is_said_in_earnest_while_starting_up_is_passed_on(run_python):
    program = """
import os, sys
from featurecache.backbones.keras_runtime import without_chatter
with without_chatter():
    os.write(2, b"I0000 00:00:1.2 1 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"E0000 00:00:1.2 1 cuda.cc:1] the driver is too old\\n")
    print("from Python", file=sys.stderr)
    os.write(2, b"no newline at the end")
print("after", file=sys.stderr)
"""
    result = run_python(program)
    assert result.returncode == 0
    assert result.stderr == (
        "E0000 00:00:1.2 1 cuda.cc:1] the driver is too old\nfrom Python\nno newline at the endafter\n"
    )


def test_what_was_said_before_a_crash_is_passed_on(run_python):
    program = """
import os
from featurecache.backbones.keras_runtime import without_chatter
with without_chatter():
    os.write(2, b"about to fail\\n")
    raise SystemExit(3)
"""
    result = run_python(program)
    assert (result.returncode, result.stderr) == (3, "about to fail\n")


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_garbage_is_collected_after_an_import_as_before_it(collects, frozen):
    def failing():
        with without_collection():
            assert not gc.isenabled()
            cycle = [object()]
            cycle.append(cycle)
            found.append(cycle)
            raise ImportError

    found, was_frozen = [], gc.get_freeze_count() > 0
    (gc.enable if collects else gc.disable)()
    (gc.freeze if frozen else gc.unfreeze)()
    try:
        with pytest.raises(ImportError):
            failing()
        assert gc.isenabled() == collects
        assert (gc.get_freeze_count() > 0) == frozen
        assert any(each is found[0] for each in gc.get_objects())  # it is not frozen, so that it is collected
    finally:
        gc.enable()
        (gc.freeze if was_frozen else gc.unfreeze)()

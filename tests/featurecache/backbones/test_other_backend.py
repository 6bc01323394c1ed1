"""The same numbers on another Keras backend, in a process that never loads TensorFlow."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

# jax is not imported here: in this process, it would take part in every later garbage collection
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")]

PROGRAM = """
import json, sys, warnings
import numpy as np
from featurecache.cli.console.quick_keras import start_keras_quickly
start_keras_quickly()  # as in commands
from featurecache.backbones.catalog import find_network
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.weights import resolve_weights
source, target = sys.argv[1:]
row = find_network("mobilenet_v2")
backbone = KerasBackbone(
    row, resolve_weights("random:0", row), taps=("avg_pool", "logits", "predictions"), batch_size=2
)
np.savez(target, **backbone.forward(np.load(source)))
print(json.dumps(dict(backbone.provenance) | {"tensorflow": "tensorflow" in sys.modules}))
"""


def test_jax_gives_the_features_of_tensorflow(run_python, photographs, weights_of, tmp_path):
    from featurecache.backbones.keras_engine import KerasBackbone

    images = photographs(3)
    np.save(tmp_path / "images.npy", images)
    result = run_python(PROGRAM, tmp_path / "images.npy", tmp_path / "jax.npz", KERAS_BACKEND="jax")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["backend"].startswith("jax ")
    assert said["tensorflow"] is False

    taps = ("avg_pool", "logits", "predictions")
    expected = KerasBackbone(*weights_of("mobilenet_v2"), taps=taps, batch_size=2).forward(images)
    with np.load(tmp_path / "jax.npz") as found:
        assert set(found) == set(expected)
        for tap, values in expected.items():
            assert found[tap].dtype == np.float32
            np.testing.assert_allclose(found[tap], values, rtol=1e-4, atol=1e-4 * np.abs(values).max())

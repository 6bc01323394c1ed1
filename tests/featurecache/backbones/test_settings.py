"""Settings of Keras and of other libraries: they neither change features nor end a command with a traceback.

``keras.json`` and environment variables are set as users leave them behind, in processes of their own.
"""

import json
import re
from importlib.util import find_spec

import numpy as np
import pytest

from featurecache.backbones import keras_runtime
from featurecache.backbones.keras_runtime import BACKENDS, fixed_settings
from featurecache.errors import EngineError

pytestmark = pytest.mark.slow

FEATURES = """
import json, sys, warnings
import numpy as np
from featurecache.cli.console.quick_keras import start_keras_quickly
start_keras_quickly()  # as in commands
from featurecache.backbones.catalog import find_network
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.weights import resolve_weights
images = np.load(sys.argv[1])
row = find_network("mobilenet_v2")
backbone = KerasBackbone(row, resolve_weights("random:0", row), taps=("avg_pool", "logits"), batch_size=2)
found = dict(backbone.forward(images))
provenance = dict(backbone.provenance)
if "numba" in sys.argv[3:]:
    from featurecache.backbones.numba_engine import NumbaBackbone
    row = find_network("vgg16")
    numba = NumbaBackbone(row, resolve_weights("random:0", row), taps=("block2_pool",), batch_size=2)
    found |= numba.forward(images)
    provenance = dict(numba.provenance)
    a = np.random.default_rng(0).random((64, 2048), np.float32)
    found["product"] = a @ np.random.default_rng(1).standard_normal((2048, 512), np.float32)  # as in dense layers
np.savez(sys.argv[2], **found)
print(json.dumps(provenance))
"""


@pytest.fixture(scope="session")
def features(run_python, photographs, tmp_path_factory):
    """Return a function that computes features in a process with these settings: taps to features, and provenance."""
    folder = tmp_path_factory.mktemp("settings")
    np.save(folder / "images.npy", photographs(2))

    def compute(*, keras_json=None, numba=False, **environment):
        home = tmp_path_factory.mktemp("keras")
        if keras_json is not None:
            (home / "keras.json").write_text(json.dumps(keras_json))
        target = home / "features.npz"
        result = run_python(
            FEATURES, folder / "images.npy", target, *["numba"] * numba, KERAS_HOME=str(home), **environment
        )
        assert result.returncode == 0, result.stderr
        with np.load(target) as found:
            return dict(found), json.loads(result.stdout)

    return compute


@pytest.fixture(scope="session")
def undisturbed(features):
    return features(numba=True)[0]


LESS_PRECISION = {
    "ONEDNN_DEFAULT_FPMATH_MODE": "ANY",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "TF_SET_ONEDNN_FPMATH_MODE": "BF16",
}
OVERRIDDEN = {
    "more precision by Keras, less by oneDNN": ({"floatx": "float64"}, LESS_PRECISION),
    "all others of Keras": (
        {
            "floatx": "float16",
            "image_data_format": "channels_first",
            "epsilon": 0.1,
            "dtype_policy": "float16",
            "no_such_setting": 1,
            "nnx_enabled": False,  # the module for JAX
        },
        {},
    ),
}


@pytest.mark.parametrize("case", OVERRIDDEN)
def test_neither_keras_json_nor_variables_of_precision_change_features(case, features, undisturbed):
    keras_json, variables = OVERRIDDEN[case]
    for tap, values in features(keras_json=keras_json, **variables)[0].items():
        np.testing.assert_array_equal(values, undisturbed[tap])


@pytest.mark.parametrize("floatx", ["float16", "float64"])
def test_networks_are_built_and_run_with_fixed_settings(floatx, weights_of, photographs):
    import keras

    from featurecache.backbones.keras_engine import KerasBackbone

    images = photographs(2)
    expected = KerasBackbone(*weights_of("mobilenet"), taps=("avg_pool",), batch_size=2).forward(images)["avg_pool"]
    keras.config.set_floatx(floatx)
    keras.config.set_epsilon(0.5)
    try:
        found = KerasBackbone(*weights_of("mobilenet"), taps=("avg_pool",), batch_size=2).forward(images)["avg_pool"]
        with fixed_settings("mixed_float16"):
            assert (keras.config.floatx(), keras.config.epsilon()) == ("float32", 1e-7)
            assert keras.config.dtype_policy().name == "mixed_float16"
        assert (keras.config.floatx(), keras.config.epsilon()) == (floatx, 0.5)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_epsilon(1e-7)
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(found, expected)


WITHOUT_EFFECT = {
    "KERAS_MAX_EPOCHS": "1",
    "KERAS_MAX_STEPS_PER_EPOCH": "1",
    "KERAS_NNX_ENABLED": "false",
    "KERAS_BACKEND": "tensorflow",
    "TF_USE_LEGACY_KERAS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "NUMBA_FASTMATH": "1",
    "NUMBA_BOUNDSCHECK": "1",
    "NUMBA_DISABLE_INTEL_SVML": "1",
    "NUMBA_SLP_VECTORIZE": "1",
}


def test_variables_that_change_no_feature(features, undisturbed):
    found, provenance = features(numba=True, **WITHOUT_EFFECT)
    for tap, values in found.items():
        np.testing.assert_allclose(values, undisturbed[tap], rtol=0, atol=1e-5 * np.abs(undisturbed[tap]).max())
    assert "environment" not in provenance


ROUNDING = {
    "of TensorFlow": {
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
        "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
        "TF_DETERMINISTIC_OPS": "1",
    },
    "of oneDNN, NumPy and numba": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "DNNL_MAX_CPU_ISA": "SSE41",  # its older name
        "NVIDIA_TF32_OVERRIDE": "0",
        "OPENBLAS_CORETYPE": "Haswell",
        "NUMBA_OPT": "1",
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_ENABLE_AVX": "0",
    },
}


@pytest.mark.parametrize("case", ROUNDING)
def test_variables_that_choose_other_machine_code_change_rounding_alone_and_are_recorded(case, features, undisturbed):
    found, provenance = features(numba=True, **ROUNDING[case])
    for tap, values in found.items():
        np.testing.assert_allclose(values, undisturbed[tap], rtol=0, atol=1e-5 * np.abs(undisturbed[tap]).max())
    assert recorded(provenance) == ROUNDING[case]


def recorded(provenance):
    """Return the variables that a provenance names."""
    text, found = provenance["environment"], {}
    while text:
        name, value, text = re.fullmatch(r"([A-Z_0-9]+)=(.*?)(?: (?=[A-Z_0-9]+=)(.*))?", text).groups()
        found[name] = value
    return found


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
def test_variables_of_jax_change_rounding_alone_and_are_recorded(features, undisturbed):
    variables = {
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
        "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
    }
    found, provenance = features(KERAS_BACKEND="jax", **variables)
    for tap, values in found.items():
        np.testing.assert_allclose(values, undisturbed[tap], rtol=0, atol=1e-4 * np.abs(undisturbed[tap]).max())
    assert recorded(provenance) == variables


def test_numba_that_does_not_compile_is_not_used(run_python):
    program = """
from featurecache.backbones.catalog import find_network
from featurecache.backbones.engines import start_engine
from featurecache.backbones.weights import resolve_weights
row = find_network("vgg16")
weights = resolve_weights("random:0", row)
start_engine("numba", row, weights, taps=("fc2",), batch_size=1, precision="float32", device="cpu")
"""
    result = run_python(program, NUMBA_DISABLE_JIT="1")
    assert "EngineError: numba cannot be loaded (NUMBA_DISABLE_JIT is set" in result.stderr.splitlines()[-1]


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Return a function that gives the one-line error for a ``keras.json``, and its path."""
    monkeypatch.delenv("KERAS_BACKEND", raising=False)

    def why(content):
        file = tmp_path / "keras.json"
        file.write_text(content)
        with pytest.raises(EngineError) as caught:
            keras_runtime._require_settings(file)
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 300
        return message, file

    return why


@pytest.mark.parametrize(
    ("content", "setting", "expected"),
    [
        ('{"floatx": "bfloat16"}', "'bfloat16'", "one of float16, float32, float64"),
        ('{"floatx": []}', "[]", "one of float16"),
        ('{"epsilon": 1}', '"epsilon"', "a number with a decimal point"),
        ('{"epsilon": "1e-7"}', '"epsilon"', "a number with a decimal point"),
        ('{"image_data_format": "tf"}', '"image_data_format"', "one of channels_last, channels_first"),
        ('["tensorflow"]', "['tensorflow']", "a JSON object"),
        ("3", "are 3", "a JSON object"),
    ],
)
def test_a_malformed_keras_json_is_named_with_its_setting(content, setting, expected, refused):
    message, file = refused(content)
    for part in (str(file), setting, f"expected {expected}", "correct or delete the file"):
        assert part in message


@pytest.mark.parametrize("backend", ["theano", "mxnet", "openvino", "numpy", "Tensorflow", None, 7, ["jax"]])
def test_an_unknown_backend_is_named_with_its_place(backend, refused):
    message, file = refused(json.dumps({"backend": backend}))
    assert message.startswith(f'"backend" in {file} names the Keras backend {backend!r}')
    assert message.endswith("expected tensorflow, jax or torch")
    assert ("did you mean 'tensorflow'" in message) == (backend == "Tensorflow")


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_a_backend_that_is_not_installed_is_named_with_its_place(name, refused, monkeypatch):
    monkeypatch.setattr(keras_runtime, "find_spec", lambda _: None)
    message, _ = refused(json.dumps({"backend": name}))
    assert f"the Keras backend '{name}', which is not installed" in message
    monkeypatch.setenv("KERAS_BACKEND", name)
    message, _ = refused("{}")
    assert message.startswith(f"the environment variable KERAS_BACKEND names the Keras backend '{name}', which is not")


def test_the_environment_comes_before_the_file(tmp_path, monkeypatch):
    (tmp_path / "keras.json").write_text('{"backend": "theano"}')
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    keras_runtime._require_settings(tmp_path / "keras.json")


@pytest.mark.parametrize("content", [None, "", "{", "{'backend': 'theano'}", "\x00"])
def test_a_file_that_keras_ignores_is_no_error(content, tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if content is not None:
        (tmp_path / "keras.json").write_text(content)
    keras_runtime._require_settings(tmp_path / "keras.json")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "keras.json").mkdir()
    with pytest.raises(EngineError, match=r"keras\.json cannot be read: is a directory; .*KERAS_HOME"):
        keras_runtime._require_settings(tmp_path / "keras.json")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"KERAS_BACKEND": "theano"}, ["the environment variable KERAS_BACKEND names the Keras backend 'theano'"]),
        ({"KERAS_MAX_EPOCHS": "many"}, ["Keras cannot start (ValueError", "'many'", "KERAS_MAX_EPOCHS"]),
        ({"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "abacus"}, ["Keras cannot start", "abacus", "JAX_PLATFORMS"]),
    ],
)
def test_what_keeps_keras_from_starting_is_said_in_one_line(environment, words, run_python):
    program = "from featurecache.backbones.keras_runtime import load_keras; load_keras()"
    result = run_python(program, **environment)
    last = result.stderr.splitlines()[-1]
    assert last.startswith("featurecache.errors.EngineError: ")
    for word in words:
        assert word in last

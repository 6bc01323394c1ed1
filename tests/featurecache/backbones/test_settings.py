"""Settings of Keras and of other libraries: they neither change features nor end a command with a traceback.

``keras.json`` and environment variables are set as users leave them behind, in processes of their own.
"""

import json
import re
import threading
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from featurecache.backbones import keras_runtime
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.keras_runtime import BACKENDS, fixed_settings, load_keras, products
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
    del variables["JAX_DEFAULT_MATMUL_PRECISION"]  # which has no effect
    assert recorded(provenance) == variables


TF32 = {"float32": False, "mixed": False, "tf32": True}


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("precision", TF32)
def test_passes_on_tensorflow_have_their_own_precision_of_products(
    precision, before, weights_of, photographs, monkeypatch
):
    import tensorflow

    config, seen = tensorflow.config.experimental, []
    convert = load_keras().ops.convert_to_numpy

    def convert_to_numpy(values):
        seen.append(config.tensor_float_32_execution_enabled())
        return convert(values)

    monkeypatch.setattr(load_keras().ops, "convert_to_numpy", convert_to_numpy)
    backbone = KerasBackbone(*weights_of("mobilenet"), taps=("avg_pool",), batch_size=2, precision=precision)
    seen.clear()
    default = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(before)
    try:
        backbone.forward(photographs(2))
        assert config.tensor_float_32_execution_enabled() == before
    finally:
        config.enable_tensor_float_32_execution(default)
    assert seen == [TF32[precision]]


PRODUCTS_OF_JAX = """
import jax, keras, numpy as np
from featurecache.backbones.keras_runtime import compiled
texts = []
compile = jax.stages.Lowered.compile
jax.stages.Lowered.compile = lambda self: (texts.append(self.as_text()), compile(self))[1]
layers = [keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
model = keras.Sequential(layers)
for precision in ("float32", "tf32"):
    forward = compiled(model, lambda x: keras.ops.cast(x, "float32"), lambda y: {"tap": y}, (1, 4, 4, 3), precision)
    forward(np.ones((1, 4, 4, 3), np.uint8))
    print(*(texts[-1].count(f"precision {name}>") for name in ("HIGHEST", "HIGH", "DEFAULT")))
print(jax.config.jax_default_matmul_precision)
"""


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
def test_passes_on_jax_are_compiled_with_their_own_precision_of_products(run_python):
    result = run_python(PRODUCTS_OF_JAX, KERAS_BACKEND="jax", JAX_DEFAULT_MATMUL_PRECISION="bfloat16")
    assert result.returncode == 0, result.stderr
    exact, rounded, after = result.stdout.splitlines()
    count, *others = map(int, exact.split())
    assert count >= 2  # of the convolution and of the dense layer
    assert others == [0, 0]
    assert rounded == f"0 {count} 0"
    assert after == "bfloat16"


@pytest.fixture
def torch_backends(monkeypatch):
    """Stand in for PyTorch, and return where it keeps the precision of products."""
    places = {name: SimpleNamespace(fp32_precision="none") for name in ("cuda", "cudnn", "matmul", "conv")}
    backends = SimpleNamespace(
        cuda=SimpleNamespace(matmul=places["cuda"]),
        cudnn=SimpleNamespace(conv=places["cudnn"]),
        mkldnn=SimpleNamespace(matmul=places["matmul"], conv=places["conv"]),
        fp32_precision="none",
    )
    torch = SimpleNamespace(backends=backends, __version__="2.8.0")
    keras = SimpleNamespace(backend=SimpleNamespace(backend=lambda: "torch"))
    monkeypatch.setattr(keras_runtime, "load_keras", lambda: keras)
    monkeypatch.setattr(keras_runtime, "import_module", {"torch": torch}.__getitem__)
    return places


def test_a_pytorch_that_cannot_be_told_to_compute_in_float32_is_refused(torch_backends):
    del keras_runtime.import_module("torch").backends.fp32_precision
    with pytest.raises(EngineError, match=r"^PyTorch 2.8.0 is too old, expected 2.9 or newer; pip install -U torch$"):
        fail("float32")
    assert set(values_of(torch_backends).values()) == {"none"}


def values_of(places):
    return {name: place.fp32_precision for name, place in places.items()}


def test_passes_on_pytorch_have_their_own_precision_of_products(torch_backends):
    before = {"cuda": "tf32", "cudnn": "none", "matmul": "bf16", "conv": "none"}
    for name, value in before.items():
        torch_backends[name].fp32_precision = value
    with products("float32"):
        assert values_of(torch_backends) == dict.fromkeys(before, "ieee")
    assert values_of(torch_backends) == before
    with products("tf32"):
        assert values_of(torch_backends) == {"cuda": "tf32", "cudnn": "tf32", "matmul": "ieee", "conv": "ieee"}
    assert values_of(torch_backends) == before


def fail(precision):
    with products(precision):
        raise KeyError


def test_a_pass_that_fails_leaves_the_setting_as_it_was(torch_backends):
    with pytest.raises(KeyError):
        fail("tf32")
    assert set(values_of(torch_backends).values()) == {"none"}
    with products("float32"):
        assert set(values_of(torch_backends).values()) == {"ieee"}


@pytest.mark.usefixtures("torch_backends")
def test_passes_share_a_precision_and_wait_for_another_one(torch_backends):
    events = []

    def enter(precision, began, may_end):
        with products(precision):
            events.append(precision)
            began.set()
            assert may_end.wait(20)
            assert torch_backends["cuda"].fp32_precision == {"float32": "ieee", "tf32": "tf32"}[precision]

    def thread(precision):
        began, may_end = threading.Event(), threading.Event()
        made = threading.Thread(target=enter, args=(precision, began, may_end))
        made.start()
        return made, began, may_end

    first, began, end_first = thread("float32")
    assert began.wait(20)
    second, began, end_second = thread("float32")
    assert began.wait(20)
    other, began, end_other = thread("tf32")
    end_first.set()
    first.join(20)
    assert not began.wait(0.2)
    assert torch_backends["cuda"].fp32_precision == "ieee"
    end_second.set()
    assert began.wait(20)
    end_other.set()
    for made in (second, other):
        made.join(20)
        assert not made.is_alive()
    assert events == ["float32", "float32", "tf32"]
    assert set(values_of(torch_backends).values()) == {"none"}


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

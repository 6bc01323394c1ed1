"""The Keras engine: taps, precision, device, compilation."""

import threading
import time

import numpy as np
import pytest

from featurecache.backbones import keras_engine
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.keras_runtime import is_out_of_memory
from featurecache.errors import DeviceError, UnknownNameError
from featurecache.prefetch import ahead

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mobilenet(weights_of):
    return KerasBackbone(*weights_of("mobilenet_v2"), batch_size=2)


@pytest.mark.parametrize("tap", ["avg_pool", "logits"])
def test_one_tap_alone_is_what_it_is_among_others(weights_of, photographs, tap):
    images = photographs(2)
    alone = KerasBackbone(*weights_of("mobilenet"), taps=(tap,), batch_size=2).forward(images)
    among = KerasBackbone(*weights_of("mobilenet"), taps=("avg_pool", "logits", "predictions"), batch_size=2)
    np.testing.assert_array_equal(alone[tap], among.forward(images)[tap])


def test_the_network_is_traced_once_for_one_batch_shape(weights_of, photographs, monkeypatch):
    from keras.applications import imagenet_utils

    shapes = []
    preprocess = imagenet_utils.preprocess_input

    def counting(images, **options):
        shapes.append(tuple(images.shape))
        return preprocess(images, **options)

    monkeypatch.setattr(imagenet_utils, "preprocess_input", counting)
    backbone = KerasBackbone(*weights_of("mobilenet"), batch_size=2)
    for n in (1, 2, 3, 5):
        backbone.forward(photographs(n))
    assert shapes == [(2, 224, 224, 3)]


def test_batch_size_changes_features_by_rounding_only(mobilenet, weights_of, photographs):
    images = photographs(3)
    other = KerasBackbone(*weights_of("mobilenet_v2"), batch_size=3).forward(images)
    for tap, values in mobilenet.forward(images).items():
        np.testing.assert_allclose(other[tap], values, rtol=1e-4, atol=1e-5 * np.abs(values).max())


@pytest.mark.parametrize("batch_size", [5, 32])
def test_an_image_gets_the_same_bits_at_every_place_of_a_batch(weights_of, photographs, batch_size):
    backbone = KerasBackbone(*weights_of("mobilenet_v2"), taps=("avg_pool", "predictions"), batch_size=batch_size)
    for image in photographs(3):
        for values in backbone.forward(image[None].repeat(batch_size, axis=0)).values():
            np.testing.assert_array_equal(values, values[:1].repeat(batch_size, axis=0))


def test_mixed_precision_computes_in_half_and_answers_in_full(mobilenet, weights_of, photographs):
    import keras

    before = keras.config.dtype_policy().name
    images = photographs(2)
    options = {"taps": ("avg_pool", "predictions"), "batch_size": 2, "precision": "mixed", "device": "cpu"}
    said = []
    mixed = KerasBackbone(*weights_of("mobilenet_v2"), **options, notify=said.append)
    assert said == ["computing in float16 on a CPU, which is slower than float32"]
    assert keras.config.dtype_policy().name == before == "float32"
    assert mixed.spec.precision == "mixed"
    for tap, values in mobilenet.forward(images).items():
        found = mixed.forward(images)[tap]
        assert found.dtype == np.float32
        error = np.linalg.norm(found - values) / np.linalg.norm(values)
        assert 1e-5 < error < 0.05, (tap, error)


def test_the_users_keras_settings_are_neither_used_nor_changed(mobilenet, weights_of, photographs):
    import keras

    images = photographs(2)
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = KerasBackbone(*weights_of("mobilenet_v2"), batch_size=2).forward(images)
        assert keras.config.image_data_format() == "channels_first"
        assert keras.config.floatx() == "float64"
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    for tap, values in mobilenet.forward(images).items():
        np.testing.assert_array_equal(found[tap], values)


def test_a_gpu_that_is_not_there_is_an_error_with_a_remedy(weights_of):
    import tensorflow

    if tensorflow.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match=r"tensorflow finds no GPU; .*--device cpu"):
        KerasBackbone(*weights_of("mobilenet"), device="gpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpus"}, "unknown device 'gpus'; did you mean 'gpu'"),
        ({"precision": "mixe"}, "unknown precision 'mixe'; did you mean 'mixed'"),
        ({"taps": ("avgpool",)}, "unknown tap of mobilenet 'avgpool'; did you mean 'avg_pool'"),
    ],
)
def test_unknown_options_come_with_the_close_match(weights_of, options, message):
    with pytest.raises(UnknownNameError, match=message):
        KerasBackbone(*weights_of("mobilenet"), **options)


def test_provenance_says_what_runs_it(mobilenet):
    import keras
    import tensorflow

    assert dict(mobilenet.provenance) == {
        "engine": "keras",
        "keras": keras.__version__,
        "backend": f"tensorflow {tensorflow.__version__}",
        "device": "gpu" if tensorflow.config.list_physical_devices("GPU") else "cpu",
        "batch_size": "2",
    }


@pytest.fixture
def scarce(weights_of, monkeypatch):
    """A backbone on a device whose memory suffices for so many images at a time, and what it says."""

    def make(suffices, batch_size):
        import tensorflow

        compiled = keras_engine.compiled

        def stingy(model, before, after, shape, precision):
            run = compiled(model, before, after, shape, precision)

            def forward(images):
                if len(images) > suffices:
                    raise tensorflow.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
                return run(images)

            return forward

        said = []
        monkeypatch.setattr(keras_engine, "compiled", stingy)
        return KerasBackbone(*weights_of("mobilenet_v2"), batch_size=batch_size, notify=said.append), said

    return make


def test_a_device_without_memory_for_a_batch_goes_on_with_half_of_it(scarce, mobilenet, photographs):
    backbone, said = scarce(2, 8)
    images = photographs(5)
    found, expected = backbone.forward(images), mobilenet.forward(images)
    for tap, values in expected.items():
        np.testing.assert_allclose(found[tap], values, rtol=1e-4, atol=1e-6)
    assert [line.rpartition(": ")[2] for line in said] == ["continuing with 4", "continuing with 2"]
    assert backbone.provenance["batch_size"] == "2"
    backbone.forward(images)
    assert len(said) == 2


def test_a_device_without_memory_for_one_image_is_an_error_with_a_remedy(scarce, photographs):
    backbone, _ = scarce(0, 2)
    with pytest.raises(DeviceError, match=r"memory does not suffice for one image: .*--device cpu"):
        backbone.forward(photographs(1))


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [(8, []), (4, []), (5, []), (3, ["continuing with 2"]), (1, ["continuing with 2", "continuing with 1"])],
)
def test_a_pass_that_does_not_fit_beside_another_is_made_alone_before_batches_become_smaller(
    capacity, expected, weights_of, monkeypatch
):
    import tensorflow

    lock, used = threading.Lock(), [0]

    def compiled(_model, _before, _after, shape, _precision):
        def forward(images):
            with lock:
                if used[0] + shape[0] > capacity:
                    raise tensorflow.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
                used[0] += shape[0]
            time.sleep(0.02)
            with lock:
                used[0] -= shape[0]
            return {"avg_pool": images[:, 0, 0].astype(np.float32)}

        return forward

    monkeypatch.setattr(keras_engine, "compiled", compiled)
    said = []
    backbone = KerasBackbone(*weights_of("mobilenet_v2"), taps=("avg_pool",), batch_size=4, notify=said.append)
    images = np.arange(20 * 3, dtype=np.uint8).reshape(20, 1, 1, 3) * np.ones((1, 224, 224, 1), np.uint8)
    batches = [images[start : start + 4] for start in range(0, 20, 4)]
    found = list(ahead(backbone.forward, batches, workers=2, window=3))
    np.testing.assert_array_equal(np.concatenate([each["avg_pool"] for each in found]), images[:, 0, 0])
    assert [line.rpartition(": ")[2] for line in said] == expected
    assert backbone.batch_size == (int(expected[-1].split()[-1]) if expected else 4)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), True),  # PyTorch's
        (type("XlaRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"), True),
        (RuntimeError("INTERNAL: something else"), False),
        (ValueError("RESOURCE"), False),
    ],
)
def test_what_backends_say_of_memory_is_understood(error, expected):
    assert is_out_of_memory(error) == expected

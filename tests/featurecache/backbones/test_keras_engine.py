"""The Keras engine: taps, precision, device, compilation."""

import numpy as np
import pytest

from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.errors import DeviceError, UnknownNameError


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
    from keras.applications import mobilenet

    shapes = []
    preprocess = mobilenet.preprocess_input

    def counting(images, **options):
        shapes.append(tuple(images.shape))
        return preprocess(images, **options)

    monkeypatch.setattr(mobilenet, "preprocess_input", counting)
    backbone = KerasBackbone(*weights_of("mobilenet"), batch_size=2)
    for n in (1, 2, 3, 5):
        backbone.forward(photographs(n))
    assert shapes == [(2, 224, 224, 3)]


def test_batch_size_changes_features_by_rounding_only(mobilenet, weights_of, photographs):
    images = photographs(3)
    other = KerasBackbone(*weights_of("mobilenet_v2"), batch_size=3).forward(images)
    for tap, values in mobilenet.forward(images).items():
        np.testing.assert_allclose(other[tap], values, rtol=1e-4, atol=1e-5 * np.abs(values).max())


def test_mixed_precision_computes_in_half_and_answers_in_full(mobilenet, weights_of, photographs):
    import keras

    before = keras.config.dtype_policy().name
    images = photographs(2)
    mixed = KerasBackbone(
        *weights_of("mobilenet_v2"), taps=("avg_pool", "predictions"), batch_size=2, precision="mixed"
    )
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

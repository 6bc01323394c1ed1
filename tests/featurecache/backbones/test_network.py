"""Networks as Keras models: random weights, descriptions, and models from raw pixels to a tap."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from featurecache.backbones import network as network_module
from featurecache.backbones import vgg
from featurecache.backbones.catalog import find_network
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.network import _preprocessed, build, describe_network, from_pixels
from featurecache.errors import EngineError

pytestmark = pytest.mark.slow

# what `random:0` has always drawn: recorded features depend on it; a network of each kind of layers
DRAWN = {
    "vgg16": "6b86031496188c5445a4a049f0ade8f02add72082c5c9c4f3fd22caaa0544316",
    "vgg19": "f1a9d6ff3a1d9ecfe622a0c371326aab11b962e6e7df0777557479dee27b8302",
    "mobilenet_v2": "aa875c4a757bfb4b9cb1a8314f1602bffd3de55bc168d349366edf2c5115af5b",
    "mobilenet": "c98d90217fd285d77222d13cf8bfce56052e0c3a29e0c332a04f02a6c8ad97ae",
    "resnet50": "7f3c47fac67cbb6e3816e8566da81df111fbd47e2a602680bd31a03ba003b2e5",
    "efficientnet_b0": "6e5962f17788604d150a93d346c1a0692f33c4fa57b99966dad3d76ef2bd0037",
    "convnext_tiny": "854cdd08e2dce1dd1da89fb0b61eecc8932ddc2240d87a63de8db491a5532d64",
    "mobilenet_v3_small": "f28089df3f8a6f6f7aca0abcf83410d9a27cfe1582d695e785077f31b6b5a694",
    "xception": "b80022cf09b1243e1002f527e35f64f8dcebca6a34d91874d561809e1c04ebd0",
}
LARGE = {"vgg16", "vgg19"}  # their dense layers are made for images of one size; all others get smaller ones


def digest(network):
    """Return one number for all weights of a network, in the order of its layers."""
    return digest_of(layer.get_weights() for layer in network.layers)


def digest_of(layers):
    """Return one number for the arrays of all layers; of large ones every 97th value counts."""
    sha256 = hashlib.sha256()
    for layer in layers:
        for values in layer:
            flat = np.ravel(values)
            sha256.update(flat[:: 97 if flat.size > 1_000_000 else 1].astype("<f4").tobytes())
    return sha256.hexdigest()


def of_size(row):
    return row if row.name in LARGE else replace(row, input_size=(96, 96))


@pytest.mark.parametrize("name", DRAWN)
def test_random_weights_are_what_they_always_were_and_make_usable_features(name, weights_of, photographs, monkeypatch):
    row, weights = weights_of(name)
    row = of_size(row)
    network = build(row, weights)
    assert digest(network) == DRAWN[name]
    monkeypatch.setattr(network_module, "build", lambda *_, **__: network)  # once is enough

    images, taps = photographs(5, row.input_size), (*row.default_taps, "logits")
    if name == "xception":  # without batch statistics its sums grow, so that its probabilities are close to 0 and 1
        taps = ("avg_pool", "logits")
    for tap, values in KerasBackbone(row, weights, taps=taps, batch_size=5).forward(images).items():
        assert np.isfinite(values).all(), tap
        size = np.abs(values).mean()
        assert 5e-4 < size < 100, (tap, size)
        assert values.std(axis=0).mean() / size > 0.01, tap  # images differ
        assert values.std(axis=1).mean() / size > 0.01, tap  # features differ
        assert (values == 0).all(axis=0).mean() < 0.6, tap  # units that are dead for all images


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_without_keras_random_weights_are_the_same(name, weights_of):
    row, weights = weights_of(name)
    assert digest_of(vgg.weights_of(row, weights, len(vgg.layers_of(row)))) == DRAWN[name]


def test_a_seed_gives_the_same_weights_and_another_seed_gives_others(weights_of):
    digests = [digest(build(*weights_of("mobilenet", f"random:{seed}"))) for seed in (3, 3, 4)]
    assert digests[0] == digests[1] != digests[2]


def test_random_weights_do_not_depend_on_global_seeds(weights_of):
    import keras

    found = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        found.append(digest(build(*weights_of("mobilenet"))))
    assert found[0] == found[1] == DRAWN["mobilenet"]


@pytest.mark.parametrize(
    "make", [lambda row: build(*row), lambda row: describe_network(row[0])], ids=["build", "describe"]
)
def test_keras_draws_no_kernels_that_are_replaced(make, weights_of, monkeypatch):
    import keras

    def draw(*_, **__):
        raise AssertionError("a kernel was drawn")

    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", draw)
    make(weights_of("mobilenet_v2"))


def test_description_of_vgg16():
    layers = describe_network(find_network("vgg16"))
    assert len(layers) == 23
    assert sum(layer.parameters for layer in layers) == 138_357_544
    assert [layer.tap for layer in layers] == ["", *(layer.name for layer in layers[1:])]
    by_name = {layer.name: layer for layer in layers}
    assert (layers[0].kind, layers[0].output_shape, layers[0].activation) == ("InputLayer", (224, 224, 3), "")
    first = by_name["block1_conv1"]
    assert (first.kind, first.output_shape, first.parameters) == ("Conv2D", (224, 224, 64), 1792)
    assert by_name["block5_pool"].output_shape == (7, 7, 512)
    assert (by_name["fc1"].output_shape, by_name["fc1"].parameters) == ((4096,), 102_764_544)
    activations = {layer.kind: layer.activation for layer in layers[:-1]}
    assert activations == {"InputLayer": "", "Conv2D": "relu", "MaxPooling2D": "", "Flatten": "", "Dense": "relu"}
    assert layers[-1].activation == "softmax"


@pytest.mark.parametrize("name", ["mobilenet", "resnet50", "convnext_tiny"])
def test_description_of_other_networks(name):
    import keras

    row = find_network(name)
    layers = describe_network(row)
    network = getattr(keras.applications, row.constructor)(weights=None)
    assert [layer.kind for layer in layers] == [type(layer).__name__ for layer in network.layers]
    assert sum(layer.parameters for layer in layers) == network.count_params()
    assert [layer.tap for layer in layers if layer.tap] == [tap for tap in row.taps if tap != "logits"]
    assert layers[-1].activation == "softmax"
    for layer in layers:
        if layer.tap:
            assert np.prod(layer.output_shape) == row.taps[layer.tap]


@pytest.mark.parametrize(
    ("name", "tap"),
    [
        ("vgg16", "fc1"),  # block5_pool: tests/heads/exporting/test_export.py
        ("mobilenet", "avg_pool"),
        ("mobilenet_v2", "predictions"),
        ("resnet50", "logits"),
        ("efficientnet_b0", "avg_pool"),
        ("convnext_tiny", "convnext_tiny_head_layernorm"),
        ("mobilenet_v3_small", "predictions"),
    ],
)
def test_a_model_from_pixels_gives_what_the_engine_gives(name, tap, weights_of, smaller_vgg, photographs):
    row, weights = smaller_vgg(name) if name in LARGE else weights_of(name)
    row = of_size(row)
    images = photographs(3, row.input_size)
    expected = KerasBackbone(row, weights, taps=(tap,), batch_size=3).forward(images)[tap]
    model = from_pixels(row, weights, tap)
    found = model.predict_on_batch(images)
    assert model.input.dtype == "uint8"
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "tap"), [("mobilenet", "predictions"), ("efficientnet_b0", "predictions")])
def test_a_model_from_pixels_is_in_training_what_it_is_in_inference(name, tap, weights_of, photographs):
    import keras

    model = from_pixels(*weights_of(name), tap)  # there are batch normalisation and dropout below this tap
    images = photographs(2)
    still, training = (keras.ops.convert_to_numpy(model(images, training=each)) for each in (False, True))
    np.testing.assert_array_equal(training, still)


def test_a_model_from_pixels_does_not_follow_the_users_keras_settings(weights_of, photographs):
    import keras

    images = photographs(2)
    expected = from_pixels(*weights_of("mobilenet"), "avg_pool").predict_on_batch(images)
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = from_pixels(*weights_of("mobilenet"), "avg_pool").predict_on_batch(images)
    finally:
        keras.config.set_image_data_format("channels_last")
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(found, expected)


def test_an_unknown_preprocessing_is_refused():
    unknown = replace(find_network("vgg16"), preprocessing="pytorch")
    with pytest.raises(EngineError, match="has the preprocessing 'pytorch'; known are caffe, tf, torch, unit, none, "):
        _preprocessed(unknown, None)

"""VGG16 with random weights against plain NumPy, and against Keras's own network, on images of 64 x 64 pixels."""

import numpy as np
import pytest

from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.network import build

TAPS = ("block5_pool", "fc1", "fc2", "logits", "predictions")
TOLERANCE = 1e-4


def relative_error(found, expected):
    """Return the largest difference, relative to the largest value of the row."""
    return (np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max()


def convolve(images, kernel, bias):
    """3x3 convolution with zero padding and ReLU: nine shifted matrix products."""
    n, height, width, channels = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((n * height * width, kernel.shape[-1]), images.dtype)
    for row in range(3):
        for column in range(3):
            shifted = padded[:, row : row + height, column : column + width]
            out += shifted.reshape(-1, channels) @ kernel[row, column]
    return np.maximum(out + bias, 0).reshape(n, height, width, -1)


def pool(images):
    """2x2 maximum."""
    n, height, width, channels = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def vgg16_in_numpy(images, weights):
    """VGG16 as Simonyan and Zisserman (2015) describe it, on RGB bytes; weights by layer name."""
    out = {}
    x = images[..., [2, 1, 0]].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for convolution in range(1, convolutions + 1):
            x = convolve(x, *weights(f"block{block}_conv{convolution}"))
        x = pool(x)
    x = out["block5_pool"] = x.reshape(len(x), -1)
    for layer in ("fc1", "fc2"):
        kernel, bias = weights(layer)
        x = out[layer] = np.maximum(x @ kernel + bias, 0)
    kernel, bias = weights("predictions")
    out["logits"] = x @ kernel + bias
    powers = np.exp(out["logits"].astype(np.float64))
    return out | {"predictions": powers / powers.sum(axis=1, keepdims=True)}


@pytest.fixture(scope="module")
def images(photographs):
    return photographs(3, (64, 64))[1:]


@pytest.fixture(scope="module")
def features(smaller_vgg, images, release_memory):
    found = KerasBackbone(*smaller_vgg("vgg16"), taps=TAPS, batch_size=2).forward(images)
    release_memory()
    return found


@pytest.fixture(scope="module")
def keras_network(smaller_vgg, tmp_path_factory, release_memory):
    """Keras's network with its own softmax, and the same weights; by way of a file, so that one is there at a time."""
    import keras

    path = tmp_path_factory.mktemp("fidelity") / "vgg16.weights.h5"
    build(*smaller_vgg("vgg16")).save_weights(path)
    release_memory()
    with keras.utils.custom_object_scope({"glorot_uniform": keras.initializers.Zeros}):  # drawing takes 800 MB
        network = keras.applications.VGG16(weights=str(path), input_shape=(64, 64, 3))
    path.unlink()
    release_memory()
    return network


def test_every_tap_equals_plain_numpy(features, keras_network, images):
    expected = vgg16_in_numpy(images, lambda name: keras_network.get_layer(name).get_weights())
    errors = {tap: relative_error(features[tap], expected[tap]) for tap in TAPS}
    assert max(errors.values()) < TOLERANCE, errors


def test_predictions_equal_those_of_keras(features, keras_network, images):
    import keras

    preprocessed = keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    expected = keras.ops.convert_to_numpy(keras_network(preprocessed, training=False))
    np.testing.assert_allclose(features["predictions"], expected, rtol=1e-5)

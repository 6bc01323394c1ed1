"""The filters of a first layer: those of the network that Keras runs, in the colours that it is shown."""

import subprocess
import sys

import numpy as np
import pytest

from featurecache.backbones.catalog import find_network
from featurecache.backbones.filters import first_filters
from featurecache.backbones.network import build
from featurecache.backbones.numba_engine import NumbaBackbone
from featurecache.backbones.weights import resolve_weights
from featurecache.errors import WeightsError

SHAPES = {
    "vgg16": (3, 3, 3, 64),
    "vgg19": (3, 3, 3, 64),
    "mobilenet_v2": (3, 3, 3, 32),
    "mobilenet": (3, 3, 3, 32),
    "resnet50": (7, 7, 3, 64),
    "efficientnet_b0": (3, 3, 3, 32),
    "convnext_tiny": (4, 4, 3, 96),  # inside a nested network
}


def random(name, seed=0):
    row = find_network(name)
    return row, resolve_weights(f"random:{seed}", row)


@pytest.mark.parametrize("name", SHAPES)
def test_every_kind_of_network_has_filters_of_three_colours(name):
    filters = first_filters(*random(name))
    assert filters.shape == SHAPES[name]
    assert np.isfinite(filters).all()
    assert filters.std(axis=(0, 1, 2)).min() > 0


def test_other_seeds_give_other_filters_and_the_same_seed_the_same():
    first, again, other = (first_filters(*random("vgg16", seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@pytest.fixture(scope="module")
def first_layer():
    """VGG16's first layer, from two raw images."""
    network = NumbaBackbone(*random("vgg16"), taps=("block1_conv1",), batch_size=2)
    return lambda pictures: network.forward(pictures)["block1_conv1"].reshape(2, 224, 224, 64)


@pytest.mark.parametrize("colour", [0, 1, 2])
def test_a_filter_of_vgg16_answers_to_a_colour_of_a_picture_as_its_weights_for_that_colour_say(first_layer, colour):
    """VGG16 takes BGR; a picture given as RGB tells which weights are for red."""
    filters = first_filters(*random("vgg16"))
    pictures = np.full((2, 224, 224, 3), 200, np.uint8)
    pictures[1, ..., colour] += 50
    activations = first_layer(pictures)[:, 100, 100]
    active = (activations > 0).all(axis=0)  # beyond its relu a filter tells nothing
    assert active.sum() > 10
    expected = 50 * filters[:, :, colour].sum(axis=(0, 1))
    np.testing.assert_allclose((activations[1] - activations[0])[active], expected[active], rtol=1e-3, atol=1e-2)


def test_filters_come_from_a_weight_file(tmp_path):
    row, weights = random("mobilenet_v2", seed=7)
    network = build(row, weights)
    path = tmp_path / "m.weights.h5"
    network.save_weights(path)
    found = first_filters(row, resolve_weights(str(path), row))
    np.testing.assert_array_equal(found, network.get_layer("Conv1").get_weights()[0])
    with pytest.raises(WeightsError, match="is not a weight file of vgg16"):  # of another network
        first_filters(find_network("vgg16"), resolve_weights(str(path), find_network("vgg16")))


def test_those_of_a_vgg_network_need_no_framework():
    code = (
        "import sys; from featurecache.backbones.catalog import find_network; "
        "from featurecache.backbones.filters import first_filters; "
        "from featurecache.backbones.weights import resolve_weights; "
        "row = find_network('vgg16'); first_filters(row, resolve_weights('random:0', row)); "
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

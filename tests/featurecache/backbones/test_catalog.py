"""The catalogue's data against Keras itself."""

from dataclasses import replace

import numpy as np
import pytest

from featurecache.backbones.catalog import NETWORKS, find_network
from featurecache.errors import UnknownNameError
from featurecache.options import PRECISIONS, PREPROCESSING

_INPUT_OPEN = {"mobilenet_v3": {"input_shape": (224, 224, 3)}}  # Keras leaves it open by default, with a warning

every_row = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS])
def built(request):
    """Each network as Keras builds it for ImageNet, with what Keras would have fetched: row, network, request.

    Its weights have shapes, but no values: they take neither time nor memory.
    """
    import keras
    from keras.src.utils import file_utils

    row = find_network(request.param)
    asked = {}

    def get_file(fname, origin, file_hash=None, **_):
        asked.update(file=fname, url=origin, digest=file_hash)
        return "weights.h5"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_utils, "get_file", get_file)
        patch.setattr(keras.Model, "load_weights", lambda *_: None)
        with keras.StatelessScope(initialize_variables=False):
            network = getattr(keras.applications, row.constructor)(**_INPUT_OPEN.get(row.module, {}))
    return row, network, asked


def test_weight_files_are_those_that_keras_fetches(built):
    row, _, asked = built
    digest = row.weights_md5 or row.weights_sha256
    assert asked == {"file": row.weights_file, "url": row.weights_url, "digest": digest}
    assert len(digest or "") == {row.weights_md5: 32, row.weights_sha256: 64, None: 0}[digest]


def test_parameters_are_all_weights(built):
    row, network, _ = built
    assert row.parameters == network.count_params()


def test_input_size_is_keras_default(built):
    row, network, _ = built
    assert network.input_shape == (None, *row.input_size, 3)


def test_every_tap_is_a_layer_of_that_width(built):
    from featurecache.backbones.network import layer_of

    row, network, _ = built
    widths = {tap: int(np.prod(layer_of(network, tap).output.shape[1:])) for tap in row.taps}
    assert widths == row.taps


def test_the_classifier_ends_in_a_softmax_that_can_be_left_out(built):
    _, network, _ = built
    assert network.layers[-1].activation.__name__ == "softmax"
    assert network.layers[-1].name == "predictions" or network.layers[-1].name.endswith("_head_dense")


def test_avg_pool_is_what_the_classifier_sees(built):
    from featurecache.backbones.network import layer_of

    row, network, _ = built
    if "avg_pool" in row.taps:
        after = network.layers[network.layers.index(layer_of(network, "avg_pool")) + 1 :]
        kinds = {type(layer).__name__ for layer in after}
        assert kinds <= {"Dense", "Dropout", "Conv2D", "Reshape", "Activation", "Flatten", "LayerNormalization"}


def test_the_taps_are_every_layer_of_vgg_and_those_of_the_top_of_others(built):
    row, network, _ = built
    if row.module.startswith("vgg"):
        layers = {layer.name for layer in network.layers[1:]}
    else:
        layers = {"avg_pool", "predictions"} | {tap for tap in row.taps if tap.endswith("_head_layernorm")}
    assert set(row.taps) == layers | {"logits"}


def test_every_stage_begins_at_a_layer_of_the_network(built):
    from featurecache.backbones.catalog import HEAD_ALONE

    row, network, _ = built
    names = [layer.name for layer in network.layers]
    assert row.stages["predictions"] == HEAD_ALONE
    places = [names.index(first) for first in row.stages.values() if first != HEAD_ALONE]
    assert places == sorted(places, reverse=True)  # from the head alone to ever more
    assert places
    for place in places:  # nothing below is reached from a layer that is trained
        trained = {id(tensor) for layer in network.layers[place:] for tensor in [layer.output]}
        below = [each for layer in network.layers[1:place] for each in _inputs_of(layer)]
        assert trained.isdisjoint(map(id, below))


def test_stages_below_a_tap_are_those_whose_layers_lead_to_it(built):
    from featurecache.backbones.network import layer_of

    row, network, _ = built
    for tap in row.taps:
        names = _names_below(layer_of(network, tap)) | {""}
        assert row.stages_below(tap) == [stage for stage, first in row.stages.items() if first in names], tap


def _names_below(layer):
    """Return the names of all layers that lead to a layer, and its own."""
    names, waiting = set(), [layer]
    while waiting:
        layer = waiting.pop()
        if layer.name not in names:
            names.add(layer.name)
            waiting += [tensor._keras_history.operation for tensor in layer._inbound_nodes[0].input_tensors]
    return names


def _inputs_of(layer):
    return layer.input if isinstance(layer.input, list) else [layer.input]


def test_every_constructor_of_keras_has_a_row():
    import inspect

    import keras

    known = {name for name, each in vars(keras.applications).items() if inspect.isfunction(each)}
    assert known == {row.constructor for row in NETWORKS.values()}


@every_row
def test_constructor_and_preprocessing_come_from_the_same_module(name):
    import keras

    row = find_network(name)
    assert getattr(keras.applications, row.constructor).__module__.endswith(f".{row.module}")


@every_row
def test_preprocessing_equals_that_of_keras_for_this_network(name, photographs):
    import keras

    from featurecache.backbones import keras_engine

    row = find_network(name)
    images = photographs(3, (32, 40))
    pixels = keras.ops.convert_to_tensor(images.astype(np.float32))
    expected = keras.ops.convert_to_numpy(getattr(keras.applications, row.module).preprocess_input(pixels))
    found = keras.ops.convert_to_numpy(keras_engine._preprocessing(row)(images))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", PREPROCESSING)
def test_preprocessing_is_the_arithmetic_that_the_mode_names(mode, photographs):
    import keras

    from featurecache.backbones import keras_engine, network

    row = replace(find_network("mobilenet"), preprocessing=mode)
    images = photographs(3, (32, 40))
    expected = {
        "caffe": images[..., ::-1] - np.array([103.939, 116.779, 123.68]),
        "tf": images / 127.5 - 1,
        "torch": (images / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
        "unit": images / 255,
        "none": images,
        "inside": images,
    }[mode]
    found = keras.ops.convert_to_numpy(keras_engine._preprocessing(row)(images))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    pixels = keras.Input((32, 40, 3), dtype="uint8")
    exported = keras.Model(pixels, network._preprocessed(row, pixels))
    np.testing.assert_allclose(exported.predict_on_batch(images), expected, atol=2e-5)


@every_row
def test_default_taps_exist(name):
    row = find_network(name)
    assert set(row.default_taps) <= set(row.taps)
    assert "predictions" in row.default_taps
    assert tuple(row.spec("random:0").taps) == tuple(sorted(row.default_taps))


def test_the_networks_of_the_lesson_are_there():
    assert {"vgg16", "vgg19", "mobilenet_v2", "mobilenet", "resnet50", "efficientnet_b0"} <= set(NETWORKS)
    assert next(iter(NETWORKS)) == "vgg16"
    assert find_network("vgg16").default_taps == ("fc2", "predictions")


def test_spec_names_everything_that_determines_a_feature():
    spec = find_network("vgg16").spec("sha256:00", ["logits", "fc1", "fc1"], "mixed")
    assert (spec.name, spec.weights, spec.input_size) == ("vgg16", "sha256:00", (224, 224))
    assert (spec.preprocessing, spec.precision) == ("caffe", "mixed")
    assert list(spec.taps.items()) == [("fc1", 4096), ("logits", 1000)]


def test_unknown_names_come_with_the_close_match():
    with pytest.raises(UnknownNameError, match="unknown backbone 'vgg116'; did you mean 'vgg16'"):
        find_network("vgg116")
    with pytest.raises(UnknownNameError, match=r"unknown tap of vgg16 'fc3'; did you mean 'fc[12]'"):
        find_network("vgg16").spec("random:0", ["fc3"])
    with pytest.raises(UnknownNameError, match=f"unknown precision 'mixd'.*{PRECISIONS[1]}"):
        find_network("vgg16").spec("random:0", precision="mixd")

"""Weight files into networks: the right ones give their features, all others a `WeightsError`."""

import hashlib
import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from featurecache.backbones.catalog import find_network
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.network import build, layer_of
from featurecache.backbones.weights import resolve_weights
from featurecache.errors import WeightsError

pytestmark = pytest.mark.slow

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module", autouse=True)
def _mobilenet_built_once():
    """Let Keras build MobileNetV2 once for this module; every file is loaded into a network of zeros."""
    import keras

    construct, built = keras.applications.MobileNetV2, []

    def shared(weights, **options):
        if not built:
            built.append((options, construct(weights=None, **options)))
        (known, network), *_ = built
        assert options == known
        assert weights is None
        for variable in network.weights:
            variable.assign(keras.ops.zeros_like(variable))
        return network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.applications, "MobileNetV2", shared)
        yield


@pytest.fixture(scope="module")
def expected(weights_of, photographs):
    return KerasBackbone(*weights_of("mobilenet_v2", "random:1"), batch_size=2).forward(photographs(2))


@pytest.fixture
def edited(tmp_path):
    """Return a function that copies a weight file and changes the copy with h5py."""

    def edit(source, change):
        path = tmp_path / source.name
        shutil.copy(source, path)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return edit


ANOTHER = "{path} is not a weight file of {name} ("
DAMAGED = "{path} is damaged or incomplete ("
NO_TOP = "{path} lacks the top of {name}, its ImageNet classifier ("


def assert_refused(path, name="mobilenet_v2", words=ANOTHER, taps=None):
    row = find_network(name)
    with pytest.raises(WeightsError) as caught:
        build(row, resolve_weights(str(path), row), taps)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert words.format(path=path, name=name) in message


@pytest.mark.parametrize("format_name", ["mobilenet_file", "legacy_mobilenet_file"])
def test_weights_that_were_saved_give_the_same_features(format_name, request, expected, photographs):
    row = find_network("mobilenet_v2")
    weights = resolve_weights(str(request.getfixturevalue(format_name)), row)
    backbone = KerasBackbone(row, weights, batch_size=2)
    assert backbone.spec.weights == weights.identity
    for tap, values in backbone.forward(photographs(2)).items():
        np.testing.assert_array_equal(values, expected[tap])


@pytest.mark.parametrize("name", ["convnext_tiny", "mobilenet_v3_small"])
def test_weights_of_nested_networks_and_of_tops_of_convolutions_are_those_that_were_saved(name, weights_of, tmp_path):
    from keras.src.legacy.saving import legacy_h5_format

    row, weights = weights_of(name, "random:1")
    row = replace(row, input_size=(32, 32))
    network = build(row, weights)
    network.save_weights(tmp_path / "new.weights.h5")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    for file in ("new.weights.h5", "old.h5"):
        found = build(row, resolve_weights(str(tmp_path / file), row))
        for values, expected in zip(found.get_weights(), network.get_weights(), strict=True):
            np.testing.assert_array_equal(values, expected)


def test_imagenet_weights_that_keras_has_give_their_features(
    tmp_path, monkeypatch, legacy_mobilenet_file, expected, photographs
):
    row = find_network("mobilenet_v2")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    shutil.copy(legacy_mobilenet_file, tmp_path / "models" / row.weights_file)
    backbone = KerasBackbone(row, resolve_weights("imagenet", row, download=False), batch_size=2)
    for tap, values in backbone.forward(photographs(2)).items():
        np.testing.assert_array_equal(values, expected[tap])


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("mobilenet_v2", "mobilenet"),
        ("mobilenet", "mobilenet_v2"),
        ("mobilenet", "resnet50"),
        ("mobilenet_v2", "efficientnet_b0"),
    ],
)
def test_the_file_of_another_network_is_refused(source, target, weights_of, tmp_path):
    path = tmp_path / f"{source}.weights.h5"
    build(*weights_of(source)).save_weights(path)
    assert_refused(path, target)


def test_a_legacy_file_of_another_network_is_refused(legacy_mobilenet_file):
    assert_refused(legacy_mobilenet_file, "mobilenet")


def test_vgg19_into_vgg16_is_refused(tmp_path):
    """The one network has all layers of the other, by the names in the file; the shapes tell them apart."""
    channels = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    kernels = {f"conv2d_{i}": (3, 3, *pair) for i, pair in enumerate(pairwise(channels))}
    kernels |= {"dense_0": (25088, 4096), "dense_1": (4096, 4096), "dense_2": (4096, 1000)}
    path = tmp_path / "vgg19.weights.h5"
    with h5py.File(path, "w") as file:  # chunks that are never written take no room
        for name, shape in kernels.items():
            group = file.create_group(f"layers/{name.removesuffix('_0')}/vars")
            group.create_dataset("0", shape, "f4", chunks=True)
            group.create_dataset("1", shape[-1:], "f4", chunks=True)
    assert_refused(path, "vgg16")


DAMAGE = {
    "a layer is missing": lambda file: file.__delitem__("layers/batch_normalization_7"),
    "a layer is renamed": lambda file: file.move("layers/conv2d_3", "layers/another_3"),
    "a variable is missing": lambda file: file.__delitem__("layers/depthwise_conv2d_2/vars/0"),
    "a statistic is missing": lambda file: file.__delitem__("layers/batch_normalization_3/vars/3"),
    "two layers are swapped": lambda file: (
        file.move("layers/conv2d_3", "layers/x"),
        file.move("layers/conv2d_4", "layers/conv2d_3"),
        file.move("layers/x", "layers/conv2d_4"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_lacks_anything_below_the_top_is_refused(damage, mobilenet_file, edited):
    path = edited(mobilenet_file, DAMAGE[damage])
    assert_refused(path)
    assert_refused(path, taps=("avg_pool",))


LEGACY_DAMAGE = {
    "a layer is missing": lambda file: file.__delitem__("bn_Conv1"),
    "no layer is listed": lambda file: file.attrs.__delitem__("layer_names"),
    "a layer lists no weights": lambda file: file["bn_Conv1"].attrs.__delitem__("weight_names"),
    "a layer lists fewer": lambda file: file["bn_Conv1"].attrs.__setitem__(
        "weight_names", file["bn_Conv1"].attrs["weight_names"][:2]
    ),
}


@pytest.mark.parametrize("damage", LEGACY_DAMAGE)
def test_a_legacy_file_that_lacks_anything_below_the_top_is_refused(damage, legacy_mobilenet_file, edited):
    assert_refused(edited(legacy_mobilenet_file, LEGACY_DAMAGE[damage]))


TOPLESS = {
    "the classifier is missing": lambda file: file.__delitem__("layers/dense"),
    "another number of classes": lambda file: (
        file.__delitem__("layers/dense/vars/1"),
        file.__setitem__("layers/dense/vars/1", np.zeros(10, np.float32)),
    ),
    "its bias is a group": lambda file: (
        file.__delitem__("layers/dense/vars/1"),
        file.create_group("layers/dense/vars/1"),
    ),
    "its bias is text": lambda file: (
        file.__delitem__("layers/dense/vars/1"),
        file.__setitem__("layers/dense/vars/1", "text"),
    ),
    "it is a link": lambda file: (
        file.__delitem__("layers/dense"),
        file.__setitem__("layers/dense", h5py.SoftLink("/layers/conv2d")),
    ),
}


@pytest.mark.parametrize("case", TOPLESS)
def test_what_the_taps_do_not_need_is_not_asked_for(case, mobilenet_file, edited):
    path = edited(mobilenet_file, TOPLESS[case])
    assert_refused(path, words=NO_TOP)
    assert_refused(path, words=NO_TOP, taps=("avg_pool", "predictions"))
    row = find_network("mobilenet_v2")
    build(row, resolve_weights(str(path), row), ("avg_pool",))


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet", "efficientnet_b0"])
def test_weights_that_keras_saves_without_the_top_give_the_same_features(name, weights_of, photographs, tmp_path):
    import keras

    row, weights = weights_of(name)
    whole = build(row, weights)
    part = keras.Model(whole.inputs, layer_of(whole, "avg_pool").input)
    part.save_weights(tmp_path / "no_top.weights.h5")
    topless = resolve_weights(str(tmp_path / "no_top.weights.h5"), row)
    expected = KerasBackbone(row, weights, taps=("avg_pool",), batch_size=2).forward(photographs(2))["avg_pool"]
    found = KerasBackbone(row, topless, taps=("avg_pool",), batch_size=2).forward(photographs(2))["avg_pool"]
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(WeightsError, match=r"include_top=True, or --taps avg_pool, for which the file suffices"):
        KerasBackbone(row, topless, batch_size=2)


@pytest.mark.parametrize("kept", [0.0001, 0.5, 0.9999])
def test_a_truncated_file_is_incomplete(kept, mobilenet_file, tmp_path):
    path = tmp_path / "cut.weights.h5"
    whole = mobilenet_file.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert_refused(path, words=DAMAGED)


@pytest.mark.parametrize("format_name", ["mobilenet_file", "legacy_mobilenet_file"])
@pytest.mark.parametrize("name", ["w.h5", "w.hdf5", "w.weights.h5", "w"])
def test_the_content_decides_the_format(format_name, name, request, tmp_path, weights_of):
    shutil.copy(request.getfixturevalue(format_name), tmp_path / name)
    row = find_network("mobilenet_v2")
    found = build(row, resolve_weights(str(tmp_path / name), row)).get_layer("block_16_project").kernel.numpy()
    expected = build(*weights_of("mobilenet_v2", "random:1")).get_layer("block_16_project").kernel.numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("format_name", ["mobilenet_file", "legacy_mobilenet_file"])
def test_overwritten_bytes_give_features_or_the_error_but_nothing_else(format_name, request, tmp_path):
    """Damage to numbers shows in the identity alone; damage to the structure must end in `WeightsError`."""
    source = request.getfixturevalue(format_name)
    original = np.frombuffer(source.read_bytes(), np.uint8)
    generator = np.random.default_rng(0)
    row = find_network("mobilenet_v2")
    refused = 0
    for _ in range(4):
        damaged = original.copy()
        damaged[generator.integers(0, 40_000, 200)] = generator.integers(0, 256, 200)
        path = tmp_path / source.name
        path.write_bytes(damaged.tobytes())
        try:
            build(row, resolve_weights(str(path), row))
        except WeightsError:
            refused += 1
    assert refused >= 2


def test_weights_made_from_keras_imagenet_file_are_refused_where_keras_builds_by_name(weights_of, tmp_path):
    import keras

    network = build(*weights_of("efficientnet_b0"))
    plain, normalised = tmp_path / "plain.weights.h5", tmp_path / "normalised.weights.h5"
    network.save_weights(plain)
    layer = next(each for each in network.layers if isinstance(each, keras.layers.Normalization))
    mean, variance, count = layer.get_weights()
    layer.set_weights([np.add(mean, [0.485, 0.456, 0.406]), np.multiply(variance, [0.229, 0.224, 0.225]), count])
    network.save_weights(normalised)

    row = find_network("efficientnet_b0")
    build(row, resolve_weights(str(plain), row))
    with pytest.raises(WeightsError, match=r"made from Keras's ImageNet weights.*--weights imagenet"):
        build(row, resolve_weights(str(normalised), row))


def test_imagenet_weights_get_the_network_that_keras_builds_for_them(weights_of, photographs, tmp_path, monkeypatch):
    import keras
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.utils import file_utils

    row, weights = weights_of("efficientnet_b0")
    plain = build(row, weights)
    path = tmp_path / "models" / row.weights_file
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, plain)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(path))  # for Keras's own network
    row = replace(row, weights_md5=hashlib.md5(path.read_bytes()).hexdigest())  # noqa: S324 - as Keras does
    images = photographs(1) // 8
    found = KerasBackbone(row, resolve_weights("imagenet", row, download=False), batch_size=1).forward(images)
    expected = keras.applications.EfficientNetB0().predict_on_batch(images.astype(np.float32))
    without_the_extra_scaling = keras.ops.softmax(plain.predict_on_batch(images.astype(np.float32)))
    differences = [np.abs(other / expected - 1).max() for other in (found["predictions"], without_the_extra_scaling)]
    assert differences[0] < 1e-4
    assert differences[1] > 1e-2


@pytest.mark.real_data
def test_the_real_weights_know_what_a_cat_is(shared_data):
    from PIL import Image

    row = find_network("mobilenet_v2")
    weights = resolve_weights(str(shared_data / "weights" / "mobilenet_v2_1.0_224.weights.h5"), row)
    names = json.loads((shared_data / "imagenet_class_index.json").read_text())
    cats = sorted((shared_data / "catsdogs").rglob("*cat*.jpg"))[:8]
    images = np.stack([np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in cats])
    best = KerasBackbone(row, weights, batch_size=8).forward(images)["predictions"].argmax(axis=1)
    feline = {"tabby", "tiger_cat", "Persian_cat", "Siamese_cat", "Egyptian_cat", "lynx"}
    assert sum(names[str(each)][1] in feline for each in best) >= 6

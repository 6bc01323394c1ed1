"""Weight files into networks: the right ones give their features, all others a `WeightsError`."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest

from featurecache.backbones.catalog import application
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.network import build
from featurecache.backbones.weights import resolve_weights
from featurecache.errors import WeightsError

h5py = pytest.importorskip("h5py")


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


def assert_refused(path, name="mobilenet_v2"):
    row = application(name)
    with pytest.raises(WeightsError) as caught:
        build(row, resolve_weights(str(path), row))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert f"{path} is not a weight file of {name}" in message
    assert "--backbone" in message


@pytest.mark.parametrize("format_name", ["mobilenet_file", "legacy_mobilenet_file"])
def test_weights_that_were_saved_give_the_same_features(format_name, request, expected, photographs):
    row = application("mobilenet_v2")
    weights = resolve_weights(str(request.getfixturevalue(format_name)), row)
    backbone = KerasBackbone(row, weights, batch_size=2)
    assert backbone.spec.weights == weights.identity
    for tap, values in backbone.forward(photographs(2)).items():
        np.testing.assert_array_equal(values, expected[tap])


def test_imagenet_weights_that_keras_has_give_their_features(
    tmp_path, monkeypatch, legacy_mobilenet_file, expected, photographs
):
    row = application("mobilenet_v2")
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
    "a variable is a group": lambda file: (
        file.__delitem__("layers/dense/vars/1"),
        file.create_group("layers/dense/vars/1"),
    ),
    "a variable is text": lambda file: (
        file.__delitem__("layers/dense/vars/1"),
        file.__setitem__("layers/dense/vars/1", "text"),
    ),
    "a layer is a link": lambda file: (
        file.__delitem__("layers/dense"),
        file.__setitem__("layers/dense", h5py.SoftLink("/layers/conv2d")),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_lacks_anything_is_refused(damage, mobilenet_file, edited):
    assert_refused(edited(mobilenet_file, DAMAGE[damage]))


LEGACY_DAMAGE = {
    "a layer is missing": lambda file: file.__delitem__("bn_Conv1"),
    "a layer is not listed": lambda file: file.attrs.__setitem__("layer_names", list(file.attrs["layer_names"])[:-1]),
    "no layer is listed": lambda file: file.attrs.__delitem__("layer_names"),
    "the list is one number": lambda file: file.attrs.__setitem__("layer_names", 3),
    "the list is of numbers": lambda file: file.attrs.__setitem__("layer_names", [1, 2]),
    "a layer lists no weights": lambda file: file["bn_Conv1"].attrs.__delitem__("weight_names"),
    "a layer lists fewer": lambda file: file["bn_Conv1"].attrs.__setitem__(
        "weight_names", file["bn_Conv1"].attrs["weight_names"][:2]
    ),
}


@pytest.mark.parametrize("damage", LEGACY_DAMAGE)
def test_a_legacy_file_that_lacks_anything_is_refused(damage, legacy_mobilenet_file, edited):
    assert_refused(edited(legacy_mobilenet_file, LEGACY_DAMAGE[damage]))


@pytest.mark.parametrize("kept", [0, 2000, -1])
def test_a_truncated_file_is_refused(kept, mobilenet_file, tmp_path):
    path = tmp_path / "cut.weights.h5"
    path.write_bytes(mobilenet_file.read_bytes()[:kept])
    assert_refused(path)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".hdf5"])
def test_text_is_refused(suffix, tmp_path):
    path = tmp_path / f"text{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert_refused(path)


def test_each_format_under_the_others_suffix_is_refused(mobilenet_file, legacy_mobilenet_file, tmp_path):
    shutil.copy(mobilenet_file, tmp_path / "new.h5")
    shutil.copy(legacy_mobilenet_file, tmp_path / "old.weights.h5")
    assert_refused(tmp_path / "new.h5")
    assert_refused(tmp_path / "old.weights.h5")


@pytest.mark.parametrize("format_name", ["mobilenet_file", "legacy_mobilenet_file"])
def test_overwritten_bytes_give_features_or_the_error_but_nothing_else(format_name, request, tmp_path):
    """Damage to numbers shows in the identity alone; damage to the structure must end in `WeightsError`."""
    source = request.getfixturevalue(format_name)
    original = np.frombuffer(source.read_bytes(), np.uint8)
    generator = np.random.default_rng(0)
    row = application("mobilenet_v2")
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

    row = application("efficientnet_b0")
    build(row, resolve_weights(str(plain), row))
    with pytest.raises(WeightsError, match=r"made from Keras's ImageNet weights.*--weights imagenet"):
        build(row, resolve_weights(str(normalised), row))


EFFICIENTNET = """
import hashlib, json, os, sys, warnings
warnings.simplefilter("ignore")
from dataclasses import replace
from pathlib import Path
import h5py, keras, numpy as np
from keras.src.applications import efficientnet
from keras.src.legacy.saving import legacy_h5_format
from featurecache.backbones.catalog import application
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.network import build
from featurecache.backbones.weights import resolve_weights

row = application("efficientnet_b0")
path = Path(os.environ["KERAS_HOME"], "models", row.weights_file)
path.parent.mkdir()
with h5py.File(path, "w") as file:
    plain = build(row, resolve_weights("random:0", row))
    legacy_h5_format.save_weights_to_hdf5_group(file, plain)
row = replace(row, weights_md5=hashlib.md5(path.read_bytes()).hexdigest())
efficientnet.WEIGHTS_HASHES["b0"] = (row.weights_md5, "")

images = np.random.default_rng(0).integers(0, 32, (2, 224, 224, 3), np.uint8)
weights = resolve_weights("imagenet", row, download=False)
found = KerasBackbone(row, weights, batch_size=2).forward(images)["predictions"]
expected = np.asarray(keras.applications.EfficientNetB0()(images.astype("float32"), training=False))
plain = np.asarray(keras.ops.softmax(plain(images.astype("float32"), training=False)))
print(json.dumps([float(np.abs(other / expected - 1).max()) for other in (found, plain)]))
"""


def test_imagenet_weights_get_the_network_that_keras_builds_for_them(run_python, tmp_path):
    result = run_python(EFFICIENTNET, KERAS_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    ours, without_the_extra_scaling = json.loads(result.stdout)
    assert ours < 1e-4
    assert without_the_extra_scaling > 1e-2


@pytest.mark.real_data
def test_the_real_weights_know_what_a_cat_is(shared_data):
    from PIL import Image

    row = application("mobilenet_v2")
    weights = resolve_weights(str(shared_data / "weights" / "mobilenet_v2_1.0_224.weights.h5"), row)
    names = json.loads((shared_data / "imagenet_class_index.json").read_text())
    cats = sorted((shared_data / "catsdogs").rglob("*cat*.jpg"))[:8]
    images = np.stack([np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in cats])
    best = KerasBackbone(row, weights, batch_size=8).forward(images)["predictions"].argmax(axis=1)
    feline = {"tabby", "tiger_cat", "Persian_cat", "Siamese_cat", "Egyptian_cat", "lynx"}
    assert sum(names[str(each)][1] in feline for each in best) >= 6

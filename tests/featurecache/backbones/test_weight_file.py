"""Keras's weight files read without Keras: what Keras wrote comes back, and anything else is a `WeightsError`."""

import shutil

import numpy as np
import pytest

from featurecache.backbones.catalog import application
from featurecache.backbones.weight_file import read_weight_file
from featurecache.errors import WeightsError

h5py = pytest.importorskip("h5py")

LAYERS = [("conv2d", (3, 3, 3, 4)), ("conv2d", (3, 3, 4, 4)), ("dense", (16, 5)), ("dense", (5, 2))]
FORMATS = ("new.weights.h5", "old.h5", "whole.h5")


@pytest.fixture(scope="module")
def network():
    """Return a small network in the manner of VGG, with weights that are all different."""
    import keras

    layers = keras.layers
    inputs = x = keras.Input((8, 8, 3))
    for name in ("block1_conv1", "block2_conv1"):
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(name=name.replace("conv1", "pool"))(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(5, activation="relu", name="fc1")(x)
    network = keras.Model(inputs, layers.Dense(2, name="predictions")(x))
    generator = np.random.default_rng(0)
    network.set_weights([generator.standard_normal(values.shape) for values in network.get_weights()])
    return network


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    """Return the folder with the network's weights in each format that Keras writes, or wrote."""
    from keras.src.legacy.saving import legacy_h5_format

    folder = tmp_path_factory.mktemp("formats")
    network.save_weights(folder / "new.weights.h5")
    with h5py.File(folder / "old.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    legacy_h5_format.save_model_to_hdf5(network, str(folder / "whole.h5"))
    return folder


@pytest.fixture
def edited(files, tmp_path):
    """Return a function that copies a weight file and changes the copy with h5py."""

    def edit(name, change):
        shutil.copy(files / name, tmp_path / name)
        with h5py.File(tmp_path / name, "r+") as file:
            change(file)
        return tmp_path / name

    return edit


def read(path, layers=LAYERS, needed=9):
    return list(read_weight_file(path, application("vgg16"), layers, needed))


def assert_refused(path, why="", layers=LAYERS):
    """Whatever is wrong, also in a layer that is not needed, is said in one line before any weights are given."""
    with pytest.raises(WeightsError) as caught:
        read(path, layers, needed=1)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert f"{path} is not a weight file of vgg16 (" in message
    assert "--backbone" in message
    assert why in message


@pytest.mark.parametrize("name", FORMATS)
def test_what_keras_wrote_comes_back(name, files, network):
    found = [values for pair in read(files / name) for values in pair]
    expected = network.get_weights()
    assert [values.dtype for values in found] == [np.float32] * len(expected)
    for values, others in zip(found, expected, strict=True):
        np.testing.assert_array_equal(values, others)


@pytest.mark.parametrize("name", FORMATS)
def test_no_more_is_read_than_is_needed(name, files):
    assert len(read(files / name, needed=2)) == 2


def test_the_name_that_keras_2_gave_its_layers_is_known(edited):
    path = edited("new.weights.h5", lambda file: file.move("layers", "_layer_checkpoint_dependencies"))
    assert len(read(path)) == len(LAYERS)


def test_half_precision_is_widened(edited, files):
    def halve(file):
        values = file["layers/dense/vars/0"][:].astype(np.float16)
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = values

    found = read(edited("new.weights.h5", halve))[2][0]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, read(files / "new.weights.h5")[2][0].astype(np.float16))


def replaced(path, value):
    def change(file):
        del file[path]
        file[path] = value

    return change


def outside(file):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars"].create_dataset("0", (16, 5), "f4", external=[("/dev/zero", 0, 16 * 5 * 4)])


def virtual(file):
    del file["layers/dense/vars/0"]
    layout = h5py.VirtualLayout((16, 5), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (16, 5))
    file["layers/dense/vars"].create_virtual_dataset("0", layout)


NEW_DAMAGE = {
    "a layer is missing": (lambda file: file.__delitem__("layers/dense_1"), "there is no dense_1/vars in it"),
    "all are missing": (lambda file: file.__delitem__("layers"), "there is no _layer_checkpoint_dependencies in it"),
    "a bias is missing": (lambda file: file.__delitem__("layers/conv2d_1/vars/1"), "has 1 arrays"),
    "a third array": (lambda file: file.__setitem__("layers/conv2d_1/vars/2", [1.0]), "has 3 arrays"),
    "another shape": (
        replaced("layers/dense/vars/0", np.zeros((5, 16), "f4")),
        "/layers/dense/vars/0 is float32 of shape (5, 16), expected floats of (16, 5)",
    ),
    "whole numbers": (replaced("layers/dense/vars/0", np.zeros((16, 5), "i4")), "is int32 of shape"),
    "text": (replaced("layers/dense/vars/1", "text"), "of shape ()"),
    "a group": (lambda file: (replaced("layers/dense/vars/1", 1)(file), file.__delitem__("layers/dense/vars/1"),
                              file.create_group("layers/dense/vars/1")), "1 is no dataset"),
    "a soft link": (replaced("layers/dense_1", h5py.SoftLink("/layers/dense")), "dense_1/vars is a link"),
    "an external link": (replaced("layers/dense/vars/0", h5py.ExternalLink("other.h5", "x")), "0 is a link"),
    "numbers in another file": (outside, "refers to another file"),
    "numbers from another file": (virtual, "refers to another file"),
}  # fmt: skip


@pytest.mark.parametrize("damage", NEW_DAMAGE)
def test_a_file_that_lacks_anything_is_refused(damage, edited):
    change, why = NEW_DAMAGE[damage]
    assert_refused(edited("new.weights.h5", change), why)


OLD_DAMAGE = {
    "a layer is missing": lambda file: file.__delitem__("fc1"),
    "a layer is not listed": lambda file: file.attrs.__setitem__("layer_names", file.attrs["layer_names"][:-1]),
    "no layer is listed": lambda file: file.attrs.__delitem__("layer_names"),
    "the list is one number": lambda file: file.attrs.__setitem__("layer_names", 3),
    "the list is of numbers": lambda file: file.attrs.__setitem__("layer_names", [1, 2]),
    "a layer lists no weights": lambda file: file["fc1"].attrs.__delitem__("weight_names"),
    "a layer lists one": lambda file: file["fc1"].attrs.__setitem__("weight_names", [b"fc1/kernel"]),
    "a layer lists none": lambda file: file["fc1"].attrs.__setitem__("weight_names", np.array([], "S1")),
    "a layer lists what is not there": lambda file: file["fc1"].attrs.__setitem__("weight_names", [b"a/b", b"c"]),
    "a layer is a link": lambda file: (file.move("fc1", "x"), file.__setitem__("fc1", h5py.SoftLink("/x"))),
}


@pytest.mark.parametrize("damage", OLD_DAMAGE)
def test_an_older_file_that_lacks_anything_is_refused(damage, edited):
    assert_refused(edited("old.h5", OLD_DAMAGE[damage]))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([*LAYERS, ("dense", (2, 2))], id="more"),
        pytest.param([*LAYERS[:2], *LAYERS[3:], LAYERS[2]], id="another order"),
    ],
)
def test_the_file_of_another_network_is_refused(name, layers, files):
    assert_refused(files / name, layers=layers)


@pytest.mark.parametrize("name", ["old.h5", "whole.h5"])
def test_a_layer_too_many_is_refused_where_layers_are_known_by_their_order(name, files):
    assert_refused(files / name, "it has 4 layers with weights, expected 3", layers=LAYERS[:3])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kept", [0, 700, -1])
def test_a_truncated_file_is_refused(name, kept, files, tmp_path):
    (tmp_path / name).write_bytes((files / name).read_bytes()[:kept])
    assert_refused(tmp_path / name)


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.hdf5"])
def test_text_is_refused(name, tmp_path):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert_refused(tmp_path / name)


def test_each_format_under_the_others_suffix_is_refused(files, tmp_path):
    for source, name in (("new.weights.h5", "new.h5"), ("old.h5", "old.weights.h5")):
        shutil.copy(files / source, tmp_path / name)
        assert_refused(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
def test_overwritten_bytes_give_weights_or_the_error_but_nothing_else(name, files, tmp_path):
    """A few only: HDF5 may loop for ever on a damaged structure, with Keras as well."""
    original = np.frombuffer((files / name).read_bytes(), np.uint8)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(4):
        damaged = original.copy()
        damaged[generator.integers(0, len(damaged), 200)] = generator.integers(0, 256, 200)
        (tmp_path / name).write_bytes(damaged.tobytes())
        try:
            read(tmp_path / name)
        except WeightsError:
            refused += 1
    assert refused >= 2

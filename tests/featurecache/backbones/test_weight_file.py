"""Keras's weight files read without Keras: what Keras wrote comes back, and anything else is a `WeightsError`."""

import fcntl
import shutil

import numpy as np
import pytest

from featurecache.backbones.catalog import find_network
from featurecache.backbones.weight_file import WeightedLayer, numbered, read_weight_file
from featurecache.errors import WeightsError

h5py = pytest.importorskip("h5py")

LAYERS = [("conv2d", (3, 3, 3, 4)), ("conv2d", (3, 3, 4, 4)), ("dense", (16, 5)), ("dense", (5, 2))]
FORMATS = ("new.weights.h5", "old.h5", "whole.h5")
BODY = 2  # layers below the top


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
    names = numbered(kind for kind, _ in layers)
    weighted = [
        WeightedLayer((name,), (kernel, kernel[-1:]), is_top=kind == "dense")
        for name, (kind, kernel) in zip(names, layers, strict=True)
    ]
    return list(read_weight_file(path, find_network("vgg16"), weighted, needed))


ANOTHER = ("is not a weight file of vgg16 (", "--backbone")
NO_TOP = ("lacks the top of vgg16, its ImageNet classifier (", "include_top=True, or --taps flatten, for which")
DAMAGED = ("is damaged or incomplete (", "copy or download it again")


def assert_refused(path, words=ANOTHER, why="", layers=LAYERS, needed=9):
    """Whatever is wrong is said in one line, with its cause and a remedy, before any weights are given."""
    with pytest.raises(WeightsError) as caught:
        read(path, layers, needed)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    for part in (str(path), *words, why):
        assert part in message


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


def test_brain_floats_are_widened(files, network, tmp_path):
    """HDF5 has no such type: Keras writes two opaque bytes."""
    import keras

    halved = keras.models.clone_model(
        network, clone_function=lambda layer: type(layer).from_config(layer.get_config() | {"dtype": "bfloat16"})
    )
    halved.set_weights(network.get_weights())
    halved.save_weights(tmp_path / "half.weights.h5")
    for pair, others in zip(read(tmp_path / "half.weights.h5"), read(files / "new.weights.h5"), strict=True):
        for values, exact in zip(pair, others, strict=True):
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, exact, rtol=2**-8)


def replaced(path, value):
    def change(file):
        del file[path]
        file[path] = value

    return change


def outside(file):
    del file["layers/conv2d/vars/0"]
    file["layers/conv2d/vars"].create_dataset("0", (3, 3, 3, 4), "f4", external=[("/dev/zero", 0, 108 * 4)])


def virtual(file):
    del file["layers/conv2d/vars/0"]
    layout = h5py.VirtualLayout((3, 3, 3, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 3, 3, 4))
    file["layers/conv2d/vars"].create_virtual_dataset("0", layout)


FIRST = "layers/conv2d/vars/0"
NEW_DAMAGE = {
    "a layer is missing": (
        lambda file: file.__delitem__("layers/conv2d_1"),
        "there is no conv2d_1 in it, only 'conv2d', 'dense', 'dense_1'",
    ),
    "all are missing": (lambda file: file.__delitem__("layers"), "there is no _layer_checkpoint_dependencies in it"),
    "a bias is missing": (lambda file: file.__delitem__("layers/conv2d_1/vars/1"), "has 1 arrays, expected 2"),
    "a third array": (lambda file: file.__setitem__("layers/conv2d_1/vars/2", [1.0]), "has 3 arrays, expected 2"),
    "another shape": (
        replaced(FIRST, np.zeros((4, 3, 3, 3), "f4")),
        f"/{FIRST} is float32 of shape (4, 3, 3, 3), expected floats of (3, 3, 3, 4)",
    ),
    "whole numbers": (replaced(FIRST, np.zeros((3, 3, 3, 4), "i4")), "is int32 of shape"),
    "text": (replaced("layers/conv2d/vars/1", "text"), "of shape ()"),
    "a group": (lambda file: (file.__delitem__(FIRST), file.create_group(FIRST)), "0 is no dataset"),
    "a soft link": (replaced("layers/conv2d_1", h5py.SoftLink("/layers/conv2d")), "conv2d_1/vars is a link"),
    "an external link": (replaced(FIRST, h5py.ExternalLink("other.h5", "x")), "0 is a link"),
    "numbers in another file": (outside, "refers to another file"),
    "numbers from another file": (virtual, "refers to another file"),
}


@pytest.mark.parametrize("damage", NEW_DAMAGE)
@pytest.mark.parametrize("needed", [1, 9])
def test_a_file_that_lacks_anything_below_the_top_is_refused(damage, needed, edited):
    change, why = NEW_DAMAGE[damage]
    assert_refused(edited("new.weights.h5", change), ANOTHER, why, needed=needed)


OLD_DAMAGE = {
    "a layer is missing": (lambda file: file.__delitem__("block2_conv1"), ANOTHER),
    "no layer is listed": (lambda file: file.attrs.__delitem__("layer_names"), ANOTHER),
    "the list is one number": (lambda file: file.attrs.__setitem__("layer_names", 3), DAMAGED),
    "the list is of numbers": (lambda file: file.attrs.__setitem__("layer_names", [1, 2]), ANOTHER),
    "a layer lists no weights": (lambda file: file["block1_conv1"].attrs.__delitem__("weight_names"), ANOTHER),
    "a layer lists one": (
        lambda file: file["block1_conv1"].attrs.__setitem__(
            "weight_names", file["block1_conv1"].attrs["weight_names"][:1]
        ),
        ANOTHER,
    ),
    "a layer lists none": (
        lambda file: file["block1_conv1"].attrs.__setitem__("weight_names", np.array([], "S1")),
        ANOTHER,
    ),
    "a layer lists what is not there": (
        lambda file: file["block1_conv1"].attrs.__setitem__("weight_names", [b"a/b", b"c"]),
        ANOTHER,
    ),
    "a layer is a link": (
        lambda file: (file.move("block1_conv1", "x"), file.__setitem__("block1_conv1", h5py.SoftLink("/x"))),
        ANOTHER,
    ),
}


@pytest.mark.parametrize("damage", OLD_DAMAGE)
def test_an_older_file_that_lacks_anything_below_the_top_is_refused(damage, edited):
    change, words = OLD_DAMAGE[damage]
    assert_refused(edited("old.h5", change), words, needed=1)


def without_top(file):
    """Remove the dense layers, in the format that the file has."""
    for layer in ("layers/dense", "layers/dense_1", "fc1", "predictions"):
        if layer in file:
            del file[layer]
    names = file.attrs.get("layer_names")
    if names is not None:
        file.attrs["layer_names"] = [
            name for name in names if name not in {"fc1", "predictions", b"fc1", b"predictions"}
        ]


TOPLESS = {
    "the top is missing": ("new.weights.h5", without_top, "there is no dense in it"),
    "the top is missing, older": ("old.h5", without_top, "it has 2 layers with weights, expected 4"),
    "other classes": (
        "new.weights.h5",
        replaced("layers/dense_1/vars/0", np.zeros((5, 7), "f4")),
        "is float32 of shape (5, 7), expected floats of (5, 2)",
    ),
    "the last layer is missing": ("new.weights.h5", lambda file: file.__delitem__("layers/dense_1"), "no dense_1 in"),
    "a bias of the top is missing": (
        "new.weights.h5",
        lambda file: file.__delitem__("layers/dense/vars/1"),
        "1 arrays",
    ),
}


@pytest.mark.parametrize("case", TOPLESS)
def test_a_file_without_the_top_suffices_where_no_tap_needs_it(case, edited, files):
    name, change, why = TOPLESS[case]
    path = edited(name, change)
    for found, expected in zip(read(path, needed=BODY), read(files / name), strict=False):
        np.testing.assert_array_equal(found[0], expected[0])
    assert_refused(path, NO_TOP, why, needed=BODY + 1)


@pytest.mark.parametrize("name", FORMATS)
def test_the_file_of_another_network_is_refused(name, files):
    larger = [LAYERS[0], ("conv2d", (3, 3, 4, 8)), *LAYERS[2:]]
    assert_refused(files / name, ANOTHER, layers=larger, needed=1)
    deeper = [*LAYERS[:2], ("conv2d", (3, 3, 4, 4)), *LAYERS[2:]]
    assert_refused(files / name, ANOTHER, layers=deeper, needed=1)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([*LAYERS, ("dense", (2, 2))], id="more"),
        pytest.param([*LAYERS[:2], *LAYERS[3:], LAYERS[2]], id="another order"),
    ],
)
def test_another_top_is_refused_where_a_tap_needs_it(name, layers, files):
    assert_refused(files / name, NO_TOP, layers=layers)
    assert len(read(files / name, layers, needed=BODY)) == BODY


@pytest.mark.parametrize("name", ["old.h5", "whole.h5"])
def test_a_layer_too_many_is_refused_where_layers_are_known_by_their_order(name, files):
    assert_refused(files / name, NO_TOP, "it has 4 layers with weights, expected 3", layers=LAYERS[:3])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.999])
def test_a_file_that_was_cut_says_how_much_there_is(name, share, files, tmp_path):
    whole = (files / name).read_bytes()
    kept = int(share * len(whole))
    (tmp_path / name).write_bytes(whole[:kept])
    assert_refused(tmp_path / name, DAMAGED, f"it has {kept} of {len(whole)} bytes")


@pytest.mark.parametrize("kept", [0, 8, 20])
def test_a_file_that_was_cut_in_its_first_bytes_is_refused(kept, files, tmp_path):
    (tmp_path / "x.h5").write_bytes((files / "old.h5").read_bytes()[:kept])
    assert_refused(tmp_path / "x.h5", DAMAGED)


def test_a_cut_file_in_keras_own_folder_is_to_be_deleted(files, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = tmp_path / "models" / find_network("vgg16").weights_file
    path.parent.mkdir()
    path.write_bytes((files / "old.h5").read_bytes()[:-1])
    assert_refused(path, ("delete it and pass --weights imagenet",))


def test_a_file_that_vanished_is_an_error_of_its_own(tmp_path):
    assert_refused(tmp_path / "gone.h5", ("cannot be read: no such file",))


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("name", ["w.h5", "w.hdf5", "w.weights.h5", "w.keras", "weights"])
def test_the_content_decides_the_format(source, name, files, network, tmp_path):
    shutil.copy(files / source, tmp_path / name)
    for values, others in zip([v for pair in read(tmp_path / name) for v in pair], network.get_weights(), strict=True):
        np.testing.assert_array_equal(values, others)


@pytest.mark.parametrize("name", FORMATS)
def test_locks_are_not_asked_for(name, files):
    """HDF5 itself refuses a file that another process has locked, like one on a file system without locks."""
    with (files / name).open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="unable to lock file"):
            h5py.File(files / name, "r", locking=True)
        assert len(read(files / name)) == len(LAYERS)


def test_names_that_do_not_fit_into_one_attribute_are_joined(edited):
    def divide(file):
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:3], names[3:]

    assert len(read(edited("old.h5", divide))) == len(LAYERS)


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

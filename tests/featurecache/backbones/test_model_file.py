"""Model files of the user's own: their features against Keras's own, and what is refused, in one line."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featurecache import FeatureCache, extract, verify, why
from featurecache.backbones import engines, model_file, openvino_network, safe_loading
from featurecache.backbones.model_file import read_network
from featurecache.backbones.weights import Weights
from featurecache.cli.app import app
from featurecache.errors import EngineError, OptionError, RecipeError, UnknownNameError, WeightsError
from featurecache.named_backbone import own_network, source_of

pytestmark = pytest.mark.slow  # starts Keras

SIDES = (24, 32)
OF_LAYER = {"RandomTranslation": (0.5, 0.5), "RandomPosterization": (3,)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with model files: a plain one, one for any size with a nested model, and those to be refused."""
    import keras

    folder = tmp_path_factory.mktemp("models")
    layers = keras.layers
    keras.utils.set_random_seed(7)
    keras.Sequential(
        [
            keras.Input((*SIDES, 3)),
            layers.Conv2D(5, 3, activation="relu", name="first"),
            layers.GlobalAveragePooling2D(name="pooled"),
            layers.Dropout(0.5, name="dropped"),
            layers.Dense(4, activation="softmax", name="predictions"),
        ]
    ).save(folder / "plain.keras")
    body = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Rescaling(1 / 255), layers.Conv2D(6, 3, name="inner"), layers.ReLU()],
        name="body",
    )
    images = keras.Input((None, None, 3))
    pooled = layers.GlobalMaxPooling2D(name="pooled")(body(images))
    keras.Model(images, layers.Dense(3, name="out")(pooled)).save(folder / "nested.keras")
    keras.Sequential([keras.Input((8, 8, 3)), layers.Lambda(lambda x: x), layers.Flatten()]).save(folder / "code.keras")

    class Mine(layers.Layer):
        def call(self, inputs):
            return inputs

    keras.Sequential([keras.Input((8, 8, 3)), Mine(), layers.Flatten()]).save(folder / "custom.keras")
    pair = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    keras.Model(pair, layers.Flatten()(layers.Add()(pair))).save(folder / "two.keras")
    keras.Sequential([keras.Input((10,)), layers.Dense(2)]).save(folder / "vector.keras")
    keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()]).save(folder / "grey.keras")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory, photographs):
    """Return a folder of six images that have the input size of the plain model, and their pixels."""
    folder, pixels = tmp_path_factory.mktemp("images"), photographs(6, SIDES)
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number}.png")
    return folder, pixels


def features_of_keras(path, tap, pixels):
    """Return what Keras gives for a layer of a model, or for a layer of a model in it."""
    import keras

    model = keras.models.load_model(path, compile=False)
    for name in tap.split(".")[:-1]:
        model = model.get_layer(name)
    part = keras.Model(model.inputs, model.get_layer(tap.rpartition(".")[2]).output)
    return part.predict_on_batch(pixels).reshape(len(pixels), -1)


@pytest.mark.parametrize(
    ("mode", "arithmetic", "engine"),
    [
        ("unit", lambda x: x / 255, "auto"),
        ("tf", lambda x: x / 127.5 - 1, "auto"),
        ("none", lambda x: x, "auto"),
        ("none", lambda x: x, "keras"),
    ],
)
def test_every_layer_is_a_tap_and_gives_what_keras_gives(mode, arithmetic, engine, files, images, tmp_path):
    folder, pixels = images
    taps = ("first", "pooled", "predictions")
    path = files / "plain.keras"
    options = {"preprocess": mode, "taps": taps, "device": "cpu", "engine": engine}
    cache = extract(folder, tmp_path / "c.h5", backbone=str(path), **options)
    assert cache.provenance["engine"]["engine"] == {"auto": "openvino"}.get(engine, engine)
    assert dict(cache.taps) == {"first": 22 * 30 * 5, "pooled": 5, "predictions": 4}
    assert (cache.recipe.backbone, cache.recipe.input_size, cache.recipe.preprocessing) == ("keras", SIDES, mode)
    prepared = arithmetic(pixels.astype(np.float32))
    for tap in taps:
        expected = features_of_keras(path, tap, prepared)
        np.testing.assert_allclose(cache.features(tap).X[:], expected, rtol=1e-4, atol=1e-5)
    # the same file of OpenVINO for the network as it is read, and as the recipe describes it
    networks = model_file.read_network(path, preprocessing=mode, taps=taps), own_network(cache.recipe)
    weights = Weights(str(path), cache.recipe.weights, path)
    assert len({openvino_network._key(network, weights, taps) for network in networks}) == 1


def test_a_model_for_any_size_takes_the_one_that_is_given_and_layers_of_nested_models_are_taps(files, images, tmp_path):
    folder, pixels = images
    path, taps = files / "nested.keras", ("body.inner", "body", "out")
    with pytest.raises(OptionError, match=r"nested.keras takes images of any size; choose one, such as --input-size"):
        extract(folder, tmp_path / "c.h5", backbone=str(path))
    cache = extract(folder, tmp_path / "c.h5", backbone=f"keras:{path}", input_size="24x32", taps=taps, device="cpu")
    assert cache.recipe.preprocessing == "inside"
    for tap in ("body.inner", "out"):
        expected = features_of_keras(path, tap, pixels.astype(np.float32))
        np.testing.assert_allclose(cache.features(tap).X[:], expected, rtol=1e-4, atol=1e-5)


def test_commands_show_a_model_file(files, tmp_path, invoke):
    import keras

    path, size = str(files / "nested.keras"), ("--input-size", "24x32")
    network = keras.models.load_model(path)
    shown = invoke("backbones", path, *size, "--json")[path]
    assert (shown["input_size"], shown["preprocessing"]) == ([24, 32], "inside")
    assert (shown["default_taps"], shown["parameters"]) == (["pooled"], network.count_params())
    assert (
        invoke("backbones", str(files / "plain.keras"), "--json")[str(files / "plain.keras")]["preprocessing"] is None
    )
    layers = {layer["tap"]: layer for layer in invoke("summary", path, *size, "--json")["layers"]}
    assert layers["body.inner"]["output_shape"] == [22, 30, 6]
    assert sum(layer["parameters"] for layer in layers.values()) == network.count_params()
    drawn = invoke("filters", path, *size, "--out", str(tmp_path / "f.png"), "--json")
    kernel = network.get_layer("body").get_layer("inner").get_weights()[0]
    np.testing.assert_array_equal(np.array(drawn["filters"], np.float32), kernel.transpose(3, 0, 1, 2))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("backbones nested.keras", "takes images of any size; choose one, such as --input-size 224"),
        ("backbones --input-size 9", "--input-size is for a model of your own; give its path"),
        ("summary vgg16 --input-size 9", "vgg16 has its own input size; leave out --input-size"),
        ("summary plian.keras", "cannot be read: no such file or directory; .* did you mean 'plain.keras'"),
        ("filters plain.keras --weights random:0", "plain.keras has weights of its own; leave out --weights"),
        ("filters flat.keras", "has no layer Conv2D that takes pixels, so there are no filters to draw"),
    ],
)
def test_what_commands_cannot_show_is_refused_in_one_line(command, message, files, tmp_path, monkeypatch):
    import keras

    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]).save(tmp_path / "flat.keras")
    for name in ("nested", "plain"):
        shutil.copy(files / f"{name}.keras", tmp_path)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, command.split())
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(f"error: .*{message}.*\n", done.stderr)


def test_the_default_tap_is_what_the_last_dense_layer_takes(files):
    assert model_file.read_network(files / "plain.keras", preprocessing="unit").default_taps == ("pooled",)
    assert model_file.read_network(files / "nested.keras", input_size=(16, 16)).default_taps == ("pooled",)


def test_the_file_is_the_identity_and_a_cache_finds_it_again(files, images, tmp_path, monkeypatch):
    folder, _ = images
    path, moved = tmp_path / "model.keras", tmp_path / "moved.keras"
    shutil.copy(files / "plain.keras", path)
    made = extract(folder, tmp_path / "c.h5", backbone=str(path), preprocess="unit", device="cpu")
    before = (tmp_path / "c.h5").read_bytes()
    monkeypatch.setattr(model_file, "tapped_model", lambda *_: pytest.fail("the recipe knows the network"))
    extract(folder, tmp_path / "c.h5")
    assert set(why(folder, tmp_path / "c.h5", backbone=str(path)).reasons) == {"unchanged"}
    path.rename(moved)
    extract(folder, tmp_path / "c.h5", backbone=str(moved))
    assert (tmp_path / "c.h5").read_bytes() == before
    with pytest.raises(WeightsError, match=r"weights of .*c.h5 cannot be read again: the model file .*model.keras"):
        extract(folder, tmp_path / "c.h5")
    with pytest.raises(RecipeError, match="preprocessing is 'unit', wanted 'tf'"):
        extract(folder, tmp_path / "c.h5", backbone=str(moved), preprocess="tf")
    monkeypatch.undo()
    assert verify(made.path, weights=str(moved), recompute=2).max_relative_error < 1e-5
    shutil.copy(files / "nested.keras", moved)
    with pytest.raises(RecipeError, match="made with another recipe"):
        extract(folder, tmp_path / "c.h5", backbone=str(moved), input_size="24x32", preprocess="unit", taps=["pooled"])


def test_a_head_predicts_exports_and_is_tuned_with_the_model(files, images, tmp_path):
    import keras

    import heads

    _, pixels = images
    for split, numbers in (("train", range(6)), ("valid", range(2))):
        for number in numbers:
            place = tmp_path / "photos" / split / ("even" if number % 2 else "odd")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[number]).save(place / f"{split}{number}.png")
    cache = extract(
        tmp_path / "photos", tmp_path / "c.h5", backbone=str(files / "nested.keras"), input_size="24x32", device="cpu"
    )
    head = heads.train(cache, "softmax")
    prediction = heads.predict(head, tmp_path / "photos")
    heads.export(head, tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    found = np.concatenate([model.predict_on_batch(pixels[number : number + 1]) for number in range(2)])
    names = [Path(path).name for path in prediction.table.paths]
    expected = prediction.table.probabilities[[names.index("valid0.png"), names.index("valid1.png")]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    tuned = heads.finetune(head, tmp_path / "photos", tmp_path / "tuned.keras", unfreeze="body.inner")
    assert tuned.trained_weights == 3 * 3 * 3 * 6 + 6 + 6 * 2 + 2
    with pytest.raises(UnknownNameError, match=r"stage of keras up to pooled 'out' \(known: .*head"):
        heads.finetune(head, tmp_path / "photos", tmp_path / "other.keras", unfreeze="out")


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("code.keras", {}, WeightsError, "has a layer Lambda, which runs code; build the model from other layers"),
        ("custom.keras", {}, WeightsError, "has the class Mine, which is not of Keras"),
        ("two.keras", {}, WeightsError, "has 2 inputs, expected one: images"),
        ("vector.keras", {}, WeightsError, r"takes inputs of shape \(10\), expected RGB images"),
        ("grey.keras", {}, WeightsError, r"takes inputs of shape \(8, 8, 1\), expected RGB images"),
        ("plian.keras", {}, WeightsError, "no such file or directory; .* did you mean 'plain.keras'"),
        ("plain.keras", {"preprocess": None}, OptionError, "no layer that prepares pixels.*--preprocess unit"),
        ("plain.keras", {"preprocess": "inside"}, OptionError, "no layer Rescaling or Normalization"),
        ("plain.keras", {"preprocess": "imagenet"}, UnknownNameError, "unknown preprocessing 'imagenet'"),
        ("plain.keras", {"input_size": "64"}, OptionError, "--input-size is 64x64, but .* takes images of 24x32"),
        ("plain.keras", {"input_size": "0x9"}, OptionError, "input_size is '0x9'; expected height and width"),
        ("plain.keras", {"taps": ["pool"]}, UnknownNameError, "unknown tap of plain.keras 'pool'; did you mean 'poo"),
        ("plain.keras", {"weights": "random:0"}, OptionError, "has weights of its own; leave out --weights"),
        ("plain.keras", {"precision": "mixed", "engine": "keras"}, EngineError, "is slower than float32 on a CPU; lea"),
        ("plain.keras", {"precision": "tf32"}, EngineError, "a CPU computes in float32; leave out --precision tf32"),
        ("plain.keras", {"engine": "numba"}, EngineError, "use --engine keras"),
        ("nested.keras", {"input_size": "2"}, OptionError, "does not take images of 2x2 pixels"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(name, options, error, message, files, images, tmp_path):
    options = {"preprocess": "none", **options}
    with pytest.raises(error, match=message) as caught:
        extract(images[0], tmp_path / "c.h5", backbone=str(files / name), device="cpu", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c.h5").exists()


def test_a_model_is_computed_in_bfloat16_by_openvino_but_not_in_half_precision_by_keras(files, images):
    def features(**options):
        row = read_network(files / "plain.keras", preprocessing="unit")
        source = source_of(row, str(files / "plain.keras"), taps=["pooled"], device="cpu", **options)
        return source.start(4, 6).forward(images[1])["pooled"]

    expected = features(engine="keras")
    with pytest.raises(EngineError, match=r"plain.keras in the precisions that they were saved with; leave out --prec"):
        features(engine="keras", precision="mixed")
    if not engines._has_bfloat16():
        with pytest.raises(EngineError, match="bfloat16, which this processor has no instructions for"):
            features(engine="openvino", precision="mixed")
        return
    found = features(engine="openvino", precision="mixed")
    assert 1e-4 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.03


def test_an_operation_that_openvino_lacks_is_named_and_keras_computes_from_then_on(images, tmp_path, monkeypatch):
    import keras

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, pixels = tmp_path / "own.keras", keras.Input((*SIDES, 3))
    triangle = keras.ops.qr(keras.ops.mean(pixels, axis=-1))[1]
    flat = keras.layers.Flatten(name="flat")(keras.ops.abs(triangle))
    keras.Model(pixels, keras.layers.Dense(2)(flat)).save(path)
    row = read_network(path, preprocessing="none")
    lacking = "OpenVINO cannot convert the model (it has no operation Qr); using the engine keras instead"
    converting, said = "converting the model to OpenVINO, once for these weights", []
    for starts in (1, 2):
        backbone = source_of(row, str(path), taps=["flat"], device="cpu", notify=said.append).start(6, 6)
        assert backbone.provenance["engine"] == "keras"
        assert said.count(lacking) == starts
        assert sum(line.startswith(converting) for line in said) == 1
    gray = images[1].astype(np.float64).mean(axis=-1)
    expected = np.abs(np.stack([np.linalg.qr(each)[1] for each in gray])).reshape(6, -1)
    found = backbone.forward(images[1])["flat"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_a_tap_that_is_too_wide_is_refused(files, images, tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "LARGEST_TAP", 1000)
    with pytest.raises(OptionError, match=r"first of .*plain.keras has 3,300 features for an image, expected at most"):
        extract(images[0], tmp_path / "c.h5", backbone=str(files / "plain.keras"), preprocess="unit", taps=["first"])


def test_preprocessing_is_not_for_networks_of_the_catalogue(images, tmp_path):
    with pytest.raises(OptionError, match="vgg16 has its own preprocessing and input size"):
        extract(images[0], tmp_path / "c.h5", backbone="vgg16", preprocess="tf")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"hello"), "it is no zip archive"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "it is an HDF5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "is not a Keras model"),
        (lambda path: zipfile.ZipFile(path, "w").writestr("other.txt", "x"), "is not a Keras model"),
    ],
)
def test_a_file_that_is_no_model_is_refused(spoil, message, files, tmp_path):
    path = Path(shutil.copy(files / "plain.keras", tmp_path / "model.keras"))
    spoil(path)
    with pytest.raises(WeightsError, match=message):
        model_file.read_network(path, preprocessing="unit")


@pytest.mark.parametrize(
    "layer",
    [
        {"module": "keras", "class_name": "layers.Lambda"},
        {"module": "keras", "class_name": "layers.TFSMLayer"},
        {"module": "keras.utils", "class_name": "get_file"},
        {"module": "keras", "class_name": "function", "config": "utils.get_file"},
        {"module": "keras.models", "class_name": "function", "config": "layers.load_model"},
        {"module": "keras.src.ops.core", "class_name": "Switch"},
        {"module": "keras.src.saving.saving_lib", "class_name": "function", "config": "load_model"},
        {"module": "keras.datasets.mnist", "class_name": "function", "config": "load_data"},
        {"module": "os", "class_name": "function", "config": "system"},
        {"module": None, "class_name": "function", "config": "system"},
        {"module": "keras.layers", "class_name": "StringLookup"},
        {"module": "keras.layers", "class_name": "Dense", "registered_name": "mine>Dense"},
        {"module": "builtins", "class_name": "__lambda__", "config": {"code": ""}},
    ],
)
@pytest.mark.parametrize("place", ["layers", "compile_config"])
def test_classes_and_functions_that_do_more_than_compute_are_refused(layer, place):
    model = {"module": "keras", "class_name": "Sequential", "config": {place: [{"config": {}} | layer]}}
    with pytest.raises(WeightsError, match=r"which runs code|which is not of Keras"):
        safe_loading.require_built_in(Path("model.keras"), model)


def test_a_nested_model_prepares_pixels_also_where_names_of_layers_occur_twice(tmp_path):
    import keras

    layers = keras.layers
    body = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv2D(2, 3, name="twice")], name="body"
    )
    images = keras.Input((8, 8, 3))
    keras.Model(images, layers.Conv2D(2, 3, name="twice")(body(images))).save(tmp_path / "model.keras")
    network = model_file.read_network(tmp_path / "model.keras")
    assert network.preprocessing == "inside"
    assert set(network.taps) == {"body", "twice"}


def test_a_compressed_archive_is_refused(files, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(files / "plain.keras") as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with pytest.raises(WeightsError, match="is a compressed archive"):
        model_file.read_network(path, preprocessing="unit")


@pytest.mark.parametrize("name", ["model.h5", "model.KERAS", "model"])
def test_a_name_by_which_keras_would_read_the_file_in_another_way_is_refused(name, files, tmp_path):
    path = Path(shutil.copy(files / "plain.keras", tmp_path / name))
    with pytest.raises(WeightsError, match=r"must have a name that ends in \.keras"):
        model_file.read_network(path, preprocessing="unit")


def test_models_of_many_kinds_of_layers_are_known(tmp_path):
    import keras

    layers = keras.layers
    images = keras.Input((16, 16, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(images)
    body = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(4, 3, kernel_regularizer="l2"), layers.PReLU()])
    x = layers.RandomFlip(seed=1)(x)
    x = body(x)
    y = layers.Conv2D(4, 1, activation=keras.activations.gelu, kernel_initializer=keras.initializers.HeNormal(1))(x)
    x = keras.ops.relu(x * 0.5 + y)
    x = layers.LayerNormalization(gamma_constraint="non_neg")(layers.BatchNormalization()(x))
    x = layers.MultiHeadAttention(2, 4)(layers.Reshape((196, 4))(x), layers.Reshape((196, 4))(x))
    model = keras.Model(images, layers.Dense(2, dtype="float32")(layers.GlobalAveragePooling1D()(x)))
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    model.save(tmp_path / "model.keras")
    assert model_file.read_network(tmp_path / "model.keras", preprocessing="none").parameters == model.count_params()


def test_weights_that_lie_in_another_file_are_not_read(files, tmp_path):
    with zipfile.ZipFile(files / "plain.keras") as archive:
        config = archive.read("config.json")
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5", "a") as weights:
        weights["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", config)
        archive.write(tmp_path / "model.weights.h5", "model.weights.h5")
    with pytest.raises(WeightsError, match=r"elsewhere in the weights of .* is a link, expected numbers"):
        model_file.read_network(tmp_path / "model.keras", preprocessing="unit")


def test_a_cache_of_a_model_file_opens_without_it(files, images, tmp_path):
    path = Path(shutil.copy(files / "plain.keras", tmp_path / "model.keras"))
    extract(images[0], tmp_path / "c.h5", backbone=str(path), preprocess="unit", device="cpu")
    path.unlink()
    assert FeatureCache.open(tmp_path / "c.h5").features("pooled").X[:].shape == (6, 5)


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves the model from an input to outputs, and returns its path."""
    import keras

    def save(build, sides=SIDES):
        images = keras.Input((*sides, 3))
        path = tmp_path / "model.keras"
        keras.Model(images, build(keras, images)).save(path)
        return path

    return save


def oddly_built(keras, images):
    """Return the output of a model with names and layers that do not fit a plain chain."""
    layers = keras.layers
    x = keras.applications.imagenet_utils.preprocess_input(images, mode="tf")
    x = layers.GaussianNoise(1.0, name="noise")(layers.RandomFlip(seed=1, name="flip")(x))
    x = layers.Conv2D(4, 3, name="pixels")(x)
    x = keras.ops.relu(x)
    side = layers.Conv2D(4, 1, name="side")(x)
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    side = layers.GlobalMaxPooling2D()(side)
    return layers.Dense(1000, name="predictions")(layers.Dense(8, name="head")(x) + layers.Dense(8)(side))


def test_operations_branches_and_layers_of_any_name_are_known_and_training_layers_do_nothing(saved, images, tmp_path):
    import heads

    path, (_, pixels) = saved(oddly_built), images
    network = model_file.read_network(path)
    assert network.preprocessing == "inside"
    assert [stage for stage, first in network.stages.items() if not first] == ["head"]
    assert not any("relu" in stage or "add" in stage for stage in network.stages)
    for number, each in enumerate(pixels):
        place = tmp_path / "photos" / "train" / ("even" if number % 2 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(place / f"{number}.png")
    taps = ["pooled", "predictions"]
    cache = extract(tmp_path / "photos", tmp_path / "c.h5", backbone=str(path), taps=taps, device="cpu")
    expected = features_of_keras(path, "pooled", pixels.astype(np.float32))
    rows = [int(Path(name).stem) for name in cache.features("pooled").paths]
    np.testing.assert_allclose(cache.features("pooled").X[:], expected[rows], rtol=1e-4, atol=1e-5)
    assert heads.imagenet_top3(cache, cache.features("predictions")) is None  # a thousand classes of its own
    head = heads.train(cache, "softmax", tap="pooled")
    with pytest.raises(
        UnknownNameError, match=r"stage of keras that leads to the tap of the head 'side' \(known: head"
    ):
        heads.finetune(head, tmp_path / "photos", tmp_path / "tuned.keras", unfreeze="side")
    assert not (tmp_path / "tuned.keras").exists()
    tuned = heads.finetune(head, tmp_path / "photos", tmp_path / "tuned.keras", unfreeze="pixels", params={"lr": 1e-9})
    assert tuned.trained_weights == 3 * 3 * 3 * 4 + 4 + 4 * 2 + 2
    start, end = tuned.epochs[0].loss, tuned.epochs[1].loss
    assert end == pytest.approx(start, abs=1e-4)  # as if the noise and the flips were not there


def test_the_file_is_compared_before_keras_loads_it(files, images, tmp_path, monkeypatch):
    import heads
    from heads.errors import MismatchError

    path = Path(shutil.copy(files / "plain.keras", tmp_path / "model.keras"))
    for number, each in enumerate(images[1]):
        place = tmp_path / "photos" / ("even" if number % 2 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(place / f"{number}.png")
    cache = extract(tmp_path / "photos", tmp_path / "c.h5", backbone=str(path), preprocess="unit", device="cpu")
    head = heads.train(cache, "softmax")
    shutil.copy(files / "nested.keras", path)
    monkeypatch.setattr(model_file, "tapped_model", lambda *_: pytest.fail("it is another file"))
    with pytest.raises(MismatchError):
        heads.export(head, tmp_path / "exported.keras")


def test_a_nested_model_with_several_outputs_is_one_layer(saved):
    def build(keras, images):
        layers = keras.layers
        inner = keras.Input((*SIDES, 3))
        first = layers.Conv2D(2, 3, name="first")(inner)
        body = keras.Model(inner, [layers.Flatten()(first), layers.GlobalAveragePooling2D()(first)], name="body")
        return layers.Dense(3, name="out")(layers.Concatenate(name="both")(body(images)))

    network = model_file.read_network(saved(build), preprocessing="unit")
    assert dict(network.taps) == {"both": 22 * 30 * 2 + 2, "out": 3}
    assert network.default_taps == ("both",)


def test_layers_that_only_train_return_their_input():
    import keras

    pixels = np.random.default_rng(0).uniform(0, 255, (2, *SIDES, 3)).astype(np.float32)
    found = [name for name in dir(keras.layers) if model_file._ONLY_TRAINING.fullmatch(name)]
    assert {"Dropout", "GaussianNoise", "RandomFlip", "RandomZoom", "MixUp"} <= {*found}
    for name in found:
        if name.endswith(("1D", "3D")):
            continue  # take no images
        try:
            layer = getattr(keras.layers, name)()
        except TypeError:  # a setting has no default
            layer = getattr(keras.layers, name)(*OF_LAYER.get(name, (0.5,)))
        given = keras.ops.convert_to_numpy(layer(pixels, training=False))
        np.testing.assert_array_equal(given, pixels, err_msg=name)


@pytest.mark.parametrize(
    ("sides", "options", "message"),
    [
        ((None, 32), {}, "takes images of anyx32 pixels; choose one size, such as --input-size 224x32"),
        ((None, 32), {"input_size": (24, 16)}, "--input-size is 24x16, but .* of anyx32 pixels; pass 24x32"),
        ((None, None), {}, "takes images of any size; choose one"),
    ],
)
def test_open_sides_are_told(sides, options, message, saved):
    def build(keras, images):
        return keras.layers.GlobalAveragePooling2D()(images)

    with pytest.raises(OptionError, match=message):
        model_file.read_network(saved(build, sides), preprocessing="unit", **options)


def test_sides_are_bounded_and_batches_of_large_images_are_small(saved):
    from featurecache.backbones.engines import default_batch_size

    def build(keras, images):
        return keras.layers.GlobalAveragePooling2D()(images)

    with pytest.raises(WeightsError, match=r"takes images of 5000x8 pixels, expected at most 4,096 on a side"):
        model_file.read_network(saved(build, (5000, 8)), preprocessing="unit")
    large = model_file.read_network(saved(build, (2400, 2400)), preprocessing="unit")
    assert default_batch_size("keras", large) == 2
    assert default_batch_size("keras", model_file.read_network(saved(build), preprocessing="unit")) == 32


def test_the_widths_of_all_taps_count(files, monkeypatch):
    monkeypatch.setattr(model_file, "LARGEST_TAP", 3302)
    with pytest.raises(OptionError, match=r"the taps first, predictions of .* have 3,304 features for an image"):
        model_file.read_network(files / "plain.keras", preprocessing="unit", taps=("predictions", "first"))


def test_weights_that_the_file_cannot_hold_are_not_allocated(files, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(files / "plain.keras") as archive, zipfile.ZipFile(path, "w") as changed:
        config = archive.read("config.json").replace(b'"units": 4', b'"units": 40000000000')
        changed.writestr("config.json", config)
        changed.writestr("model.weights.h5", archive.read("model.weights.h5"))
    with pytest.raises(WeightsError, match=r"describes 240,000,000,142 weights, which its .* bytes cannot hold"):
        model_file.read_network(path, preprocessing="unit")
    # Keras has nothing of it left to allocate when the next model is made
    assert model_file.read_network(files / "plain.keras", preprocessing="unit").parameters > 0


def test_an_operation_on_constants_is_refused_before_it_is_computed(tmp_path):
    import keras

    images = keras.Input((8, 8, 3))
    keras.Model(images, keras.ops.tile(keras.layers.Flatten()(images), [1, 2])).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    (tile,) = (layer for layer in config["config"]["layers"] if layer["class_name"] == "Tile")
    constant = {"class_name": "__numpy__", "config": {"value": [1.0], "dtype": "float32"}}
    large = tile | {"name": "large", "config": {"name": "large", "repeats": [10**15]}}
    config["config"]["layers"].insert(1, large | {"inbound_nodes": [{"args": [constant], "kwargs": {}}]})
    with zipfile.ZipFile(tmp_path / "large.keras", "w") as archive:
        for name, content in (members | {"config.json": json.dumps(config)}).items():
            archive.writestr(name, content)
    assert model_file.read_network(tmp_path / "model.keras", preprocessing="unit").taps
    with pytest.raises(WeightsError, match=r"large.keras calls large with constants alone, as Keras saves none; build"):
        model_file.read_network(tmp_path / "large.keras", preprocessing="unit")


def test_an_operation_of_several_outputs_is_in_the_summary_and_no_tap(tmp_path):
    import keras

    images = keras.Input((8, 8, 3))
    left, right = keras.ops.split(images, 2, axis=2)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(keras.layers.Concatenate()([left, right]))
    keras.Model(images, keras.layers.Dense(2, name="out")(pooled)).save(tmp_path / "split.keras")
    shown = CliRunner().invoke(app, ["summary", str(tmp_path / "split.keras"), "--json"])
    assert shown.exit_code == 0, shown.output
    [split] = [layer for layer in json.loads(shown.stdout)["layers"] if layer["kind"] == "Split"]
    assert (split["output_shape"], split["tap"]) == ([], "")

"""Backbone and head as one Keras model: it says what the head says, wherever Keras is."""

import json
import zipfile

import numpy as np
import pytest

from featurecache.backbones.network import from_pixels
from featurecache.errors import UnknownNameError, WeightsError
from heads.errors import HeadError, MismatchError
from heads.exporting import keras_model
from heads.exporting.keras_model import assemble, describe, layered, network_of, notes_of, save_model
from heads.families.affine import AffineModel, OneVsRestModel
from tests.heads import networks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(networks.TENSORFLOW_AND_NUMPY)]

NAME = "mobilenet_v2"
IMAGES = 9


@pytest.fixture(scope="module")
def pixels():
    return networks.pixels_of(IMAGES)


@pytest.fixture(scope="module")
def features(pixels):
    return networks.features_of(NAME, pixels, "avg_pool", "predictions")


@pytest.fixture(scope="module", autouse=True)
def _built_once():
    """Let models share a network: building it takes longer than all else."""
    known = {}

    def shared(row, weights, tap):
        if (row.name, tap) not in known:
            known[row.name, tap] = from_pixels(row, weights, tap)
        return known[row.name, tap]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras_model, "from_pixels", shared)
        yield


@pytest.fixture(scope="module")
def cache(features, make_cache, make_features):
    """The images' features, three rows of each of three classes."""
    sets = [
        make_features(X, np.arange(IMAGES) % 3, classes=networks.CLASSES, **networks.recipe_of(NAME, tap, X.shape[1]))
        for tap, X in features.items()
    ]
    return make_cache(*sets, weights_source="random:0")


@pytest.fixture(scope="module")
def logreg(cache):
    """A head on the pooled features."""
    return networks.trained_on(cache, "logreg", "avg_pool")


def probabilities(head, pixels):
    """Return what the model says, layer by layer: tracing a graph of each model takes longer than computing it."""
    import keras

    model = assemble(head, *network_of(head))
    return keras.ops.convert_to_numpy(model(pixels, training=False))


def assert_same(head, features, pixels, tolerance=1e-5):
    found = probabilities(head, pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, head.predict_proba(features[head.tap]), rtol=0, atol=tolerance)
    return found


@pytest.mark.parametrize("tap", ["avg_pool", "predictions"])
@pytest.mark.parametrize("standardize", [True, False])
def test_the_model_says_of_images_what_the_head_says_of_their_features(cache, features, pixels, tap, standardize):
    head = networks.trained_on(cache, "logreg", tap, standardize=standardize)
    found = assert_same(head, features, pixels)
    assert found.std(axis=0).min() > 1e-5


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "linear"])
def test_hidden_layers(cache, features, pixels, activation):
    head = networks.trained_on(cache, "mlp", "avg_pool", hidden="8,5", activation=activation, epochs=3)
    assert_same(head, features, pixels)


def test_one_against_the_rest(logreg, features, pixels):
    """Every class has a sigmoid of its own; together they are divided by their sum."""
    model = OneVsRestModel(**logreg.model.arrays)
    head = networks.with_model(logreg, model)
    assert np.abs(head.predict_proba(features["avg_pool"]) - logreg.predict_proba(features["avg_pool"])).max() > 0.01
    assert_same(head, features, pixels)


@pytest.mark.parametrize("link", [AffineModel, OneVsRestModel])
def test_a_class_that_was_never_trained_has_the_probability_0(logreg, features, pixels, link):
    classes = ("aardvark", *networks.CLASSES[:2], "bull", networks.CLASSES[2])
    head = networks.with_model(logreg, link(**logreg.model.arrays), classes=classes, trained_classes=(1, 2, 4))
    found = assert_same(head, features, pixels)
    assert (found[:, [0, 3]] == 0).all()


def test_deviations_below_keras_epsilon(logreg, features, pixels):
    arrays = logreg.model.arrays
    tiny = AffineModel(**arrays | {"scale": np.full(1280, 3e-9), "coef": arrays["coef"] * 1e-8})
    assert_same(networks.with_model(logreg, tiny), features, pixels)


def test_a_head_whose_numbers_float32_cannot_tell_apart_is_refused(logreg):
    arrays = logreg.model.arrays
    large = np.random.default_rng(0).normal(size=1280) * 1e7  # the same for all classes: of no effect on probabilities
    head = networks.with_model(logreg, AffineModel(**arrays | {"coef": arrays["coef"] + large}))
    with pytest.raises(MismatchError, match=r"is not precise enough in float32: probabilities differ by up to [01]\."):
        assemble(head, *network_of(head))


def test_a_saved_model_loads_without_this_project_and_says_what_it_is(logreg, features, pixels, fresh_python, tmp_path):
    path = tmp_path / "model.keras"
    save_model(assemble(logreg, *network_of(logreg)), path, describe(logreg))
    np.save(tmp_path / "pixels.npy", pixels)
    code = """
import json, os, sys, warnings, zipfile
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
warnings.simplefilter("ignore")  # of Keras and its backend
sys.modules |= dict.fromkeys(("featurecache", "heads", "scripts"))  # what is None cannot be imported
import keras, numpy as np
path, pixels = sys.argv[1:]
model = keras.saving.load_model(path, safe_mode=True)
said = json.loads(zipfile.ZipFile(path).read("featurecache.json"))
kinds = {type(layer).__module__ for layer in model._flatten_layers()}
assert all(kind.startswith("keras.") for kind in kinds), kinds
(images,) = model.inputs
print(json.dumps([said, model.predict(np.load(pixels), verbose=0).tolist(), images.dtype, images.shape]))
"""
    said, found, dtype, shape = json.loads(fresh_python(code, path, tmp_path / "pixels.npy"))
    np.testing.assert_allclose(found, logreg.predict_proba(features["avg_pool"]), rtol=0, atol=1e-5)
    assert (dtype, shape) == ("uint8", [None, 224, 224, 3])
    assert said["classes"] == said["trained_classes"] == ["ant", "bee", "cow"]
    assert (said["tap"], said["head"], said["params"]) == ("avg_pool", "logreg", dict(logreg.params))
    assert said["fingerprint"] == logreg.recipe.fingerprint
    assert said["recipe"]["weights"] == "random:0"
    assert said["head_sha256"] == logreg.identity
    assert said["fine_tuning"] is None


def test_the_layers_have_names_that_say_what_they_do(cache):
    head = networks.trained_on(cache, "mlp", "avg_pool", hidden="8,5", epochs=1)
    model = assemble(head, *network_of(head))
    assert [layer.name for layer in model.layers] == [
        "images",
        "preprocessing",
        "mobilenet_v2",
        "standardize",
        "hidden_1",
        "hidden_2",
        "scores",
        "probabilities",
    ]


def test_heads_that_are_not_made_of_layers_are_refused_with_those_that_are(cache):
    head = networks.trained_on(cache, "knn", "avg_pool")
    with pytest.raises(
        HeadError, match=r"the head knn does not consist of dense layers.*softmax, mlp, logreg, .*majority$"
    ):
        layered(head)


def test_weights_are_those_of_the_heads_recipe_or_refused(logreg, tmp_path):
    assert network_of(logreg)[1].seed == 0
    with pytest.raises(MismatchError, match="weights: the head has 'random:0', the features 'random:1'"):
        network_of(logreg, "random:1")
    with pytest.raises(WeightsError, match="cannot be read"):
        network_of(logreg, str(tmp_path / "gone.weights.h5"))


def test_a_network_that_is_none_of_the_catalogue_is_refused(blobs, make_cache, make_features):
    rows = make_features(*blobs(12, 16, 2), tap="features", backbone="fake")
    with pytest.raises(UnknownNameError, match="unknown backbone 'fake'"):
        network_of(networks.trained_on(make_cache(rows), "logreg"))


def test_half_precision_is_said(cache, blobs, make_cache, make_features):
    assert len(notes_of(networks.trained_on(cache, "majority", "avg_pool"))) == 1
    rows = make_features(*blobs(12, 16, 2), precision="mixed", dtype="float16")
    _, note = notes_of(networks.trained_on(make_cache(rows), "logreg"))
    assert "mixed precision and float16 features" in note
    rows = make_features(*blobs(12, 16, 2), precision="tf32")
    _, note = notes_of(networks.trained_on(make_cache(rows), "logreg"))
    assert "trained with tf32 precision; the model computes in float32" in note


def test_the_description_is_a_member_of_the_archive(logreg, tmp_path):
    path = tmp_path / "model.keras"
    save_model(assemble(logreg, *network_of(logreg)), path, describe(logreg, {"unfreeze": "block16"}))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["config.json", "featurecache.json", "metadata.json", "model.weights.h5"]
        assert json.loads(archive.read("featurecache.json"))["fine_tuning"] == {"unfreeze": "block16"}
    assert [each.name for each in tmp_path.iterdir()] == ["model.keras"]

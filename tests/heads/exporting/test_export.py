"""The use case ``export``: files for Keras and scikit-learn, and what is refused before any work."""

import joblib
import numpy as np
import pytest
from PIL import Image

import featurecache
from featurecache.errors import OptionError, OutputError
from heads import train
from heads.errors import HeadError
from heads.exporting.export import export
from heads.families.affine import OneVsRestModel
from tests.heads import networks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(networks.TENSORFLOW_AND_NUMPY)]


@pytest.fixture
def head(blobs, make_cache, make_features):
    """A head on the features of a network whose weights are nowhere."""
    X, y = blobs(30, 1280, 3)
    rows = make_features(X, y, classes=networks.CLASSES, **networks.recipe_of("mobilenet_v2", "avg_pool", 1280))
    return networks.trained_on(make_cache(rows, weights_source="/gone.weights.h5"), "logreg")


def decoded(cache, folder):
    """Return the pixels of a cache's images, each as large as the network wants it."""
    return np.stack(
        [np.asarray(Image.open(folder / path).convert("RGB")) for path in cache.features(next(iter(cache.taps))).paths]
    )


def assert_exported(head, cache, pixels, path, keras_probabilities=1e-5):
    import keras

    model = keras.saving.load_model(export(head, path))
    found = model.predict(pixels, verbose=0)
    expected = head.predict_proba(cache.features(head.tap).X)
    np.testing.assert_allclose(found, expected, rtol=0, atol=keras_probabilities)


def test_vgg16_and_a_head_on_its_maps(tmp_path):
    for number, pixels in enumerate(networks.pixels_of(6)):
        folder = tmp_path / "images" / networks.CLASSES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    cache = featurecache.extract(tmp_path / "images", tmp_path / "c.h5", weights="random:0", taps=["block5_pool"])
    head = networks.trained_on(cache, "logreg")
    assert_exported(head, cache, decoded(cache, tmp_path / "images"), tmp_path / "vgg16.keras")


@pytest.mark.real_data
def test_photographs_through_a_pretrained_network(tmp_path, shared_data, mobilenet_weights):
    names = [
        path for name in ("cats", "dogs") for path in sorted((shared_data / "catsdogs/valid" / name).iterdir())[:6]
    ]
    for path in names:
        folder = tmp_path / "images" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").resize((224, 224)).save(folder / f"{path.stem}.png")
    options = {"backbone": "mobilenet_v2", "weights": str(mobilenet_weights)}
    cache = featurecache.extract(tmp_path / "images", tmp_path / "c.h5", **options)
    pixels = decoded(cache, tmp_path / "images")
    for tap in ("avg_pool", "predictions"):
        softmax = train(cache, "softmax", tap=tap, params={"epochs": 3})
        assert_exported(softmax, cache, pixels, tmp_path / f"softmax-{tap}.keras")
    logreg = train(cache, "logreg", tap="avg_pool")
    one_vs_rest = networks.with_model(logreg, OneVsRestModel(**logreg.model.arrays))
    assert_exported(one_vs_rest, cache, pixels, tmp_path / "one_vs_rest.keras")


def test_a_scikit_learn_object_is_the_head_with_the_names_of_its_classes(head, blobs, tmp_path):
    said = []
    path = export(head, tmp_path / "head.joblib", notify=said.append)
    estimator = joblib.load(path)
    X, _ = blobs(20, 1280, 3, seed=1)
    np.testing.assert_allclose(estimator.predict_proba(X), head.predict_proba(X), rtol=0, atol=1e-6)
    assert list(estimator.classes_) == list(networks.CLASSES)
    assert said == ["a joblib file can run code when it is loaded: load only files that you trust"]
    assert [each.name for each in tmp_path.iterdir()] == ["head.joblib"]


def test_a_scikit_learn_object_is_made_without_keras_and_loads_without_this_project(head, fresh_python, tmp_path):
    head.save(tmp_path / "head")
    export_it = """
import sys
from heads import TrainedHead
from heads.exporting.export import export
export(TrainedHead.load(sys.argv[1]), sys.argv[2])
print(sorted({"keras", "tensorflow"} & set(sys.modules)))
"""
    assert fresh_python(export_it, tmp_path / "head", tmp_path / "head.joblib") == "[]"
    load_it = """
import sys
sys.modules |= dict.fromkeys(("featurecache", "heads", "scripts"))  # what is None cannot be imported
import joblib, numpy as np
print(joblib.load(sys.argv[1]).predict(np.zeros((2, 1280))).shape)
"""
    assert fresh_python(load_it, tmp_path / "head.joblib") == "(2,)"


@pytest.mark.parametrize("name", ["head.h5", "head", "head.keras.zip", "head.KERAS"])
def test_another_suffix_is_refused(head, tmp_path, name):
    with pytest.raises(OptionError, match=r"has the suffix .*; expected \.keras for .*, \.onnx for .* or \.joblib for"):
        export(head, tmp_path / name)


@pytest.mark.parametrize("suffix", [".keras", ".joblib"])
def test_a_file_that_exists_is_refused_before_weights_are_looked_for(head, tmp_path, suffix):
    path = tmp_path / f"there{suffix}"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        export(head, path)
    assert path.read_text() == "precious"


def test_a_head_without_layers_is_refused_before_weights_are_looked_for(
    head, tmp_path, blobs, make_cache, make_features
):
    rows = make_features(*blobs(30, 1280, 3), **networks.recipe_of("mobilenet_v2", "avg_pool", 1280))
    knn = networks.trained_on(make_cache(rows, weights_source="/gone.weights.h5"), "knn")
    with pytest.raises(HeadError, match="the head knn does not consist of dense layers"):
        export(knn, tmp_path / "m.keras")
    with pytest.raises(OptionError, match=r"a head alone is written without .*; leave out --weights"):
        export(head, tmp_path / "m.joblib", weights="random:0")
    assert list(tmp_path.iterdir()) == []

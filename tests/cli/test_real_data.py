"""The main job on real photographs: 1,500 cats and dogs through a pretrained MobileNetV2."""

import numpy as np
import pytest

from featurecache import FeatureCache
from heads import TrainedHead

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

LESSON = ("standardize=false", "optimizer=rmsprop", "lr=0.1", "epochs=3", "batch_size=64")


@pytest.fixture(scope="session")
def photographs(shared_data):
    return shared_data / "catsdogs"


@pytest.fixture(scope="module")
def cache(all_cats_and_dogs):
    return all_cats_and_dogs / "catsdogs.h5"


@pytest.fixture(scope="module")
def train_and_evaluate(cache, tmp_path_factory, invoke):
    """Train a head on a tap and evaluate it on the valid split; return both results and the head."""
    known = {}

    def run(head, tap, *params):
        if (head, tap, params) not in known:
            directory = tmp_path_factory.mktemp("heads") / f"{head}-{tap}"
            settings = [text for param in params for text in ("-p", param)]
            trained = invoke("train", cache, directory, "--head", head, "--tap", tap, *settings, "--json").json
            evaluated = invoke("evaluate", directory, cache, "--split", "valid", "--json").json
            known[head, tap, params] = trained, evaluated, directory
        return known[head, tap, params]

    return run


def test_all_photographs_are_extracted(all_cats_and_dogs, cache, invoke):
    rows, images = (all_cats_and_dogs / "extracted.txt").read_text().splitlines()
    assert rows == "catsdogs.h5: 1,500 rows of mobilenet_v2 (avg_pool 1280, predictions 1000), 0 failures"
    assert images.startswith("1,500 images forwarded, 0 reused, in ")
    info = invoke("info", cache, "--json").json
    assert info["splits"] == {"train": 1000, "valid": 500}
    assert info["class_counts"] == {"cats": 750, "dogs": 750}
    assert info["taps"] == {"avg_pool": 1280, "predictions": 1000}
    assert info["recipe"]["weights"].startswith("sha256:")


def test_softmax_on_predictions_with_the_settings_of_the_lesson(train_and_evaluate):
    trained, evaluated, _ = train_and_evaluate("softmax", "predictions", *LESSON)
    assert (trained["n_train"], trained["n_valid"]) == (1000, 500)
    assert len(trained["epochs"]) == 3
    assert evaluated["n"] == 500
    assert evaluated["baseline_accuracy"] == 0.5
    assert evaluated["accuracy"]["value"] == trained["valid_accuracy"] >= 0.96


def test_logreg_on_pooled_features(train_and_evaluate):
    trained, evaluated, _ = train_and_evaluate("logreg", "avg_pool")
    assert evaluated["accuracy"]["value"] == trained["valid_accuracy"] >= 0.98
    assert evaluated["roc_auc"] > 0.99


def test_the_tap_below_the_last_layer_beats_the_predictions(train_and_evaluate):
    below, predictions = (train_and_evaluate("logreg", tap)[1] for tap in ("avg_pool", "predictions"))
    assert below["accuracy"]["value"] > predictions["accuracy"]["value"]
    assert below["log_loss"] < predictions["log_loss"]


def test_predict_says_of_a_photograph_what_its_cached_features_say(train_and_evaluate, cache, photographs, invoke):
    directory = train_and_evaluate("logreg", "avg_pool")[2]
    features = FeatureCache.open(cache).features("avg_pool", split="valid")
    cached = dict(zip(features.paths, TrainedHead.load(directory).predict_proba(features.X), strict=True))
    chosen = [sorted((photographs / "valid" / name).iterdir())[0] for name in ("cats", "dogs")]
    prediction = invoke("predict", directory, *chosen, "--json").json
    assert prediction["failures"] == []
    assert [row["class"] for row in prediction["predictions"]] == ["cats", "dogs"]
    for path, row in zip(chosen, prediction["predictions"], strict=True):
        probabilities = [row["probabilities"][name] for name in prediction["classes"]]
        np.testing.assert_allclose(probabilities, cached[str(path.relative_to(photographs))], rtol=0, atol=1e-5)


def test_vgg16_with_random_weights(tmp_path, command, photographs):
    table = ["path,label"]
    for name in ("cats", "dogs"):
        table += [f"valid/{name}/{path.name},{name}" for path in sorted((photographs / "valid" / name).iterdir())[:6]]
    (tmp_path / "some.csv").write_text("\n".join(table))
    path = tmp_path / "vgg16.h5"
    options = ("--root", photographs, "--weights", "random:0", "--batch-size", "6", "--json")
    ledger = command("extract", tmp_path / "some.csv", path, *options).json
    assert (ledger["rows"], ledger["failures"]) == (12, 0)
    cache = FeatureCache.open(path)
    fc2, predictions = (cache.features(tap).X for tap in ("fc2", "predictions"))
    assert (fc2.shape, predictions.shape) == ((12, 4096), (12, 1000))
    assert fc2.dtype == predictions.dtype == np.float32
    assert fc2.min() == 0 < fc2.max()
    np.testing.assert_allclose(predictions.sum(axis=1), 1, atol=1e-5)
    assert len(np.unique(fc2, axis=0)) == 12

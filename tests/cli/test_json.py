"""``--json`` prints one object with the promised keys, and nothing else."""

import csv
import math

import pytest

from featurecache.backbones.catalog import find_network

FOUND = "found 40 images: 2 classes (blue, red); train 28, valid 12\n"
EXTRACT = {"images", "rows", "failures", "forwarded", "reused", "seconds", "images_per_second", "bound", "warnings"}
INFO = {"rows", "taps", "classes", "splits", "failures", "fingerprint", "recipe", "provenance"}
TRAIN = {
    "head",
    "tap",
    "params",
    "n_train",
    "n_valid",
    "epochs",
    "train_accuracy",
    "valid_accuracy",
    "seconds",
    "warnings",
}
EPOCH = {"epoch", "loss", "accuracy", "valid_loss", "valid_accuracy"}
EVALUATE = {
    "n",
    "classes",
    "accuracy",
    "balanced_accuracy",
    "log_loss",
    "roc_auc",
    "per_class",
    "confusion",
    "baseline_accuracy",
    "warnings",
}
PREDICT = {"classes", "predictions", "failures"}


@pytest.fixture(scope="module", params=["in this process", "in a process of its own"])
def run(request, invoke, command):
    return invoke if request.param == "in this process" else command


def check_extract(ledger, *, forwarded):
    assert ledger.keys() >= EXTRACT
    assert (ledger["images"], ledger["rows"], ledger["failures"]) == (40, 40, 0)
    assert (ledger["forwarded"], ledger["reused"]) == (forwarded, 40 - forwarded)
    assert ledger["seconds"] > 0
    assert (ledger["images_per_second"] > 0) == (forwarded > 0)


def test_extract_in_a_process_of_its_own(extracted):
    _, done = extracted
    check_extract(done.json, forwarded=40)
    assert done.err == f"{FOUND}starting mobilenet_v2 with random:0 weights on openvino\n"


@pytest.mark.usefixtures("fast_network")
def test_extract_in_this_process(tmp_path, invoke, images):
    options = ("--backbone", "mobilenet_v2", "--weights", "random:0", "--batch-size", "8", "--json")
    check_extract(invoke("extract", images, tmp_path / "c.h5", *options).json, forwarded=40)
    again = invoke("extract", images, tmp_path / "c.h5", *options)
    check_extract(again.json, forwarded=0)
    assert again.json["bound"] == "decode"  # the network had nothing to compute
    assert again.err == f"{FOUND}kept from an earlier run: the features of 40 images\n"


def test_info(run, real_cache):
    done = run("info", real_cache, "--json")
    info = done.json
    assert done.err == ""
    assert info.keys() >= INFO
    assert info["rows"] == 40
    assert info["taps"] == {"avg_pool": 1280, "predictions": 1000}
    assert info["classes"] == ["blue", "red"]
    assert info["splits"] == {"train": 28, "valid": 12}
    assert info["failures"] == []
    assert len(info["fingerprint"]) == 64
    assert info["recipe"]["backbone"] == "mobilenet_v2"
    assert info["recipe"]["input_size"] == [224, 224]
    assert info["provenance"]["weights_source"] == "random:0"


def test_heads(run):
    catalogue = run("heads", "--json").json
    assert list(catalogue) == [
        "softmax",
        "mlp",
        "logreg",
        "svm",
        "ridge",
        "sgd",
        "knn",
        "centroid",
        "lda",
        "naive_bayes",
        "extra_trees",
        "hist_gradient_boosting",
        "majority",
        "imagenet_map",
    ]
    defaults = {name: {p: each["default"] for p, each in row["params"].items()} for name, row in catalogue.items()}
    assert defaults["logreg"] == {
        "C": 1.0,
        "max_iter": 1000,
        "tol": 0.0001,
        "class_weight": "none",
        "standardize": True,
    }
    of_mlp = {"hidden": "256", "activation": "relu", "dropout": 0.0, "number_loss": "mse"}
    assert defaults["mlp"] == of_mlp | defaults["softmax"]
    targets = {name: row["targets"] for name, row in catalogue.items()}
    numbers = [name for name, each in targets.items() if "number" in each]
    assert (numbers, targets["imagenet_map"], targets["lda"]) == (
        ["mlp", "ridge", "knn", "majority"],
        ["class"],
        ["class", "labels"],
    )
    assert catalogue["ridge"]["number_defaults"] == {"alpha": "auto"}
    assert run("heads", "lda", "--json").json == {"lda": catalogue["lda"]}


def test_backbones(run):
    catalogue = run("backbones", "--json").json
    assert len(catalogue) == 40
    for name, row in catalogue.items():
        assert row.keys() >= {"taps", "input_size"}
        assert row["input_size"] == list(find_network(name).input_size)
        assert set(row["default_taps"]) <= set(row["taps"])
    assert catalogue["vgg16"]["taps"]["fc2"] == 4096


def check_trained(trained, *, head, epochs):
    assert trained.keys() >= TRAIN
    assert (trained["head"], trained["tap"]) == (head, "avg_pool")
    assert (trained["n_train"], trained["n_valid"]) == (28, 12)
    assert [epoch["epoch"] for epoch in trained["epochs"]] == list(range(1, epochs + 1))
    assert all(epoch.keys() == EPOCH for epoch in trained["epochs"])
    assert 0.5 < trained["train_accuracy"] <= 1
    assert 0.5 < trained["valid_accuracy"] <= 1
    assert trained["seconds"] > 0
    assert trained["warnings"] == []


def test_train_with_epochs(tmp_path, command, real_cache):
    parameters = ("-p", "lr=0.01", "-p", "epochs=3", "-p", "batch_size=7")
    done = command("train", real_cache, tmp_path / "h", "--head", "softmax", "--tap", "avg_pool", *parameters, "--json")
    check_trained(done.json, head="softmax", epochs=3)
    assert done.json["params"]["epochs"] == 3
    assert done.err == ""


def test_train_without_epochs(tmp_path, run, real_cache):
    done = run("train", real_cache, tmp_path / "h", "--head", "logreg", "--tap", "avg_pool", "-p", "C=0.5", "--json")
    check_trained(done.json, head="logreg", epochs=0)
    assert done.json["params"]["C"] == 0.5
    assert done.err == ""


def test_warnings_of_a_training_stand_in_the_object_and_on_standard_error(tmp_path, invoke, fake_cache):
    options = ("--head", "logreg", "--tap", "features", "-p", "max_iter=1", "--json")
    done = invoke("train", fake_cache, tmp_path / "h", *options)
    (warning,) = done.json["warnings"]
    assert warning.keys() == {"code", "message"}
    assert warning["code"] == "not_converged"
    assert done.err == f"warning: {warning['message']}\n"


def test_evaluate(tmp_path, run, real_head, real_cache):
    table = tmp_path / "table.csv"
    done = run("evaluate", real_head, real_cache, "--split", "valid", "--predictions", table, "--json")
    evaluation = done.json
    assert done.err == ""
    assert evaluation.keys() >= EVALUATE
    assert evaluation["n"] == 12
    assert evaluation["classes"] == ["blue", "red"]
    assert evaluation["accuracy"].keys() == {"value", "low", "high"}
    assert evaluation["accuracy"]["low"] <= evaluation["accuracy"]["value"] <= evaluation["accuracy"]["high"]
    assert set(evaluation["per_class"]) == {"blue", "red"}
    assert sum(map(sum, evaluation["confusion"])) == 12
    assert evaluation["baseline_accuracy"] == 0.5
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12
    assert rows[0].keys() >= {"path", "true_class", "predicted_class", "probability_blue", "probability_red"}
    assert sum(row["true_class"] == row["predicted_class"] for row in rows) / 12 == evaluation["accuracy"]["value"]


def test_predict(invoke, real_head, image, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    done = invoke("predict", real_head, image, broken, "--json")
    prediction = done.json
    assert prediction.keys() >= PREDICT
    assert prediction["classes"] == ["blue", "red"]
    (row,) = prediction["predictions"]
    assert row["path"] == str(image)
    assert row["class"] == "red"
    assert set(row["probabilities"]) == {"blue", "red"}
    assert math.isclose(sum(row["probabilities"].values()), 1)
    (failure,) = prediction["failures"]
    assert failure["path"] == str(broken)
    assert failure["code"] == "not_an_image"
    assert failure["reason"]
    assert f"failed: {broken}: {failure['reason']}\n" in done.err


def test_summary(invoke):
    summary = invoke("summary", "vgg16", "--json").json
    assert len(summary["layers"]) == 23
    assert summary["parameters"] == 138_357_544
    assert summary["default_taps"] == ["fc2", "predictions"]
    assert summary["layers"][1] == {
        "name": "block1_conv1",
        "kind": "Conv2D",
        "output_shape": [224, 224, 64],
        "parameters": 1792,
        "activation": "relu",
        "tap": "block1_conv1",
    }
    assert [layer["tap"] for layer in summary["layers"][-3:]] == ["fc1", "fc2", "predictions"]

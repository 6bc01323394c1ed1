"""From a cache to a trained head: which rows, which tap, and what is recorded."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from featurecache.errors import UnknownNameError
from heads.artifact import TrainedHead
from heads.catalog import HEADS, head_spec
from heads.errors import MismatchError, ParameterError, TrainingError
from heads.splits import Holdout
from heads.training import feature_tap, train

QUICK = {"epochs": 2, "batch_size": 16, "lr": 0.2}


def test_the_record_says_what_happened(blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    features = make_features(X, y, splits=["train"] * 40 + ["valid"] * 20, weights="sha256:00")
    seen = []
    head = train(make_cache(features, weights_source="imagenet"), "softmax", params=QUICK, seed=7, on_epoch=seen.append)
    record = head.training
    assert (head.name, head.tap, head.classes, head.trained_classes) == (
        "softmax",
        "fc2",
        ("ant", "bee", "cow"),
        (0, 1, 2),
    )
    assert head.params == HEADS["softmax"].values({}) | QUICK
    assert (head.recipe, head.weights_source) == (features.recipe, "imagenet")
    assert (record.n_train, record.n_valid, record.n_unlabelled, record.class_counts) == (40, 20, 0, (14, 13, 13))
    assert (record.seed, record.holdout, record.warnings) == (7, None, ())
    assert record.epochs == tuple(seen)
    assert [epoch.epoch for epoch in seen] == [1, 2]
    assert record.valid_accuracy == seen[-1].valid_accuracy
    assert record.train_accuracy == np.mean(head.predict_proba(X[:40]).argmax(axis=1) == y[:40])
    assert record.seconds > 0
    assert set(record.versions) == {"numpy"}
    assert (record.kept_epoch, record.continues) == (2, None)


def test_the_training_rows_are_identified_by_content_and_label(blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    features = make_features(X, y, splits=["train"] * 40 + ["valid"] * 20)
    record = train(make_cache(features), "majority").training
    lines = sorted(f"{content} {label}" for content, label in zip(features.sha256[:40], y[:40], strict=True))
    assert record.rows_sha256 == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    renamed = make_features(X, y, splits=["train"] * 40 + ["valid"] * 20, paths=[f"x{row:03}" for row in range(60)])
    assert train(make_cache(renamed), "majority").training.rows_sha256 == record.rows_sha256
    relabelled = make_features(X, np.roll(y, 1), splits=["train"] * 40 + ["valid"] * 20)
    assert train(make_cache(relabelled), "majority").training.rows_sha256 != record.rows_sha256


def test_valid_rows_never_teach(blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    splits = ["train"] * 40 + ["valid"] * 20
    plain = train(make_cache(make_features(X, y, splits=splits)), "logreg")
    X, y = X.copy(), y.copy()
    X[40:], y[40:] = 9, 0
    other = train(make_cache(make_features(X, y, splits=splits)), "logreg")
    np.testing.assert_array_equal(plain.predict_proba(X), other.predict_proba(X))


def test_without_a_valid_split_the_rule_is_recorded(blob_cache):
    head = train(blob_cache, "logreg", holdout=0.25, seed=3)
    assert head.training.holdout == Holdout(0.25, 3)
    assert head.training.n_train + head.training.n_valid == 60
    assert 0 < head.training.n_valid < 30
    assert head.training.epochs == ()
    assert set(head.training.versions) == {"numpy", "scipy"}


def test_nothing_held_out_is_said(blob_cache):
    record = train(blob_cache, "logreg", holdout=0).training
    assert (record.n_train, record.n_valid, record.valid_accuracy, record.holdout) == (60, 0, None, None)
    assert tuple(map(str, record.warnings)) == ("there are no valid rows: the accuracy on new images is unknown",)


def test_rows_that_are_not_used_are_counted(blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    y[::10] = -1
    splits = ["train"] * 40 + ["valid"] * 10 + [""] * 10
    record = train(make_cache(make_features(X, y, splits=splits)), "logreg").training
    assert (record.n_train, record.n_valid, record.n_unlabelled) == (36, 9, 6)
    assert "6 rows without a label: not used" in map(str, record.warnings)
    assert "9 labelled rows in no split were not used, since there is a train split" in map(str, record.warnings)


def test_what_the_head_warns_of_is_recorded(blobs, make_features, make_cache):
    X, y = blobs(200, 20, 3, spread=4)
    record = train(make_cache(make_features(X, y)), "logreg", params={"max_iter": 1}).training
    assert record.warnings[0].message.startswith("logreg did not converge (max_iter=1)")


def test_of_several_taps_one_must_be_chosen(blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    cache = make_cache(make_features(X, y), make_features(X[:, :2], y, tap="predictions"))
    with pytest.raises(ParameterError, match=r"several taps: fc2 \(5\), predictions \(2\); choose one with --tap"):
        train(cache, "logreg")
    assert train(cache, "logreg", tap="predictions").model.width == 2


def test_the_default_tap_is_the_last_layer_below_the_outputs_of_the_network(blobs, make_features, make_cache):
    X, y = blobs(40, 4, 2)
    cache = make_cache(*(make_features(X, y, tap=tap) for tap in ("fc2", "flatten", "predictions")))
    assert feature_tap(cache, head_spec("logreg"), None) == "fc2"


def test_the_report_is_what_the_command_line_promises(blob_cache):
    report = train(blob_cache, "softmax", params=QUICK).to_dict()
    assert list(report) == [
        "head",
        "tap",
        "target",
        "thresholds",
        "params",
        "calibration",
        "growth",
        "n_train",
        "n_valid",
        "epochs",
        "kept_epoch",
        "train_accuracy",
        "valid_accuracy",
        "seconds",
        "warnings",
    ]
    assert (report["target"], report["thresholds"]) == ("class", None)
    assert set(report["epochs"][0]) == {"epoch", "loss", "accuracy", "valid_loss", "valid_accuracy"}


@pytest.mark.parametrize(
    ("y", "splits", "said"),
    [
        ([-1] * 8, "train", "the cache has no labelled rows; extract from folders named by class"),
        ([0, 1] * 4, "test", "no training rows: the labelled rows are 8 in test; put images into a train split"),
        ([1] * 8, "train", "all 8 training rows are of the class 'bee'"),
        ([0, 9] + [-1] * 6, "train", "2 training rows for 10 classes; a head needs at least one per class"),
    ],
)
def test_rows_that_cannot_train_a_head(y, splits, said, make_features, make_cache):
    X = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    with pytest.raises(TrainingError, match=said):
        train(make_cache(make_features(X, y, splits=splits)), "logreg", holdout=0)


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("", r"one per class; the classes are numbers: .* \(--target number\)$"),
        (" cm", "needs at least one per class$"),
    ],
)
def test_numbers_that_would_be_classes_are_said(unit, said, make_features, make_cache):
    X = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    classes = tuple(f"{number / 2}{unit}" for number in range(10))
    features = replace(make_features(X, [0, 1] * 4), classes=classes)
    with pytest.raises(TrainingError, match=said):
        train(make_cache(features), "logreg", holdout=0)


@pytest.mark.parametrize("row", [3, 50])
def test_features_that_are_not_finite_name_the_image(row, blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    X[row, 1] = np.nan
    splits = ["train"] * 40 + ["valid"] * 20
    with pytest.raises(TrainingError, match=f"000{row:02}.jpg: row .* not finite"):
        train(make_cache(make_features(X, y, splits=splits)), "softmax", params=QUICK)


# Going on


def test_going_on_keeps_the_history_and_says_what_it_went_on_from(blobs, make_features, make_cache, tmp_path):
    X, y = blobs(60, 5, 3)
    cache = make_cache(make_features(X, y, splits=["train"] * 40 + ["valid"] * 20))
    first = train(cache, "softmax", params=QUICK, seed=3)
    loaded = TrainedHead.load(first.save(tmp_path / "first"))
    seen = []
    second = train(cache, params={"lr": 0.01, "epochs": 3}, start=loaded, on_epoch=seen.append)
    assert (second.name, second.tap) == ("softmax", "fc2")
    assert second.params == loaded.params | {"lr": 0.01, "epochs": 3}
    assert second.training.epochs == (*first.training.epochs, *seen)
    assert [epoch.epoch for epoch in second.training.epochs] == [1, 2, 3, 4, 5]
    assert second.training.kept_epoch == 5
    assert second.training.continues == json.loads((tmp_path / "first" / "head.json").read_bytes())["sha256"]
    assert seen[0].loss < first.training.epochs[0].loss
    assert TrainedHead.load(second.save(tmp_path / "second")).training == second.training


def test_going_on_holds_the_same_rows_out(blob_cache):
    first = train(blob_cache, "softmax", params=QUICK, holdout=0.3, seed=4)
    second = train(blob_cache, start=first, seed=9)
    assert second.training.holdout == Holdout(0.3, 4)
    assert second.training.rows_sha256 == first.training.rows_sha256


@pytest.fixture
def first(blob_cache):
    return train(blob_cache, "softmax", params=QUICK, holdout=0.3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"head": "mlp"}, "head: the head to continue is 'softmax', not 'mlp'"),
        (
            {"params": {"init": "zeros", "standardize": False}},
            "init is 'glorot_uniform', standardize is True, which cannot change",
        ),
        ({"holdout": 0.1}, "holdout: the head to continue was trained with 0.3, got 0.1"),
        ({"params": {"speed": 1}}, "unknown parameter 'speed'"),
    ],
)
def test_what_a_start_does_not_allow_is_refused(asked, said, first, blob_cache):
    with pytest.raises(ParameterError, match=said):
        train(blob_cache, start=first, **asked)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tap": "fc1"}, "tap: the head was trained on 'fc2'"),
        ({"classes": ("ant", "bee", "dog")}, "trained_classes: .* trained on cow, which no training row has"),
        ({"filter": "nearest"}, "filter: the head has 'bilinear', the features 'nearest'"),
        ({"weights": "random:1"}, "weights: the head has 'random:0', the features 'random:1'"),
    ],
)
def test_going_on_with_other_features_is_refused_by_the_field(changes, said, first, blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    tap = changes.get("tap", "fc2")
    with pytest.raises(MismatchError, match=said):
        train(make_cache(make_features(X, y, splits="", **changes)), start=first, tap=tap)


def test_going_on_without_rows_of_a_class_is_refused(first, blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    y[y == 2] = 1
    with pytest.raises(
        MismatchError, match=r"trained_classes: the head to continue was trained on cow, which no training row has"
    ):
        train(make_cache(make_features(X, y, splits="", classes=("ant", "bee", "cow"))), start=first)


def test_going_on_with_other_rows_is_said(first, blobs, make_features, make_cache):
    cache = make_cache(make_features(*blobs(60, 5, 3), splits=["train"] * 40 + ["valid"] * 20))
    other = train(cache, start=first, params={"epochs": 1}).training
    assert any("trained the head to continue, which knows them" in str(each) for each in other.warnings)
    unlisted = train(cache, start=replace(first, rows=None), params={"epochs": 1}).training
    assert any("they may include rows that evaluate it now" in str(each) for each in unlisted.warnings)


def test_a_head_that_takes_one_tap_alone_is_refused_on_others(blob_cache):
    with pytest.raises(ParameterError, match="tap: the head 'imagenet_map' uses predictions, not fc2"):
        train(blob_cache, "imagenet_map")


def test_a_head_that_takes_one_tap_alone_needs_not_be_told(blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    cache = make_cache(make_features(X, y), make_features(np.abs(X), y, tap="predictions"))
    assert train(cache, "imagenet_map").tap == "predictions"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"head": "softmaks"}, UnknownNameError),
        ({"params": {"learning": 1}}, ParameterError),
        ({"holdout": 1.5}, ParameterError),
        ({"seed": -1}, ParameterError),
    ],
)
def test_bad_arguments_are_refused_before_any_row_is_read(arguments, error):
    with pytest.raises(error):
        train(None, **arguments)


def test_of_a_head_that_is_slow_to_ask_some_rows_are_measured(blobs, make_features, make_cache):
    X, y = blobs(1500, 5, 3, spread=4)
    features = make_features(X, y)
    head = train(make_cache(features), "knn", holdout=0)
    assert "the train accuracy was measured on 1000 of 1500 rows" in map(str, head.training.warnings)
    assert 0.5 < head.training.train_accuracy < 1
    assert not any(
        "train accuracy" in each for each in map(str, train(make_cache(features), "logreg").training.warnings)
    )


def test_a_holdout_that_misses_its_part_and_a_class_without_judges_are_said(blobs, make_features, make_cache):
    X, y = blobs(20, 5, 2)
    rule = Holdout(0.2, 0)
    features = make_features(X, y, splits="")
    held_out = np.array([rule.holds_out(each) for each in features.sha256])
    y = np.where(held_out, 1, np.arange(20) % 2)  # whatever is held out is of the second class
    kept = ~held_out | (np.cumsum(held_out) <= 1)  # and one row alone is
    cache = make_cache(make_features(X[kept], y[kept], splits="", contents=np.flatnonzero(kept)))
    record = train(cache, "centroid").training
    n = int(kept.sum())
    assert record.n_valid == 1
    assert (
        f"1 of {n} rows are held out, although 0.2 of them were requested: rows are chosen by their content alone"
        in map(str, record.warnings)
    )
    assert "no valid row is of the class ant" in map(str, record.warnings)


def test_weights_that_are_not_recorded_are_those_of_the_recipe(blobs, make_features, make_cache):
    features = make_features(*blobs(60, 5, 3))
    assert train(make_cache(features, weights_source=None), "majority").weights_source == features.recipe.weights


def test_a_head_that_holds_all_features_says_before_it_starts_that_they_are_too_large(blob_cache, monkeypatch):
    monkeypatch.setattr("heads.training.free_memory", lambda: 60 * 5 * 4 - 1)
    with pytest.raises(
        TrainingError,
        match=r"the head 'knn' holds all features in memory: 60 x 5 take 1.2 kB, and 1.2 kB are free; take a head that "
        r"reads them by blocks \(softmax, mlp, .*naive_bayes.*\), or fewer rows",
    ):
        train(blob_cache, "knn", holdout=0)
    assert train(blob_cache, "centroid", holdout=0).training.n_train == 60
    monkeypatch.setattr("heads.training.free_memory", lambda: 60 * 5 * 4)
    assert train(blob_cache, "knn", holdout=0).training.n_train == 60

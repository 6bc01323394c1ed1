"""From a head and rows to a table and numbers; rows and columns never come apart."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from featurecache.errors import UnknownNameError
from heads.errors import EvaluationError, MismatchError
from heads.evaluation import evaluate, predict_table, select_rows
from heads.table import PredictionsTable
from heads.training import train


class Says:
    """A classifier that says what it is told to."""

    def __init__(self, probabilities, classes):
        self.probabilities = np.array(probabilities, dtype=float)
        self.classes_ = np.array(classes)

    def predict_proba(self, X):
        return self.probabilities[: len(X)]


@pytest.fixture
def four(make_features):
    return make_features(np.zeros((4, 2), np.float32), [0, 1, 2, 2], splits="valid")


def test_every_number_of_a_table_counted_by_hand(four):
    head = Says([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2]], [0, 1, 2])
    report = evaluate(head, four).to_dict()
    assert report["n"] == 4
    assert report["classes"] == ["ant", "bee", "cow"]
    assert report["accuracy"]["value"] == 0.75
    assert report["balanced_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert report["log_loss"] == pytest.approx(-np.log([0.7, 0.5, 0.6, 0.2]).mean())
    assert report["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert report["per_class"]["cow"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert report["roc_auc"] == pytest.approx((3 / 3 + 3 / 3 + 3 / 4) / 3)
    assert report["baseline_accuracy"] == 0.5
    assert report["warnings"] == []


def test_the_report_is_plain_json_also_where_numbers_are_undefined(four):
    report = evaluate(Says(np.tile([1.0, 0, 0], (4, 1)), [0, 1, 2]), four.take(slice(0, 1))).to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["roc_auc"] is None
    assert report["per_class"]["cow"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert any("all rows are of the class 'ant'" in line for line in report["warnings"])


def test_columns_are_placed_by_class(four):
    table = predict_table(Says([[0.9, 0.1], [0.2, 0.8], [0, 1], [1, 0]], [0, 2]), four)
    assert table.probabilities.tolist() == [[0.9, 0, 0.1], [0.2, 0, 0.8], [0, 0, 1], [1, 0, 0]]
    assert table.predicted.tolist() == [0, 2, 2, 0]
    reversed_columns = predict_table(Says([[0.9, 0.1]] * 4, [2, 0]), four)
    assert reversed_columns.predicted.tolist() == [2, 2, 2, 2]


def test_a_scikit_learn_estimator_is_evaluated_as_it_is(blobs, make_features):
    X, y = blobs(60, 5, 3)
    estimator = LogisticRegression(max_iter=500).fit(X, y)
    evaluation = evaluate(estimator, make_features(X, y))
    assert evaluation.accuracy.value == estimator.score(X, y)


def test_rows_without_a_label_are_left_out_and_counted(four, make_features):
    features = make_features(np.zeros((4, 2), np.float32), [0, -1, 1, -1])
    evaluation = evaluate(Says([[1, 0], [0, 1]], [0, 1]), features)
    assert len(evaluation) == 2
    assert evaluation.table.paths.tolist() == ["00000.jpg", "00002.jpg"]
    assert evaluation.warnings == ("2 rows without a label were left out",)


@pytest.mark.parametrize("n", [0, 3])
def test_no_labelled_row_is_an_error(n, make_features):
    with pytest.raises(EvaluationError, match=f"none of {n} rows has a label"):
        evaluate(Says([[1, 0]] * 3, [0, 1]), make_features(np.zeros((n, 2), np.float32), [-1] * n))


@pytest.mark.parametrize(
    "row",
    [[0.5, 0.6], [0.2, 0.2], [np.nan, 1.0], [1.5, -0.5], [np.inf, 0.0]],
    ids=["over", "under", "nan", "minus", "inf"],
)
def test_output_that_is_no_distribution_names_the_image(row, make_features):
    features = make_features(np.zeros((2, 2), np.float32), [0, 1])
    with pytest.raises(EvaluationError, match=r"00001\.jpg: the head's output is no distribution"):
        evaluate(Says([[1, 0], row], [0, 1]), features)


@pytest.mark.parametrize("classes", [[0, 3], [-1, 0], ["ant", "bee"], [0.0, 1.0]])
def test_classes_that_are_no_indices_are_refused(classes, make_features):
    with pytest.raises(MismatchError, match="expected indices of the 2 of the features"):
        evaluate(Says([[1, 0]] * 2, classes), make_features(np.zeros((2, 2), np.float32), [0, 1]))


def test_the_baseline_is_the_majority_of_the_training_rows(make_features, make_cache, blobs):
    X, y = blobs(60, 5, 3)
    kept = (y != 2) | (np.arange(60) % 2 == 0)
    splits = np.where(np.arange(60) < 40, "train", "valid")
    train_ants = (y == 0) | (splits == "valid") | (np.arange(60) % 4 == 1)
    X, y, splits = X[kept & train_ants], y[kept & train_ants], splits[kept & train_ants]
    cache = make_cache(make_features(X, y, splits=splits.tolist()))
    head = train(cache, "logreg")
    assert int(np.argmax(head.training.class_counts)) == 0
    valid = select_rows(cache, head, "valid")
    assert evaluate(head, valid).baseline_accuracy == np.mean(valid.y == 0)
    assert np.mean(valid.y == 0) != np.bincount(valid.y).max() / len(valid)


def test_a_class_that_the_head_never_saw_is_counted_against_it(blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    cache = make_cache(make_features(X[y != 1], y[y != 1]))
    evaluation = evaluate(train(cache, "logreg", holdout=0), make_features(X, y))
    assert (
        "20 rows are of classes that the head never saw in training: it gives them probability 0" in evaluation.warnings
    )
    assert evaluation.accuracy.value <= 2 / 3
    assert evaluation.log_loss > 36 / 3


def test_the_held_out_rows_are_judged_and_no_others(blob_cache):
    head = train(blob_cache, "logreg", seed=3)
    evaluation = evaluate(head, select_rows(blob_cache, head, "valid"))
    assert len(evaluation) == head.training.n_valid
    assert evaluation.accuracy.value == head.training.valid_accuracy
    on_train = evaluate(head, select_rows(blob_cache, head, "train"))
    assert on_train.accuracy.value == head.training.train_accuracy
    assert not set(evaluation.table.paths) & set(on_train.table.paths)
    with pytest.raises(UnknownNameError, match=r"unknown split 'test' \(known: train, valid\)"):
        select_rows(blob_cache, head, "test")


def test_a_cache_without_the_heads_tap_is_refused(blobs, make_features, make_cache, blob_cache):
    X, y = blobs(60, 5, 3)
    head = train(blob_cache, "logreg")
    other = make_cache(make_features(X, y, tap="predictions"))
    with pytest.raises(MismatchError, match="tap: the head was trained on 'fc2', the cache holds predictions"):
        select_rows(other, head, "train")
    with pytest.raises(MismatchError, match="tap"):
        evaluate(head, other.features())


def test_features_that_are_not_finite_name_the_image(blobs, make_features, blob_cache):
    X, y = blobs(60, 5, 3)
    X[5, 0] = np.nan
    y[0] = -1  # rows that are left out must not shift the names
    with pytest.raises(EvaluationError, match=r"00005\.jpg: row 4 holds features that are not finite"):
        evaluate(train(blob_cache, "logreg"), make_features(X, y))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(paths=st.lists(NAMES, min_size=1, max_size=5), classes=st.lists(NAMES, min_size=2, max_size=3, unique=True))
def test_the_csv_reads_back_whatever_images_and_classes_are_called(paths, classes):
    n, k = len(paths), len(classes)
    probabilities = np.random.default_rng(n).dirichlet(np.ones(k), size=n)
    true = np.arange(n) % (k + 1) - 1
    names = np.array(paths, dtype=object)
    table = PredictionsTable(names, np.array(["valid"] * n, dtype=object), true, probabilities, tuple(classes))
    header, *rows = csv.reader(io.StringIO(table.to_csv(), newline=""))
    assert header == ["path", "split", "true_class", "predicted_class", *(f"probability_{name}" for name in classes)]
    assert [row[0] for row in rows] == paths
    assert [row[2] for row in rows] == [classes[each] if each >= 0 else "" for each in true]
    assert [row[3] for row in rows] == [classes[each] for each in probabilities.argmax(axis=1)]
    assert [[float(cell) for cell in row[4:]] for row in rows] == probabilities.tolist()

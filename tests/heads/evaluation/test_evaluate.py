"""From a head and rows to a table and numbers; rows and columns never come apart."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from heads.errors import EvaluationError, MismatchError
from heads.evaluation.bootstrap import NAMES, bootstrap
from heads.evaluation.evaluate import evaluate, evaluate_table, predict_table
from heads.evaluation.imagenet import ImageNetTop3
from heads.evaluation.metrics import top_k_accuracy
from heads.evaluation.predictions import PredictionsTable
from heads.evaluation.selection import select_rows
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
    assert report["average_precision"] == pytest.approx((1 + 1 + (1 / 1 + 2 / 3) / 2) / 3)
    assert report["macro"] == pytest.approx({"precision": 5 / 6, "recall": 5 / 6, "f1": (2 / 3 + 1 + 2 / 3) / 3})
    assert report["weighted"] == pytest.approx({"precision": 7 / 8, "recall": 3 / 4, "f1": (2 / 3 + 1 + 4 / 3) / 4})
    assert report["calibration_error"] == pytest.approx((0.3 + 0.4 + abs(1 - 2 * 0.5)) / 4)
    assert report["top_k_accuracy"] is None
    assert list(report["intervals"]) == sorted(NAMES)


def test_the_report_is_plain_json_also_where_numbers_are_undefined(four):
    report = evaluate(Says(np.tile([1.0, 0, 0], (4, 1)), [0, 1, 2]), four.take(slice(0, 1))).to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["roc_auc"] is None
    assert report["per_class"]["cow"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert any("all rows are of the class 'ant'" in warning["message"] for warning in report["warnings"])


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
    assert tuple(map(str, evaluation.warnings)) == ("2 rows without a label: left out",)


@pytest.mark.parametrize("n", [0, 3])
def test_no_labelled_row_is_an_error(n, make_features):
    with pytest.raises(EvaluationError, match=f"none of {n} rows has a label"):
        evaluate(Says([[1, 0]] * 3, [0, 1]), make_features(np.zeros((n, 2), np.float32), [-1] * n))


@pytest.mark.parametrize(
    "row",
    [[0.5, 0.6], [0.2, 0.2], [np.nan, 1.0], [1.5, -0.5], [np.inf, 0.0], [np.inf, -np.inf]],
    ids=["over", "under", "nan", "minus", "inf", "both"],
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
    said = "20 of 60 rows are of a class that the head does not know ('bee'): they count as wrong, "
    assert any(line.startswith(said) for line in map(str, evaluation.warnings))
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
    with pytest.raises(EvaluationError, match="no row is in the test split: the rows are 60 in no split"):
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


def random_table(n=200, k=3, seed=0, classes=None):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(k), size=n).round(2)  # with ties
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    paths = np.array([f"{each:05}.jpg" for each in range(n)], dtype=object)
    splits = rng.choice(np.array(["train", "valid", "test", ""], dtype=object), n)
    true = np.where(rng.random(n) < 0.6, probabilities.argmax(axis=1), rng.integers(0, k, n))
    return PredictionsTable(paths, splits, true, probabilities, classes or tuple("abcdefghij"[:k]))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 7))
def test_permuted_rows_give_the_identical_evaluation(seed, k):
    table = random_table(60, k, seed)
    evaluation = evaluate_table(table)
    permuted = evaluate_table(table.take(np.random.default_rng(seed).permutation(60)))
    assert permuted.to_dict() == evaluation.to_dict()
    assert permuted.table.to_csv() == evaluation.table.to_csv()


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 7))
def test_renamed_classes_have_the_same_numbers(seed, k):
    named = evaluate_table(random_table(60, k, seed)).to_dict()
    renamed = evaluate_table(
        random_table(60, k, seed, classes=tuple(f"<{each}>" for each in range(k, 0, -1)))
    ).to_dict()
    for report in (named, renamed):
        report["per_class"] = list(report["per_class"].values())
        report["warnings"] = len(report["warnings"])
        del report["classes"]
    assert renamed == named


def test_intervals_hold_the_numbers_and_are_computed_once_when_they_are_asked_for():
    evaluation = evaluate_table(random_table())
    assert "intervals" not in vars(evaluation)
    intervals = evaluation.intervals
    assert evaluation.intervals is intervals
    for name in NAMES:
        kind, _, of = name.partition("_")
        average = {"macro": evaluation.macro, "weighted": evaluation.weighted}.get(kind)
        value = getattr(evaluation, name) if average is None else getattr(average, of)
        assert intervals[name].value == value
        assert intervals[name].low <= value <= intervals[name].high
    told = evaluation.to_dict()["intervals"]["roc_auc"]
    assert told == {"low": intervals["roc_auc"].low, "high": intervals["roc_auc"].high}


def test_intervals_are_those_of_groups():
    table = random_table(k=7)
    groups = np.array([str(row % 25) for row in range(len(table))], object)
    evaluation = evaluate_table(replace(table, groups=groups))
    table, values = evaluation.table, {score.key: score.value for score in evaluation.scores()}
    assert evaluation.intervals == bootstrap(table.true, table.probabilities, values=values, groups=table.groups)
    assert evaluation.top_k_accuracy == top_k_accuracy(table.true, table.probabilities, groups=table.groups)
    alone = evaluate_table(replace(table, groups=None))
    assert alone.top_k_accuracy.value == evaluation.top_k_accuracy.value
    assert alone.top_k_accuracy != evaluation.top_k_accuracy
    assert alone.intervals != evaluation.intervals


def test_the_most_frequent_confusions_come_first_and_equal_ones_by_class():
    true = np.repeat(np.arange(20), 5)
    named = (true + np.tile([0, 0, 1, 2, 2], 20)) % 20
    paths = np.array([f"{row:03}" for row in range(100)], object)
    evaluation = evaluate_table(PredictionsTable(paths, paths, true, np.eye(20)[named], tuple(paths[:20])))
    twice = [(each, (each + 2) % 20, 2) for each in range(20)]
    once = [(each, (each + 1) % 20, 1) for each in range(20)]
    assert evaluation.confusions(7) == tuple(twice[:7])
    assert evaluation.confusions(1000) == (*twice, *once)


def test_top_5_accuracy_is_told_where_there_are_more_than_five_classes():
    assert evaluate_table(random_table(k=5)).top_k_accuracy is None
    evaluation = evaluate_table(random_table(k=6))
    assert evaluation.top_k == 5
    assert evaluation.accuracy.value < evaluation.top_k_accuracy.value < 1
    assert evaluation.to_dict()["top_k_accuracy"] == {
        "value": evaluation.top_k_accuracy.value,
        "low": evaluation.top_k_accuracy.low,
        "high": evaluation.top_k_accuracy.high,
        "k": 5,
    }


@pytest.mark.parametrize("k", [1, 2, 7])
def test_one_row_gives_numbers_or_none_and_says_why(k):
    evaluation = evaluate_table(random_table(1, k))
    report = evaluation.to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report["intervals"].values()) == {None}
    assert evaluation.roc_auc is evaluation.average_precision is None
    assert "the ROC AUC" in evaluation.warnings[0].message
    assert (evaluation.log_loss is None) == (k == 1)


def test_a_class_without_a_row_leaves_numbers_of_the_others():
    table = random_table(50, 3)
    evaluation = evaluate_table(table.take(table.true != 1))
    assert evaluation.roc_auc is evaluation.average_precision is None
    assert evaluation.intervals["roc_auc"] is None
    assert evaluation.intervals["macro_f1"].low > 0
    assert "no row is of the class 'b'" in evaluation.warnings[0].message


@pytest.mark.parametrize(("rows", "found"), [(slice(0, 0), "there is no row"), (slice(0, 3), "1 of 3 rows have no")])
def test_a_table_that_cannot_be_judged_is_refused(rows, found):
    table = random_table().take(rows)
    table.true[:1] = -1
    with pytest.raises(EvaluationError, match=found):
        evaluate_table(table)


def test_what_the_network_saw_stays_with_its_rows(make_features):
    features = make_features(np.zeros((3, 2), np.float32), [0, -1, 1], paths=["c", "b", "a"])
    top3 = ImageNetTop3(np.arange(9, dtype=np.int16).reshape(3, 3), np.ones((3, 3), np.float32))
    table = evaluate(Says([[1, 0], [0, 1]], [0, 1]), features, imagenet_top3=top3).table
    assert table.paths.tolist() == ["a", "c"]
    assert table.imagenet_top3.classes[:, 0].tolist() == [6, 0]


def test_a_notebook_shows_numbers_and_names_escaped():
    evaluation = evaluate_table(random_table(classes=("<script>", "b", "c")))
    html = evaluation._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "200 rows<" in html
    assert f"{evaluation.log_loss:.4f}" in html
    assert f"{evaluation.intervals['log_loss'].low:.4f} to" in html


def test_scores_are_the_rows_of_every_table():
    evaluation = evaluate_table(random_table(60, 7))
    scores = {score.key: score for score in evaluation.scores()}
    report = evaluation.to_dict()
    assert list(scores)[:4] == ["accuracy", "top_k_accuracy", "baseline_accuracy", "balanced_accuracy"]
    assert scores["accuracy"].interval == evaluation.accuracy
    assert scores["top_k_accuracy"].label == "top-5 accuracy"
    assert scores["top_k_accuracy"].interval == evaluation.top_k_accuracy
    assert (scores["baseline_accuracy"].label, scores["baseline_accuracy"].interval) == ("majority baseline", None)
    assert scores["macro_f1"].value == evaluation.macro.f1
    assert {key: score.interval for key, score in scores.items() if score.method == "bootstrap"} == evaluation.intervals
    assert all(scores[key].value == report[key] for key in ("log_loss", "roc_auc", "average_precision"))


def test_an_undefined_score_has_no_interval():
    evaluation = evaluate_table(random_table(1, 2))
    scores = {score.key: score for score in evaluation.scores()}
    assert (scores["roc_auc"].value, scores["roc_auc"].interval, scores["roc_auc"].method) == (None, None, "")
    assert scores["accuracy"].method == "Wilson"
    assert "top_k_accuracy" not in scores


def test_every_number_is_documented():
    text = (Path(__file__).parents[3] / "docs" / "reports.md").read_text()
    section = text[text.index("## Numbers") : text.index("## Predictions table")]
    report = evaluate_table(random_table()).to_dict()
    of_a_class = report["per_class"]["a"]
    for key in {*report, *of_a_class, *report["macro"]} - {"n", "split", "classes", "intervals", "warnings"}:
        assert f"`{key}`" in section


def test_a_head_that_is_worse_than_naming_one_class_is_told():
    paths = np.array(["a", "b", "c"], dtype=object)
    table = PredictionsTable(
        paths, np.array([""] * 3, dtype=object), np.array([0, 0, 1]), np.array([[0.4, 0.6]] * 3), ("x", "y")
    )
    assert any("less accurate than the majority baseline" in line for line in map(str, evaluate_table(table).warnings))
    lines = [str(each) for each in evaluate_table(table, training_counts=[1, 5]).warnings]
    assert not any("majority baseline" in line for line in lines)
    assert not any("does not know" in line for line in lines), "one row is enough to know a class"

"""Numbers against tables counted by hand, scikit-learn and SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from heads.evaluation import metrics
from heads.evaluation.metrics import AverageScores, ClassScores

TRUE = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 2, 2, 2, 0, 1])
# Counted by hand:        predicted 0  1  2
CONFUSION = [[3, 1, 0],  # actual 0
             [0, 1, 1],  # actual 1
             [1, 1, 2]]  # actual 2  # fmt: skip


def test_confusion_has_actual_rows_and_predicted_columns():
    assert metrics.confusion(TRUE, PREDICTED, 3).tolist() == CONFUSION
    assert metrics.confusion(TRUE, PREDICTED, 4).shape == (4, 4)


def test_accuracies_counted_by_hand():
    assert metrics.accuracy(TRUE, PREDICTED).value == 6 / 10
    assert metrics.balanced_accuracy(TRUE, PREDICTED) == pytest.approx((3 / 4 + 1 / 2 + 2 / 4) / 3)
    assert metrics.balanced_accuracy(TRUE, PREDICTED) == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(TRUE, PREDICTED)
    )


def test_class_scores_counted_by_hand():
    first, second, third = metrics.class_scores(TRUE, PREDICTED, 3)
    assert (first.precision, first.recall, first.support) == (3 / 4, 3 / 4, 4)
    assert (second.precision, second.recall, second.support) == (1 / 3, 1 / 2, 2)
    assert (third.precision, third.recall, third.support) == (2 / 3, 2 / 4, 4)
    assert second.f1 == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))


def test_what_is_undefined_in_class_scores_is_none():
    scores = metrics.class_scores(np.array([0, 0, 1]), np.array([0, 2, 0]), 4)
    assert scores[0] == ClassScores(0.5, 0.5, 0.5, 2)
    assert scores[1] == ClassScores(None, 0.0, 0.0, 1)  # never predicted
    assert scores[2] == ClassScores(0.0, None, 0.0, 0)  # no row
    assert scores[3] == ClassScores(None, None, None, 0)  # neither


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_nothing_warns_whatever_the_labels_are(pairs):
    true, predicted = np.array(pairs).T
    probabilities = np.eye(4)[predicted]
    assert 0 <= metrics.balanced_accuracy(true, predicted) <= 1
    assert metrics.log_loss(true, probabilities) >= 0
    auc = metrics.roc_auc(true, probabilities)
    assert (auc is None) == (len(set(true.tolist())) < 4)
    assert (metrics.average_precision(true, probabilities) is None) == (auc is None)
    assert 0 <= metrics.calibration_error(true, probabilities) <= 1
    assert all(0 <= each.f1 <= 1 for each in metrics.average_scores(true, predicted))
    assert metrics.top_k_accuracy(true, probabilities) is None
    assert len(metrics.class_scores(true, predicted, 4)) == 4
    assert metrics.confusion(true, predicted, 4).sum() == len(true)
    assert all("\n" not in line.message for line in metrics.undefined(true, predicted, ("a", "b", "c", "d")))


def test_log_loss_by_hand_and_of_a_probability_of_zero():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    assert metrics.log_loss(np.array([0, 1]), probabilities) == pytest.approx(np.log(2) / 2)
    assert metrics.log_loss(np.array([0, 0]), probabilities) == pytest.approx((np.log(2) + 36.0436) / 2, abs=1e-4)


def test_log_loss_of_probabilities_with_the_rounding_of_float32():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(50), size=20).astype(np.float32)
    true = np.arange(20)
    expected = -np.log(probabilities[true, true]).mean()
    assert metrics.log_loss(true, probabilities.astype(np.float64)) == pytest.approx(expected, abs=1e-5)


def test_roc_auc_of_two_classes_is_of_the_second_in_order():
    true = np.array([0, 0, 1, 1])
    scores = np.array([0.1, 0.4, 0.35, 0.8])  # three of four pairs are in the right order
    assert metrics.roc_auc(true, np.column_stack([1 - scores, scores])) == 0.75


def test_roc_auc_of_more_classes_is_scikit_learns_macro_average():
    rng = np.random.default_rng(1)
    probabilities, true = rng.dirichlet(np.ones(4), size=60), np.arange(60) % 4
    expected = sklearn_metrics.roc_auc_score(true, probabilities, multi_class="ovr", average="macro")
    assert metrics.roc_auc(true, probabilities) == pytest.approx(expected)


def test_one_class_has_neither_loss_nor_curve():
    true, probabilities = np.zeros(3, int), np.ones((3, 1))
    assert metrics.log_loss(true, probabilities) is None
    assert metrics.roc_auc(true, probabilities) is None
    assert metrics.average_precision(true, probabilities) is None
    assert metrics.calibration_error(true, probabilities) == 0


def test_baseline_names_the_most_frequent_class_of_the_counts_given():
    assert metrics.baseline_accuracy(TRUE, np.array([1, 9, 2])) == 0.2
    assert metrics.baseline_accuracy(TRUE, np.array([5, 5, 0])) == 0.4


def test_reasons_name_the_classes():
    lines = metrics.undefined(np.array([0, 1]), np.array([0, 0]), ("ant", "cow", "bee"))
    assert lines[0].message.startswith("no row is of the class 'bee'")
    assert lines[1].message == (
        "no row was predicted as 'cow', 'bee': its precision is undefined, "
        "and so are the macro and the weighted precision"
    )
    assert metrics.undefined(np.array([1]), np.array([1]), ("ant", "bee"))[0].message.startswith(
        "all rows are of the class 'bee'"
    )
    assert metrics.undefined(np.array([0, 1]), np.array([0, 1]), ("ant", "bee")) == []
    assert [*map(str, metrics.undefined(np.array([0]), np.array([0]), ("ant",)))] == [
        "'ant' is the only class: the log loss, the ROC AUC and the average precision are undefined"
    ]


def test_averages_are_undefined_only_where_a_class_with_rows_is_never_named():
    absent = metrics.undefined(np.array([0, 1]), np.array([0, 1]), ("ant", "bee", "cow"))
    assert absent[1].message == "no row was predicted as 'cow': its precision is undefined"
    macro, weighted = metrics.average_scores(np.array([0, 1]), np.array([0, 1]))
    assert macro == weighted == AverageScores(1.0, 1.0, 1.0)
    macro, weighted = metrics.average_scores(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0]))
    assert macro == AverageScores(None, 0.5, pytest.approx(3 / 7))
    assert weighted == AverageScores(None, 0.75, pytest.approx(0.75 * 6 / 7))


def test_many_missing_classes_are_counted_not_all_listed():
    classes = tuple(f"c{each}" for each in range(20))
    line = metrics.undefined(np.array([0, 1]), np.array([0, 1]), classes)[0]
    assert "'c6' and 13 more" in line.message


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40),
    st.sampled_from(["macro", "weighted"]),
)
def test_averages_are_scikit_learns_over_the_labels_that_occur(pairs, average):
    true, predicted = np.array(pairs).T
    ours = metrics.average_scores(true, predicted)[average == "weighted"]
    expected = sklearn_metrics.precision_recall_fscore_support(
        true, predicted, labels=np.unique(true), average=average, zero_division=0.0
    )
    if set(true) <= set(predicted):
        assert ours.precision == pytest.approx(expected[0])
    else:
        assert ours.precision is None
    assert (ours.recall, ours.f1) == pytest.approx(expected[1:3])
    if average == "macro":
        assert metrics.balanced_accuracy(true, predicted) == pytest.approx(expected[1])


def test_average_precision_of_two_classes_is_of_the_second_in_order():
    true = np.array([0, 0, 1, 1])
    scores = np.array([0.1, 0.4, 0.35, 0.8])  # the second of class 1 is found third: precision 1 and 2 / 3
    assert metrics.average_precision(true, np.column_stack([1 - scores, scores])) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_of_more_classes_is_scikit_learns_macro_average():
    rng = np.random.default_rng(1)
    probabilities, true = rng.dirichlet(np.ones(4), size=60), np.arange(60) % 4
    expected = sklearn_metrics.average_precision_score(true, probabilities, average="macro")
    assert metrics.average_precision(true, probabilities) == pytest.approx(expected)


@given(st.integers(6, 12), st.integers(1, 8), st.integers(0, 10_000))
def test_top_k_accuracy_is_scikit_learns_with_ties_too(k, top, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(1, 5, size=(30, k)).astype(float)  # few values, so many ties
    true = rng.integers(0, k, 30)
    ours = metrics.top_k_accuracy(true, scores, top)
    if top >= k:
        assert ours is None
        return
    assert ours.value == sklearn_metrics.top_k_accuracy_score(true, scores, k=top, labels=np.arange(k))
    assert ours.low <= ours.value <= ours.high


def test_top_k_accuracy_of_so_many_rows_that_they_come_in_blocks():
    rng = np.random.default_rng(0)
    scores, true = rng.random((5000, 1000)), rng.integers(0, 1000, 5000)
    expected = sklearn_metrics.top_k_accuracy_score(true, scores, k=5, labels=np.arange(1000))
    assert metrics.top_k_accuracy(true, scores).value == expected


def test_calibration_error_counted_by_hand():
    # three rows at 0.9, of which two are right; two at 0.6, of which one is; one at exactly 1, which is right
    confidence = np.array([0.9, 0.9, 0.9, 0.6, 0.6, 1.0])
    right = np.array([True, True, False, True, False, True])
    probabilities = np.column_stack([1 - confidence, confidence])
    expected = (3 * abs(2 / 3 - 0.9) + 2 * abs(1 / 2 - 0.6) + 0) / 6
    assert metrics.calibration_error(right.astype(int), probabilities) == pytest.approx(expected)


def test_bins_of_calibration_are_fifteenths_closed_above():
    edges = np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 0.5, 14 / 15 + 1e-9, 1.0, 1 + 1e-6])
    assert metrics.calibration_bins(edges).tolist() == [0, 0, 1, 7, 14, 14, 14]

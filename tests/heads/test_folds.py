"""Out-of-fold probabilities beside scikit-learn's."""

import hashlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from heads import make_head
from heads.folds import checkable, out_of_fold
from heads.rows import Scaling
from heads.splits import folds_of


def _sha256(contents):
    return np.array([hashlib.sha256(str(each).encode()).hexdigest() for each in contents], dtype=object)


def test_only_labelled_rows_of_classes_with_two_groups_can_be_judged():
    y = np.array([0, 0, 1, 1, 2, -1, -1])
    groups = np.array([0, 1, 2, 2, 3, 4, 5])
    assert checkable(y, groups).tolist() == [True, True, False, False, False, False, False]


@pytest.mark.parametrize("standardize", [True, False])
def test_probabilities_are_those_of_cross_val_predict(blobs, standardize):
    X, y = blobs(90, 6, 3, spread=4.0)
    dealt = folds_of(y, np.arange(90), _sha256(range(90)), folds=4, seed=0)
    scaling = Scaling.from_rows(X, standardize=True) if standardize else None
    found = out_of_fold(
        X,
        y,
        dealt,
        ("a", "b", "c"),
        lambda: make_head("logreg", standardize=False, tol=1e-9),
        scaling=scaling,
        progress=lambda _done, _total: None,
    )
    rows = (X - X.mean(axis=0)) / X.std(axis=0) if standardize else X
    model = LogisticRegression(max_iter=5000, tol=1e-9)
    expected = cross_val_predict(model, rows, y, cv=PredefinedSplit(dealt), method="predict_proba")
    assert found.rows.tolist() == list(range(90))
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-3)


def test_a_row_is_not_judged_where_its_class_has_no_row_to_train(blobs):
    X, y = blobs(40, 5, 2)
    y = np.where(np.arange(40) < 2, 2, y)
    dealt = np.arange(40) % 4
    dealt[:2] = 1  # both rows of class 2
    found = out_of_fold(
        X, y, dealt, ("a", "b", "c"), lambda: make_head("ridge"), scaling=None, progress=lambda _done, _total: None
    )
    assert found.rows.tolist() == list(range(2, 40))
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)


def test_columns_are_those_of_the_classes_though_one_has_no_row(blobs):
    X, y = blobs(40, 5, 2)
    found = out_of_fold(
        X,
        y + 1,
        np.arange(40) // 2 % 4,
        ("none", "b", "c"),
        lambda: make_head("ridge"),
        scaling=None,
        progress=lambda _done, _total: None,
    )
    assert not found.probabilities[:, 0].any()
    assert found.probabilities.argmax(axis=1).tolist() == (y + 1).tolist()


def test_memory_holds_no_more_than_a_copy_of_the_rows_that_train(blobs):
    import tracemalloc

    X, y = blobs(4000, 1000, 2)
    dealt = np.arange(4000) // 2 % 5
    tracemalloc.start()
    out_of_fold(
        X,
        y,
        dealt,
        ("a", "b"),
        lambda: make_head("softmax", standardize=False, epochs=1),
        scaling=Scaling.from_rows(X, standardize=True),
        progress=lambda _done, _total: None,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    blocks = 3 * 2**21 * 8  # of rows while they are measured
    assert peak < 0.8 * X.nbytes + blocks + 4e6


def test_rows_that_only_train_are_not_predicted(blobs):
    X, y = blobs(60, 4, 2)
    dealt = folds_of(y, np.arange(60) // 2, _sha256(np.arange(60) // 2), folds=3, seed=0)
    only_train = np.arange(60) % 2 == 1

    def predicted(**options):
        make = lambda: make_head("logreg", tol=1e-9)  # noqa: E731
        return out_of_fold(X, y, dealt, ("a", "b"), make, scaling=None, progress=lambda _done, _total: None, **options)

    found, everything = predicted(only_train=only_train), predicted()
    assert found.rows.tolist() == list(range(0, 60, 2))
    assert np.array_equal(found.probabilities, everything.probabilities[::2])

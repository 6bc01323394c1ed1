"""`ridge` and `svm` leave rows out that belong together, as views of an image do, all or none."""

import numpy as np
import pytest

from heads import make_head
from heads.families.platt import class_signs
from heads.families.ridge import _ByFeatures, _ByRows
from heads.rows import Scaling, loss_and_accuracy

ROWS = 6  # of a group


def grouped(groups, seed, d=150):
    """Return rows in groups, hardly different in each, whose class moves a few features, with labels and groups.

    The rows are in a random order.
    """
    generator = np.random.default_rng(seed)
    y = np.arange(groups) % 2
    centres = generator.standard_normal((groups, d))
    centres[:, :5] += y[:, None]
    X = np.repeat(centres, ROWS, axis=0) + 0.05 * generator.standard_normal((groups * ROWS, d))
    order = generator.permutation(len(X))
    return X.astype(np.float32)[order], np.repeat(y, ROWS)[order], np.repeat(np.arange(groups), ROWS)[order]


@pytest.mark.parametrize("name", ["ridge", "svm"])
@pytest.mark.parametrize("seed", [0, 5])
def test_probabilities_are_not_too_sure_of_rows_in_groups(name, seed):
    X, y, together = grouped(60, seed)
    new, y_new, _ = grouped(400, seed + 1)
    loss, sure = {}, {}
    for label, numbers in (("apart", None), ("together", together)):
        head = make_head(name).fit(X, y, together=numbers)
        probabilities = head.predict_proba(new)
        loss[label], accuracy = loss_and_accuracy(probabilities, head.classes_, y_new)
        sure[label] = probabilities.max(axis=1).mean() - accuracy
        assert head.together_ is None
        assert head.warnings_ == ()
    assert loss["together"] < loss["apart"] - 0.1
    assert abs(sure["together"]) < 0.08
    assert sure["apart"] > 0.12


@pytest.mark.parametrize(("kind", "n", "d"), [(_ByFeatures, 60, 7), (_ByFeatures, 30, 50), (_ByRows, 30, 50)])
@pytest.mark.parametrize("alphas", [[1.5], [0.1, 10.0]])
def test_ridge_scores_are_those_of_a_fit_without_the_group(kind, n, d, alphas):
    generator = np.random.default_rng(0)
    X, weights = generator.standard_normal((n, d)), generator.uniform(0.5, 2, n)
    signs, together = class_signs(generator.integers(0, 3, n), 3), generator.integers(0, 8, n)
    together[:12] = 99  # more rows than the 7 features
    scaling = Scaling.from_rows(X, standardize=True, weights=weights)
    problem = kind(X, scaling, signs, weights, together)
    for alpha, planes in zip(alphas, problem.hyperplanes(np.array(alphas)), strict=True):
        for number in np.unique(together):
            out = together == number
            (others,) = kind(X[~out], scaling, signs[~out], weights[~out]).hyperplanes(np.array([alpha]))
            for plane, other in zip(planes, others, strict=True):
                scores = (X[out] - scaling.mean) / scaling.scale @ other.coef + other.intercept
                np.testing.assert_allclose(plane.held_out[out], scores, atol=1e-9)


@pytest.mark.parametrize("name", ["ridge", "svm"])
def test_a_class_of_one_group_is_said(name):
    X, y, together = grouped(20, 0)
    head = make_head(name).fit(X, y, together=np.where(y == 1, 1, together))
    np.testing.assert_array_equal(head.predict_proba(X), make_head(name).fit(X, y).predict_proba(X))
    (warning,) = head.warnings_
    assert warning.code == "shared_groups"
    assert "all rows of a class belong together" in str(warning)


@pytest.mark.parametrize("name", ["ridge", "svm"])
def test_weights_of_0_leave_out_the_groups_of_their_rows(name):
    X, y, together = grouped(20, 0)
    weights = (np.arange(len(y)) % 5 > 0).astype(np.float64)
    used = weights > 0
    found = make_head(name).fit(X, y, together=together, sample_weight=weights)
    expected = make_head(name).fit(X[used], y[used], together=together[used])
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-9)

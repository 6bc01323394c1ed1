"""Platt's sigmoid is scikit-learn's, and finite whatever the scores."""

import numpy as np
import pytest

from heads.catalog import make_head
from heads.errors import TrainingError
from heads.families.platt import platt
from tests.heads.families.calibrated import platt_of_scikit_learn


@pytest.mark.parametrize("spread", [0.1, 1.0, 40.0])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_sigmoid_is_that_of_scikit_learn(spread, weighted):
    rng = np.random.default_rng(5)
    positive = np.arange(200) % 5 == 0
    scores = (rng.normal(size=200) + positive) * spread
    weights = rng.uniform(0.1, 4, 200) if weighted else np.ones(200)
    slope, offset = platt(scores, np.where(positive, 1, -1), weights)
    expected = platt_of_scikit_learn(scores, positive, weights if weighted else None)
    np.testing.assert_allclose(1 / (1 + np.exp(-slope * scores - offset)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_the_unit_of_scores_makes_no_difference(factor):
    rng = np.random.default_rng(6)
    signs = np.where(rng.random(100) < 0.3, 1, -1)
    scores = rng.normal(size=100) + signs
    slope, offset = platt(scores, signs, np.ones(100))
    np.testing.assert_allclose(platt(scores * factor, signs, np.ones(100)), (slope / factor, offset), rtol=1e-5)


def test_scores_that_separate_the_classes_give_a_finite_sigmoid():
    signs = np.repeat([-1, 1], 50)
    slope, offset = platt(np.repeat([-3.0, 7.0], 50), signs, np.ones(100))
    assert 1 / (1 + np.exp(-7 * slope - offset)) == pytest.approx(51 / 52, abs=1e-6)
    assert 1 / (1 + np.exp(3 * slope - offset)) == pytest.approx(1 / 52, abs=1e-6)


def test_scores_that_point_the_wrong_way_never_lower_a_probability():
    signs = np.repeat([-1, 1], [60, 20])
    slope, offset = platt(-signs + np.random.default_rng(0).normal(size=80), signs, np.ones(80))
    assert slope == 0
    wanted = np.where(signs > 0, 21 / 22, 1 / 62)
    assert 1 / (1 + np.exp(-offset)) == pytest.approx(wanted.mean(), abs=1e-6)


@pytest.mark.parametrize("scores", [np.zeros(10), np.full(10, 3.0), np.append(np.linspace(0, 1, 9), 1e12)])
def test_scores_that_say_nothing_or_too_much_give_finite_numbers(scores):
    slope, offset = platt(scores, np.repeat([-1, 1], 5), np.ones(10))
    assert slope >= 0
    assert np.isfinite([slope, offset]).all()


def test_scores_that_are_not_finite_are_a_training_that_diverged():
    with pytest.raises(TrainingError, match="the training diverged"):
        platt(np.array([0.0, np.nan]), np.array([-1, 1]), np.ones(2))


@pytest.mark.parametrize("name", ["ridge", "svm"])
def test_a_head_whose_held_out_scores_say_nothing_warns(name):
    X = np.repeat(np.random.default_rng(0).normal(size=(30, 40)), 2, axis=0).astype(np.float32)
    head = make_head(name).fit(X, np.arange(60) % 2)  # each row occurs in both classes
    assert "constant_probability" in [notice.code for notice in head.warnings_]
    assert len(np.unique(head.predict_proba(X), axis=0)) == 1
    assert not make_head(name).fit(X, np.repeat(X[::2, 0] > 0, 2).astype(int)).warnings_

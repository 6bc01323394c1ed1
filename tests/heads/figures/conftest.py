"""Predictions tables to draw."""

import numpy as np
import pytest

from heads.evaluation.predictions import PredictionsTable

HOSTILE = ("_a$x$\n", '<b onload="x">&', "\u202eevil\x00", "日本\ud800")


def _table(true, probabilities, classes=None):
    probabilities = np.asarray(probabilities, dtype=np.float64)
    n, k = probabilities.shape
    return PredictionsTable(
        np.array([f"{row:06}.jpg" for row in range(n)], dtype=object),
        np.array(["valid"] * n, dtype=object),
        np.asarray(true, dtype=np.int64),
        probabilities,
        tuple(f"class {index}" for index in range(k)) if classes is None else tuple(classes),
    )


def _drawn(n, k, *, seed=0, sharp=3.0, classes=None):
    rng = np.random.default_rng(seed)
    true = np.arange(n) % k
    scores = rng.normal(size=(n, k))
    scores[np.arange(n), true] += sharp
    exponentials = np.exp(scores)
    return _table(true, exponentials / exponentials.sum(axis=1, keepdims=True), classes)


@pytest.fixture(scope="session")
def make_table():
    """A table of given labels and probabilities."""
    return _table


@pytest.fixture(scope="session")
def draw_table():
    """A table of n rows of k classes, predicted well."""
    return _drawn


@pytest.fixture(scope="session")
def hostile_table():
    """Classes whose names are made to break a picture."""
    return _drawn(60, 4, sharp=1.0, classes=HOSTILE)

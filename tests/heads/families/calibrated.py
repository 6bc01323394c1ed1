"""Rows, weights and scikit-learn's numbers that the tests of support vectors, ridge and Platt's sigmoid share."""

import warnings

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight


def uneven(blobs, n, d, k, **how):
    """Rows in clouds, the later classes rarer, in float64."""
    X, y = blobs(n, d, k, **how)
    kept = np.arange(n) % (2 + 3 * y) < 2
    return X[kept].astype(np.float64) * 3 + 1, y[kept]


def weights_of(y, class_weight):
    return compute_sample_weight(None if class_weight == "none" else class_weight, y)


def scores_of(head, X):
    """The scores whose sigmoids the model normalises."""
    model = head.model_
    return ((X - model.mean) / model.scale) @ model.coef.T + model.intercept


def platt_of_scikit_learn(scores, positive, weights=None):
    """The probability that scikit-learn's calibration gives each score."""
    machine = LinearSVC().fit(scores[:, None], positive)
    machine.coef_[:], machine.intercept_[:] = 1, 0
    everything = [(np.arange(len(scores)), np.arange(len(scores)))]
    calibrated = CalibratedClassifierCV(FrozenEstimator(machine), method="sigmoid", ensemble=False, cv=everything)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Since FrozenEstimator does not appear to accept sample_weight")
        calibrated.fit(scores[:, None], positive, sample_weight=weights)
    return calibrated.predict_proba(scores[:, None])[:, 1]

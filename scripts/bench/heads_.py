"""Training and evaluating heads on 23,000 x 4096 features, compared with direct calls of Keras and scikit-learn."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from featurecache.backbones.keras_runtime import load_keras
from heads import make_head
from heads.base import fit_together
from heads.evaluation.metrics import accuracy, balanced_accuracy, confusion, log_loss, roc_auc

ROWS, WIDTH, EPOCHS, BATCH = 23_000, 4_096, 3, 64
ROUNDS = 3
_SVM_C = 0.01
_RATES, _PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), (0.0, 1e-4, 1e-3, 1e-2)


def run() -> dict[str, Any]:
    """Return medians in seconds over alternating rounds, and their ratios."""
    generator = np.random.default_rng(0)
    X = np.maximum(generator.standard_normal((ROWS, WIDTH), np.float32), 0)  # half of fc2 is 0 after its ReLU, too
    y = (X[:, :8].sum(axis=1) + generator.standard_normal(ROWS) > X[:, 8:16].sum(axis=1)).astype(np.int64)
    steps: dict[str, Callable[[], object]] = {
        "softmax": lambda: _softmax(X, y),
        "keras_fit": lambda: _keras_fit(X, y),
        "softmax_standardised": lambda: make_head("softmax", epochs=EPOCHS).fit(X, y),
        "softmax_32_settings": lambda: _settings(X, y),
        "logreg": lambda: make_head("logreg", C=0.01).fit(X, y),
        "scikit_learn_pipeline": lambda: _pipeline(X, y),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    results: dict[str, Any] = {}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            began = time.perf_counter()
            results[name] = step()
            times[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(each) for name, each in times.items()}
    head = results["softmax_standardised"]
    began = time.perf_counter()
    _judge(head.predict_proba(X), y)
    return (
        {f"{name}_s": round(value, 2) for name, value in seconds.items()}
        | {
            "keras_fit_over_softmax": round(seconds["keras_fit"] / seconds["softmax"], 1),
            "keras_fit_loss": round(results["keras_fit"], 4),
            "softmax_loss": round(results["softmax"], 4),
            "bar_keras_fit_over_softmax": 4,
            "32_settings_over_one": round(seconds["softmax_32_settings"] / seconds["softmax_standardised"], 1),
            "bar_32_settings_over_one": 3,
            "logreg_over_scikit_learn": round(seconds["logreg"] / seconds["scikit_learn_pipeline"], 2),
            "bar_logreg_over_scikit_learn": 1.2,
            "evaluate_s": round(time.perf_counter() - began, 2),
            "bar_evaluate_s": 1,
        }
        | svm_beside_linear_svc()
    )


def svm_beside_linear_svc() -> dict[str, Any]:
    """Return processor seconds and accuracies of `svm`, and of scikit-learn's ``LinearSVC``, calibrated alike."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    generator = np.random.default_rng(1)
    rows, width, classes = 3_000, 256, 20
    centres, y = generator.standard_normal((classes, width), np.float32), generator.integers(0, classes, 2 * rows)
    X = centres[y] + 3 * generator.standard_normal((2 * rows, width), np.float32)
    machine = CalibratedClassifierCV(LinearSVC(C=_SVM_C, dual="auto"), ensemble=False, cv=5)
    found: dict[str, Any] = {}
    for name, head in (("svm", make_head("svm", C=_SVM_C)), ("linear_svc", make_pipeline(StandardScaler(), machine))):
        began = time.process_time()
        head.fit(X[:rows], y[:rows])
        found[f"{name}_processor_s"] = round(time.process_time() - began, 1)
        predicted = head.predict_proba(X[rows:]).argmax(axis=1)
        found[f"{name}_accuracy"] = round(float(np.mean(predicted == y[rows:])), 4)
    return found


def _softmax(X: Any, y: Any) -> float:  # noqa: ANN401
    """Train like Keras below, on unscaled features; return the loss of the last epoch."""
    from heads.epochs import Monitor

    monitor = Monitor()
    make_head("softmax", standardize=False, epochs=EPOCHS, batch_size=BATCH).fit(X, y, monitor=monitor)
    return monitor.epochs[-1].loss


def _keras_fit(X: Any, y: Any) -> float:  # noqa: ANN401
    keras = load_keras()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])
    one_hot = np.eye(2, dtype=np.float32)[y]
    return float(model.fit(X, one_hot, batch_size=BATCH, epochs=EPOCHS, verbose=0).history["loss"][-1])


def _settings(X: Any, y: Any) -> None:  # noqa: ANN401
    fit_together([make_head("softmax", epochs=EPOCHS, lr=lr, l2=l2) for lr in _RATES for l2 in _PENALTIES], X, y)


def _pipeline(X: Any, y: Any) -> None:  # noqa: ANN401
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(X, y)


def _judge(probabilities: Any, y: Any) -> None:  # noqa: ANN401
    """Compute the metrics that `heads.evaluate` reports."""
    predicted = probabilities.argmax(axis=1)
    accuracy(y, predicted)
    balanced_accuracy(y, predicted)
    confusion(y, predicted, 2)
    log_loss(y, probabilities)
    roc_auc(y, probabilities)

"""The dense head against Keras itself: the same function, and the same steps as ``Model.fit``."""

import json
import math

import keras
import numpy as np
import pytest

from heads.base import Monitor
from heads.catalog import HEADS, make_head
from heads.errors import TrainingError

INITIALIZERS = next(each.choices for each in HEADS["softmax"].parameters if each.name == "init")
LESSON = {"standardize": False, "optimizer": "rmsprop", "lr": 0.1, "epochs": 3, "batch_size": 64}


def keras_model(d, k, *, optimizer, initializer, l2=0.0):
    regularizer = keras.regularizers.L2(l2) if l2 else None
    layer = keras.layers.Dense(
        k, activation="softmax", kernel_initializer=initializer, kernel_regularizer=regularizer, name="head"
    )
    model = keras.Sequential([keras.Input((d,)), layer])
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def test_probabilities_are_those_of_the_keras_model_with_these_weights(blobs):
    X, y = blobs(200, 30, 5)
    head = make_head("softmax", standardize=False, epochs=2).fit(X, y)
    model = keras_model(30, 5, optimizer="sgd", initializer="zeros")
    model.set_weights([head.predictor_.coef.T, head.predictor_.intercept])
    np.testing.assert_allclose(head.predict_proba(X), np.asarray(model(X)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "adamw"])
def test_steps_are_those_of_keras_fit(optimizer, blobs):
    """With one batch per epoch the order of rows does not matter, so that both must arrive at the same weights."""
    X, y = blobs(60, 6, 3)
    uneven = (y != 0) | (
        np.arange(60) < 30
    )  # of even classes the first gradient is 0 but for rounding, and Adam scales it
    X, y = X[uneven], y[uneven]
    names = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}
    monitor = Monitor(X[:12], y[:12])
    params = {"lr": 0.05, "epochs": 4, "batch_size": 60, "optimizer": optimizer, "init": "zeros", "l2": 0.01}
    head = make_head("softmax", standardize=False, **params).fit(X, y, monitor=monitor)
    model = keras_model(6, 3, optimizer=getattr(keras.optimizers, names[optimizer])(0.05), initializer="zeros", l2=0.01)
    targets = np.eye(3, dtype=np.float32)[y]
    history = model.fit(X, targets, epochs=4, batch_size=60, shuffle=False, verbose=0).history
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(head.predictor_.coef, kernel.T, atol=1e-5)
    np.testing.assert_allclose(head.predictor_.intercept, bias, atol=1e-5)
    np.testing.assert_allclose([epoch.accuracy for epoch in monitor.epochs], history["accuracy"], atol=1e-6)
    assert monitor.epochs[0].loss == pytest.approx(math.log(3), abs=1e-6)  # of weights that are all 0, before any step
    measured = model.evaluate(X[:12], targets[:12], verbose=0, return_dict=True)
    assert monitor.epochs[-1].valid_accuracy == pytest.approx(measured["accuracy"])
    penalty = 0.01 * float((kernel**2).sum())
    assert monitor.epochs[-1].valid_loss == pytest.approx(measured["loss"] - penalty, abs=1e-5)


def test_the_loss_shown_is_a_mean_over_rows_also_if_the_last_batch_is_small(blobs):
    X, y = blobs(10, 4, 2)
    monitor = Monitor()
    # A step of 1e-12 leaves the weights where they are: every batch is measured with the same ones.
    params = {"lr": 1e-12, "optimizer": "sgd", "epochs": 1, "batch_size": 7}
    head = make_head("softmax", **params).fit(X, y, monitor=monitor)
    of_truth = head.predict_proba(X)[np.arange(10), y]
    assert monitor.epochs[0].loss == pytest.approx(-np.log(of_truth).mean(), abs=1e-5)
    assert monitor.epochs[0].accuracy == pytest.approx(np.mean(of_truth > 0.5))


def test_every_row_is_seen_once_an_epoch_in_an_order_of_the_seed(blobs, monkeypatch):
    X, y = blobs(20, 4, 2)
    seen = []
    plain = keras.Sequential.train_on_batch

    def recording(self, x, y=None, **options):
        seen.append(np.asarray(x))
        return plain(self, x, y, **options)

    monkeypatch.setattr(keras.Sequential, "train_on_batch", recording)
    make_head("softmax", standardize=False, epochs=2, batch_size=8).fit(X, y)
    assert [len(batch) for batch in seen] == [8, 8, 4] * 2
    epochs = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    for epoch in epochs:
        assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, X.tolist()))
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize("init", INITIALIZERS)
def test_every_initializer_starts_from_its_own_weights(init, blobs):
    X, y = blobs(400, 300, 2)
    head = make_head("softmax", init=init, lr=1e-12, optimizer="sgd", epochs=1, batch_size=400).fit(X, y)
    deviations = {
        "glorot_uniform": math.sqrt(2 / 302),
        "glorot_normal": math.sqrt(2 / 302),
        "he_normal": math.sqrt(2 / 300),
        "lecun_normal": math.sqrt(1 / 300),
        "zeros": 0.0,
        "normal:0.01": 0.01,
        "normal:1": 1.0,
    }
    assert head.predictor_.coef.std() == pytest.approx(deviations[init], rel=0.1, abs=1e-9)


def test_another_seed_gives_another_head(blobs):
    X, y = blobs(40, 4, 2)
    first, second = (make_head("softmax", epochs=1, seed=seed).fit(X, y).predict_proba(X) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_the_lessons_settings_learn_from_a_thousand_probabilities():
    rng = np.random.default_rng(0)
    y = np.arange(2000) % 2
    alpha = np.full((2, 1000), 0.002)
    alpha[0, :60], alpha[1, 60:180] = 0.05, 0.05  # each class has ImageNet classes of its own
    X = np.stack([rng.dirichlet(alpha[each]) for each in y]).astype(np.float32)
    monitor = Monitor(X[1600:], y[1600:])
    make_head("softmax", **LESSON).fit(X[:1600], y[:1600], monitor=monitor)
    assert [epoch.epoch for epoch in monitor.epochs] == [1, 2, 3]
    assert monitor.epochs[-1].valid_accuracy > 0.85
    assert monitor.epochs[-1].loss < monitor.epochs[0].loss


def test_features_of_any_scale_are_learned_when_standardised(blobs):
    X, y = blobs(200, 5, 2)
    X = X * np.array([1e-6, 1, 1e6, 1, 1], dtype=np.float32) + np.array([0, 1e3, 0, 0, 0], dtype=np.float32)
    head = make_head("softmax", lr=0.1, epochs=5).fit(X, y)
    assert np.mean(head.predict_proba(X).argmax(axis=1) == y) > 0.95


def test_a_training_that_diverges_is_an_error_that_suggests_a_lower_rate(blobs):
    X, y = blobs(64, 4, 2)
    monitor = Monitor()
    head = make_head("softmax", lr=1e38, optimizer="sgd", standardize=False, epochs=5)
    with pytest.raises(
        TrainingError, match=r"no longer a finite number after epoch .* lr=1e\+38; try a lower .* lr=1e\+37"
    ):
        head.fit(X * 1e6, y, monitor=monitor)
    assert not hasattr(head, "predictor_")


def test_an_exception_in_the_callback_ends_the_training(blobs):
    X, y = blobs(40, 4, 2)

    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_head("softmax", epochs=50).fit(X, y, monitor=Monitor(on_epoch=stop))


def test_nothing_is_printed(blobs, capfd):
    X, y = blobs(40, 4, 2)
    make_head("softmax", epochs=1).fit(X, y)
    assert capfd.readouterr() == ("", "")


def test_many_heads_in_one_process_are_trained_without_advice(blobs, caplog):
    X, y = blobs(12, 4, 2)
    for seed in range(8):
        make_head("softmax", epochs=1, seed=seed).fit(X, y)
    assert caplog.records == []


def test_another_backend_learns_the_same(blobs, tmp_path, fresh_python, monkeypatch):
    pytest.importorskip("jax")
    X, y = blobs(96, 5, 3)
    np.savez(tmp_path / "rows.npz", X=X, y=y)
    code = """
import os, sys, json, numpy as np
from heads import make_head
rows = np.load(sys.argv[1])
head = make_head("softmax", init="zeros", lr=0.05, epochs=3, batch_size=32).fit(rows["X"], rows["y"])
import keras
print(json.dumps([keras.backend.backend(), head.predictor_.coef.tolist()]))
"""
    monkeypatch.setenv("KERAS_BACKEND", "jax")

    backend, coef = json.loads(fresh_python(code, tmp_path / "rows.npz"))
    assert backend == "jax"
    head = make_head("softmax", init="zeros", lr=0.05, epochs=3, batch_size=32).fit(X, y)
    np.testing.assert_allclose(head.predictor_.coef, coef, atol=1e-5)

"""The dense heads against Keras itself: the same function, and the same steps as ``Model.fit``."""

import math

import keras
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from heads.base import fit_together
from heads.catalog import HEADS, make_head
from heads.epochs import Monitor
from heads.errors import EvaluationError, TrainingError
from heads.families.gradient_descent import NetworkBatch, cross_entropy

INITIALIZERS = next(each.choices for each in HEADS["softmax"].parameters if each.name == "init")
LESSON = {"standardize": False, "optimizer": "rmsprop", "lr": 0.1, "epochs": 3, "batch_size": 64}
OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "sgd with momentum": lambda lr: keras.optimizers.SGD(lr, momentum=0.9),
    "rmsprop": keras.optimizers.RMSprop,
    "rmsprop with momentum": lambda lr: keras.optimizers.RMSprop(lr, momentum=0.9),
    "adam": keras.optimizers.Adam,
    "adamw": lambda lr: keras.optimizers.AdamW(lr, weight_decay=0.05),
}


def keras_model(head, optimizer="sgd", *, l2=0.0):
    """Return a Keras model of a fitted head's shape and weights."""
    regularizer = keras.regularizers.L2(l2) if l2 else None
    arrays = head.model_.arrays
    names = [name for name in arrays if name.startswith("coef")]
    layers = [
        keras.layers.Dense(
            arrays[name].shape[0],
            activation="softmax" if name == names[-1] else head.hidden_activation,
            kernel_regularizer=regularizer,
        )
        for name in names
    ]
    model = keras.Sequential([keras.Input((head.model_.width,)), *layers])
    # step by step, as compiling takes longer than the few steps
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    model.set_weights([part for name in names for part in (arrays[name].T, arrays[name.replace("coef", "intercept")])])
    return model


def weights_of(head):
    arrays = head.model_.arrays
    return [arrays[name].T for name in arrays if name.startswith(("coef", "intercept"))]


def start_of(name, X, y, **params):
    """Return a fitted head whose weights are where those parameters start from: its one step is too small to see."""
    return make_head(name, **(params | {"epochs": 1, "lr": 1e-30, "optimizer": "sgd", "l2": 0.0})).fit(X, y)


def orders(n, epochs, seed=0):
    """Return the order of rows of each epoch."""
    generator = np.random.default_rng([seed, 1])
    return [generator.permutation(n) for _ in range(epochs)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("softmax", {}),
        pytest.param("mlp", {"hidden": "7", "activation": "tanh"}, marks=pytest.mark.slow),
        pytest.param("mlp", {"hidden": "9,6", "activation": "relu"}, marks=pytest.mark.slow),
    ],
)
def test_every_step_is_that_of_keras_fit(name, architecture, optimizer, blobs):
    X, y = blobs(40, 6, 3)  # three steps an epoch, the last of which has half of the rows
    kind, _, with_momentum = optimizer.partition(" with ")
    params = architecture | {"standardize": False, "batch_size": 16, "l2": 0.01, "weight_decay": 0.05}
    monitor = Monitor(X[:12], y[:12])
    head = make_head(name, lr=0.02, epochs=3, optimizer=kind, momentum=0.9 if with_momentum else 0.0, **params).fit(
        X, y, monitor=monitor
    )
    model = keras_model(start_of(name, X, y, **params), OPTIMIZERS[optimizer](0.02), l2=0.01)
    one_hot = np.eye(3, dtype=np.float32)[y]
    for epoch, order in zip(monitor.epochs, orders(40, 3), strict=True):
        history = model.fit(X[order], one_hot[order], batch_size=16, shuffle=False, verbose=0).history
        penalty = 0.01 * sum(float((kernel**2).sum()) for kernel in model.get_weights()[::2])
        measured = model.evaluate(X[:12], one_hot[:12], verbose=0, return_dict=True)
        assert epoch.accuracy == pytest.approx(history["accuracy"][0], abs=1e-6)
        assert epoch.valid_accuracy == pytest.approx(measured["accuracy"], abs=1e-6)
        assert epoch.valid_loss == pytest.approx(measured["loss"] - penalty, abs=2e-4)
    for ours, theirs in zip(weights_of(head), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_the_loss_shown_is_that_of_keras_fit(blobs):
    X, y = blobs(75, 6, 3)
    monitor = Monitor()
    params = {"standardize": False, "batch_size": 16}
    make_head("softmax", lr=0.05, epochs=2, optimizer="rmsprop", **params).fit(X, y, monitor=monitor)
    model = keras_model(start_of("softmax", X, y, **params), keras.optimizers.RMSprop(0.05))
    one_hot = np.eye(3, dtype=np.float32)[y]
    for epoch, order in zip(monitor.epochs, orders(75, 2), strict=True):
        history = model.fit(X[order], one_hot[order], batch_size=16, shuffle=False, verbose=0).history
        assert epoch.loss == pytest.approx(history["loss"][0], abs=1e-5)


def test_rare_classes_weigh_more_as_in_keras_fit(blobs):
    X, y = blobs(75, 6, 3)
    rows = (y != 0) | (np.arange(75) < 20)
    X, y = X[rows], y[rows]
    params = {"standardize": False, "batch_size": 16}
    head = make_head("softmax", lr=0.05, epochs=1, class_weight="balanced", **params).fit(X, y)
    model = keras_model(start_of("softmax", X, y, **params), keras.optimizers.Adam(0.05))
    weights = len(y) / (3 * np.bincount(y))
    order = orders(len(y), 1)[0]
    one_hot = np.eye(3, dtype=np.float32)[y]
    model.fit(X[order], one_hot[order], batch_size=16, shuffle=False, verbose=0, class_weight=dict(enumerate(weights)))
    for ours, theirs in zip(weights_of(head), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_rows_weigh_as_in_keras_fit(blobs):
    X, y = blobs(75, 6, 3)
    weights = np.random.default_rng(2).uniform(0.1, 3, 75)
    params = {"standardize": False, "batch_size": 16}
    monitor = Monitor()
    head = make_head("softmax", lr=0.05, epochs=1, **params).fit(X, y, sample_weight=weights, monitor=monitor)
    model = keras_model(start_of("softmax", X, y, **params), keras.optimizers.Adam(0.05))
    order = orders(len(y), 1)[0]
    one_hot = np.eye(3, dtype=np.float32)[y]
    model.fit(X[order], one_hot[order], batch_size=16, shuffle=False, verbose=0, sample_weight=weights[order])
    for ours, theirs in zip(weights_of(head), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    by_keras = make_head("softmax", lr=0.05, epochs=1, trainer="keras", **params).fit(X, y, sample_weight=weights)
    for ours, theirs in zip(weights_of(head), weights_of(by_keras), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "linear"])
def test_probabilities_are_those_of_the_keras_model_with_these_weights(activation, blobs):
    X, y = blobs(200, 30, 5)
    head = make_head("mlp", hidden="16,8", activation=activation, standardize=False, epochs=2).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), np.asarray(keras_model(head)(X)), rtol=0, atol=1e-6)


def test_standardised_features_are_what_the_steps_see(blobs):
    X, y = blobs(64, 6, 3)
    standardised = ((X - X.mean(axis=0, dtype=np.float64)) / X.std(axis=0, dtype=np.float64)).astype(np.float32)
    params = {"epochs": 2, "lr": 0.05, "batch_size": 16}
    ours = make_head("softmax", **params).fit(X, y).predict_proba(X)
    theirs = make_head("softmax", standardize=False, **params).fit(standardised, y).predict_proba(standardised)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_dropped_units_are_left_out_of_a_step_and_the_others_make_up_for_them(blobs):
    """With a rate near 1 almost nothing gets through, so that the first layer hardly learns; with 0 it does."""
    X, y = blobs(64, 6, 3)
    params = {"hidden": "40", "epochs": 1, "lr": 0.1, "optimizer": "sgd", "standardize": False, "batch_size": 64}
    start = start_of("mlp", X, y, **params).model_.arrays["coef_0"]
    moved = {
        rate: np.any(make_head("mlp", dropout=rate, **params).fit(X, y).model_.arrays["coef_0"] != start, axis=1)
        for rate in (0.0, 0.999)
    }
    assert moved[0.0].mean() > 0.9
    assert moved[0.999].mean() < 0.5


@pytest.mark.slow
def test_the_mean_of_many_dropped_steps_is_the_step_without_dropout(blobs):
    X, y = blobs(64, 6, 3)
    params = {"hidden": "40", "activation": "linear", "epochs": 1, "lr": 1e-3, "optimizer": "sgd", "batch_size": 64}
    start = start_of("mlp", X, y, **params).model_.arrays["coef_1"]
    plain = make_head("mlp", **params).fit(X, y).model_.arrays["coef_1"] - start
    dropped = []
    for seed in range(200):
        head = make_head("mlp", dropout=0.2, seed=seed, **params)
        head.fit(X, y, start=start_of("mlp", X, y, **params).model_)
        dropped.append(head.model_.arrays["coef_1"] - start)
    assert np.corrcoef(np.mean(dropped, axis=0).ravel(), plain.ravel())[0, 1] > 0.98
    assert np.linalg.norm(np.mean(dropped, axis=0)) == pytest.approx(np.linalg.norm(plain), rel=0.1)


# What is watched


def test_the_loss_shown_is_a_mean_over_rows_also_if_the_last_batch_is_small(blobs):
    X, y = blobs(10, 4, 2)
    monitor = Monitor()
    # A step of 1e-12 leaves the weights where they are: every batch is measured with the same ones.
    params = {"lr": 1e-12, "optimizer": "sgd", "epochs": 1, "batch_size": 7}
    head = make_head("softmax", **params).fit(X, y, monitor=monitor)
    of_truth = head.predict_proba(X)[np.arange(10), y]
    assert monitor.epochs[0].loss == pytest.approx(-np.log(of_truth).mean(), abs=1e-5)
    assert monitor.epochs[0].accuracy == pytest.approx(np.mean(of_truth > 0.5))


def test_a_validation_row_of_a_class_never_seen_costs_what_a_probability_of_0_costs(blobs):
    X, y = blobs(40, 4, 2)
    monitor = Monitor(X[:10], np.full(10, 7))
    make_head("softmax", epochs=1).fit(X, y, monitor=monitor)
    assert monitor.epochs[0].valid_loss == pytest.approx(-math.log(np.finfo(np.float64).eps))
    assert monitor.epochs[0].valid_accuracy == 0


def test_no_validation_row_costs_more_than_a_probability_of_0(blobs):
    X, y = blobs(40, 4, 2)
    monitor = Monitor(X[:10] * 1e6, 1 - y[:10])
    make_head("softmax", epochs=5, lr=0.1, standardize=False).fit(X, y, monitor=monitor)
    assert monitor.epochs[-1].valid_loss <= -math.log(np.finfo(np.float64).eps) + 1e-6


def test_validation_rows_that_are_not_finite_are_named(blobs):
    X, y = blobs(40, 4, 2)
    valid = X[:10].copy()
    valid[3, 1] = np.inf
    with pytest.raises(EvaluationError, match="row 3 holds features that are not finite"):
        make_head("softmax", epochs=1).fit(X, y, monitor=Monitor(valid, y[:10]))


def noisy(blobs):
    """Rows that are soon learned by heart: the valid loss falls, and then rises."""
    X, y = blobs(160, 40, 2, spread=6)
    return X[:80], y[:80], X[80:], y[80:]


OVERFITS = {"lr": 0.02, "epochs": 60, "batch_size": 8}


def test_training_stops_when_the_valid_loss_no_longer_falls(blobs):
    X, y, valid_X, valid_y = noisy(blobs)
    monitor = Monitor(valid_X, valid_y)
    make_head("softmax", patience=3, **OVERFITS).fit(X, y, monitor=monitor)
    losses = [epoch.valid_loss for epoch in monitor.epochs]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3 < 60
    assert monitor.kept == len(losses)


@pytest.mark.parametrize("patience", [0, 3])
def test_the_best_epoch_is_kept(patience, blobs):
    X, y, valid_X, valid_y = noisy(blobs)
    monitor = Monitor(valid_X, valid_y)
    head = make_head("softmax", keep="best", patience=patience, **OVERFITS).fit(X, y, monitor=monitor)
    losses = [epoch.valid_loss for epoch in monitor.epochs]
    assert monitor.kept == np.argmin(losses) + 1 < len(losses)
    of_truth = head.predict_proba(valid_X)[np.arange(80), valid_y]
    assert -np.log(of_truth).mean() == pytest.approx(min(losses), abs=1e-5)
    same = make_head("softmax", **(OVERFITS | {"epochs": monitor.kept})).fit(X, y)
    np.testing.assert_array_equal(head.model_.coef, same.model_.coef)


@pytest.mark.parametrize("params", [{"patience": 2}, {"keep": "best"}])
def test_choosing_an_epoch_needs_valid_rows(params, blobs):
    X, y = blobs(40, 4, 2)
    with pytest.raises(TrainingError, match="patience and keep=best need valid rows, and there are none"):
        make_head("softmax", **params).fit(X, y)


# Starts


@pytest.mark.parametrize("init", INITIALIZERS)
def test_every_initializer_draws_from_the_distribution_of_keras(init, blobs):
    X, y = blobs(400, 300, 2)
    X = np.tile(X, (1, 2))
    drawn = start_of("mlp", X, y, init=init, hidden="100").model_.arrays["coef_0"]
    names = {"zeros": keras.initializers.Zeros()} | {
        f"normal:{deviation}": keras.initializers.RandomNormal(stddev=float(deviation), seed=0)
        for deviation in ("0.01", "1")
    }
    initializer = names.get(init) or keras.initializers.get({"class_name": init, "config": {"seed": 0}})
    theirs = np.asarray(initializer((600, 100)))
    assert drawn.std() == pytest.approx(theirs.std(), rel=0.02, abs=1e-12)
    assert abs(drawn).max() == pytest.approx(abs(theirs).max(), rel=0.15, abs=1e-12)
    np.testing.assert_allclose(
        np.quantile(drawn, [0.1, 0.5, 0.9]), np.quantile(theirs, [0.1, 0.5, 0.9]), atol=0.02 * theirs.std() + 1e-12
    )


def test_another_seed_gives_another_head(blobs):
    X, y = blobs(40, 4, 2)
    first, second = (make_head("softmax", epochs=1, seed=seed).fit(X, y).predict_proba(X) for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_going_on_starts_from_what_was_learned(name, blobs):
    """Two epochs and then two more are four epochs but for the order of rows, which is the same each time it starts."""
    X, y = blobs(64, 6, 3)
    params = {"optimizer": "sgd", "lr": 0.05, "batch_size": 64, "epochs": 2}
    half = make_head(name, **params).fit(X, y)
    monitor = Monitor(earlier=())
    whole = make_head(name, **params).fit(X, y, start=half.model_, monitor=monitor)
    four = make_head(name, **(params | {"epochs": 4})).fit(X, y)
    np.testing.assert_allclose(whole.predict_proba(X), four.predict_proba(X), atol=1e-6)
    assert monitor.epochs[0].loss < -math.log(1 / 3)


def test_going_on_keeps_the_start_if_no_epoch_is_better(blobs):
    X, y, valid_X, valid_y = noisy(blobs)
    first = make_head("softmax", lr=0.001, epochs=5).fit(X, y)
    monitor = Monitor(valid_X, valid_y)
    worse = make_head("softmax", lr=300.0, epochs=4, optimizer="sgd", keep="best")
    worse.fit(X, y, start=first.model_, monitor=monitor)
    np.testing.assert_allclose(worse.model_.coef, first.model_.coef, rtol=1e-6)
    assert monitor.kept is None


def test_going_on_keeps_the_scaling_it_was_trained_with(blobs):
    X, y = blobs(64, 6, 3)
    first = make_head("softmax").fit(X, y)
    second = make_head("softmax", epochs=1).fit(X * 3 + 5, y, start=first.model_)
    np.testing.assert_array_equal(second.model_.mean, first.model_.mean)


def test_a_head_without_epochs_cannot_go_on(blobs):
    X, y = blobs(64, 6, 3)
    head = make_head("logreg").fit(X, y)
    with pytest.raises(TrainingError, match="is not trained in epochs, so it cannot continue from a head"):
        make_head("logreg").fit(X, y, start=head.model_)


# Many at once


@pytest.mark.parametrize(("name", "params"), [("softmax", {}), ("mlp", {"hidden": "8,5", "dropout": 0.3})])
def test_heads_trained_in_one_pass_learn_what_each_would_learn_alone(name, params, blobs):
    X, y = blobs(100, 6, 3)
    settings = [{"lr": lr, "l2": l2} for lr in (0.001, 0.03) for l2 in (0.0, 0.01)]
    made = [[make_head(name, epochs=3, batch_size=16, **params, **each) for each in settings] for _ in range(2)]
    monitors = [Monitor(X[:20], y[:20]) for _ in settings]
    assert fit_together(made[0], X, y, monitors=monitors) == [None] * 4
    for together, alone, monitor in zip(*made, monitors, strict=True):
        watched = Monitor(X[:20], y[:20])
        alone.fit(X, y, monitor=watched)
        np.testing.assert_allclose(together.predict_proba(X), alone.predict_proba(X), atol=1e-4)
        for ours, theirs in zip(monitor.epochs, watched.epochs, strict=True):
            assert ours.valid_loss == pytest.approx(theirs.valid_loss, abs=1e-4)
            assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)


def test_heads_that_stop_early_or_diverge_do_not_disturb_the_others(blobs):
    X, y, valid_X, valid_y = noisy(blobs)
    rates = (0.0001, 0.1, 1e38)
    params = OVERFITS | {"optimizer": "sgd", "patience": 2, "keep": "best", "standardize": False}
    heads = [make_head("softmax", **(params | {"lr": lr})) for lr in rates]
    monitors = [Monitor(valid_X, valid_y) for _ in rates]
    first, second, third = fit_together(heads, X, y, monitors=monitors)
    assert first is second is None
    assert "lr=1e+38" in str(third)
    assert len(monitors[1].epochs) < len(monitors[0].epochs)
    alone = make_head("softmax", **(params | {"lr": 0.1})).fit(X, y, monitor=Monitor(valid_X, valid_y))
    np.testing.assert_allclose(heads[1].predict_proba(X), alone.predict_proba(X), atol=1e-4)


def test_networks_too_large_to_lie_side_by_side_are_trained_in_turn(blobs, monkeypatch):
    monkeypatch.setattr("heads.families.dense_head._BATCH_VALUES", 50)
    X, y = blobs(40, 6, 3)
    heads = [make_head("softmax", lr=lr, epochs=1) for lr in (0.001, 0.01, 0.1, 0.2)]
    fit_together(heads, X, y)
    for head in heads:
        alone = make_head("softmax", lr=head.lr, epochs=1).fit(X, y)
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), atol=1e-6)


# What can go wrong


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
    head = make_head("softmax", lr=1e38, optimizer="sgd", standardize=False, epochs=5)
    with pytest.raises(
        TrainingError, match=r"no longer a finite number after epoch .* lr=1e\+38; try a lower .* lr=1e\+37"
    ):
        head.fit(X * 1e6, y)
    assert not hasattr(head, "model_")


def test_an_exception_in_the_callback_ends_the_training(blobs):
    X, y = blobs(40, 4, 2)

    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_head("softmax", epochs=50).fit(X, y, monitor=Monitor(on_epoch=stop))


@pytest.mark.parametrize(("hidden", "limited"), [(8, True), (2**11, False)])
def test_small_products_do_not_wait_for_a_second_thread(hidden, limited, blobs, monkeypatch):
    X, y = blobs(64, 8, 3)
    X = np.tile(X, (1, 512))
    most = max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
    seen = []
    step = NetworkBatch.step

    def spied(self, *arguments):
        seen.append(max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"))
        return step(self, *arguments)

    monkeypatch.setattr(NetworkBatch, "step", spied)
    make_head("mlp", hidden=str(hidden), epochs=1, standardize=False).fit(X, y)
    assert seen == [1 if limited else most]
    assert max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas") == most


def test_training_needs_no_framework(blobs, tmp_path, fresh_python):
    X, y = blobs(40, 4, 2)
    np.savez(tmp_path / "rows.npz", X=X, y=y)
    code = """
import sys, numpy as np
from heads import make_head
rows = np.load(sys.argv[1])
make_head("mlp", epochs=1).fit(rows["X"], rows["y"])
print(*{"tensorflow", "keras", "jax", "torch", "sklearn", "scipy"} & set(sys.modules))
"""
    assert fresh_python(code, tmp_path / "rows.npz") == ""


def test_scores_far_below_the_highest_have_no_gradient_and_cost_no_time_but_count_in_the_loss():
    scores = np.array([[[0, -50, -90, -110]], [[0, -1, -2, -3]]], np.float32)
    expected = np.exp(scores.astype(np.float64))
    expected /= expected.sum(axis=2, keepdims=True)
    expected[:, 0, 3] -= 1
    gradient, losses, _ = cross_entropy(scores, np.array([3]), np.ones(1, np.float32))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-26)
    assert losses.tolist() == pytest.approx([110, 3 + math.log(1 + math.exp(-1) + math.exp(-2) + math.exp(-3))])
    smallest = np.finfo(np.float32).tiny
    assert ((gradient == 0) | (np.abs(gradient) > smallest)).all()

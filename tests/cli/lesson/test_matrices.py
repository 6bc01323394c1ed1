"""The network by hand, beside Keras, and its gradient beside what small changes do to the loss."""

import numpy as np
import pytest

from featurecache.backbones.keras_runtime import load_keras
from featurecache.cli.lesson.lesson_writer import LessonWriter
from featurecache.cli.lesson.matrices import run

NAMES = ("W1", "b1", "W2", "b2")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run(LessonWriter(tmp_path_factory.mktemp("matrices"), silent=True), None)


def arrays(named):
    return [np.array(named[name]) for name in NAMES]


def keras_model(weights):
    keras = load_keras()
    layers = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.set_weights(weights)
    return model


def loss_of(weights, X, Y):
    """Return the loss in another way than the lesson: each row by itself, softmax as a difference of logarithms."""
    W1, b1, W2, b2 = weights
    total = 0.0
    for x, y in zip(X, Y, strict=True):
        hidden = [max(0.0, sum(x * W1[:, unit]) + b1[unit]) for unit in range(4)]
        scores = [sum(hidden * W2[:, unit]) + b2[unit] for unit in range(2)]
        total += np.logaddexp(*scores) - scores[int(np.argmax(y))]
    return total / len(X)


def test_probabilities_are_those_of_keras(found):
    model = keras_model(arrays(found["weights"]))
    theirs = model.predict(np.array(found["inputs"]), verbose=0)
    np.testing.assert_allclose(found["probabilities"], theirs, rtol=0, atol=1e-6)
    assert found["keras_difference"] <= 1e-6
    assert found["one_by_one_difference"] <= 1e-15


def test_the_step_is_down_the_slope_that_small_changes_show(found):
    weights, X, Y = arrays(found["weights"]), np.array(found["inputs"]), np.array(found["targets"])
    for before, after in zip(weights, arrays(found["stepped_weights"]), strict=True):
        for place in np.ndindex(before.shape):
            kept = before[place]
            slopes = []
            for side in (1e-5, -1e-5):
                before[place] = kept + side
                slopes.append(loss_of(weights, X, Y))
            before[place] = kept
            slope = (slopes[0] - slopes[1]) / 2e-5
            assert after[place] == pytest.approx(kept - found["rate"] * slope, abs=1e-8)


def test_the_step_is_that_of_keras(found):
    keras = load_keras()
    model = keras_model(arrays(found["weights"]))
    model.compile(optimizer=keras.optimizers.SGD(found["rate"]), loss="categorical_crossentropy")
    X, Y = np.array(found["inputs"]), np.array(found["targets"])
    model.fit(X, Y, batch_size=len(X), epochs=1, verbose=0)
    for ours, theirs in zip(arrays(found["stepped_weights"]), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert found["keras_step_difference"] <= 1e-6


def test_the_loss_is_computed_rightly_and_falls(found):
    X, Y = np.array(found["inputs"]), np.array(found["targets"])
    assert found["loss_before"] == pytest.approx(loss_of(arrays(found["weights"]), X, Y))
    assert found["loss_after"] == pytest.approx(loss_of(arrays(found["stepped_weights"]), X, Y))
    assert found["loss_after"] < found["loss_before"]


def test_every_step_is_printed_with_its_shape_and_numbers(tmp_path, capsys):
    found = run(LessonWriter(tmp_path), None)
    printed = capsys.readouterr().out
    for step in ("X (5, 3)", "W1 (3, 4)", "S1 (5, 4)", "H (5, 4)", "W2 (4, 2)", "S2 (5, 2)", "P (5, 2)", "dW1 (3, 4)"):
        assert f"    {step} " in printed
    for row in found["probabilities"]:
        assert f"{row[0]:.4f}    {row[1]:.4f}" in printed
    assert f"from {found['loss_before']:.4f} to {found['loss_after']:.4f}" in " ".join(printed.split())

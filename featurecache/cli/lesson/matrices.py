"""The lesson `matrices`: a network of two layers and one step of gradient descent, computed with matrix products."""

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurecache.cli.lesson.lesson_writer import LessonWriter

Matrix: TypeAlias = NDArray[np.float64]

RATE = 0.1

# 5 rows of 3 inputs, and their classes, of 2, one-hot
_X = np.array([[1.0, 2.0, -1.0], [0.0, 1.0, 1.0], [-1.0, 0.0, 2.0], [1.0, 0.0, 0.0], [2.0, -1.0, 0.0]])
_Y = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
_NUDGE = 0.001  # added to a weight to check its gradient


class Weights(NamedTuple):
    """The weights and biases of a network of two dense layers, in Keras's order."""

    W1: Matrix
    b1: Matrix
    W2: Matrix
    b2: Matrix


class Forward(NamedTuple):
    """The results of a forward pass: scores and outputs of both layers, one row per input row."""

    S1: Matrix
    H: Matrix
    S2: Matrix
    P: Matrix


_WEIGHTS = Weights(
    W1=np.array([[0.5, -0.5, 0.0, 1.0], [0.5, 1.0, -0.5, 0.0], [1.0, 0.0, 1.0, -0.5]]),
    b1=np.array([0.5, 0.0, 0.5, 0.0]),
    W2=np.array([[1.0, -1.0], [0.5, 0.0], [-1.0, 1.0], [0.0, 1.0]]),
    b2=np.array([0.0, 0.5]),
)


def run(writer: LessonWriter, _cache: Path | None) -> dict[str, Any]:
    """Compute a small network and one step of gradient descent in NumPy, then both in Keras."""
    forward_pass = _forward(_X, _WEIGHTS)
    row_difference = _largest(
        *(_forward(row[np.newaxis], _WEIGHTS).P - P for row, P in zip(_X, forward_pass.P, strict=True))
    )
    _show_first_layer(writer, forward_pass)
    _show_second_layer(writer, forward_pass)
    _show_batch(writer, row_difference)

    gradients = _backward(_X, _Y, forward_pass, _WEIGHTS)
    stepped = Weights(*(weight - RATE * slope for weight, slope in zip(_WEIGHTS, gradients, strict=True)))
    before, after = _loss(forward_pass.P, _Y), _loss(_forward(_X, stepped).P, _Y)
    _show_learning(writer, forward_pass, gradients, before, after)

    P_keras, stepped_keras = _in_keras()
    forward_difference = _largest(forward_pass.P - P_keras)
    step_difference = _largest(*(ours - theirs for ours, theirs in zip(stepped, stepped_keras, strict=True)))
    _show_keras(writer, forward_difference, step_difference)
    return {
        "inputs": _X.tolist(),
        "targets": _Y.tolist(),
        "weights": _as_lists(_WEIGHTS),
        "probabilities": forward_pass.P.tolist(),
        "one_by_one_difference": row_difference,
        "keras_difference": forward_difference,
        "rate": RATE,
        "stepped_weights": _as_lists(stepped),
        "keras_step_difference": step_difference,
        "loss_before": before,
        "loss_after": after,
    }


# The network


def _forward(X: Matrix, weights: Weights) -> Forward:
    """Return the forward pass of rows of inputs, shape (n, 3)."""
    S1 = X @ weights.W1 + weights.b1
    H = np.maximum(S1, 0)
    S2 = H @ weights.W2 + weights.b2
    P = np.exp(S2) / np.exp(S2).sum(axis=1, keepdims=True)
    return Forward(S1, H, S2, P)


def _loss(P: Matrix, Y: Matrix) -> float:
    """Return the cross-entropy: the mean of -log(probability of the row's true class)."""
    return float(-(Y * np.log(P)).sum(axis=1).mean())


def _backward(X: Matrix, Y: Matrix, forward_pass: Forward, weights: Weights) -> Weights:
    """Return the gradient of the loss with respect to each weight, by backpropagation."""
    G2 = (forward_pass.P - Y) / len(X)
    G1 = (G2 @ weights.W2.T) * (forward_pass.S1 > 0)
    return Weights(X.T @ G1, G1.sum(axis=0), forward_pass.H.T @ G2, G2.sum(axis=0))


def _in_keras() -> tuple[Matrix, list[Matrix]]:
    """Return the probabilities of the same network in Keras, and its weights after one step."""
    from featurecache.backbones.keras_runtime import fixed_settings, load_keras, placed

    keras = load_keras()
    with placed("cpu"), fixed_settings():  # a GPU may round the factors of products to ten bits
        layers = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2, activation="softmax")]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.set_weights(list(_WEIGHTS))
        P = model.predict_on_batch(_X)
        model.compile(optimizer=keras.optimizers.SGD(RATE), loss="categorical_crossentropy")
        model.train_on_batch(_X, _Y)
        return P, model.get_weights()


# The text


def _show_first_layer(writer: LessonWriter, forward_pass: Forward) -> None:
    writer.say(
        "A dense layer computes one number for each of its units: it multiplies every input by a weight of the unit, "
        "adds up the products, and adds the unit's bias. A matrix product does exactly this. Column j of W1 holds "
        "the weights of unit j, so a row of inputs times W1 is a row with one sum per unit. Here X, 5 rows of 3 "
        "inputs, goes into a layer of 4 units."
    )
    writer.code(_matrices(X=_X, W1=_WEIGHTS.W1, b1=_WEIGHTS.b1))
    sums = " + ".join(f"{_factor(x)} * {_factor(w)}" for x, w in zip(_X[0], _WEIGHTS.W1[:, 0], strict=True))
    writer.say("S1 holds the sums of the first layer. Its top left number, written out:")
    writer.code(f"S1 = X W1 + b1\nS1[1, 1] = {sums} + {_WEIGHTS.b1[0]:g} = {forward_pass.S1[0, 0]:g}")
    writer.code(_matrices(S1=forward_pass.S1))
    writer.say(
        "The shapes show whether a product is possible: (5, 3) times (3, 4) is (5, 4). The inner numbers must be "
        "equal: a row has as many inputs as the layer takes. The outer numbers remain: rows and units. Then follows "
        "the activation: relu replaces negative numbers by 0. The result, H, is the output of the hidden layer."
    )
    writer.code("H = relu(S1)\n" + _matrices(H=forward_pass.H))


def _show_second_layer(writer: LessonWriter, forward_pass: Forward) -> None:
    writer.say(
        "The second layer does the same with H, but uses softmax instead of relu: it raises e to the power of each "
        "score and divides by the sum of the row. So each row of P is positive and adds up to 1: it holds the "
        "probabilities of 2 classes."
    )
    writer.code("S2 = H W2 + b2\nP = softmax(S2)")
    writer.code(_matrices(W2=_WEIGHTS.W2, b2=_WEIGHTS.b2, S2=forward_pass.S2, P=forward_pass.P))
    first, second = forward_pass.S2[0]
    writer.code(
        f"P[1, 1] = e^{first:g} / (e^{first:g} + e^{second:g}) = {np.exp(first):.4f} / "
        f"({np.exp(first):.4f} + {np.exp(second):.4f}) = {forward_pass.P[0, 0]:.4f}"
    )
    writer.say(
        "The whole network is a chain: P = softmax(relu(X W1 + b1) W2 + b2). A deeper network is a longer chain. The "
        "layer fc2 of VGG16 is one link of such a chain, with a matrix of shape (4096, 4096). A convolution is a "
        "matrix product as well: each row holds the values of one small patch of the image."
    )


def _show_batch(writer: LessonWriter, difference: float) -> None:
    writer.say(
        "The rows of X do not interact: no row of P depends on another row of X. Sent through the network one by "
        f"one, the rows get the same probabilities (largest difference {difference:.1g}). One product for the whole "
        "batch is still faster, because the computer reads the weights from memory once, not once per row."
    )


def _show_learning(
    writer: LessonWriter, forward_pass: Forward, gradients: Weights, before: float, after: float
) -> None:
    right = int((forward_pass.P.argmax(axis=1) == _Y.argmax(axis=1)).sum())
    writer.say(
        f"How does the network learn? The rows of Y are the true classes. The network predicts {right} of {len(_Y)} "
        f"rows correctly, and its loss, the mean of -log(probability of the true class), is {before:.4f}. The "
        "gradient gives, for each weight, how the loss changes with it. Backpropagation computes the gradient from "
        "the end of the chain to its beginning, again with matrix products (^T: transposed; *: element by element):"
    )
    writer.code(
        f"G2 = (P - Y) / {len(_X)}             gradient with respect to S2, through log and softmax\n"
        "dW2 = H^T G2                 with respect to W2; for b2: the sum of each column of G2\n"
        "G1 = (G2 W2^T) * (S1 > 0)    back through W2, and through relu where S1 is positive\n"
        "dW1 = X^T G1                 with respect to W1; for b1: the sum of each column of G1"
    )
    writer.code(_matrices(Y=_Y, G2=(forward_pass.P - _Y) / len(_X), dW2=gradients.W2, dW1=gradients.W1))
    nudged = _WEIGHTS.W1.copy()
    nudged[2, 0] += _NUDGE
    higher = _loss(_forward(_X, _WEIGHTS._replace(W1=nudged)).P, _Y)
    writer.say(
        f"You can check one weight: adding {_NUDGE:g} to W1[3, 1] gives a loss of {higher:.6f} instead of "
        f"{before:.6f}. The difference is {(higher - before) / _NUDGE:.3f} times {_NUDGE:g}. dW1[3, 1] is "
        f"{gradients.W1[2, 0]:.3f}."
    )
    writer.say(
        f"A step of gradient descent subtracts {RATE:g} times the gradient from each weight. The loss falls from "
        f"{before:.4f} to {after:.4f}. Training consists of many such steps."
    )


def _show_keras(writer: LessonWriter, forward: float, step: float) -> None:
    writer.say(
        "Does Keras do the same? We gave a model of Dense(4, relu) and Dense(2, softmax) the same weights. Its "
        f"probabilities differ from P by at most {forward:.1e}. After one step of SGD its weights differ from ours by "
        f"at most {step:.1e}. Keras keeps about seven digits of each number (float32), NumPy sixteen."
    )


def _matrices(**named: Matrix) -> str:
    """Return matrices as text, with their names and shapes."""
    blocks = []
    for name, matrix in named.items():
        digits = 4 if np.any(matrix != matrix.round(2)) else 2
        rows = ["  ".join(f"{value:{digits + 4}.{digits}f}" for value in row) for row in np.atleast_2d(matrix)]
        title = f"{name} {matrix.shape}"
        labels = [title, *[""] * (len(rows) - 1)]
        blocks.append("\n".join(f"{label:<12}{row}" for label, row in zip(labels, rows, strict=True)))
    return "\n\n".join(blocks)


def _factor(value: float) -> str:
    return f"({value:g})" if value < 0 else f"{value:g}"


def _largest(*differences: Matrix) -> float:
    return max(float(np.abs(difference).max()) for difference in differences)


def _as_lists(weights: Weights) -> dict[str, Any]:
    return {name: weight.tolist() for name, weight in weights._asdict().items()}

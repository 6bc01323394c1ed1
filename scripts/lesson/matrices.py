"""A network of two layers by hand: it is a chain of matrix products, and so is a step of its learning."""

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scripts.lesson.board import Board

Matrix: TypeAlias = NDArray[np.float64]

RATE = 0.1

# 5 rows of 3 inputs, and which of 2 classes each belongs to
_X = np.array([[1.0, 2.0, -1.0], [0.0, 1.0, 1.0], [-1.0, 0.0, 2.0], [1.0, 0.0, 0.0], [2.0, -1.0, 0.0]])
_Y = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
_NUDGE = 0.001  # of a weight, to see what it does to the loss


class Weights(NamedTuple):
    """What a network of two dense layers has learned, in the order in which Keras keeps it."""

    W1: Matrix
    b1: Matrix
    W2: Matrix
    b2: Matrix


class Forward(NamedTuple):
    """What is computed on the way from inputs to probabilities."""

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


def run(board: Board, _cache: Path | None) -> dict[str, Any]:
    """Compute a small network by hand, take one step of learning, and do both again in Keras."""
    found = _forward(_X, _WEIGHTS)
    apart = _largest(*(_forward(row[np.newaxis], _WEIGHTS).P - P for row, P in zip(_X, found.P, strict=True)))
    _show_first_layer(board, found)
    _show_second_layer(board, found)
    _show_batch(board, apart)

    gradients = _backward(_X, _Y, found, _WEIGHTS)
    stepped = Weights(*(weight - RATE * slope for weight, slope in zip(_WEIGHTS, gradients, strict=True)))
    before, after = _loss(found.P, _Y), _loss(_forward(_X, stepped).P, _Y)
    _show_learning(board, found, gradients, before, after)

    P_keras, stepped_keras = _in_keras()
    forward_difference = _largest(found.P - P_keras)
    step_difference = _largest(*(ours - theirs for ours, theirs in zip(stepped, stepped_keras, strict=True)))
    _show_keras(board, forward_difference, step_difference)
    return {
        "inputs": _X.tolist(),
        "targets": _Y.tolist(),
        "weights": _listed(_WEIGHTS),
        "probabilities": found.P.tolist(),
        "one_by_one_difference": apart,
        "keras_difference": forward_difference,
        "rate": RATE,
        "stepped_weights": _listed(stepped),
        "keras_step_difference": step_difference,
        "loss_before": before,
        "loss_after": after,
    }


# The network


def _forward(X: Matrix, weights: Weights) -> Forward:
    """Return what the network makes of rows of inputs, shape (n, 3)."""
    S1 = X @ weights.W1 + weights.b1
    H = np.maximum(S1, 0)
    S2 = H @ weights.W2 + weights.b2
    P = np.exp(S2) / np.exp(S2).sum(axis=1, keepdims=True)
    return Forward(S1, H, S2, P)


def _loss(P: Matrix, Y: Matrix) -> float:
    """Return the mean cross-entropy: minus the logarithm of the probability of each row's true class."""
    return float(-(Y * np.log(P)).sum(axis=1).mean())


def _backward(X: Matrix, Y: Matrix, found: Forward, weights: Weights) -> Weights:
    """Return how the loss changes with each weight: its gradient, from the last layer back to the first."""
    G2 = (found.P - Y) / len(X)
    G1 = (G2 @ weights.W2.T) * (found.S1 > 0)
    return Weights(X.T @ G1, G1.sum(axis=0), found.H.T @ G2, G2.sum(axis=0))


def _in_keras() -> tuple[Matrix, list[Matrix]]:
    """Return the probabilities of the same network in Keras, and its weights after one step."""
    from featurecache.backbones.runtime import load_keras, placed

    keras = load_keras()
    with placed("cpu"):  # a GPU may round the factors of products to ten bits
        layers = [keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2, activation="softmax")]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.set_weights(list(_WEIGHTS))
        P = model.predict_on_batch(_X)
        model.compile(optimizer=keras.optimizers.SGD(RATE), loss="categorical_crossentropy")
        model.train_on_batch(_X, _Y)
        return P, model.get_weights()


# What is said of it


def _show_first_layer(board: Board, found: Forward) -> None:
    board.say(
        "A dense layer gives each of its units one number: every input times a weight of the unit, all added up, plus "
        "the unit's bias. This is what a matrix product does. Column j of W1 holds the weights of unit j, so a row of "
        "inputs times W1 is a row with one sum for each unit. Here 5 rows of 3 inputs, X, go into a layer of 4 units."
    )
    board.code(_matrices(X=_X, W1=_WEIGHTS.W1, b1=_WEIGHTS.b1))
    sums = " + ".join(f"{_factor(x)} * {_factor(w)}" for x, w in zip(_X[0], _WEIGHTS.W1[:, 0], strict=True))
    board.say("The sums of the first layer are S1. The number at its top left, written out:")
    board.code(f"S1 = X W1 + b1\nS1[1, 1] = {sums} + {_WEIGHTS.b1[0]:g} = {found.S1[0, 0]:g}")
    board.code(_matrices(S1=found.S1))
    board.say(
        "Shapes tell whether a product is possible: (5, 3) times (3, 4) is (5, 4). The inner numbers must be equal, "
        "inputs of the row and inputs of the layer; the outer ones, rows and units, remain. Then comes the activation: "
        "relu replaces what is below 0 by 0. The result, H, is what the hidden layer passes on."
    )
    board.code("H = relu(S1)\n" + _matrices(H=found.H))


def _show_second_layer(board: Board, found: Forward) -> None:
    board.say(
        "The second layer does the same with H, and with softmax in place of relu: e to the power of each score, "
        "divided by the sum of the row, so that each row of P is positive and adds up to 1: probabilities of 2 classes."
    )
    board.code("S2 = H W2 + b2\nP = softmax(S2)")
    board.code(_matrices(W2=_WEIGHTS.W2, b2=_WEIGHTS.b2, S2=found.S2, P=found.P))
    first, second = found.S2[0]
    board.code(
        f"P[1, 1] = e^{first:g} / (e^{first:g} + e^{second:g}) = {np.exp(first):.4f} / "
        f"({np.exp(first):.4f} + {np.exp(second):.4f}) = {found.P[0, 0]:.4f}"
    )
    board.say(
        "So the whole network is a chain: P = softmax(relu(X W1 + b1) W2 + b2). A deeper network is a longer chain. "
        "The layer fc2 of VGG16 is a link of it as well, with a matrix of shape (4096, 4096); and a convolution is one "
        "too, where each row holds the numbers of one small patch of the picture."
    )


def _show_batch(board: Board, apart: float) -> None:
    board.say(
        "Each row of X went its own way: no row of P depends on another row of X. The rows sent through the network "
        f"one by one get the same probabilities (largest difference {apart:.1g}). One product for the whole batch is "
        "faster all the same, because the weights need to be fetched from memory once, and not once for each row."
    )


def _show_learning(board: Board, found: Forward, gradients: Weights, before: float, after: float) -> None:
    right = int((found.P.argmax(axis=1) == _Y.argmax(axis=1)).sum())
    board.say(
        f"How does it learn? The true classes are the rows of Y. The network is right about {right} of {len(_Y)} rows, "
        "and its loss, the mean of -log(probability of the true class), "
        f"is {before:.4f}. The gradient says for each weight how the loss changes with it. Backpropagation computes "
        "it from the end of the chain to its beginning, again with matrix products (^T: rows and columns exchanged; "
        "*: number by number):"
    )
    board.code(
        f"G2 = (P - Y) / {len(_X)}             how the loss changes with S2, softmax and log in one\n"
        "dW2 = H^T G2                 and so with W2; with b2: the sum of each column of G2\n"
        "G1 = (G2 W2^T) * (S1 > 0)    back through W2, and through relu where it was open\n"
        "dW1 = X^T G1                 and so with W1; with b1: the sum of each column of G1"
    )
    board.code(_matrices(Y=_Y, G2=(found.P - _Y) / len(_X), dW2=gradients.W2, dW1=gradients.W1))
    nudged = _WEIGHTS.W1.copy()
    nudged[2, 0] += _NUDGE
    higher = _loss(_forward(_X, _WEIGHTS._replace(W1=nudged)).P, _Y)
    board.say(
        f"Can this be right? Try it on one weight: with {_NUDGE:g} added to W1[3, 1] the loss is {higher:.6f} in place "
        f"of {before:.6f}, which is {(higher - before) / _NUDGE:.3f} times {_NUDGE:g} more. dW1[3, 1] is "
        f"{gradients.W1[2, 0]:.3f}."
    )
    board.say(
        f"A step of gradient descent takes {RATE:g} times the gradient from each weight. The loss falls from "
        f"{before:.4f} to {after:.4f}. Training is many such steps."
    )


def _show_keras(board: Board, forward: float, step: float) -> None:
    board.say(
        "Is it what Keras does? A model of Dense(4, relu) and Dense(2, softmax) was given the same weights. The "
        f"largest difference between its probabilities and P is {forward:.1e}, and between its weights after one step "
        f"of SGD and ours {step:.1e}: Keras keeps about seven digits of each number (float32), NumPy sixteen."
    )


def _matrices(**named: Matrix) -> str:
    """Return matrices as text, each with its name and shape."""
    blocks = []
    for name, matrix in named.items():
        digits = 4 if np.any(matrix != matrix.round(2)) else 2
        rows = ["  ".join(f"{value:{digits + 4}.{digits}f}" for value in row) for row in np.atleast_2d(matrix)]
        title = f"{name} {matrix.shape}"
        beside = [title, *[""] * (len(rows) - 1)]
        blocks.append("\n".join(f"{label:<12}{row}" for label, row in zip(beside, rows, strict=True)))
    return "\n\n".join(blocks)


def _factor(value: float) -> str:
    return f"({value:g})" if value < 0 else f"{value:g}"


def _largest(*differences: Matrix) -> float:
    return max(float(np.abs(each).max()) for each in differences)


def _listed(weights: Weights) -> dict[str, Any]:
    return {name: weight.tolist() for name, weight in weights._asdict().items()}

"""What stands between the layers of a network: tanh, sigmoid, relu and softmax, and what a network is without them."""

from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scripts.lesson.board import Board

if TYPE_CHECKING:
    from heads.base import Head
    from heads.figures.canvas import ReportFigure

Floats: TypeAlias = NDArray[np.float64]

_NAMES = ("tanh", "sigmoid", "relu")
_POINTS = (-4.0, -1.0, 0.0, 1.0, 4.0)
_SCORES = (2.0, 1.0, 0.0)
_DEEP = 10  # layers through which slopes are multiplied
_CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
_CLOUD, _NOISE = 400, 0.15
_BETWEEN = ("linear", *_NAMES)
_UNITS, _EPOCHS = 8, 60


def run(board: Board, _cache: Path | None) -> dict[str, Any]:
    """Look at the functions, at two layers without one between them, and at what a line cannot tell apart."""
    slopes = _show_functions(board)
    softmax = _show_softmax(board)
    layers = _show_two_layers(board)
    by_hand = _show_corners(board)
    accuracies = _show_clouds(board)
    return {"largest_slopes": slopes, "softmax": softmax, **layers, "xor_by_hand": by_hand, "xor": accuracies}


# The functions


def _applied(name: str, scores: Floats) -> tuple[Floats, Floats]:
    """Return an activation of this project's heads at these scores, and its slope there."""
    from heads.layers import ACTIVATIONS

    activate, slope = ACTIVATIONS[name]
    outputs = activate(scores.copy())
    return outputs, slope(outputs) * 1.0


def _show_functions(board: Board) -> dict[str, float]:
    scores = np.linspace(-5, 5, 1001)
    drawn = {name: _applied(name, scores) for name in _NAMES}
    largest = {name: float(slope.max()) for name, (_, slope) in drawn.items()}
    board.say(
        "A unit adds up its inputs, each times a weight; the sum is its score, s. What it passes on is a function of "
        "the score, its activation. These are the usual ones, with their slopes (derivatives):"
    )
    board.code(
        "tanh(s)    = (e^s - e^-s) / (e^s + e^-s)    slope 1 - tanh(s)^2\n"
        "sigmoid(s) = 1 / (1 + e^-s)                 slope sigmoid(s) * (1 - sigmoid(s))\n"
        "relu(s)    = the larger of s and 0          slope 1 above 0, else 0"
    )
    board.table(
        ("s", *(f"{point:g}" for point in _POINTS), "largest slope"),
        [(name, *(f"{v:.4f}" for v in _applied(name, np.array(_POINTS))[0]), f"{largest[name]:.2f}") for name in drawn],
    )
    board.draw("activations-functions", _draw_functions(scores, drawn))
    board.say(
        "tanh goes from -1 to 1, sigmoid from 0 to 1 (it is tanh, halved, shifted and stretched: sigmoid(s) = "
        "(1 + tanh(s / 2)) / 2). Both are flat at their ends: there a unit hardly learns, since what it learns is "
        f"multiplied by the slope. Through {_DEEP} layers {_DEEP} slopes are multiplied: with sigmoid they are at most "
        f"{largest['sigmoid']:.2f}^{_DEEP} = {largest['sigmoid'] ** _DEEP:.1e}. The slope of relu is 1 wherever the "
        "unit is on. Deep networks such as VGG16 use it."
    )
    return largest


def _draw_functions(scores: Floats, drawn: Mapping[str, tuple[Floats, Floats]]) -> "ReportFigure":
    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, VERMILION

    with drawing((8.4, 3.2)) as figure:
        handles = []
        for axes, (name, (outputs, slopes)) in zip(figure.subplots(1, len(drawn)), drawn.items(), strict=True):
            handles = axes.plot(scores, outputs, color=BLUE)
            handles += axes.plot(scores, slopes, color=VERMILION, linestyle="--", linewidth=1.4)
            axes.set(title=name, xlabel="score")
        legend(figure, handles, ["activation", "slope"], "outside lower center")
    figure.alt = "The functions tanh, sigmoid and relu of a score, and their slopes."
    figure.caption = "Where the slope is near 0, a unit hardly learns."
    return figure


# Softmax


def _softmax(*scores: float) -> list[float]:
    from heads.affine import softmax

    probabilities: list[float] = softmax(np.array([scores], np.float64))[0].tolist()
    return probabilities


def _show_softmax(board: Board) -> dict[str, list[float]]:
    rows = {
        "s": _SCORES,
        "s + 1000": tuple(score + 1000 for score in _SCORES),
        "s / 0.5": tuple(score / 0.5 for score in _SCORES),
        "s / 2": tuple(score / 2 for score in _SCORES),
    }
    found = {name: _softmax(*scores) for name, scores in rows.items()}
    board.say(
        "The last layer has an activation of its own. softmax looks at the scores of all classes at once: e^score, "
        "divided by the sum of all e^score. Results are above 0 and add up to 1: probabilities, in the "
        "order of the scores."
    )
    board.table(
        ("", *(f"{what}{number}" for what in "sp" for number in range(1, len(_SCORES) + 1)), "sum"),
        [
            (name, *(f"{s:g}" for s in scores), *(f"{p:.4f}" for p in found[name]), f"{sum(found[name]):.4f}")
            for name, scores in rows.items()
        ],
    )
    apart = max(abs(first - second) for first, second in zip(found["s"], found["s + 1000"], strict=True))
    two = _softmax(_SCORES[0], 0.0)[0]
    board.say(
        f"Adding 1000 to every score changes nothing (largest difference {apart:.1g}): each e^score is multiplied by "
        "e^1000, and so is their sum. Only differences of scores matter. Programs use this: e^1000 is beyond all "
        "numbers that they can hold, so they take the largest score from all of them first. To divide the scores by a "
        "temperature makes probabilities bolder (0.5) or more even (2), and keeps their order. Of two classes with the "
        f"scores s and 0, softmax is the sigmoid of s: {two:.4f} for s = {_SCORES[0]:g}, and sigmoid(2) is "
        f"{_applied('sigmoid', np.array([_SCORES[0]]))[0][0]:.4f}."
    )
    return found


# Two layers without an activation


def _show_two_layers(board: Board) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(1000, 3))
    W1, b1, W2, b2 = (generator.normal(size=shape) for shape in ((3, 4), (4,), (4, 2), (2,)))
    two, one = (X @ W1 + b1) @ W2 + b2, X @ (W1 @ W2) + (b1 @ W2 + b2)
    apart = float(np.abs(two - one).max())
    left = {name: _left_by_one_layer(X, _applied(name, X @ W1 + b1)[0] @ W2 + b2) for name in _BETWEEN}
    board.say(
        "What if there were no activation? Take two dense layers, with weights W1, W2 and biases b1, b2, and nothing "
        "between them:"
    )
    board.code("  (X W1 + b1) W2 + b2\n= X W1 W2 + b1 W2 + b2\n= X W + b      with W = W1 W2 and b = b1 W2 + b2")
    board.say(
        f"They are one layer. With random weights for 3 inputs, 4 units and 2 outputs, and {len(X):,} random rows, the "
        f"two ways differ by {apart:.0e} at most, which is rounding. With an activation there is no such W: the one "
        "layer that comes nearest (by least squares) leaves this part of the outputs' variance unexplained:"
    )
    board.table(("between the layers", "unexplained"), [(name, f"{part:.2g}") for name, part in left.items()])
    return {"two_layers_difference": apart, "unexplained": left}


def _left_by_one_layer(X: Floats, outputs: Floats) -> float:
    """Return which part of the variance of outputs no dense layer without an activation can explain."""
    rows = np.concatenate([X, np.ones((len(X), 1))], axis=1)
    best, *_ = np.linalg.lstsq(rows, outputs, rcond=None)
    return float(np.square(outputs - rows @ best).sum() / np.square(outputs - outputs.mean(axis=0)).sum())


# What a line cannot tell apart


def _show_corners(board: Board) -> list[list[float]]:
    board.say(
        "What does that cost? Take 'one or the other, but not both' (XOR): class 1 if just one of two inputs is 1. A "
        "network without activations, however deep, is one layer, and says class 1 where w1 x1 + w2 x2 + b > 0: on one "
        "side of a line. For the corners it would need"
    )
    board.code("b <= 0     w1 + w2 + b <= 0     w1 + b > 0     w2 + b > 0")
    board.say(
        "The first two add up to w1 + w2 + 2b <= 0, the last two to w1 + w2 + 2b > 0: no weights can do both. Two "
        "units with relu can (I. Goodfellow, Y. Bengio and A. Courville, Deep Learning, 2016, section 6.1):"
    )
    first = _applied("relu", _CORNERS.sum(axis=1) * 1.0)[0]
    second = _applied("relu", _CORNERS.sum(axis=1) - 1.0)[0]
    rows = [[*map(float, row)] for row in np.column_stack([_CORNERS, first, second, first - 2 * second])]
    board.table(
        ("x1", "x2", "h1 = relu(x1 + x2)", "h2 = relu(x1 + x2 - 1)", "h1 - 2 h2"),
        [tuple(f"{value:g}" for value in row) for row in rows],
        left=(),
    )
    return rows


def _show_clouds(board: Board) -> dict[str, dict[str, float]]:
    from heads.catalog import make_head
    from heads.rows import loss_and_accuracy

    (X, y), (X_new, y_new) = _clouds(seed=0), _clouds(seed=1)
    heads = {
        name: make_head("mlp", hidden=str(_UNITS), activation=name, lr=0.03, epochs=_EPOCHS, batch_size=32).fit(X, y)
        for name in _BETWEEN
    }
    found = {}
    for name, head in heads.items():
        loss, accuracy = loss_and_accuracy(head.predict_proba(X_new), head.classes_, y_new)
        found[name] = {"accuracy": accuracy, "loss": loss}
    board.say(
        f"Can weights like these be learned? {_CLOUD} points around the corners (noise of spread {_NOISE}), and this "
        f"project's head mlp with {_UNITS} hidden units, trained for {_EPOCHS} epochs; then judged by {_CLOUD} new "
        "points:"
    )
    board.table(
        ("activation", "accuracy", "loss"),
        [(name, f"{row['accuracy']:.4f}", f"{row['loss']:.4f}") for name, row in found.items()],
    )
    board.draw("activations-xor", _draw_regions(heads, X_new, y_new))
    board.say(
        "Without an activation ('linear') the head is no better than guessing: its loss is near that of saying one "
        f"half each time, log(2) = {log(2):.4f}. With any of the three it bends the border, and finds the classes. In "
        "the picture each ground has the colour of the class that the head says there."
    )
    return found


def _clouds(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw points around the corners, shape (n, 2), and their classes."""
    generator = np.random.default_rng(seed)
    corners = _CORNERS[generator.integers(0, len(_CORNERS), _CLOUD)]
    points = corners + generator.normal(0, _NOISE, corners.shape)
    return points.astype(np.float32), corners[:, 0] ^ corners[:, 1]


def _draw_regions(heads: "Mapping[str, Head]", X: NDArray[np.float32], y: NDArray[np.int64]) -> "ReportFigure":
    from heads.figures.canvas import drawing
    from heads.figures.style import BLUE, VERMILION

    side = np.linspace(-0.6, 1.6, 221, dtype=np.float32)
    x1, x2 = np.meshgrid(side, side)
    ground = np.stack([x1.ravel(), x2.ravel()], axis=1)
    with drawing((10.0, 3.0)) as figure:
        for axes, (name, head) in zip(figure.subplots(1, len(heads), sharey=True), heads.items(), strict=True):
            says = head.predict_proba(ground)[:, 1].reshape(x1.shape)
            axes.contourf(x1, x2, says, levels=[0, 0.5, 1], colors=[BLUE, VERMILION], alpha=0.25)
            for label, colour in enumerate((BLUE, VERMILION)):
                axes.plot(*X[y == label].T, ".", color=colour, markersize=3)
            axes.set(title=name, xlabel="x1", aspect="equal")
            axes.grid(visible=False)
        figure.axes[0].set_ylabel("x2")
    figure.alt = "Four clouds of points of two classes, and the border that a head found, for each activation."
    figure.caption = "New points; each ground has the colour of the class that the head says there."
    return figure

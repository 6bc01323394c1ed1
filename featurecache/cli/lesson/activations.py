"""The lesson `activations`: tanh, sigmoid, relu and softmax, and a network without activations."""

from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurecache.cli.lesson.lesson_writer import LessonWriter

if TYPE_CHECKING:
    from heads.base import Head
    from heads.figures.canvas import ReportFigure

Floats: TypeAlias = NDArray[np.float64]

_NAMES = ("tanh", "sigmoid", "relu")
_TABLE_SCORES = (-4.0, -1.0, 0.0, 1.0, 4.0)
_SOFTMAX_SCORES = (2.0, 1.0, 0.0)
_DEEP = 10  # layers of a deep network whose slopes are multiplied
_CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
_POINTS_PER_SET, _NOISE = 400, 0.15
_ACTIVATIONS = ("linear", *_NAMES)
_UNITS, _EPOCHS = 8, 60


def run(writer: LessonWriter, _cache: Path | None) -> dict[str, Any]:
    """Show the functions, two layers with and without an activation, and a problem that no line separates."""
    slopes = _show_functions(writer)
    softmax = _show_softmax(writer)
    layers = _show_two_layers(writer)
    corners = _show_corners(writer)
    accuracies = _show_clouds(writer)
    return {"largest_slopes": slopes, "softmax": softmax, **layers, "xor_by_hand": corners, "xor": accuracies}


# The functions


def _applied(name: str, scores: Floats) -> tuple[Floats, Floats]:
    """Return an activation of this project's heads, and its slope, at these scores; both have the shape of scores."""
    from heads.families.layers import ACTIVATIONS

    activate, slope = ACTIVATIONS[name]
    outputs = activate(scores.copy())
    return outputs, slope(outputs) * 1.0


def _show_functions(writer: LessonWriter) -> dict[str, float]:
    scores = np.linspace(-5, 5, 1001)
    functions = {name: _applied(name, scores) for name in _NAMES}
    largest = {name: float(slope.max()) for name, (_, slope) in functions.items()}
    writer.say(
        "A unit multiplies each input by a weight and adds up the products; the sum is its score, s. The unit's "
        "output is a function of the score, its activation. These are the usual activations, with their slopes "
        "(derivatives):"
    )
    writer.code(
        "tanh(s)    = (e^s - e^-s) / (e^s + e^-s)    slope 1 - tanh(s)^2\n"
        "sigmoid(s) = 1 / (1 + e^-s)                 slope sigmoid(s) * (1 - sigmoid(s))\n"
        "relu(s)    = the larger of s and 0          slope 1 above 0, else 0"
    )
    writer.table(
        ("s", *(f"{point:g}" for point in _TABLE_SCORES), "largest slope"),
        [
            (name, *(f"{v:.4f}" for v in _applied(name, np.array(_TABLE_SCORES))[0]), f"{largest[name]:.2f}")
            for name in functions
        ],
    )
    writer.draw("activations-functions", _draw_functions(scores, functions))
    writer.say(
        "tanh ranges from -1 to 1 and sigmoid from 0 to 1 (sigmoid is tanh, scaled and shifted: sigmoid(s) = (1 + "
        "tanh(s / 2)) / 2). Both are flat at their ends. There a unit hardly learns, because its gradient is "
        f"multiplied by the slope. Backpropagation through {_DEEP} layers multiplies {_DEEP} slopes: with sigmoid the "
        f"product is at most {largest['sigmoid']:.2f}^{_DEEP} = {largest['sigmoid'] ** _DEEP:.1e}. The slope of relu "
        "is 1 wherever its score is positive. Deep networks such as VGG16 use relu."
    )
    return largest


def _draw_functions(scores: Floats, functions: Mapping[str, tuple[Floats, Floats]]) -> "ReportFigure":
    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, VERMILION

    with drawing((8.4, 3.2)) as figure:
        handles = []
        for axes, (name, (outputs, slopes)) in zip(figure.subplots(1, len(functions)), functions.items(), strict=True):
            handles = axes.plot(scores, outputs, color=BLUE)
            handles += axes.plot(scores, slopes, color=VERMILION, linestyle="--", linewidth=1.4)
            axes.set(title=name, xlabel="score")
        legend(figure, handles, ["activation", "slope"], "outside lower center")
    figure.alt = "The functions tanh, sigmoid and relu of a score, and their slopes."
    figure.caption = "A unit whose slope is near 0 hardly learns."
    return figure


# Softmax


def _softmax(*scores: float) -> list[float]:
    from heads.families.affine import softmax

    probabilities: list[float] = softmax(np.array([scores], np.float64))[0].tolist()
    return probabilities


def _show_softmax(writer: LessonWriter) -> dict[str, list[float]]:
    rows = {
        "s": _SOFTMAX_SCORES,
        "s + 1000": tuple(score + 1000 for score in _SOFTMAX_SCORES),
        "s / 0.5": tuple(score / 0.5 for score in _SOFTMAX_SCORES),
        "s / 2": tuple(score / 2 for score in _SOFTMAX_SCORES),
    }
    probabilities = {name: _softmax(*scores) for name, scores in rows.items()}
    writer.say(
        "The last layer uses softmax, which reads the scores of all classes together: e^score, divided by the sum of "
        "all e^score. The results are positive and add up to 1. They are probabilities, in the same order as the "
        "scores."
    )
    writer.table(
        ("", *(f"{letter}{number}" for letter in "sp" for number in range(1, len(_SOFTMAX_SCORES) + 1)), "sum"),
        [
            (
                name,
                *(f"{s:g}" for s in scores),
                *(f"{p:.4f}" for p in probabilities[name]),
                f"{sum(probabilities[name]):.4f}",
            )
            for name, scores in rows.items()
        ],
    )
    pairs = zip(probabilities["s"], probabilities["s + 1000"], strict=True)
    difference = max(abs(first - second) for first, second in pairs)
    two = _softmax(_SOFTMAX_SCORES[0], 0.0)[0]
    writer.say(
        f"Adding 1000 to every score changes nothing (largest difference {difference:.1g}): each e^score is "
        "multiplied by e^1000, and so is their sum. Only differences between scores matter. Programs use this: "
        "e^1000 would overflow, so they first subtract the largest score from all scores. Dividing the scores by a "
        "temperature makes the probabilities more extreme (0.5) or more even (2) and keeps their order. For two "
        f"classes with the scores s and 0, softmax is the sigmoid of s: {two:.4f} for s = {_SOFTMAX_SCORES[0]:g}, and "
        f"sigmoid(2) is {_applied('sigmoid', np.array([_SOFTMAX_SCORES[0]]))[0][0]:.4f}."
    )
    return probabilities


# Two layers without an activation


def _show_two_layers(writer: LessonWriter) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(1000, 3))
    W1, b1, W2, b2 = (generator.normal(size=shape) for shape in ((3, 4), (4,), (4, 2), (2,)))
    two, one = (X @ W1 + b1) @ W2 + b2, X @ (W1 @ W2) + (b1 @ W2 + b2)
    difference = float(np.abs(two - one).max())
    unexplained = {
        name: _unexplained_by_one_layer(X, _applied(name, X @ W1 + b1)[0] @ W2 + b2) for name in _ACTIVATIONS
    }
    writer.say(
        "What happens without an activation? Take two dense layers, with weights W1, W2 and biases b1, b2, and "
        "nothing between them:"
    )
    writer.code("  (X W1 + b1) W2 + b2\n= X W1 W2 + b1 W2 + b2\n= X W + b      with W = W1 W2 and b = b1 W2 + b2")
    writer.say(
        f"They are equal to one layer. With random weights for 3 inputs, 4 units and 2 outputs, and {len(X):,} random "
        f"rows, the two results differ by at most {difference:.0e}, which is rounding. With an activation no such W "
        "exists: the best single layer (by least squares) leaves this fraction of the outputs' variance unexplained:"
    )
    writer.table(("between the layers", "unexplained"), [(name, f"{part:.2g}") for name, part in unexplained.items()])
    return {"two_layers_difference": difference, "unexplained": unexplained}


def _unexplained_by_one_layer(X: Floats, outputs: Floats) -> float:
    """Return the fraction of the variance of outputs, shape (n, k), that no single dense layer explains."""
    rows = np.concatenate([X, np.ones((len(X), 1))], axis=1)
    best, *_ = np.linalg.lstsq(rows, outputs, rcond=None)
    return float(np.square(outputs - rows @ best).sum() / np.square(outputs - outputs.mean(axis=0)).sum())


# A problem that no line separates


def _show_corners(writer: LessonWriter) -> list[list[float]]:
    writer.say(
        "What does this cost? Take exclusive or (XOR): class 1 if exactly one of two inputs is 1. A network without "
        "activations, however deep, is equal to one layer. It predicts class 1 where w1 x1 + w2 x2 + b > 0, which is "
        "one side of a line. For the four corners it would need"
    )
    writer.code("b <= 0     w1 + w2 + b <= 0     w1 + b > 0     w2 + b > 0")
    writer.say(
        "The first two add up to w1 + w2 + 2b <= 0 and the last two to w1 + w2 + 2b > 0: no weights satisfy both. "
        "Two units with relu can solve it (I. Goodfellow, Y. Bengio and A. Courville, Deep Learning, 2016, section "
        "6.1):"
    )
    first = _applied("relu", _CORNERS.sum(axis=1) * 1.0)[0]
    second = _applied("relu", _CORNERS.sum(axis=1) - 1.0)[0]
    rows = [[*map(float, row)] for row in np.column_stack([_CORNERS, first, second, first - 2 * second])]
    writer.table(
        ("x1", "x2", "h1 = relu(x1 + x2)", "h2 = relu(x1 + x2 - 1)", "h1 - 2 h2"),
        [tuple(f"{value:g}" for value in row) for row in rows],
        left=(),
    )
    return rows


def _show_clouds(writer: LessonWriter) -> dict[str, dict[str, float]]:
    from heads.catalog import make_head
    from heads.rows import loss_and_accuracy

    (X, y), (X_new, y_new) = _clouds(seed=0), _clouds(seed=1)
    heads = {
        name: make_head("mlp", hidden=str(_UNITS), activation=name, lr=0.03, epochs=_EPOCHS, batch_size=32).fit(X, y)
        for name in _ACTIVATIONS
    }
    metrics = {}
    for name, head in heads.items():
        loss, accuracy = loss_and_accuracy(head.predict_proba(X_new), head.classes_, y_new)
        metrics[name] = {"accuracy": accuracy, "loss": loss}
    writer.say(
        f"Can training find such weights? {_POINTS_PER_SET} points around the corners (noise with standard deviation "
        f"{_NOISE}) train this project's head mlp with {_UNITS} hidden units for {_EPOCHS} epochs. {_POINTS_PER_SET} "
        "new points evaluate it:"
    )
    writer.table(
        ("activation", "accuracy", "loss"),
        [(name, f"{row['accuracy']:.4f}", f"{row['loss']:.4f}") for name, row in metrics.items()],
    )
    writer.draw("activations-xor", _draw_regions(heads, X_new, y_new))
    writer.say(
        "Without an activation ('linear') the head is no better than guessing: its loss is near log(2) = "
        f"{log(2):.4f}, the loss of predicting one half every time. With any of the three activations the decision "
        "boundary bends, and the head separates the classes. In the figure the background colour shows the predicted "
        "class."
    )
    return metrics


def _clouds(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw points around the corners, shape (n, 2), and their classes, shape (n,)."""
    generator = np.random.default_rng(seed)
    corners = _CORNERS[generator.integers(0, len(_CORNERS), _POINTS_PER_SET)]
    points = corners + generator.normal(0, _NOISE, corners.shape)
    return points.astype(np.float32), corners[:, 0] ^ corners[:, 1]


def _draw_regions(heads: "Mapping[str, Head]", X: NDArray[np.float32], y: NDArray[np.int64]) -> "ReportFigure":
    from heads.figures.canvas import drawing
    from heads.figures.style import BLUE, VERMILION

    side = np.linspace(-0.6, 1.6, 221, dtype=np.float32)
    x1, x2 = np.meshgrid(side, side)
    grid = np.stack([x1.ravel(), x2.ravel()], axis=1)
    with drawing((10.0, 3.0)) as figure:
        for axes, (name, head) in zip(figure.subplots(1, len(heads), sharey=True), heads.items(), strict=True):
            probabilities = head.predict_proba(grid)[:, 1].reshape(x1.shape)
            axes.contourf(x1, x2, probabilities, levels=[0, 0.5, 1], colors=[BLUE, VERMILION], alpha=0.25)
            for label, colour in enumerate((BLUE, VERMILION)):
                axes.plot(*X[y == label].T, ".", color=colour, markersize=3)
            axes.set(title=name, xlabel="x1", aspect="equal")
            axes.grid(visible=False)
        figure.axes[0].set_ylabel("x2")
    figure.alt = "Four clouds of points of two classes, and the decision boundary of a head with each activation."
    figure.caption = "New points; the background colour shows the predicted class."
    return figure

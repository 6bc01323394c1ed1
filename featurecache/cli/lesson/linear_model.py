"""The lesson `linear-model`: a linear model in Keras finds the weights of its data in 150 small steps."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurecache.cli.lesson.lesson_writer import LessonWriter

if TYPE_CHECKING:
    from heads.figures.canvas import ReportFigure

Floats: TypeAlias = NDArray[np.float64]
Trained: TypeAlias = tuple[float, list[float], float, list[Floats]]

RATE = 0.1
_SEARCHED_FOR = 76960  # chosen for its low loss after five epochs, as the lesson says
SEED = _SEARCHED_FOR

_ROWS, _EPOCHS = 30, 5
_WEIGHTS = np.array([2.0, 3.0, 1.0])  # of x1, of x2, and the bias
_OTHERS, _MORE_EPOCHS, _LOW = 1000, 15, 0.001

_CODE_NOTES = (
    ("keras.Sequential", "layers; each takes the output of the one before"),
    ("keras.Input((2,))", "one row of inputs: two numbers, x1 and x2"),
    ("keras.layers.Dense(1)", "one unit: w1 * x1 + w2 * x2 + b, without activation"),
    ("model.set_weights", "initial w1, w2 and b (without it Keras draws them)"),
    ("SGD(learning_rate=RATE)", f"each step subtracts RATE = {RATE:g} times the gradient"),
    ('loss="mse"', "the mean squared error, mean((prediction - y)^2)"),
    ("model.evaluate", "the loss of all rows with the current weights"),
    ("model.fit", "trains; records the mean loss of each epoch's steps"),
    ("batch_size=1", "each step uses one row: 30 steps per epoch"),
    ("epochs=5", "uses every row five times: 150 steps in all"),
    ("shuffle=False", "keeps the order of the rows (without it Keras shuffles)"),
    ("model.get_weights()", "the weights (w1, w2) and the bias (b)"),
)


def run(writer: LessonWriter, _cache: Path | None) -> dict[str, Any]:
    """Train the lesson's model in Keras, then repeat the training in NumPy with many other random draws."""
    from featurecache.backbones.keras_runtime import fixed_settings, load_keras

    x, y, start = _draw(SEED)
    writer.say(
        f"We draw {_ROWS} rows of two numbers, x1 and x2, uniformly from 0 to 1, and compute y = 2 * x1 + 3 * x2 + 1. "
        "The model has to find the weights 2, 3 and 1. This is the complete code, as it runs here:"
    )
    writer.code(inspect.getsource(_train))
    writer.table(("code", "what it does"), _CODE_NOTES, left=(0, 1))

    with fixed_settings():
        before, epochs, after, arrays = _train(load_keras(), x, y, start)
    weights = [float(weight) for weight in np.concatenate([np.ravel(array) for array in arrays])]
    _show_training(writer, start, before, epochs, after, weights)

    numpy_losses, numpy_weights = _descend([SEED], _EPOCHS)
    difference = float(np.abs(np.array(weights) - numpy_weights[0]).max())
    others, _ = _descend(range(_OTHERS), _MORE_EPOCHS)
    low = float((others[_EPOCHS] < _LOW).mean())
    behind = int(np.count_nonzero(others[_EPOCHS] > numpy_losses[-1, 0]))
    medians = np.median(others, axis=1)
    _show_others(writer, difference, low, behind, medians)
    curvature, distance = _smallest_curvature(SEED)
    median_distance = float(np.median([_smallest_curvature(seed)[1] for seed in range(_OTHERS)]))
    _show_valley(writer, curvature, distance, median_distance)
    writer.draw("linear-model-loss", _draw_losses(numpy_losses[:, 0], others))
    return {
        "seed": SEED,
        "loss_before": float(before),
        "epoch_losses": [float(loss) for loss in epochs],
        "loss_after": float(after),
        "weights": weights,
        "numpy_difference": difference,
        "others_median": medians.tolist(),
        "others_low": low,
        "others_behind": behind,
        "curvature": curvature,
        "away": distance,
        "others_away": median_distance,
    }


def _draw(seed: int) -> tuple[Floats, Floats, Floats]:
    """Return random rows, shape (30, 2), their targets y, shape (30,), and Glorot's initial weights, shape (2, 1)."""
    from heads.families.optimizers import initial_kernel

    generator = np.random.default_rng(seed)
    x = generator.random((_ROWS, 2))
    return x, x @ _WEIGHTS[:2] + _WEIGHTS[2], initial_kernel("glorot_uniform", 2, 1, generator).astype(np.float64)


def _train(keras: ModuleType, x: Floats, y: Floats, start: Floats) -> Trained:
    """Return the loss before, in each epoch and after, and the weights."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([start, np.zeros(1)])
    model.compile(optimizer=keras.optimizers.SGD(learning_rate=RATE), loss="mse")
    before = model.evaluate(x, y, verbose=0)
    learned = model.fit(x, y, batch_size=1, epochs=5, shuffle=False, verbose=0)
    after = model.evaluate(x, y, verbose=0)
    return before, learned.history["loss"], after, model.get_weights()


def _descend(seeds: Sequence[int], epochs: int) -> tuple[Floats, Floats]:
    """Take the same steps in NumPy, for many random draws at once.

    Returns
    -------
    losses, weights
        The loss of each draw before the first epoch and after every epoch, shape (epochs + 1, draws), and the final
        w1, w2 and b of each draw, shape (draws, 3).
    """
    draws = [_draw(seed) for seed in seeds]
    X = np.array([np.column_stack([x, np.ones(_ROWS)]) for x, _, _ in draws])
    y = np.array([targets for _, targets, _ in draws])
    weights = np.array([[*start[:, 0], 0.0] for _, _, start in draws])
    losses = []
    for epoch in range(epochs + 1):
        for row in range(_ROWS if epoch else 0):
            residuals = (X[:, row] * weights).sum(axis=1) - y[:, row]
            weights -= RATE * 2 * residuals[:, np.newaxis] * X[:, row]
        losses.append(np.square(np.einsum("drw,dw->dr", X, weights) - y).mean(axis=1))
    return np.array(losses), weights


def _smallest_curvature(seed: int) -> tuple[float, float]:
    """Return a draw's smallest curvature, and the distance of its start from the minimum in that direction."""
    x, _, start = _draw(seed)
    rows = np.column_stack([x, np.ones(_ROWS)])
    curvatures, directions = np.linalg.eigh(2 * rows.T @ rows / _ROWS)
    return float(curvatures[0]), float(abs(directions[:, 0] @ (np.array([*start[:, 0], 0.0]) - _WEIGHTS)))


def _show_training(
    writer: LessonWriter, start: Floats, before: float, epochs: Sequence[float], after: float, weights: Sequence[float]
) -> None:
    writer.table(
        ("", "loss", "w1", "w2", "b"),
        [
            ("before", f"{before:.4f}", *(f"{weight:.4f}" for weight in (*start[:, 0], 0.0))),
            *((f"in epoch {number}", f"{loss:.6f}", "", "", "") for number, loss in enumerate(epochs, start=1)),
            ("after", f"{after:.6f}", *(f"{weight:.4f}" for weight in weights)),
        ],
    )
    largest_error = np.abs(np.array(weights) - _WEIGHTS).max()
    if not after < before:
        writer.say(
            f"The loss rises from {before:.2f} to {after:.2g}: with a learning rate of {RATE:g} the steps are too "
            "long for these rows. Lower RATE."
        )
        return
    writer.say(
        f"The loss falls from {before:.2f} to {after:.6f}, and the learned weights differ from those of the data by "
        f"at most {largest_error:.3f}. The model only knew that y is a weighted sum of x1, x2 and 1; gradient descent "
        "found the weights."
    )


def _show_others(writer: LessonWriter, difference: float, low: float, behind: int, medians: Floats) -> None:
    writer.say(
        f"NumPy can do what Keras does here: the same {_ROWS * _EPOCHS} steps, each {RATE:g} * 2 * residual * (x1, "
        f"x2, 1), end at the same weights, up to rounding (largest difference {difference:.0e}). So we can try many "
        f"other random draws of rows and initial weights. Are {_EPOCHS} epochs always enough? Of {_OTHERS:,} other "
        f"draws {low:.1%} have a loss below {_LOW} after {_EPOCHS} epochs; the median is {medians[_EPOCHS]:.3g}. "
        f"After {_MORE_EPOCHS} epochs the median is {medians[_MORE_EPOCHS]:.1e}. The draw above, seed {SEED}, ends "
        f"below {behind:,} of them{': we searched for it' if SEED == _SEARCHED_FOR else ''}."
    )


def _show_valley(writer: LessonWriter, curvature: float, distance: float, median_distance: float) -> None:
    steps = _ROWS * _EPOCHS
    left = (1 - RATE * curvature) ** steps
    writer.say(
        "The lesson gradient-descent explains why: the loss is a valley, here with three directions, and the "
        f"smallest curvature is {curvature:.3f}. In this direction a step leaves about 1 - {RATE:g} * {curvature:.3f} "
        f"of the distance, and {steps} steps leave {left:.0%}. Our start is {distance:.2f} away from the minimum in "
        f"this direction; the median of the others is {median_distance:.2f}. One seed proves little: to compare two "
        "ways of training, run both several times."
    )


def _draw_losses(shown: Floats, others: Floats) -> "ReportFigure":
    from featurecache.cli.lesson.axes import make_logarithmic
    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, GREY, VERMILION

    with drawing() as figure:
        axes = figure.subplots()
        epochs = range(len(others))
        low, median, high = np.quantile(others, (0.05, 0.5, 0.95), axis=1)
        band = axes.fill_between(epochs, low, high, color=GREY, alpha=0.25, linewidth=0)
        (median_line,) = axes.plot(epochs, median, "o-", color=BLUE, markersize=4)
        (seed_line,) = axes.plot(range(len(shown)), shown, "o-", color=VERMILION, markersize=4)
        make_logarithmic(axes)
        axes.set(xlabel="epoch", ylabel="loss after the epoch")
        names = ("90 % of the draws", "median", f"seed {SEED}")
        legend(figure, (band, median_line, seed_line), names, "outside lower center")
    figure.alt = "The loss after each epoch, for the draw of the text and for a thousand others."
    figure.caption = "One draw proves little: look at the median and at the range of the draws."
    return figure

"""A linear model in Keras: the weights that its data were made with are found again, by 150 small steps."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scripts.lesson.board import Board

if TYPE_CHECKING:
    from heads.figures.canvas import ReportFigure

Floats: TypeAlias = NDArray[np.float64]
Trained: TypeAlias = tuple[float, list[float], float, list[Floats]]

RATE = 0.1
_LOOKED_FOR = 76960  # a lucky draw, as the lesson says: few others get so near in five epochs
SEED = _LOOKED_FOR

_ROWS, _EPOCHS = 30, 5
_WEIGHTS = np.array([2.0, 3.0, 1.0])  # of x1, of x2, and the bias
_OTHERS, _MORE_EPOCHS, _LOW = 1000, 15, 0.001

_PARTS = (
    ("keras.Sequential", "layers, each fed by the one before it"),
    ("keras.Input((2,))", "a row of inputs is two numbers, x1 and x2"),
    ("keras.layers.Dense(1)", "one unit: w1 * x1 + w2 * x2 + b, without activation"),
    ("model.set_weights", "where w1, w2 and b start (left out: Keras draws them)"),
    ("SGD(learning_rate=RATE)", f"each step is RATE = {RATE:g} times the gradient, downhill"),
    ('loss="mse"', "of the mean squared error, mean((prediction - y)^2)"),
    ("model.evaluate", "the loss of all rows, with the weights as they are"),
    ("model.fit", "learn, and note the mean loss of each epoch's steps"),
    ("batch_size=1", "a step looks at one row: 30 steps are an epoch"),
    ("epochs=5", "every row is used five times, 150 steps in all"),
    ("shuffle=False", "rows in their order (left out: Keras mixes them)"),
    ("model.get_weights()", "the weights (w1, w2) and the bias (b)"),
)


def run(board: Board, _cache: Path | None) -> dict[str, Any]:
    """Train the lesson's model in Keras, then see in NumPy how other draws of the same would have done."""
    from featurecache.backbones.runtime import load_keras

    x, y, start = _draw(SEED)
    board.say(
        f"{_ROWS} rows of two numbers, x1 and x2, are drawn evenly from 0 to 1, and y = 2 * x1 + 3 * x2 + 1. We keep "
        "the weights 2, 3 and 1 to ourselves, and let a model look for them. This is the whole of it, as it is run "
        "here:"
    )
    board.code(inspect.getsource(_train))
    board.table(("in the code", "what it does"), _PARTS, left=(0, 1))

    before, epochs, after, found = _train(load_keras(), x, y, start)
    weights = [float(each) for each in np.concatenate([np.ravel(part) for part in found])]
    _show_training(board, start, before, epochs, after, weights)

    in_numpy, by_hand = _descend([SEED], _EPOCHS)
    difference = float(np.abs(np.array(weights) - by_hand[0]).max())
    others, _ = _descend(range(_OTHERS), _MORE_EPOCHS)
    low = float((others[_EPOCHS] < _LOW).mean())
    behind = int(np.count_nonzero(others[_EPOCHS] > in_numpy[-1, 0]))
    medians = np.median(others, axis=1)
    _show_others(board, difference, low, behind, medians)
    curvature, away = _along_the_valley(SEED)
    usually_away = float(np.median([_along_the_valley(seed)[1] for seed in range(_OTHERS)]))
    _show_valley(board, curvature, away, usually_away)
    board.draw("linear-model-loss", _draw_losses(in_numpy[:, 0], others))
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
        "away": away,
        "others_away": usually_away,
    }


def _draw(seed: int) -> tuple[Floats, Floats, Floats]:
    """Draw rows, shape (30, 2), what is to be found for them, shape (30,), and Glorot's start, shape (2, 1)."""
    from heads.optimizers import initial_kernel

    generator = np.random.default_rng(seed)
    x = generator.random((_ROWS, 2))
    return x, x @ _WEIGHTS[:2] + _WEIGHTS[2], initial_kernel("glorot_uniform", 2, 1, generator).astype(np.float64)


def _train(keras: ModuleType, x: Floats, y: Floats, start: Floats) -> Trained:
    """Return the loss before, in each epoch, and after; and the weights."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([start, np.zeros(1)])
    model.compile(optimizer=keras.optimizers.SGD(learning_rate=RATE), loss="mse")
    before = model.evaluate(x, y, verbose=0)
    learned = model.fit(x, y, batch_size=1, epochs=5, shuffle=False, verbose=0)
    after = model.evaluate(x, y, verbose=0)
    return before, learned.history["loss"], after, model.get_weights()


def _descend(seeds: Sequence[int], epochs: int) -> tuple[Floats, Floats]:
    """Take the same steps in NumPy, for many draws at once.

    Returns
    -------
    losses, weights
        The loss of each draw before the first epoch and after each, shape (epochs + 1, draws), and w1, w2 and b of
        each at the end, shape (draws, 3).
    """
    draws = [_draw(seed) for seed in seeds]
    X = np.array([np.column_stack([x, np.ones(_ROWS)]) for x, _, _ in draws])
    y = np.array([each for _, each, _ in draws])
    weights = np.array([[*start[:, 0], 0.0] for _, _, start in draws])
    losses = []
    for epoch in range(epochs + 1):
        for row in range(_ROWS if epoch else 0):
            residuals = (X[:, row] * weights).sum(axis=1) - y[:, row]
            weights -= RATE * 2 * residuals[:, np.newaxis] * X[:, row]
        losses.append(np.square(np.einsum("drw,dw->dr", X, weights) - y).mean(axis=1))
    return np.array(losses), weights


def _along_the_valley(seed: int) -> tuple[float, float]:
    """Return the smallest curvature of a draw's loss, and how far from the weights its start is in that direction."""
    x, _, start = _draw(seed)
    rows = np.column_stack([x, np.ones(_ROWS)])
    curvatures, directions = np.linalg.eigh(2 * rows.T @ rows / _ROWS)
    return float(curvatures[0]), float(abs(directions[:, 0] @ (np.array([*start[:, 0], 0.0]) - _WEIGHTS)))


def _show_training(
    board: Board, start: Floats, before: float, epochs: Sequence[float], after: float, weights: Sequence[float]
) -> None:
    board.table(
        ("", "loss", "w1", "w2", "b"),
        [
            ("before", f"{before:.4f}", *(f"{each:.4f}" for each in (*start[:, 0], 0.0))),
            *((f"in epoch {number}", f"{loss:.6f}", "", "", "") for number, loss in enumerate(epochs, start=1)),
            ("after", f"{after:.6f}", *(f"{each:.4f}" for each in weights)),
        ],
    )
    off = np.abs(np.array(weights) - _WEIGHTS).max()
    if not after < before:
        board.say(
            f"The loss rises from {before:.2f} to {after:.2g}: with a learning rate of {RATE:g} steps are longer than "
            "the rows allow. Lower RATE."
        )
        return
    board.say(
        f"The loss falls from {before:.2f} to {after:.6f}, and the weights are those of the data, but for {off:.3f} at "
        "most. All that the model was told is that y is some weighted sum of x1, x2 and 1: the gradient found which."
    )


def _show_others(board: Board, difference: float, low: float, behind: int, medians: Floats) -> None:
    board.say(
        f"Keras does nothing here that we could not: the same {_ROWS * _EPOCHS} steps in NumPy, each {RATE:g} * 2 * "
        f"residual * (x1, x2, 1), end at the same weights, but for rounding (largest difference {difference:.0e}). So "
        f"we can try many other draws of rows and start. Do {_EPOCHS} epochs always suffice? Of {_OTHERS:,} others "
        f"{low:.1%} have a loss below {_LOW} after {_EPOCHS} epochs; the middle one has {medians[_EPOCHS]:.3g}. After "
        f"{_MORE_EPOCHS} epochs the middle one has {medians[_MORE_EPOCHS]:.1e}. The draw above, seed {SEED}, ends "
        f"below {behind:,} of them{': it was looked for' if SEED == _LOOKED_FOR else ''}."
    )


def _show_valley(board: Board, curvature: float, away: float, usually_away: float) -> None:
    steps = _ROWS * _EPOCHS
    left = (1 - RATE * curvature) ** steps
    board.say(
        "The lesson gradient-descent tells why: the loss is a valley, here with three directions, and the smallest "
        f"curvature is {curvature:.3f}. In this direction a step leaves about 1 - {RATE:g} * {curvature:.3f} of the "
        f"distance, and {steps} steps leave {left:.0%}. Our start is {away:.2f} away in this direction; the "
        f"middle one of the others is {usually_away:.2f}. One seed proves little: whoever compares two ways of "
        "training runs both several times."
    )


def _draw_losses(here: Floats, others: Floats) -> "ReportFigure":
    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, GREY, VERMILION
    from scripts.lesson.axes import make_logarithmic

    with drawing() as figure:
        axes = figure.subplots()
        epochs = range(len(others))
        low, median, high = np.quantile(others, (0.05, 0.5, 0.95), axis=1)
        band = axes.fill_between(epochs, low, high, color=GREY, alpha=0.25, linewidth=0)
        (middle,) = axes.plot(epochs, median, "o-", color=BLUE, markersize=4)
        (ours,) = axes.plot(range(len(here)), here, "o-", color=VERMILION, markersize=4)
        make_logarithmic(axes)
        axes.set(xlabel="epoch", ylabel="loss after it")
        names = ("9 of 10 draws", "the middle one", f"seed {SEED}")
        legend(figure, (band, middle, ours), names, "outside lower center")
    figure.alt = "The loss after each epoch: of the draw that is shown, and of a thousand others."
    figure.caption = "One draw proves little: look at the middle one, and at how far the others lie apart."
    return figure

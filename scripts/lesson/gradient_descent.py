"""A line fitted step by step: the loss as a landscape, how long a step may be, and steps by few rows at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scripts.lesson.board import Board

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from heads.figures.canvas import ReportFigure

Floats: TypeAlias = NDArray[np.float64]

_ROWS, _NOISE = 200, 0.3
_START = (0.0, 4.0)
_RATE, _STEPS = 0.2, 400
_SHOWN = (0, 1, 2, 3, 10, 100, _STEPS)  # steps in the table
_PARTS = (0.1, 0.95, 1.02)  # of the largest learning rate
_TRIED = 60  # steps with each of them
_SIZES, _BATCH_RATE, _EPOCHS = (_ROWS, 20, 1), 0.1, 20
_SHOWN_EPOCHS = (1, 2, 5, _EPOCHS)
_LOWERED = 0.7  # what is left of the learning rate after each epoch, where it is lowered


def run(board: Board, _cache: Path | None) -> dict[str, Any]:
    """Fit a line by gradient descent, with several learning rates, then with batches of several sizes."""
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 2, _ROWS)
    y = 2 * x + 1 + generator.normal(0, _NOISE, _ROWS)

    path = _descend(x, y, rate=_RATE, epochs=_STEPS)
    solution = _least_squares(x, y)
    _show_descent(board, x, y, path, solution)
    board.draw("gradient-descent-line", _draw_line(x, y, path))

    hessian = 2 * np.array([[np.mean(x * x), np.mean(x)], [np.mean(x), 1.0]])
    shallow, steep = np.linalg.eigvalsh(hessian)
    limit = float(2 / steep)
    tried = [_descend(x, y, rate=part * limit, epochs=_TRIED) for part in _PARTS]
    excess = [_excess(x, y, each) for each in tried]
    _show_rates(board, hessian, shallow, steep, excess)
    board.draw("gradient-descent-surface", _draw_surface(x, y, tried))
    standardised = (x - x.mean()) / x.std()
    one_step = _excess(standardised, y, _descend(standardised, y, rate=0.5, epochs=1))
    _show_standardised(board, steep / shallow, one_step)

    first_steps = {}
    by_epoch = {}
    for size in _SIZES:
        course = _excess(x, y, _descend(x, y, rate=_BATCH_RATE, epochs=max(_EPOCHS, size), size=size))
        first_steps[f"{size}"], by_epoch[f"{size}"] = course[: _ROWS + 1], _by_epoch(course, size)
    lowered = _descend(x, y, rate=_BATCH_RATE, epochs=_EPOCHS, size=1, lowered=_LOWERED)
    by_epoch["1, rate lowered"] = _by_epoch(_excess(x, y, lowered), 1)
    _show_batches(board, by_epoch)
    board.draw("gradient-descent-batches", _draw_batches(first_steps, by_epoch))
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "line": path[-1].tolist(),
        "least_squares": solution.tolist(),
        "difference": float(np.abs(path[-1] - solution).max()),
        "curvatures": [float(shallow), float(steep)],
        "limit": limit,
        "rates": [
            {"part": part, "first": float(each[0]), "last": float(each[-1])}
            for part, each in zip(_PARTS, excess, strict=True)
        ],
        "standardised": one_step.tolist(),
        "batches": {name: course.tolist() for name, course in by_epoch.items()},
    }


# What is computed


def _loss(line: Floats, x: Floats, y: Floats) -> float:
    """Return the mean of the squared residuals of the line a x + b."""
    a, b = line
    return float(np.mean((a * x + b - y) ** 2))


def _gradient(line: Floats, x: Floats, y: Floats) -> Floats:
    """Return how the loss changes with a and with b."""
    a, b = line
    residuals = a * x + b - y
    return np.array([2 * np.mean(residuals * x), 2 * np.mean(residuals)])


def _descend(x: Floats, y: Floats, *, rate: float, epochs: int, size: int = _ROWS, lowered: float = 1.0) -> Floats:
    """Return a and b before the first step and after each, shape (steps + 1, 2).

    In each epoch every row is used once, in batches of ``size``, in an order that is drawn anew; ``lowered`` is what is
    left of the learning rate after each.
    """
    generator = np.random.default_rng(1)
    path = [np.array(_START)]
    for epoch in range(epochs):
        order = generator.permutation(len(x))
        for first in range(0, len(x), size):
            rows = order[first : first + size]
            path.append(path[-1] - rate * lowered**epoch * _gradient(path[-1], x[rows], y[rows]))
    return np.array(path)


def _least_squares(x: Floats, y: Floats) -> Floats:
    """Return the line of the least loss, as linear algebra finds it."""
    rows = np.stack([x, np.ones_like(x)], axis=1)
    return np.linalg.lstsq(rows, y, rcond=None)[0].astype(np.float64)


def _excess(x: Floats, y: Floats, path: Floats) -> Floats:
    """Return by how much the loss of each line of a path, over all rows, is above the least."""
    least = _loss(_least_squares(x, y), x, y)
    return np.array([_loss(line, x, y) - least for line in path])


def _by_epoch(course: Floats, size: int) -> Floats:
    """Return the mean of the numbers after the steps of each epoch, for the first epochs."""
    steps = _ROWS // size
    means: Floats = course[1 : 1 + _EPOCHS * steps].reshape(_EPOCHS, steps).mean(axis=1)
    return means


# What is said of it


def _show_descent(board: Board, x: Floats, y: Floats, path: Floats, solution: Floats) -> None:
    board.say(
        f"{_ROWS} points lie near the line y = 2 x + 1 (x from 0 to 2, noise of spread {_NOISE}). We look for a and b "
        "such that a x + b fits them best. How good a line is, one number tells: the mean of the squared residuals. "
        "How to better it, two more: its derivatives with respect to a and b, by the chain rule. A step goes against "
        "them, times the learning rate:"
    )
    board.code(
        "r        = a x + b - y    residual of each point\n"
        "loss     = mean(r^2)\n"
        "dloss/da = mean(2 r x)    because dr/da = x\n"
        "dloss/db = mean(2 r)      because dr/db = 1\n"
        "a        = a - rate * dloss/da\n"
        "b        = b - rate * dloss/db"
    )
    board.say(f"From a = {_START[0]:g}, b = {_START[1]:g}, with rate = {_RATE}:")
    board.table(
        ("step", "a", "b", "loss", "dloss/da", "dloss/db"),
        [
            (
                step,
                *(f"{value:.4f}" for value in (*path[step], _loss(path[step], x, y))),
                *(f"{slope:.2g}" for slope in _gradient(path[step], x, y)),
            )
            for step in _SHOWN
        ],
        left=(),
    )
    board.say(
        f"The steps grow shorter by themselves, since the slope does. Linear algebra finds the best line at once "
        f"(least squares): a = {solution[0]:.4f}, b = {solution[1]:.4f}; after {_STEPS} steps we differ from it by "
        f"{np.abs(path[-1] - solution).max():.1e}. A network has no such formula, but derivatives it has."
    )


def _show_rates(board: Board, hessian: Floats, shallow: float, steep: float, excess: Sequence[Floats]) -> None:
    board.say(
        "How long may a step be? The loss is a valley over the plane of a and b. Its curvature is the matrix H of "
        "second derivatives:"
    )
    (aa, ab), (_, bb) = hessian
    board.code(
        f"H = 2 [mean(x^2)  mean(x)]  =  [{aa:.3f}  {ab:.3f}]    eigenvalues {steep:.3f} (across the valley)\n"
        f"      [mean(x)    1      ]     [{ab:.3f}  {bb:.3f}]            and {shallow:.3f} (along it)"
    )
    board.say(
        "Along an eigenvector with the eigenvalue L, a step multiplies the distance from the lowest point by "
        f"1 - rate * L. It shrinks as long as that lies between -1 and 1, so rate must be below 2 / L: for the larger "
        f"eigenvalue {2 / steep:.4f}. This is the limit. The table shows by how much the loss is above the least one:"
    )
    board.table(
        ("part of the limit", "rate", "factor across", "along", "at the start", f"after {_TRIED} steps"),
        [
            (
                part,
                f"{part * 2 / steep:.4f}",
                f"{1 - part * 2:.3f}",
                f"{1 - part * 2 / steep * shallow:.3f}",
                f"{each[0]:.4f}",
                f"{each[-1]:.2g}",
            )
            for part, each in zip(_PARTS, excess, strict=True)
        ],
    )
    board.say(
        f"With {_PARTS[0]:g} of the limit it slides to the bottom of the valley and creeps along there. With "
        f"{_PARTS[1]:g} it jumps from side to side, since the factor across is negative, but comes nearer. With "
        f"{_PARTS[2]:g} each jump is longer than the last: the loss falls until step {excess[2].argmin()}, while there "
        "is way to go along the valley, then it grows without end. If a loss rises, lower the learning rate. "
        "In the picture a black dot marks the start and a star the lowest point; each grey line joins places of the "
        "same loss."
    )


def _show_standardised(board: Board, ratio: float, one_step: Floats) -> None:
    board.say(
        f"The valley is long because one curvature is {ratio:.0f} times the other. With x standardised (mean 0, spread "
        "1) both are 2, the valley is a round bowl, and one step with learning rate 0.5 goes from "
        f"{one_step[0]:.2f} above the least loss to {one_step[1]:.0e} above it: to the bottom, but for rounding. This "
        "is why heads that learn by gradient descent standardise features here, unless told otherwise."
    )


def _show_batches(board: Board, by_epoch: Mapping[str, Floats]) -> None:
    from heads.catalog import HEADS

    board.say(
        f"So far each step looked at all {_ROWS} rows. But the gradient above is a mean over rows: that of a few rows, "
        "drawn at random, is the same on average, and costs less. In an epoch every row is used once. With learning "
        f"rate {_BATCH_RATE:g}, by how much is the loss of all rows above the least (mean over the steps of an epoch)?"
    )
    board.table(
        ("rows a step", "steps an epoch", *(f"epoch {epoch}" for epoch in _SHOWN_EPOCHS)),
        [
            (name, _ROWS // int(name.partition(",")[0]), *(f"{course[epoch - 1]:.2g}" for epoch in _SHOWN_EPOCHS))
            for name, course in by_epoch.items()
        ],
    )
    board.say(
        f"Look at the picture. Counted in steps (left), {_SIZES[1]} rows do as well as all {_ROWS} for long, and even "
        "single rows lead down, if not straight. Counted in rows that were looked at (right), fewer rows a step are "
        "better at first: many steps for the price of one. But then they end in a jitter, because each row pulls the "
        "line towards itself, and the pull does not fade while the learning rate stays. Lowering it (here to "
        f"{_LOWERED:.0%} after each epoch) ends the jitter. A batch of a few dozen rows is the usual middle: "
        f"this project's heads take {HEADS['softmax'].parameter('batch_size').default}."
    )


def _draw_line(x: Floats, y: Floats, path: Floats) -> "ReportFigure":
    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, COLOURS, GREEN, GREY, VERMILION

    with drawing() as figure:
        axes = figure.subplots()
        axes.plot(x, y, ".", color=GREY, alpha=0.5)
        ends = np.array([0.0, 2.0])
        handles, names = [], []
        for step, colour in zip((0, 1, 10, _STEPS), (COLOURS[5], VERMILION, GREEN, BLUE), strict=True):
            handles += axes.plot(ends, path[step][0] * ends + path[step][1], color=colour)
            names.append(f"step {step}")
        axes.set(xlabel="x", ylabel="y")
        legend(figure, handles, names, "outside lower center", columns=4)
    figure.alt = "Points near a line, and the line as it was after several steps."
    figure.caption = "The first steps change most; the last line is that of least squares."
    return figure


def _draw_surface(x: Floats, y: Floats, paths: Sequence[Floats]) -> "ReportFigure":
    from heads.figures.canvas import drawing
    from heads.figures.style import BLUE, GREEN, INK, VERMILION

    solution = _least_squares(x, y)
    with drawing((9.6, 3.6)) as figure:
        panels = figure.subplots(1, len(paths), sharey=True)
        for axes, part, path, colour in zip(panels, _PARTS, paths, (BLUE, GREEN, VERMILION), strict=True):
            _draw_contours(axes, x, y)
            axes.plot(*path.T, "o-", color=colour, markersize=3, linewidth=1.2)
            axes.plot(*_START, "o", color=INK, markersize=6)
            axes.plot(*solution, "*", color=INK, markersize=11)
            axes.set(xlabel="a", title=f"{part:g} of the limit")
        panels[0].set_ylabel("b")
    figure.alt = "Lines of equal loss over a and b, and the path of descent with three learning rates."
    figure.caption = "Dot: the start; star: the lowest point; grey: places of the same loss."
    return figure


def _draw_contours(axes: "Axes", x: Floats, y: Floats) -> None:
    """Draw lines of equal loss around the best line, and keep to this part of the plane."""
    from heads.figures.style import GREY

    a, b = np.meshgrid(np.linspace(-1.0, 5.0, 121), np.linspace(-1.5, 4.5, 121))
    pairs = np.stack([a.ravel(), b.ravel()], axis=1)
    heights = _excess(x, y, pairs).reshape(a.shape)
    axes.contour(a, b, heights, levels=np.geomspace(0.01, 40, 12), colors=GREY, linewidths=0.6)
    axes.set(xlim=(-1.0, 5.0), ylim=(-1.5, 4.5), aspect="equal")


def _draw_batches(first_steps: Mapping[str, Floats], by_epoch: Mapping[str, Floats]) -> "ReportFigure":
    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, COLOURS, GREEN, VERMILION
    from scripts.lesson.axes import make_logarithmic

    colours = dict(zip(by_epoch, (BLUE, GREEN, COLOURS[5], VERMILION), strict=True))
    with drawing((8.4, 4.0)) as figure:
        steps, epochs = figure.subplots(1, 2, sharey=True)
        for name, course in reversed(list(first_steps.items())):  # the smoothest on top
            steps.plot(course, color=colours[name], linewidth=1.4)
        handles = []
        for name, course in by_epoch.items():
            handles += epochs.plot(range(1, _EPOCHS + 1), course, "o-", color=colours[name], markersize=4)
        steps.set(xlabel="step", ylabel="loss above the least")
        epochs.set(xlabel=f"epoch ({_ROWS} rows)")
        epochs.set_xticks([1, *range(5, _EPOCHS + 1, 5)])
        make_logarithmic(steps)
        make_logarithmic(epochs)
        legend(figure, handles, list(by_epoch), "outside lower center", title="rows a step", columns=4)
    figure.alt = "The loss above the least, by steps and by epochs, for batches of several sizes."
    figure.caption = "Small batches are ahead at first, then jitter, unless the learning rate is lowered."
    return figure

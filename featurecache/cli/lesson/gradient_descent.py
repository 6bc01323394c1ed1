"""The lesson `gradient-descent`: a line fitted step by step, the limit of the learning rate, and small batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurecache.cli.lesson.lesson_writer import LessonWriter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from heads.figures.canvas import ReportFigure

Floats: TypeAlias = NDArray[np.float64]

_ROWS, _NOISE = 200, 0.3
_START = (0.0, 4.0)
_RATE, _STEPS = 0.2, 400
_TABLE_STEPS = (0, 1, 2, 3, 10, 100, _STEPS)
_FRACTIONS = (0.1, 0.95, 1.02)  # of the limit of the learning rate
_TRIAL_STEPS = 60  # with each of these learning rates
_SIZES, _BATCH_RATE, _EPOCHS = (_ROWS, 20, 1), 0.1, 20
_SHOWN_EPOCHS = (1, 2, 5, _EPOCHS)
_LOWERED = 0.7  # factor on the learning rate after each epoch


def run(writer: LessonWriter, _cache: Path | None) -> dict[str, Any]:
    """Fit a line by gradient descent, with several learning rates, then with batches of several sizes."""
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 2, _ROWS)
    y = 2 * x + 1 + generator.normal(0, _NOISE, _ROWS)

    path = _descend(x, y, rate=_RATE, epochs=_STEPS)
    solution = _least_squares(x, y)
    _show_descent(writer, x, y, path, solution)
    writer.draw("gradient-descent-line", _draw_line(x, y, path))

    hessian = 2 * np.array([[np.mean(x * x), np.mean(x)], [np.mean(x), 1.0]])
    shallow, steep = np.linalg.eigvalsh(hessian)
    limit = float(2 / steep)
    trials = [_descend(x, y, rate=fraction * limit, epochs=_TRIAL_STEPS) for fraction in _FRACTIONS]
    excess = [_excess(x, y, trial) for trial in trials]
    _show_rates(writer, hessian, shallow, steep, excess)
    writer.draw("gradient-descent-surface", _draw_surface(x, y, trials))
    standardised = (x - x.mean()) / x.std()
    one_step = _excess(standardised, y, _descend(standardised, y, rate=0.5, epochs=1))
    _show_standardised(writer, steep / shallow, one_step)

    first_steps = {}
    by_epoch = {}
    for size in _SIZES:
        losses_by_step = _excess(x, y, _descend(x, y, rate=_BATCH_RATE, epochs=max(_EPOCHS, size), size=size))
        first_steps[f"{size}"], by_epoch[f"{size}"] = losses_by_step[: _ROWS + 1], _by_epoch(losses_by_step, size)
    lowered = _descend(x, y, rate=_BATCH_RATE, epochs=_EPOCHS, size=1, lowered=_LOWERED)
    by_epoch["1, rate lowered"] = _by_epoch(_excess(x, y, lowered), 1)
    _show_batches(writer, by_epoch)
    writer.draw("gradient-descent-batches", _draw_batches(first_steps, by_epoch))
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "line": path[-1].tolist(),
        "least_squares": solution.tolist(),
        "difference": float(np.abs(path[-1] - solution).max()),
        "curvatures": [float(shallow), float(steep)],
        "limit": limit,
        "rates": [
            {"part": fraction, "first": float(losses[0]), "last": float(losses[-1])}
            for fraction, losses in zip(_FRACTIONS, excess, strict=True)
        ],
        "standardised": one_step.tolist(),
        "batches": {name: losses.tolist() for name, losses in by_epoch.items()},
    }


# Computation


def _loss(line: Floats, x: Floats, y: Floats) -> float:
    """Return the mean of the squared residuals of the line a x + b."""
    a, b = line
    return float(np.mean((a * x + b - y) ** 2))


def _gradient(line: Floats, x: Floats, y: Floats) -> Floats:
    """Return the derivatives of the loss with respect to a and b, shape (2,)."""
    a, b = line
    residuals = a * x + b - y
    return np.array([2 * np.mean(residuals * x), 2 * np.mean(residuals)])


def _descend(x: Floats, y: Floats, *, rate: float, epochs: int, size: int = _ROWS, lowered: float = 1.0) -> Floats:
    """Return a and b before the first step and after each step, shape (steps + 1, 2).

    Each epoch uses every row once, in batches of ``size`` and in a new random order. After each epoch the learning rate
    is multiplied by ``lowered``.
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
    """Return a and b of the least squares line, shape (2,)."""
    rows = np.stack([x, np.ones_like(x)], axis=1)
    return np.linalg.lstsq(rows, y, rcond=None)[0].astype(np.float64)


def _excess(x: Floats, y: Floats, path: Floats) -> Floats:
    """Return by how much the loss of each line of a path, over all rows, is above the minimum, shape (steps + 1,)."""
    least = _loss(_least_squares(x, y), x, y)
    return np.array([_loss(line, x, y) - least for line in path])


def _by_epoch(losses_by_step: Floats, size: int) -> Floats:
    """Return the mean over the steps of each of the first epochs, shape (epochs,)."""
    steps = _ROWS // size
    means: Floats = losses_by_step[1 : 1 + _EPOCHS * steps].reshape(_EPOCHS, steps).mean(axis=1)
    return means


# The text


def _show_descent(writer: LessonWriter, x: Floats, y: Floats, path: Floats, solution: Floats) -> None:
    writer.say(
        f"{_ROWS} points lie near the line y = 2 x + 1 (x from 0 to 2, noise with standard deviation {_NOISE}). We "
        "look for the a and b for which a x + b fits the points best. The loss measures the fit: it is the mean of "
        "the squared residuals. Its derivatives with respect to a and b, by the chain rule, show how to improve the "
        "line. A step subtracts the derivatives times the learning rate:"
    )
    writer.code(
        "r        = a x + b - y    residual of each point\n"
        "loss     = mean(r^2)\n"
        "dloss/da = mean(2 r x)    because dr/da = x\n"
        "dloss/db = mean(2 r)      because dr/db = 1\n"
        "a        = a - rate * dloss/da\n"
        "b        = b - rate * dloss/db"
    )
    writer.say(f"From a = {_START[0]:g}, b = {_START[1]:g}, with rate = {_RATE}:")
    writer.table(
        ("step", "a", "b", "loss", "dloss/da", "dloss/db"),
        [
            (
                step,
                *(f"{value:.4f}" for value in (*path[step], _loss(path[step], x, y))),
                *(f"{slope:.2g}" for slope in _gradient(path[step], x, y)),
            )
            for step in _TABLE_STEPS
        ],
        left=(),
    )
    writer.say(
        "The steps become shorter by themselves, because the slope does. Linear algebra computes the best line "
        f"directly (least squares): a = {solution[0]:.4f}, b = {solution[1]:.4f}; after {_STEPS} steps our line "
        f"differs from it by at most {np.abs(path[-1] - solution).max():.1e}. A network has no such formula, but it "
        "has derivatives."
    )


def _show_rates(writer: LessonWriter, hessian: Floats, shallow: float, steep: float, excess: Sequence[Floats]) -> None:
    writer.say(
        "How long may a step be? Over the plane of a and b, the loss has the shape of a valley. Its curvature is the "
        "Hessian H, the matrix of second derivatives:"
    )
    (aa, ab), (_, bb) = hessian
    writer.code(
        f"H = 2 [mean(x^2)  mean(x)]  =  [{aa:.3f}  {ab:.3f}]    eigenvalues {steep:.3f} (across the valley)\n"
        f"      [mean(x)    1      ]     [{ab:.3f}  {bb:.3f}]            and {shallow:.3f} (along it)"
    )
    writer.say(
        "Along an eigenvector with the eigenvalue L, a step multiplies the distance from the minimum by 1 - rate * "
        "L. The distance shrinks if this factor is between -1 and 1, so the rate must be below 2 / L: for the larger "
        f"eigenvalue {2 / steep:.4f}. This is the limit. The table shows by how much the loss is above its minimum:"
    )
    writer.table(
        ("part of the limit", "rate", "factor across", "factor along", "at the start", f"after {_TRIAL_STEPS} steps"),
        [
            (
                fraction,
                f"{fraction * 2 / steep:.4f}",
                f"{1 - fraction * 2:.3f}",
                f"{1 - fraction * 2 / steep * shallow:.3f}",
                f"{losses[0]:.4f}",
                f"{losses[-1]:.2g}",
            )
            for fraction, losses in zip(_FRACTIONS, excess, strict=True)
        ],
    )
    writer.say(
        f"With {_FRACTIONS[0]:g} of the limit the path reaches the bottom of the valley and moves slowly along it. "
        f"With {_FRACTIONS[1]:g} it jumps from side to side, because the factor across is negative, but it converges. "
        f"With {_FRACTIONS[2]:g} each jump is longer than the one before: the loss falls until step "
        f"{excess[2].argmin()}, while the path still moves along the valley, then it grows without bound. If the loss "
        "rises, lower the learning rate. In the figure a black dot marks the start and a star the minimum; each grey "
        "line joins points of equal loss."
    )


def _show_standardised(writer: LessonWriter, ratio: float, one_step: Floats) -> None:
    writer.say(
        f"The valley is long because one curvature is {ratio:.0f} times the other. With x standardised (mean 0, "
        "standard deviation 1) both curvatures are 2, and the valley becomes a round bowl. One step with learning "
        f"rate 0.5 then goes from {one_step[0]:.2f} above the minimum loss to {one_step[1]:.0e} above it: it reaches "
        "the minimum, up to rounding. This is why the heads here that learn by gradient descent standardise features "
        "by default."
    )


def _show_batches(writer: LessonWriter, by_epoch: Mapping[str, Floats]) -> None:
    from heads.catalog import HEADS

    writer.say(
        f"So far each step used all {_ROWS} rows. But the gradient is a mean over rows: the gradient of a few random "
        "rows is the same on average, and costs less. An epoch uses every row once. The table shows for learning "
        f"rate {_BATCH_RATE:g} by how much the loss of all rows is above its minimum (mean over the steps of an "
        "epoch):"
    )
    writer.table(
        ("rows per step", "steps per epoch", *(f"epoch {epoch}" for epoch in _SHOWN_EPOCHS)),
        [
            (
                name,
                _ROWS // int(name.partition(",")[0]),
                *(f"{losses[epoch - 1]:.2g}" for epoch in _SHOWN_EPOCHS),
            )
            for name, losses in by_epoch.items()
        ],
    )
    writer.say(
        f"Look at the figure. Per step (left), batches of {_SIZES[1]} rows do as well as all {_ROWS} rows for a long "
        "time, and even single rows reduce the loss, though not steadily. Per row used (right), small batches are "
        "better at first: they take many steps at the same cost. But later their loss fluctuates, because each row "
        "pulls the line towards itself, and this pull does not fade while the learning rate is constant. Lowering "
        f"the learning rate (here to {_LOWERED:.0%} after each epoch) ends the fluctuation. A batch of a few dozen "
        f"rows is a common choice: this project's heads use {HEADS['softmax'].parameter('batch_size').default}."
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
    figure.alt = "Points near a line, and the fitted line after several steps."
    figure.caption = "The first steps change the line most; the last line is the least squares line."
    return figure


def _draw_surface(x: Floats, y: Floats, paths: Sequence[Floats]) -> "ReportFigure":
    from heads.figures.canvas import drawing
    from heads.figures.style import BLUE, GREEN, INK, VERMILION

    solution = _least_squares(x, y)
    with drawing((9.6, 3.6)) as figure:
        panels = figure.subplots(1, len(paths), sharey=True)
        for axes, fraction, path, colour in zip(panels, _FRACTIONS, paths, (BLUE, GREEN, VERMILION), strict=True):
            _draw_contours(axes, x, y)
            axes.plot(*path.T, "o-", color=colour, markersize=3, linewidth=1.2)
            axes.plot(*_START, "o", color=INK, markersize=6)
            axes.plot(*solution, "*", color=INK, markersize=11)
            axes.set(xlabel="a", title=f"{fraction:g} of the limit")
        panels[0].set_ylabel("b")
    figure.alt = "Lines of equal loss over a and b, and the paths of gradient descent with three learning rates."
    figure.caption = "Dot: the start; star: the minimum; grey: lines of equal loss."
    return figure


def _draw_contours(axes: "Axes", x: Floats, y: Floats) -> None:
    """Draw lines of equal loss around the minimum, and fix the limits of the axes."""
    from heads.figures.style import GREY

    a, b = np.meshgrid(np.linspace(-1.0, 5.0, 121), np.linspace(-1.5, 4.5, 121))
    pairs = np.stack([a.ravel(), b.ravel()], axis=1)
    heights = _excess(x, y, pairs).reshape(a.shape)
    axes.contour(a, b, heights, levels=np.geomspace(0.01, 40, 12), colors=GREY, linewidths=0.6)
    axes.set(xlim=(-1.0, 5.0), ylim=(-1.5, 4.5), aspect="equal")


def _draw_batches(first_steps: Mapping[str, Floats], by_epoch: Mapping[str, Floats]) -> "ReportFigure":
    from featurecache.cli.lesson.axes import make_logarithmic
    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, COLOURS, GREEN, VERMILION

    colours = dict(zip(by_epoch, (BLUE, GREEN, COLOURS[5], VERMILION), strict=True))
    with drawing((8.4, 4.0)) as figure:
        steps, epochs = figure.subplots(1, 2, sharey=True)
        for name, losses in reversed(list(first_steps.items())):  # the smoothest line on top
            steps.plot(losses, color=colours[name], linewidth=1.4)
        handles = []
        for name, losses in by_epoch.items():
            handles += epochs.plot(range(1, _EPOCHS + 1), losses, "o-", color=colours[name], markersize=4)
        steps.set(xlabel="step", ylabel="loss above the minimum")
        epochs.set(xlabel=f"epoch ({_ROWS} rows)")
        epochs.set_xticks([1, *range(5, _EPOCHS + 1, 5)])
        make_logarithmic(steps)
        make_logarithmic(epochs)
        legend(figure, handles, list(by_epoch), "outside lower center", title="rows per step", columns=4)
    figure.alt = "The loss above the minimum, by steps and by epochs, for batches of several sizes."
    figure.caption = "Small batches are better at first, then fluctuate, unless the learning rate is lowered."
    return figure

"""Pictures of training and choosing: epochs, heads side by side, accuracy against the number of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heads.figures.style import BLUE, GREEN, GREY, VERMILION, score, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from heads.curves import CurvePoint, Forecast, LearningCurve
    from heads.epochs import Epoch
    from heads.evaluation.compare import Comparison
    from heads.evaluation.intervals import Interval
    from heads.figures.canvas import ReportFigure

_MARKED = 30  # epochs up to which each is marked
_CLOSE = 1.35  # ratio of two numbers of labels, below which one of them is not written on the axis


def epochs(epochs: Sequence[Epoch], *, kept: int | None = None) -> ReportFigure:
    """Draw loss and accuracy of each epoch, on the training and the validation rows.

    Parameters
    ----------
    epochs
        The records; those of heads without epochs are empty.
    kept
        The number of the epoch whose weights the head has; it is marked.
    """
    from matplotlib.ticker import MaxNLocator

    from heads.figures.canvas import drawing, legend, said

    if not epochs:
        return said("No epochs: this kind of head is not trained in epochs.")
    with drawing((6.0, 5.0)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, name in ((upper, "loss"), (lower, "accuracy")):
            _draw_epochs(axes, epochs, name)
            axes.set_ylabel(name)
            if kept is not None:
                axes.axvline(kept, color=GREEN, linewidth=1.2, linestyle="--", label="kept")
        upper.set_ylim(0, 1.05 * upper.get_ylim()[1])
        lower.set_xlabel("epoch")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        lower.set_xlim(epochs[0].epoch - 0.5, epochs[-1].epoch + 0.5)
        handles, names = upper.get_legend_handles_labels()
        legend(figure, handles, names, "outside upper center")
    figure.alt = _epochs_text(epochs, kept)
    figure.caption = (
        "Loss (mean cross-entropy, nats) and accuracy after each epoch. Training rows are measured while the weights "
        "move. Valid loss that rises while train loss falls is overfitting."
    )
    return figure


def accuracies(comparison: Comparison) -> ReportFigure:
    """Draw the accuracy of each head with its 95 % interval (Wilson's), the best first."""
    from heads.figures.canvas import drawing

    heads = sorted(comparison.evaluations.items(), key=lambda item: (-item[1].accuracy.value, item[0]))
    with drawing((6.0, 1.1 + 0.42 * len(heads))) as figure:
        axes = figure.subplots()
        for row, (_, evaluation) in enumerate(heads):
            accuracy = evaluation.accuracy
            axes.errorbar(
                accuracy.value, row, xerr=_reach([accuracy]), color=BLUE, marker="o", capsize=3, linewidth=1.6
            )
            axes.text(1.02, row, score(accuracy.value), transform=axes.get_yaxis_transform(), va="center")
        low = min(evaluation.accuracy.low for _, evaluation in heads)
        high = max(evaluation.accuracy.high for _, evaluation in heads)
        spare = 0.08 * (high - low)
        axes.set_xlim(low - spare, min(1.002, high + spare))
        for baseline in {evaluation.baseline_accuracy for _, evaluation in heads}:
            axes.axvline(baseline, color=GREY, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(heads)), [shown(name, 26) for name, _ in heads])
        axes.set_ylim(len(heads) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("accuracy")
    best, worst = heads[0], heads[-1]
    figure.alt = (
        f"Accuracy of {len(heads)} heads on {len(best[1]):,} rows, from {score(worst[1].accuracy.value)} "
        f"({shown(worst[0])}) to {score(best[1].accuracy.value)} ({shown(best[0])})."
    )
    figure.caption = (
        "Accuracy of each head with its 95 % interval; a dotted line marks the majority baseline if it is in range. "
        "All heads are evaluated on the same rows: paired tests can find differences where intervals overlap."
    )
    return figure


def learning_curve(curve: LearningCurve) -> ReportFigure:
    """Draw accuracy against the number of labels: single runs, their mean with its interval, and the forecast.

    A point that comes from one run alone, such as that of all rows, is a diamond.
    """
    from heads.figures.canvas import drawing, legend, said

    if not curve.points:
        return said("No learning curve: there is no number of labels to train with.")
    with drawing() as figure:
        axes = figure.subplots()
        numbers = [point.n for point in curve.points]
        runs = [(point.n, run) for point in curve.points for run in point.runs if len(point.runs) > 1]
        if runs:
            axes.plot(*zip(*runs, strict=True), ".", color=GREY, alpha=0.55, markersize=6, label="single runs")
        measured = [point.accuracy for point in curve.points]
        axes.plot(numbers, [interval.value for interval in measured], color=BLUE)
        _draw_points(axes, [point for point in curve.points if len(point.runs) > 1], "mean of runs", "o")
        _draw_points(axes, [point for point in curve.points if len(point.runs) == 1], "one run", "D")
        if curve.forecast is not None:
            _draw_forecast(axes, numbers[-1], measured[-1].value, curve.forecast)
        _number_axis(axes, [*numbers, *([curve.forecast.n] if curve.forecast else [])])
        axes.set_ylabel("accuracy")
        handles, names = axes.get_legend_handles_labels()
        legend(figure, handles, names, "outside lower center")
    _describe_curve(figure, curve)
    return figure


def _describe_curve(figure: ReportFigure, curve: LearningCurve) -> None:
    first, last = curve.points[0], curve.points[-1]
    figure.alt = "Learning curve: accuracy "
    figure.alt += f"{score(first.accuracy.value)} with {first.n:,} labels, " if len(curve.points) > 1 else ""
    figure.alt += f"{_with_interval(last.accuracy)} with {last.n:,} labels"
    figure.caption = (
        "Accuracy on rows that never trained, against the number of labels that did (logarithmic). Blue: what was "
        "measured, diamonds where there is one run alone; bars are 95 % intervals. "
    )
    if curve.forecast is not None:
        figure.alt += f"; forecast {_with_interval(curve.forecast.accuracy)} with {curve.forecast.n:,}"
        figure.caption += f"Orange and dashed: the forecast for {curve.forecast.n:,} labels, with its 95 % interval. "
    figure.alt += "."
    figure.caption += "Where the curve is flat, more labels of the same kind buy little."


def _with_interval(found: Interval) -> str:
    return f"{score(found.value)} (95 % interval {score(found.low)} to {score(found.high)})"


def _draw_epochs(axes: Axes, epochs: Sequence[Epoch], name: str) -> None:
    marker = "o" if len(epochs) <= _MARKED else ""
    numbers = [epoch.epoch for epoch in epochs]
    axes.plot(
        numbers, [getattr(epoch, name) for epoch in epochs], color=BLUE, marker=marker, markersize=4, label="train"
    )
    valid = [(epoch.epoch, getattr(epoch, f"valid_{name}")) for epoch in epochs]
    valid = [(number, value) for number, value in valid if value is not None]
    if valid:
        axes.plot(*zip(*valid, strict=True), color=VERMILION, marker=marker and "s", markersize=4, label="valid")


def _epochs_text(epochs: Sequence[Epoch], kept: int | None) -> str:
    chosen = next((epoch for epoch in epochs if epoch.epoch == kept), epochs[-1])
    valid = "" if chosen.valid_accuracy is None else f", valid accuracy {score(chosen.valid_accuracy)}"
    which = "the kept one" if chosen.epoch == kept else "the last one"
    return (
        f"Loss and accuracy of each epoch; {which}, number {chosen.epoch} of {len(epochs)}, has train loss "
        f"{score(chosen.loss)}, train accuracy {score(chosen.accuracy)}{valid}."
    )


def _draw_points(axes: Axes, points: Sequence[CurvePoint], name: str, marker: str) -> None:
    """Draw measured points with their intervals, if there are any."""
    if not points:
        return
    found = [point.accuracy for point in points]
    axes.errorbar(
        [point.n for point in points],
        [interval.value for interval in found],
        yerr=_reach(found),
        color=BLUE,
        linestyle="none",
        marker=marker,
        markersize=5.5,
        capsize=3,
        elinewidth=1.2,
        label=f"{name}, 95 % interval",
    )


def _draw_forecast(axes: Axes, n: int, accuracy: float, forecast: Forecast) -> None:
    """Draw what is to be expected, and a dashed line from the last point to it."""
    axes.plot([n, forecast.n], [accuracy, forecast.accuracy.value], color=VERMILION, linestyle="--", linewidth=1.4)
    axes.errorbar(
        [forecast.n],
        [forecast.accuracy.value],
        yerr=_reach([forecast.accuracy]),
        color=VERMILION,
        linestyle="--",
        marker="o",
        markersize=5,
        markerfacecolor="white",
        capsize=3,
        elinewidth=1.2,
        label="forecast, 95 % interval",
    )


def _reach(found: list[Interval]) -> list[list[float]]:
    """Return how far intervals reach below and above their values."""
    return [
        [max(0.0, interval.value - interval.low) for interval in found],
        [max(0.0, interval.high - interval.value) for interval in found],
    ]


def _number_axis(axes: Axes, numbers: list[int]) -> None:
    """Make the x-axis one of numbers of labels, logarithmic, with the largest and as many others written as fit."""
    from matplotlib.ticker import NullLocator

    written: list[int] = []
    for number in reversed(numbers):
        if not written or written[-1] / number >= _CLOSE:
            written.append(number)
    axes.set_xscale("log")
    axes.set_xticks(written, [f"{number:,}" for number in written])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("labels")

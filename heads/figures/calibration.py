"""Whether probabilities mean what they say: the reliability diagram, and a histogram of probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.evaluation.intervals import Interval, proportion
from heads.evaluation.metrics import CALIBRATION_BINS as _BINS
from heads.evaluation.metrics import calibration_bins
from heads.figures.style import BLUE, GREY, VERMILION, lopsided, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from heads.evaluation.predictions import PredictionsTable
    from heads.figures.canvas import ReportFigure

    Floats: TypeAlias = NDArray[np.float64]

_NARROW = 20


def reliability_diagram(table: PredictionsTable, *, before: PredictionsTable | None = None) -> ReportFigure:
    """Draw accuracy against the probability of the predicted class, in 15 bins of equal width, and the rows of each.

    The bins are those of the expected calibration error, each with its upper and without its lower end (the first has
    0 as well). Each point lies at the mean probability of its bin, with its accuracy's 95 % interval (`proportion`).
    The diagram is that of A. Niculescu-Mizil and R. Caruana, "Predicting good probabilities with supervised learning"
    (2005); the error that of C. Guo et al., "On calibration of modern neural networks" (2017). Rows without a label do
    not count.

    Parameters
    ----------
    table
        The predictions.
    before
        Those of the same head without its calibration, for a second curve; None for none.
    """
    from heads.figures.canvas import drawing, legend, said

    if not (table.true >= 0).any():
        return said("No reliability diagram: no row has a label.")
    bins = _Bins.of(table)
    rows, error, sure = bins.rows, bins.error, bins.sure
    earlier = None if before is None else _Bins.of(before)
    with drawing((6.0, 5.2)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        curves = [_draw_accuracies(upper, bins, BLUE)]
        if earlier is not None:
            curves.append(_draw_accuracies(upper, earlier, VERMILION, line="--", marker="s"))
            names = [f"calibrated ({score(error)})", f"before ({score(earlier.error)})"]
            legend(figure, curves, names, "outside upper center")
        lower.bar((np.arange(_BINS) + 0.5) / _BINS, rows, width=0.9 / _BINS, color=BLUE, alpha=0.75)
        _count_axis(lower, rows)
        lower.set(xlabel="probability of the predicted class", xlim=(0, 1.01))
        upper.set_title(f"expected calibration error {score(error)}")
    was = "" if earlier is None else f" Before calibration the error was {score(earlier.error)}."
    figure.alt = (
        f"Reliability diagram: expected calibration error {score(error)}; the head gives its predictions a mean "
        f"probability of {score(sure)}, and {score(bins.right)} of them are right.{was}"
    )
    figure.caption = (
        "Reliability: of the predictions with a probability of 0.8, four in five should be right (dotted diagonal). "
        "Points below it: the head is too sure of itself. Bars: 95 % intervals; below, how many rows there are."
    )
    return figure


def probability_histogram(table: PredictionsTable) -> ReportFigure:
    """Draw how probable the head found the true class, rows that it got right and wrong apart.

    On the right are clear hits, at 0 the rows that the head was sure of and wrong about: hard images, or wrong labels.
    Of two bars in one place, the shorter stands in front.
    The scale is logarithmic if the fullest bin has more than twenty times the rows of the emptiest. Rows without a
    label do not count.
    """
    from heads.figures.canvas import drawing, legend, said

    rows = np.flatnonzero(table.true >= 0)
    if not len(rows):
        return said("No histogram of probabilities: no row has a label.")
    of_truth = table.probabilities[rows, table.true[rows]]
    right = (table.predicted == table.true)[rows]
    edges = np.linspace(0, 1, _NARROW + 1)
    hits, misses = (np.histogram(np.clip(values, 0, 1), edges)[0] for values in (of_truth[right], of_truth[~right]))
    centres = (edges[1:] + edges[:-1]) / 2
    with drawing() as figure:
        axes = figure.subplots()
        bars = [
            axes.bar(centres, counts, width=0.92 / _NARROW, color=colour)
            for counts, colour in ((hits, BLUE), (misses, VERMILION))
        ]
        for hit, miss in zip(*bars, strict=True):
            shorter = min(hit, miss, key=lambda bar: bar.get_height())
            shorter.set_zorder(bars[0][0].get_zorder() + 0.1)
        _count_axis(axes, np.concatenate([hits, misses]))
        axes.set(xlabel="probability of the true class", xlim=(-0.01, 1.01))
        names = [f"right ({hits.sum():,})", f"wrong ({misses.sum():,})"]
        legend(figure, [bar[0] for bar in bars], names, "outside upper center")
    sure = int(np.count_nonzero(~right & (of_truth < 0.1)))  # noqa: PLR2004
    figure.alt = (
        f"Histogram of the probability of the true class: {hits.sum():,} rows right, {misses.sum():,} wrong, "
        f"{sure:,} of these with a probability below 0.1."
    )
    figure.caption = (
        "Probability that the head gave to the true class. Wrong at the left end: the head was sure of another class, "
        "so look at the image and its label; wrong further right: a near miss."
    )
    return figure


class _Bins(NamedTuple):
    """The rows, the correct rows and the mean highest probability of each bin, shapes (15,), and accuracies by bin."""

    rows: NDArray[np.int64]
    correct: NDArray[np.int64]
    mean: Floats
    accuracies: dict[int, Interval]

    @classmethod
    def of(cls, table: PredictionsTable) -> _Bins:
        """Deal the labelled rows of a table to bins."""
        labelled = table.true >= 0
        top = table.probabilities.max(axis=1)[labelled]
        right = (table.predicted == table.true)[labelled]
        bins = calibration_bins(top)
        rows = np.bincount(bins, minlength=_BINS)
        correct = np.bincount(bins, weights=right, minlength=_BINS).astype(int)
        groups, accuracies = None if table.groups is None else table.groups[labelled], {}
        for number in np.flatnonzero(rows).tolist():
            of_bin = bins == number
            accuracies[number] = proportion(right[of_bin], None if groups is None else groups[of_bin])
        mean = np.bincount(bins, weights=top, minlength=_BINS) / np.maximum(rows, 1)
        return cls(rows, correct, mean, accuracies)

    @property
    def error(self) -> float:
        """The expected calibration error."""
        return float(np.abs(self.correct - self.mean * self.rows).sum() / self.rows.sum())

    @property
    def sure(self) -> float:
        """The mean highest probability."""
        return float(self.mean @ self.rows / self.rows.sum())

    @property
    def right(self) -> float:
        """The accuracy."""
        return float(self.correct.sum() / self.rows.sum())


def _draw_accuracies(axes: Axes, bins: _Bins, colour: str, *, line: str = "-", marker: str = "o") -> Any:  # noqa: ANN401 - matplotlib has no types
    accuracies = list(bins.accuracies.values())
    x, y = bins.mean[list(bins.accuracies)], [interval.value for interval in accuracies]
    reach = [
        [interval.value - interval.low for interval in accuracies],
        [interval.high - interval.value for interval in accuracies],
    ]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    style: dict[str, Any] = {"linestyle": line, "linewidth": 1.4, "elinewidth": 1.2, "capsize": 3, "markersize": 5.5}
    drawn = axes.errorbar(x, y, yerr=reach, color=colour, marker=marker, **style)
    axes.set(ylabel="accuracy", ylim=(-0.01, 1.03))
    return drawn


def _count_axis(axes: Axes, rows: NDArray[np.int64]) -> None:
    """Label an axis of counts, logarithmic if that shows more."""
    from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

    if lopsided(int(rows.max()), int(rows[rows > 0].min())):
        axes.set_yscale("log")
        axes.set_ylim(0.7, rows.max() * 1.6)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("rows (log)")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_ylabel("rows")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(visible=False, axis="x")

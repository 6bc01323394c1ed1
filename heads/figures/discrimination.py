"""ROC and precision-recall curves: how well probabilities tell a class from the others, at every threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurecache.text import listed
from heads.evaluation.metrics import ranked_classes
from heads.figures.style import BLUE, COLOURS, GREY, score, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from heads.evaluation.predictions import PredictionsTable
    from heads.figures.canvas import ReportFigure

    Floats: TypeAlias = NDArray[np.float64]

_EACH = 10  # classes up to which each has its own curve
_WORST = 5
_POINTS = 300  # of a drawn curve: finer than the line is wide
_GRID = np.linspace(0, 1, _POINTS)
_SOLID = 5  # colours of the curves that are not dashed
_TWO = 2
_LETTERS = 20  # of a name in a legend: two of them stand side by side


@dataclass(frozen=True, slots=True, eq=False)
class _Curve:
    """A class's curve: its points, x ascending; its heights on a grid; the area under it; the share of its rows."""

    index: int
    points: tuple[Floats, Floats]
    heights: Floats
    area: float
    prevalence: float


def roc_curves(table: PredictionsTable) -> ReportFigure:
    """Draw the ROC curve: of the second class if there are two, else of each class against the rest.

    Of more than ten classes, the mean of all curves at each false positive rate is drawn, the band in which the middle
    80 % of them lie, and the five with the smallest area. Rows without a label do not count, and a class without rows,
    or with all of them, has no curve.
    """
    from heads.figures.canvas import drawing, said

    curves = _curves(table, _roc)
    if not curves:
        return said("No ROC curve: it takes labelled rows of at least two classes.")
    with drawing() as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
        _name(figure, _draw(axes, curves), table, curves, "area")
        axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1), ylim=(0, 1.01))
    figure.alt, figure.caption = _described(table, curves, "ROC", "area")
    figure.caption += " The dotted diagonal is guessing."
    return figure


def precision_recall_curves(table: PredictionsTable) -> ReportFigure:
    """Draw precision against recall: of the second class if there are two, else of each class against the rest.

    Of more than ten classes, the mean of all curves at each recall is drawn, the band in which the middle 80 % of them
    lie, and the five with the smallest average precision. Rows without a label do not count, and a class without rows
    has no curve. Dotted is the precision of guessing: the (mean) share of a class.
    """
    from heads.figures.canvas import drawing, said

    curves = _curves(table, _precision_recall)
    if not curves:
        return said("No precision-recall curve: it takes labelled rows of at least two classes.")
    with drawing() as figure:
        axes = figure.subplots()
        guessing = float(np.mean([curve.prevalence for curve in curves]))
        axes.axhline(guessing, color=GREY, linewidth=1, linestyle=":")
        _name(figure, _draw(axes, curves), table, curves, "average precision")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
    figure.alt, figure.caption = _described(table, curves, "Precision-recall", "average precision")
    figure.caption += f" The dotted line is guessing: {score(guessing)}."
    return figure


def _roc(true: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats, float]:
    from sklearn.metrics import auc, roc_curve

    x, y, _ = roc_curve(true, scores)
    return x, y, float(auc(x, y))


def _precision_recall(true: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats, float]:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(true, scores, drop_intermediate=True)
    area = -float((np.diff(recall) * precision[:-1]).sum())  # scikit-learn's average_precision_score
    return recall[::-1], precision[::-1], area


def _curves(
    table: PredictionsTable, curve_of: Callable[[NDArray[np.bool_], Floats], tuple[Floats, Floats, float]]
) -> list[_Curve]:
    """Return the curves of the classes that have one."""
    labelled = table.true >= 0
    true, k = table.true[labelled], len(table.classes)
    curves = []
    for index in ranked_classes(k):
        of_class = true == index
        if of_class.any() and not of_class.all():
            x, y, area = curve_of(of_class, table.probabilities[labelled, index])
            curves.append(_Curve(index, _thinned(x, y), _heights(x, y), area, float(of_class.mean())))
    return curves


def _draw(axes: Axes, curves: list[_Curve]) -> list[Line2D]:
    """Draw each curve; or of many the mean, a band, and the worst; return the lines."""
    lines: list[Line2D] = []
    if len(curves) > _EACH:
        heights = np.array([curve.heights for curve in curves])
        low, high = np.quantile(heights, [0.1, 0.9], axis=0)
        axes.fill_between(_GRID, low, high, color=BLUE, alpha=0.15, linewidth=0)
        lines += axes.plot(_GRID, heights.mean(axis=0), color=BLUE, linewidth=2.4)
    for position, curve in enumerate(_single(curves), start=len(lines)):
        dashes = "-" if position < _SOLID else "--"
        lines += axes.plot(*curve.points, color=COLOURS[position], linestyle=dashes, linewidth=1.6)
    return lines


def _name(
    figure: ReportFigure, lines: list[Line2D], table: PredictionsTable, curves: list[_Curve], measure: str
) -> None:
    """Name the curves that were drawn, with the area under each, below the axes."""
    from heads.figures.canvas import legend

    if len(table.classes) == _TWO:
        legend(figure, lines, [f"{shown(table.classes[1])}, {measure} {score(curves[0].area)}"], "outside lower center")
        return
    names = [f"mean of {len(curves):,} classes, {score(_mean_area(curves))}"] if len(curves) > _EACH else []
    names += [f"{shown(table.classes[curve.index], _LETTERS)}, {score(curve.area)}" for curve in _single(curves)]
    legend(figure, lines, names, "outside lower center", title=measure)


def _single(curves: list[_Curve]) -> list[_Curve]:
    """Return the curves that are drawn singly."""
    return curves if len(curves) <= _EACH else _worst(curves)


def _heights(x: Floats, y: Floats) -> Floats:
    """Return the values of a curve on the grid, the highest of each vertical piece."""
    starts = np.flatnonzero(np.append(1.0, np.diff(x)) > 0)
    return np.asarray(np.interp(_GRID, x[starts], np.maximum.reduceat(y, starts)))


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return at most 300 points of a curve, even along it."""
    if len(x) <= _POINTS:
        return x, y
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _POINTS)))
    kept = np.unique(np.append(kept, [0, len(x) - 1]))
    return x[kept], y[kept]


def _worst(curves: list[_Curve]) -> list[_Curve]:
    return sorted(curves, key=lambda curve: (curve.area, curve.index))[:_WORST]


def _mean_area(curves: list[_Curve]) -> float:
    return float(np.mean([curve.area for curve in curves]))


def _described(table: PredictionsTable, curves: list[_Curve], kind: str, measure: str) -> tuple[str, str]:
    """Return the alternative text and the caption of a picture of curves."""
    first = curves[0]
    if len(table.classes) == _TWO:
        names = f"{kind} curve of {shown(table.classes[1])} against {shown(table.classes[0])}"
        return f"{names}, {measure} {score(first.area)}.", f"{names}."
    worst = _worst(curves)[0]
    alt = (
        f"{kind} curves of {len(curves):,} classes, each against the rest: mean {measure} {score(_mean_area(curves))}, "
        f"smallest {score(worst.area)} ({shown(table.classes[worst.index])})."
    )
    drawn = "of each class against the rest"
    if len(curves) > _EACH:
        drawn += f": their mean, the band of the middle 80 % of classes, and the five with the smallest {measure}"
    have = {curve.index for curve in curves}
    undefined = [name for index, name in enumerate(table.classes) if index not in have]
    left_out = (
        f" Undefined, for want of rows: {listed(map(shown, undefined), sort=False, quoted=False)}." if undefined else ""
    )
    return alt, f"{kind} curves {drawn}.{left_out}"

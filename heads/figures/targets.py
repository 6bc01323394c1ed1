"""Figures of other targets than classes: the scores of several labels, predicted and true numbers, their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featurecache.text import number
from heads.figures.style import BLUE, GREY, VERMILION, score, shown

if TYPE_CHECKING:
    from heads.evaluation.labels import LabelsEvaluation
    from heads.evaluation.number_predictions import NumberPredictionsTable
    from heads.figures.canvas import ReportFigure

_LABELS = 30  # that are drawn: those with the lowest F1
_BINS = 30
_MANY = 2_000  # points that are drawn small and pale from here on


def label_scores(evaluation: LabelsEvaluation) -> ReportFigure:
    """Draw F1 and average precision of each label, the lowest F1 first; of more than 30 labels the lowest 30."""
    from heads.figures.canvas import drawing, legend

    order = sorted(enumerate(evaluation.per_label), key=lambda pair: (pair[1].f1 or 0.0, pair[0]))[:_LABELS]
    places = np.arange(len(order))
    f1 = [each.f1 or 0.0 for _, each in order]
    precision = [np.nan if each.average_precision is None else each.average_precision for _, each in order]
    with drawing((6.0, 1.4 + 0.3 * len(order))) as figure:
        axes = figure.subplots()
        bars = axes.barh(places, f1, color=BLUE, height=0.6)
        points = axes.plot(precision, places, "o", color=VERMILION, clip_on=False)
        axes.set_yticks(places, [shown(evaluation.labels[label]) for label, _ in order])
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="score")
        legend(figure, [bars.patches[0], *points], ["F1", "average precision"], "outside upper center")
    worst, best = order[0], order[-1]
    figure.alt = (
        f"F1 and average precision of {len(order)} labels: F1 is lowest for {shown(evaluation.labels[worst[0]])}, "
        f"{score(worst[1].f1 or 0.0)}, and highest of these for {shown(evaluation.labels[best[0]])}, "
        f"{score(best[1].f1 or 0.0)}."
    )
    more = (
        "" if len(order) == len(evaluation.labels) else f" Drawn are {len(order)} of {len(evaluation.labels):,} labels."
    )
    figure.caption = (
        "Bars: F1 at the threshold of the label. Points: average precision, which depends on the order of the "
        f"probabilities alone; where it is much higher, another threshold would help.{more}"
    )
    return figure


def predicted_and_true(table: NumberPredictionsTable) -> ReportFigure:
    """Draw the predicted number of each labelled row against the true one; on the dotted diagonal they are equal."""
    from heads.figures.canvas import drawing, said

    labelled = ~np.isnan(table.true)
    if not labelled.any():
        return said("No figure of predicted and true numbers: no row has a label.")
    true, predicted = table.true[labelled], table.predicted[labelled]
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    margin = 0.03 * (high - low or 1.0)
    ends = (low - margin, high + margin)
    few = len(true) < _MANY
    with drawing((6.0, 5.2)) as figure:
        axes = figure.subplots()
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=":")
        axes.scatter(true, predicted, s=14 if few else 4, color=BLUE, alpha=0.6 if few else 0.25, linewidths=0)
        axes.set(xlim=ends, ylim=ends, xlabel="true number", ylabel="predicted number", aspect="equal")
    error = float(np.abs(predicted - true).mean())
    figure.alt = (
        f"Predicted against true numbers of {len(true):,} images, true ones from {number(float(true.min()))} to "
        f"{number(float(true.max()))}; they differ by {number(error)} on average."
    )
    figure.caption = "Each point is an image. On the dotted diagonal, the predicted number is the true one."
    return figure


def error_histogram(table: NumberPredictionsTable) -> ReportFigure:
    """Draw how many labelled rows have an error, predicted minus true number, in each of 30 bins."""
    from heads.figures.canvas import drawing, said

    errors = table.errors[~np.isnan(table.true)]
    if not len(errors):
        return said("No histogram of errors: no row has a label.")
    with drawing() as figure:
        axes = figure.subplots()
        axes.hist(errors, bins=_BINS, color=BLUE)
        axes.axvline(0, color=GREY, linewidth=1, linestyle=":")
        axes.set(xlabel="predicted minus true number", ylabel="images")
    mean = float(errors.mean())
    figure.alt = (
        f"Histogram of the errors of {len(errors):,} images: from {number(float(errors.min()))} to "
        f"{number(float(errors.max()))}, {number(mean)} on average."
    )
    figure.caption = "Errors on both sides of 0 alike: the head predicts neither too much nor too little on average."
    return figure

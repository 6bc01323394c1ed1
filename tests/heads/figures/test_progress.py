"""Pictures of training and choosing."""

import dataclasses

import numpy as np
import pytest

from heads import figures
from heads.curves import CurvePoint, Forecast, LearningCurve
from heads.epochs import Epoch
from heads.evaluation.compare import Comparison
from heads.evaluation.evaluate import evaluate_table
from heads.evaluation.intervals import Interval, wilson


def series(axes):
    return {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.get_lines()}


def test_loss_and_accuracy_of_each_epoch_and_the_kept_one():
    figure = figures.epochs([Epoch(1, 0.5, 0.8, 0.6, 0.7), Epoch(2, 0.4, 0.9, 0.7, 0.75)], kept=1)
    loss, accuracy = map(series, figure.axes)
    assert loss["train"] == [[1, 0.5], [2, 0.4]]
    assert loss["valid"] == [[1, 0.6], [2, 0.7]]
    assert accuracy["train"] == [[1, 0.8], [2, 0.9]]
    assert accuracy["valid"] == [[1, 0.7], [2, 0.75]]
    assert [x for x, _ in loss["kept"]] == [1, 1]
    assert figure.alt == (
        "Loss and accuracy of each epoch; the kept one, number 1 of 2, has train loss 0.500, train accuracy 0.800, "
        "valid accuracy 0.700."
    )


def test_epochs_without_validation_rows():
    figure = figures.epochs([Epoch(1, 0.5, 0.8, None, None)])
    assert set(series(figure.axes[0])) == {"train"}
    assert figures.to_svg(figure)


def test_a_head_without_epochs_is_said():
    assert "not trained in epochs" in figures.epochs([]).alt


def evaluated(make_table, right, n=20):
    return evaluate_table(make_table([0] * n, [[1, 0]] * right + [[0, 1]] * (n - right)))


def test_heads_are_sorted_by_accuracy_then_by_name(make_table):
    heads = {name: evaluated(make_table, right) for name, right in (("b", 18), ("a", 18), ("c", 19))}
    figure = figures.accuracies(Comparison(heads, ()))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["c", "a", "b"]
    assert [text.get_text() for text in axes.texts] == ["0.950", "0.900", "0.900"]
    assert figure.alt == "Accuracy of 3 heads on 20 rows, from 0.900 (b) to 0.950 (c)."


def test_intervals_of_accuracies_are_drawn(make_table):
    heads = {name: evaluated(make_table, right) for name, right in (("a", 18), ("b", 10))}
    container = figures.accuracies(Comparison(heads, ())).axes[0].containers[1]
    (segments,) = container[2]
    interval = wilson(10, 20)
    np.testing.assert_allclose(segments.get_segments()[0][:, 0], [interval.low, interval.high])


def curve(*numbers, forecast=None):
    return LearningCurve(
        points=tuple(CurvePoint(n, wilson(n, n + 10), (0.5, 0.6)) for n in numbers),
        forecast=None if forecast is None else Forecast(forecast, Interval(0.9, 0.8, 0.95), Interval(0.1, 0, 0.2)),
        head="logreg",
        tap="fc2",
        params={},
        classes=("a", "b"),
        n_judged=20,
        repeats=2,
        seed=0,
        baseline_accuracy=0.5,
        warnings=(),
    )


def test_the_learning_curve_shows_runs_means_and_the_forecast():
    figure = figures.learning_curve(curve(10, 40, forecast=80))
    axes = figure.axes[0]
    assert series(axes)["single runs"] == [[10, 0.5], [10, 0.6], [40, 0.5], [40, 0.6]]
    mean, ahead = (np.asarray(container[0].get_xydata()).tolist() for container in axes.containers)
    assert mean == [[10, 0.5], [40, 0.8]]
    assert ahead == [[80, 0.9]]
    assert axes.get_xscale() == "log"
    last = wilson(40, 50)
    assert figure.alt == (
        f"Learning curve: accuracy 0.500 with 10 labels, 0.800 (95 % interval {last.low:.3f} to {last.high:.3f}) with "
        "40 labels; forecast 0.900 (95 % interval 0.800 to 0.950) with 80."
    )
    assert "Orange and dashed: the forecast for 80 labels, with its 95 % interval." in figure.caption
    assert "forecast" not in figures.learning_curve(curve(10, 40)).caption


def test_a_point_of_one_run_is_told_from_means_of_runs():
    several = curve(10, 40)
    points = (several.points[0], CurvePoint(40, wilson(40, 50), (0.8,)))
    figure = figures.learning_curve(dataclasses.replace(several, points=points))
    axes = figure.axes[0]
    mean, alone = (container[0] for container in axes.containers)
    assert (mean.get_xydata().tolist(), alone.get_xydata().tolist()) == ([[10, 0.5]], [[40, 0.8]])
    assert (mean.get_marker(), alone.get_marker()) == ("o", "D")
    assert series(axes)["single runs"] == [[10, 0.5], [10, 0.6]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["single runs", "mean of runs, 95 % interval", "one run, 95 % interval"]

    alone = figures.learning_curve(dataclasses.replace(several, points=points[1:]))
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["one run, 95 % interval"]


def test_numbers_of_labels_that_lie_close_are_not_all_written():
    axes = figures.learning_curve(curve(10, 100, 110, 120)).axes[0]
    assert sorted(text.get_text() for text in axes.get_xticklabels()) == ["10", "120"]


@pytest.mark.parametrize("numbers", [(), (10,)])
def test_learning_curves_of_few_points(numbers):
    figure = figures.learning_curve(curve(*numbers))
    assert figures.to_svg(figure)
    assert figure.alt.endswith("with 10 labels.") or "no number of labels" in figure.alt

"""The reliability diagram and the histogram of probabilities."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from heads import figures
from heads.evaluation.intervals import wilson
from heads.evaluation.metrics import calibration_error


def points(figure):
    """The mean probability and the accuracy of each bin that has rows."""
    return np.asarray(figure.axes[0].get_lines()[1].get_xydata())


def heights(container):
    return [int(bar.get_height()) for bar in container]


def test_points_are_the_means_of_their_bins(draw_table):
    table = draw_table(3000, 3, sharp=1.0)
    top = table.probabilities.max(axis=1)
    accuracy, mean = calibration_curve(table.true == table.predicted, top, n_bins=15)
    figure = figures.reliability_diagram(table)
    np.testing.assert_allclose(points(figure), np.column_stack([mean, accuracy]))
    assert f"calibration error {calibration_error(table.true, table.probabilities):.3f}" in figure.alt


def test_a_bin_holds_its_upper_end(make_table):
    table = make_table([0, 0, 1], [[10 / 15, 5 / 15], [10.5 / 15, 4.5 / 15], [9.5 / 15, 5.5 / 15]])
    figure = figures.reliability_diagram(table)
    np.testing.assert_allclose(points(figure), [[(10 + 9.5) / 30, 0.5], [10.5 / 15, 1.0]])
    assert heights(figure.axes[1].containers[0]) == [0] * 9 + [2, 1] + [0] * 4


def test_intervals_are_wilsons(make_table):
    table = make_table([0] * 8 + [1] * 2, [[0.9, 0.1]] * 10)
    (segments,) = figures.reliability_diagram(table).axes[0].containers[0][2]
    interval = wilson(8, 10)
    np.testing.assert_allclose(segments.get_segments()[0][:, 1], [interval.low, interval.high])


def test_rows_are_counted_right_and_wrong_by_the_probability_of_the_true_class(make_table):
    table = make_table([0, 0, 1, 2, -1], [[0.98, 0.02, 0], [0.42, 0.3, 0.28], [0.93, 0.07, 0], [0, 0, 1], [1, 0, 0]])
    figure = figures.probability_histogram(table)
    right, wrong = figure.axes[0].containers
    assert heights(right) == [0] * 8 + [1] + [0] * 10 + [2]
    assert heights(wrong) == [0, 1] + [0] * 18
    assert figure.alt.endswith("3 rows right, 1 wrong, 1 of these with a probability below 0.1.")


def test_the_shorter_of_two_bars_stands_in_front(make_table):
    table = make_table([0, 0, 0, 0], [[0.36, 0.34, 0.3]] * 3 + [[0.36, 0.37, 0.27]])
    right, wrong = figures.probability_histogram(table).axes[0].containers
    assert (right[7].get_height(), wrong[7].get_height()) == (3, 1)
    assert wrong[7].get_zorder() > right[7].get_zorder()


@pytest.mark.parametrize(("rows", "scale"), [(10, "linear"), (100, "log")])
def test_lopsided_counts_have_a_logarithmic_axis(make_table, rows, scale):
    table = make_table([0] * rows + [1], [[0.99, 0.01]] * (rows + 1))
    assert figures.probability_histogram(table).axes[0].get_yscale() == scale
    assert figures.reliability_diagram(table).axes[1].get_yscale() == "linear"


@pytest.mark.parametrize("draw", [figures.reliability_diagram, figures.probability_histogram])
def test_without_labels_the_figure_says_so(make_table, draw):
    assert "no row has a label" in draw(make_table([-1], [[0.5, 0.5]])).alt


@pytest.mark.parametrize("draw", [figures.reliability_diagram, figures.probability_histogram])
def test_one_row_and_one_class_can_be_drawn(make_table, draw):
    assert figures.to_svg(draw(make_table([0], [[1.0]]))).startswith("<svg")

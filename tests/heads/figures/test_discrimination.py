"""ROC and precision-recall curves."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from heads import figures


def lines(figure):
    """The curves, without that of guessing."""
    return [np.asarray(line.get_xydata()) for line in figure.axes[0].get_lines()[1:]]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_roc_curve_of_two_classes_is_that_of_the_second(make_table):
    table = make_table([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]], classes=("cats", "dogs"))
    figure = figures.roc_curves(table)
    (curve,) = lines(figure)
    x, y, _ = roc_curve([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    np.testing.assert_array_equal(curve, np.column_stack([x, y]))
    assert figure.alt == "ROC curve of dogs against cats, area 0.750."


def test_the_precision_recall_curve_is_scikit_learns(make_table):
    table = make_table([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
    figure = figures.precision_recall_curves(table)
    (curve,) = lines(figure)
    precision, recall, _ = precision_recall_curve([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], drop_intermediate=True)
    np.testing.assert_array_equal(curve[::-1], np.column_stack([recall, precision]))
    assert figure.alt == "Precision-recall curve of class 1 against class 0, average precision 0.833."
    assert "guessing: 0.500" in figure.caption


@pytest.mark.parametrize(
    ("draw", "score"),
    [(figures.roc_curves, roc_auc_score), (figures.precision_recall_curves, average_precision_score)],
)
def test_each_of_several_classes_has_its_curve_and_area(draw_table, draw, score):
    table = draw_table(300, 4, sharp=1.0)
    areas = [score(table.true == index, table.probabilities[:, index]) for index in range(4)]
    figure = draw(table)
    assert legend(figure) == [f"class {index}, {area:.3f}" for index, area in enumerate(areas)]
    assert f" {np.mean(areas):.3f}, smallest {min(areas):.3f}" in figure.alt


@pytest.mark.parametrize(
    ("draw", "score"),
    [(figures.roc_curves, roc_auc_score), (figures.precision_recall_curves, average_precision_score)],
)
def test_of_many_classes_the_mean_and_the_five_worst_are_drawn(draw_table, draw, score):
    table = draw_table(1200, 12, sharp=1.0)
    areas = np.array([score(table.true == index, table.probabilities[:, index]) for index in range(12)])
    expected = [f"mean of 12 classes, {areas.mean():.3f}"]
    expected += [f"class {index}, {areas[index]:.3f}" for index in np.argsort(areas)[:5]]
    assert legend(draw(table)) == expected


def test_the_mean_curve_is_the_mean_of_the_curves(draw_table):
    table = draw_table(1200, 12, sharp=1.0)
    drawn = lines(figures.roc_curves(table))[0]
    curves = [roc_curve(table.true == index, table.probabilities[:, index]) for index in range(12)]
    at_half = np.mean([y[np.searchsorted(x, 0.5, side="right") - 1] for x, y, _ in curves])
    assert np.interp(0.5, *drawn.T) == pytest.approx(at_half, abs=0.01)
    assert np.trapezoid(drawn[:, 1], drawn[:, 0]) == pytest.approx(
        np.mean([np.trapezoid(y, x) for x, y, _ in curves]), abs=0.005
    )


def test_curves_are_thinned_but_keep_their_shape(draw_table):
    table = draw_table(20_000, 2, sharp=1.0)
    for draw in (figures.roc_curves, figures.precision_recall_curves):
        (curve,) = lines(draw(table))
        assert 200 < len(curve) <= 302
    (drawn,) = lines(figures.roc_curves(table))
    x, y, _ = roc_curve(table.true == 1, table.probabilities[:, 1])
    assert np.trapezoid(drawn[:, 1], drawn[:, 0]) == pytest.approx(np.trapezoid(y, x), abs=0.002)


def test_classes_without_rows_are_left_out_and_named(make_table):
    table = make_table([0, 1, 0, 1], np.full((4, 3), 1 / 3), classes=("a", "b", "gone"))
    figure = figures.roc_curves(table)
    assert len(lines(figure)) == 2
    assert "Undefined, for want of rows: gone." in figure.caption


def test_rows_without_a_label_do_not_count(draw_table, make_table):
    table = draw_table(90, 3, sharp=1.0)
    extended = make_table([*table.true, -1], [*table.probabilities, [1.0, 0.0, 0.0]])
    for draw in (figures.roc_curves, figures.precision_recall_curves):
        assert figures.to_svg(draw(extended)) == figures.to_svg(draw(table))


@pytest.mark.parametrize(("true", "k"), [([0, 0], 2), ([0], 1), ([1], 2), ([-1, -1], 3), ([2, 2], 3)])
def test_where_nothing_is_defined_the_figure_says_so(make_table, true, k):
    table = make_table(true, np.full((len(true), k), 1 / k))
    for draw in (figures.roc_curves, figures.precision_recall_curves):
        assert "takes labelled rows of at least two classes" in draw(table).alt


@pytest.mark.parametrize("draw", [figures.roc_curves, figures.precision_recall_curves])
@pytest.mark.parametrize("k", [2, 3, 10, 30])
def test_the_legend_covers_no_axes(draw_table, draw, k):
    figure = draw(draw_table(300, k, sharp=1.0, classes=[f"{'name ' * 8}{each}" for each in range(k)]))
    assert figure.legends[0].get_window_extent().y1 <= figure.axes[0].get_window_extent().y0
    assert figure.axes[0].get_window_extent().height > 3 * figure.dpi  # inches, however many names there are


def test_two_classes_have_one_name_with_its_measure(draw_table):
    table = draw_table(300, 2, classes=("cats", "dogs"))
    area = roc_auc_score(table.true, table.probabilities[:, 1])
    assert legend(figures.roc_curves(table)) == [f"dogs, area {area:.3f}"]

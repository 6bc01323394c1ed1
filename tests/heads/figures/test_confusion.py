"""The picture of a confusion matrix."""

import numpy as np
import pytest

from heads import figures
from heads.figures.style import BLUE, VERMILION


def evaluated(make_table, counts):
    """Predictions with this confusion matrix."""
    counts = np.asarray(counts)
    cells = [(row, column) for row, column in np.ndindex(counts.shape) for _ in range(counts[row, column])]
    true, predicted = np.array(cells).T
    return make_table(true, np.eye(len(counts))[predicted])


def written(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def colours(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def test_counts_are_written_row_by_row(make_table):
    figure = figures.confusion_matrix(evaluated(make_table, [[7, 0, 1], [2, 6, 0], [0, 0, 1234]]))
    assert written(figure) == ["7", "0", "1", "2", "6", "0", "0", "0", "1,234"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["class 0", "class 1", "class 2"]
    assert figure.alt.endswith(
        "1,247 of 1,250 rows on the diagonal. "
        "Most often confused: class 1 taken for class 0 (2), class 0 taken for class 2 (1)."
    )


def test_shares_of_rows_are_written_in_percent(make_table):
    figure = figures.confusion_matrix(evaluated(make_table, [[3, 1], [0, 5]]), normalize=True)
    assert written(figure) == ["75.0 %", "25.0 %", "0", "100.0 %"]


@pytest.mark.parametrize("normalize", [False, True])
def test_a_class_without_rows_is_empty(make_table, normalize):
    figure = figures.confusion_matrix(evaluated(make_table, [[3, 1], [0, 0]]), normalize=normalize)
    assert written(figure)[2:] == ["-", "-"]
    assert figure.axes[0].get_yticklabels()[1].get_text() == "class 1 (no row)"
    assert (colours(figure)[1, :, 3] == 0).all()


def test_right_is_blue_wrong_is_vermilion_and_fuller_is_more(make_table):
    from matplotlib.colors import to_rgb

    drawn = colours(figures.confusion_matrix(evaluated(make_table, [[90, 10], [1, 99]]), normalize=True))
    assert tuple(drawn[0, 0, :3]) == to_rgb(BLUE)
    assert tuple(drawn[0, 1, :3]) == to_rgb(VERMILION)
    np.testing.assert_allclose(drawn[..., 3] ** 3, [[0.9, 0.1], [0.01, 0.99]])


def test_nothing_confused_is_said(make_table):
    assert figures.confusion_matrix(evaluated(make_table, [[3, 0], [0, 2]])).alt.endswith("Nothing is confused.")


@pytest.mark.parametrize(
    ("k", "numbers", "names"), [(15, True, True), (16, False, True), (40, False, True), (41, False, False)]
)
def test_numbers_and_names_are_left_out_where_they_do_not_fit(make_table, k, numbers, names):
    figure = figures.confusion_matrix(evaluated(make_table, np.eye(k, dtype=int) * 2))
    assert bool(written(figure)) is numbers
    assert ("class 1" in [text.get_text() for text in figure.axes[0].get_xticklabels()]) is names


def test_a_thousand_classes_are_a_small_picture_that_loses_no_confusion(make_table):
    counts = np.eye(1000, dtype=int)
    counts[4, 998] = 1
    figure = figures.confusion_matrix(evaluated(make_table, counts), normalize=True)
    assert colours(figure).shape == (334, 334, 4)
    assert colours(figure)[1, 332, 3] > 0
    assert "the largest of 3 x 3 cells" in figure.caption
    assert len(figures.to_svg(figure)) < 60_000


def test_one_class(make_table):
    assert written(figures.confusion_matrix(evaluated(make_table, [[4]]))) == ["4"]


def test_rows_without_a_label_do_not_count(make_table):
    table = make_table([0, 1, -1], [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    assert written(figures.confusion_matrix(table)) == ["1", "0", "1", "0"]
    assert "no row has a label" in figures.confusion_matrix(make_table([-1], [[0.5, 0.5]])).alt


@pytest.mark.parametrize(("letters", "turned"), [(4, 0.0), (16, 45.0)])
def test_names_that_are_wider_than_a_column_are_turned(make_table, letters, turned):
    table = make_table(range(5), np.eye(5), classes=["W" * (letters - 1) + str(each) for each in range(5)])
    figure = figures.confusion_matrix(table)
    assert {text.get_rotation() for text in figure.axes[0].get_xticklabels()} == {turned}

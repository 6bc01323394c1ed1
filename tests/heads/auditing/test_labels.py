"""Label errors of a table in which every number is known."""

import numpy as np

from heads.auditing.labels import label_errors
from heads.evaluation.predictions import PredictionsTable


def _table(probabilities, true, paths=None):
    n = len(true)
    paths = [f"{row}.jpg" for row in range(n)] if paths is None else paths
    return PredictionsTable(
        np.array(paths, object),
        np.array(["train"] * n, object),
        np.array(true),
        np.array(probabilities),
        ("a", "b", "c"),
    )


def test_rows_are_ranked_by_how_much_more_probable_another_class_is():
    table = _table([[0.2, 0.5, 0.3], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]], [0, 0, 0, 2])
    found = label_errors(table)
    assert [(each.path, each.given, each.suggested, round(each.score, 12), each.row) for each in found] == [
        ("2.jpg", "a", "c", 0.7, 2),
        ("0.jpg", "a", "b", 0.3, 0),
        ("3.jpg", "c", "b", 0.1, 3),
    ]


def test_a_tie_with_the_given_class_is_no_error():
    assert label_errors(_table([[0.5, 0.5, 0.0]], [1])) == ()


def test_equal_scores_are_ordered_by_path():
    table = _table([[0.25, 0.75, 0.0]] * 3, [0, 0, 0], ["b.jpg", "c.jpg", "a.jpg"])
    assert [each.path for each in label_errors(table)] == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_row_with_no_number_is_passed_over():
    found = label_errors(_table([[np.nan, 0.5, 0.5], [0.1, 0.9, 0.0]], [0, 0]))
    assert [each.row for each in found] == [1]


def test_no_row_has_no_error():
    assert label_errors(_table(np.empty((0, 3)), np.empty(0, np.int64))) == ()

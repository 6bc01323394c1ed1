"""The report of a comparison: the best head, heads within noise of it, and disagreements."""

import numpy as np

from heads import PredictionsTable, compare, evaluate_table
from heads.report import Gallery, Table
from heads.reporting import comparison_report

N = 40


def judged(wrong):
    """Return the evaluation of a head that is wrong on these rows of two classes."""
    true = np.arange(N) % 2
    said = true.copy()
    said[list(wrong)] ^= 1
    probabilities = np.where(np.eye(2)[said] == 1, 0.9, 0.1)
    paths = np.array([f"{row:02}.jpg" for row in range(N)], dtype=object)
    return evaluate_table(PredictionsTable(paths, np.array(["valid"] * N, object), true, probabilities, ("a", "b")))


def blocks(report, kind):
    return [each for section in report.sections for each in section.blocks if isinstance(each, kind)]


def test_the_best_is_told_from_those_that_are_worse_by_more_than_luck():
    comparison = compare({"bad": judged(range(20)), "good": judged([0]), "as good": judged([1])})
    report = comparison_report(comparison, about={"good": "softmax on fc2"})
    assert report.facts[0].value == "97.50 %"
    assert report.facts[1].value == "1 of 2"
    text = " ".join(each for section in report.sections for each in section.blocks if isinstance(each, str))
    assert "good is significantly better than bad, but not than the other heads." in text
    heads, pairs = blocks(report, Table)
    assert [row[0] for row in heads.rows][-1] == "bad"
    assert {row[:2]: row[2:4] for row in pairs.rows}["bad", "good"] == ("0", "19")
    assert ("softmax on fc2") in dict(report.about).values()


def test_only_disputed_images_are_shown():
    report = comparison_report(compare({"one": judged([3, 4]), "other": judged([4, 7])}))
    (gallery,) = blocks(report, Gallery)
    assert sorted(shot.path for shot in gallery.images) == ["03.jpg", "07.jpg"]
    lines = {shot.path: shot.lines for shot in gallery.images}["03.jpg"]
    assert lines == ("labelled b", "✗ one: a 0.900", "✓ other: b 0.900")


def test_heads_that_agree_have_nothing_to_show():
    report = comparison_report(compare({"one": judged([3]), "same": judged([3])}))
    (gallery,) = blocks(report, Gallery)
    assert gallery.images == ()
    assert "one is not significantly better than any other head" in report.to_markdown()
    assert gallery.empty in report.to_html()


def test_headline_and_verdict_go_by_the_same_test():
    """Against one of three the test alone would speak of a difference; with three tests made it does not."""
    comparison = compare({"best": judged([]), "a": judged(range(6)), "b": judged([7]), "c": judged([8])})
    assert min(pair.p_value for pair in comparison.pairs) < 0.05 < min(pair.p_adjusted for pair in comparison.pairs)
    report = comparison_report(comparison)
    assert report.facts[1].value == "3 of 3"
    assert "best is not significantly better than any other head" in report.to_markdown()


def test_warnings_name_the_head():
    one_class = judged(range(1, N, 2))  # says "a" of all rows
    report = comparison_report(compare({"one": one_class, "other": judged([])}))
    assert any(line.startswith("one: no row was predicted as 'b'") for line in report.warnings)

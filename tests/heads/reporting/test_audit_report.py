"""The report of an audit: labels to check, and pairs of copies side by side."""

import pytest

from heads import audit
from heads.report import Gallery, Table
from heads.reporting import audit_report


@pytest.fixture(scope="module")
def audited(make_cache, make_features, blobs):
    """An audit of 90 rows, of which one is labelled wrongly, one is a copy and one nearly so, in another split."""
    X, y = blobs(90, 60, 3)
    y[4] = (y[4] + 1) % 3
    X[80], X[70] = X[20], X[10] * 1.001
    splits = ["train"] * 60 + ["valid"] * 30
    contents = [20 if row == 80 else row for row in range(90)]
    return audit(make_cache(make_features(X, y, splits=splits, contents=contents)), head="logreg")


def galleries(report):
    return {each.title: each for section in report.sections for each in section.blocks if isinstance(each, Gallery)}


def test_label_errors_are_shown_the_worst_first(audited):
    gallery = galleries(audit_report(audited))["Labels to check"]
    assert [shot.path for shot in gallery.images] == [each.path for each in audited.label_errors]
    assert gallery.images[0].path == "00004.jpg"
    assert gallery.images[0].lines[0] == f"labelled {audited.label_errors[0].given}"


def test_copies_stand_side_by_side(audited):
    report = audit_report(audited)
    exact = galleries(report)["The same file twice"]
    assert [shot.path for shot in exact.images] == ["00020.jpg", "00080.jpg"]
    assert all("pair 1" in shot.lines[1] for shot in exact.images)
    assert all(shot.lines[2] == "problem: in train and valid" for shot in exact.images)
    assert {"00010.jpg", "00070.jpg"} <= {shot.path for shot in galleries(report)["Nearly the same image"].images}
    facts = {fact.label: fact.value for fact in report.facts}
    assert facts["images that occur more than once"] == "4"
    assert facts["groups across splits"] == "2"


def test_tables_name_every_problem(audited):
    tables = [each for section in audit_report(audited).sections for each in section.blocks if isinstance(each, Table)]
    pairs = {row[:2]: row[2:] for table in tables for row in table.rows if row[2] in {"exact", "near"}}
    assert pairs["00020.jpg", "00080.jpg"] == ("exact", "1.0000", "in train and valid")


def test_nothing_to_report_is_said(make_cache, make_features, blobs):
    X, y = blobs(60, 60, 3)
    report = audit_report(audit(make_cache(make_features(X, y)), head="logreg"))
    assert [gallery.images for gallery in galleries(report).values()] == [(), (), ()]
    page = report.to_html()
    assert "for every image the labelled class is the most probable one" in page
    assert page.count("There are none.") == 2

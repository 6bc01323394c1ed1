"""The words that the glossary excludes do not occur in reports or in the help of commands."""

import re
from pathlib import Path

import pytest

from heads import (
    audit,
    audit_report,
    compare,
    comparison_report,
    curve_report,
    evaluate,
    evaluation_report,
    learning_curve,
    select_rows,
    train,
)

ROOT = Path(__file__).parents[3]
EXCLUDED = (
    "judge|judges|judged|judging|say|says|think|thinks|tell|tells|picture|pictures|instance|"
    "instances|category|categories|endpoint|floor|go on|goes on|going on|restart|restarts|copy|copies|twin|twins|hint|"
    "hints|caution|note|notes|val|dev|validation set"
)


def excluded(text):
    return sorted({match.group().lower() for match in re.finditer(rf"\b(?:{EXCLUDED})\b", text, re.IGNORECASE)})


@pytest.fixture(scope="module")
def reports(blob_cache):
    heads = {name: train(blob_cache, name) for name in ("logreg", "centroid")}
    results = {name: evaluate(head, select_rows(blob_cache, head, "valid")) for name, head in heads.items()}
    return {
        "evaluation": evaluation_report(results["logreg"], head=heads["logreg"]),
        "comparison": comparison_report(compare(results)),
        "audit": audit_report(audit(blob_cache, head="logreg")),
        "curve": curve_report(learning_curve(blob_cache)),
    }


@pytest.mark.parametrize("kind", ["evaluation", "comparison", "audit", "curve"])
def test_reports_use_the_words_of_the_glossary(kind, reports):
    assert excluded(reports[kind].to_markdown()) == []


def test_the_help_of_commands_uses_the_words_of_the_glossary():
    assert excluded((ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")) == []


def test_the_glossary_lists_what_is_excluded():
    table = (ROOT / "docs" / "glossary.md").read_text("utf-8").partition("## We say")[2]
    for word in ("judge", "picture", "copy", "floor", "go on", "note", "hint"):
        assert re.search(rf"\b{word}\b", table)

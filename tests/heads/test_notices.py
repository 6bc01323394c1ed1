"""Notices: codes that programs decide by, messages that people read."""

import json
import re
from pathlib import Path
from typing import get_args

from featurecache.images.failures import FailureCode
from heads.notices import Code, Notice, Remedy, not_converged, to_dicts

ROOT = Path(__file__).parents[2]
SCALE = Remedy("standardize", "set standardize=true")
LONGER = Remedy("max_iter", "raise max_iter")


def test_a_message_is_the_fact_what_helps_and_the_details():
    assert str(Notice("a", "it failed")) == "it failed"
    assert str(Notice("a", "it failed", (SCALE, LONGER))) == "it failed: set standardize=true, raise max_iter"
    assert str(Notice("a", "it failed", (LONGER,), "its words")) == "it failed: raise max_iter; its words"
    assert str(Notice("a", "it failed", (LONGER,)).about("knn")) == "knn: it failed: raise max_iter"


def test_advice_that_was_followed_is_left_out():
    notice = not_converged("svm", 3, LONGER, standardize=False)
    assert notice.message == "svm did not converge (max_iter=3): set standardize=true, raise max_iter"
    assert notice.without("standardize") == not_converged("svm", 3, LONGER, standardize=True)
    assert notice.without("tol") == notice


def test_notices_are_equal_if_code_and_message_are():
    composed, stored = Notice("a", "x", (LONGER,)), Notice("a", "x: raise max_iter")
    assert (composed, hash(composed)) == (stored, hash(stored))
    assert composed != Notice("b", "x: raise max_iter")
    assert composed != Notice("a", "x")
    assert composed != "x: raise max_iter"


def test_notices_read_back():
    notices = [Notice(Code.ONE_RUN, "ü\n"), Notice("of a later version", "", (LONGER,))]
    assert [Notice.from_dict(data) for data in json.loads(json.dumps(to_dicts(notices)))] == notices


def test_codes_of_notices_and_failures_are_written_alike():
    for code in (*Code, *get_args(FailureCode)):
        assert re.fullmatch("[a-z]+(_[a-z]+)*", code) or code is Code.UNKNOWN, code


def test_all_codes_are_used():
    in_heads, elsewhere = (
        "".join(path.read_text("utf-8") for path in (ROOT / package).rglob("*.py"))
        for package in ("heads", "featurecache")
    )
    for code in Code:
        assert f"Code.{code.name}" in in_heads or f'"{code}"' in elsewhere, code


def test_every_code_is_documented():
    documented = (ROOT / "docs" / "reports.md").read_text("utf-8")
    for code in Code:
        assert f"| `{code}` | " in documented or not code

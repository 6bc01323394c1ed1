"""Codes of failures: documented, and which of them the same bytes will always have."""

import re
from pathlib import Path
from typing import get_args

from featurecache.images.failures import Failure, FailureCode

DOCUMENT = (Path(__file__).parents[3] / "docs" / "reference" / "failures.md").read_text("utf-8")


def test_every_code_is_documented():
    assert re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE) == sorted(get_args(FailureCode))


def test_permanent_codes_are_those_of_the_document():
    permanent = [code for code in get_args(FailureCode) if Failure(code, "x").is_permanent]
    sentence = DOCUMENT[DOCUMENT.rindex("\n\n") :].partition(" are permanent")[0]
    assert sorted(permanent) == re.findall(r"`(\w+)`", sentence)


def test_a_failure_is_ready_for_json():
    assert Failure("empty", "0 bytes").to_dict() == {"code": "empty", "reason": "0 bytes"}

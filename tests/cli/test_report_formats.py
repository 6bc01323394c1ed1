"""Report files: each format is recognised as a report, and no other file is."""

import json

import pytest

from featurecache.cli.console.report_formats import FORMATS, encode, is_report, without_picture
from heads.report import Gallery, GalleryImage, Report, Section, Tone
from heads.report.thumbnails import Thumbnail

SHOT = GalleryImage("a/b.jpg", ("cats 0.9",), ("cats",), Tone.GOOD, Thumbnail(None, 0, 0, "no such file"))
REPORT = Report("title", "subtitle", sections=(Section("images", (Gallery("all", "text", (SHOT,)),)),))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_known_for_a_report(tmp_path, form):
    path = tmp_path / "report"
    path.write_bytes(encode(REPORT, {"n": 1}, form))
    assert is_report(path)
    assert encode(REPORT, {"n": 1}, form) == path.read_bytes()


@pytest.mark.parametrize(
    "data", [b"", b"<!DOCTYPE html><html>", b"# notes\n", b"{}", b"x" * 9999 + b"featurecache report"]
)
def test_nothing_else_is(tmp_path, data):
    path = tmp_path / "mine"
    path.write_bytes(data)
    assert not is_report(path)


def test_json_holds_numbers_and_galleries():
    data = json.loads(encode(REPORT, {"n": 1, "roc_auc": None}, "json"))
    assert (data["n"], data["roc_auc"]) == (1, None)
    assert data["galleries"] == [{"title": "all", "images": [{"path": "a/b.jpg", "lines": ["cats 0.9"]}]}]


def test_shots_without_a_picture_are_found():
    assert without_picture(REPORT) == [SHOT]

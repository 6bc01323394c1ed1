"""A report as the bytes of a file, in one of three formats, each of which tells that it is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heads.report import Gallery

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heads.report import Report, Shot

MARK = "featurecache report"
"""Stands near the beginning of every report file; of an HTML page, in its template."""

SUFFIXES = {".html": "html", ".htm": "html", ".json": "json", ".md": "markdown", ".markdown": "markdown"}
FORMATS = ("html", "json", "markdown")
_MARKED_WITHIN = 512  # bytes


def encode(report: Report, numbers: Mapping[str, Any], form: str) -> bytes:
    """Return a report as a file's bytes, UTF-8; the same report gives the same bytes.

    Parameters
    ----------
    report
        What is written as HTML or Markdown.
    numbers
        What is written as JSON, with the galleries of the report; ready for JSON.
    form
        ``"html"``, ``"json"`` or ``"markdown"``.
    """
    if form == "html":
        return report.to_html().encode()
    if form == "markdown":
        return f"<!-- {MARK} -->\n\n{report.to_markdown()}".encode()
    galleries = [
        {"title": each.title, "images": [{"path": shot.path, "lines": list(shot.lines)} for shot in each.shots]}
        for each in _galleries(report)
    ]
    head = {"format": MARK, "title": report.title, "subtitle": report.subtitle, "about": dict(report.about)}
    return (json.dumps(head | dict(numbers) | {"galleries": galleries}, allow_nan=False) + "\n").encode()


def is_report(path: Path) -> bool:
    """Whether a file is a report, which a new one may replace."""
    with path.open("rb") as stream:
        return MARK.encode() in stream.read(_MARKED_WITHIN)


def without_picture(report: Report) -> list[Shot]:
    """Return the shots of a report whose images could not be had."""
    return [shot for each in _galleries(report) for shot in each.shots if shot.thumbnail.jpeg is None]


def _galleries(report: Report) -> list[Gallery]:
    return [block for section in report.sections for block in section.blocks if isinstance(block, Gallery)]

"""Encodes reports as HTML, Markdown or JSON files with a mark that identifies them as reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heads import Gallery

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heads import GalleryImage, Report

MARK = "featurecache report"
"""The mark near the beginning of every report file; HTML pages have it in their template."""

SUFFIXES = {".html": "html", ".htm": "html", ".json": "json", ".md": "markdown", ".markdown": "markdown"}
FORMATS = ("html", "json", "markdown")
_MARKED_WITHIN = 512  # bytes


def encode(report: Report, numbers: Mapping[str, Any], form: str) -> bytes:
    """Return a report as UTF-8 bytes; the same report gives the same bytes.

    Parameters
    ----------
    report
        The report, for HTML and Markdown.
    numbers
        The content of a JSON report, ready for JSON; galleries are added from the report.
    form
        ``"html"``, ``"json"`` or ``"markdown"``.
    """
    if form == "html":
        return report.to_html().encode()
    if form == "markdown":
        return f"<!-- {MARK} -->\n\n{report.to_markdown()}".encode()
    galleries = [
        {
            "title": gallery.title,
            "images": [{"path": image.path, "lines": list(image.lines)} for image in gallery.images],
        }
        for gallery in _galleries(report)
    ]
    head = {"format": MARK, "title": report.title, "subtitle": report.subtitle, "about": dict(report.about)}
    return (json.dumps(head | dict(numbers) | {"galleries": galleries}, allow_nan=False) + "\n").encode()


def is_report(path: Path) -> bool:
    """Return whether a file is a report, which a new report may replace."""
    with path.open("rb") as stream:
        return MARK.encode() in stream.read(_MARKED_WITHIN)


def without_picture(report: Report) -> list[GalleryImage]:
    """Return the gallery images of a report that have no thumbnail."""
    return [image for gallery in _galleries(report) for image in gallery.images if image.thumbnail.jpeg is None]


def _galleries(report: Report) -> list[Gallery]:
    return [block for section in report.sections for block in section.blocks if isinstance(block, Gallery)]

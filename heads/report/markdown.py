"""A report as Markdown (GitHub's): headline numbers, tables, galleries, and the alternative text of figures.

Every text is escaped, so that markup in a name is shown literally.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from featurecache.text import visible
from heads.report.model import Block, Content, FigureBlock, Gallery, Table, Tone

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

_MARKUP = re.compile(r"[\\`*_\[\]<>|~&#$]|(?<=:)//|(?<=www)\.", re.IGNORECASE)
_BLOCK_START = re.compile(r"[-+=](?!\d)|\d+(?=[.)])")
_MARKS = {Tone.GOOD: "✓ ", Tone.BAD: "✗ ", Tone.NEUTRAL: ""}


def markdown(report: Content) -> str:
    """Return a report as Markdown, without images; the same report gives the same text."""
    return "\n\n".join(_report(report)) + "\n"


def _report(report: Content) -> Iterator[str]:
    yield f"# {_text(report.title)}"
    if report.subtitle:
        yield _paragraph(report.subtitle)
    if report.facts:
        rows = [(_text(fact.label), f"**{_text(fact.value)}**", _text(fact.detail)) for fact in report.facts]
        yield _table(("Number", "Value", "Interval or comparison"), rows, left=(0, 2))
    if report.warnings:
        yield "\n".join(f"> - {_paragraph(warning)}" for warning in report.warnings)
    for section in report.sections:
        yield f"## {_text(section.title)}"
        for block in section.blocks:
            yield from _block(block)
    if report.about:
        yield "## About this report"
        yield "\n".join(f"- {_paragraph(label)}: {_text(text)}" for label, text in report.about)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Table():
            if block.caption:
                yield _paragraph(block.caption)
            header = [_text(cell) for cell in block.header]
            yield _table(header, [[_text(cell) for cell in row] for row in block.rows], left=block.left)
        case FigureBlock():
            yield f"*{_text(block.alt)}*"
        case Gallery():
            yield from _gallery(block)
        case _:
            yield _paragraph(block)


def _gallery(gallery: Gallery) -> Iterator[str]:
    yield f"### {_text(gallery.title)}"
    if gallery.text:
        yield _paragraph(gallery.text)
    if not gallery.images:
        yield _paragraph(gallery.empty)
        return
    rows = [
        (_text(image.path), _MARKS[image.tone] + "<br>".join(_text(line) for line in image.lines))
        for image in gallery.images
    ]
    yield _table(("Image", "Labels and predictions"), rows, left=(0, 1))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[int]) -> str:
    """Return a table of cells that are Markdown already."""
    ruler = [":--" if column in left else "--:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows))


def _paragraph(text: str) -> str:
    """Return text that begins a paragraph or an item of a list."""
    escaped = _text(text)
    start = _BLOCK_START.match(escaped)
    if start is None:
        return escaped
    at = start.end() if start[0].isdigit() else 0
    return f"{escaped[:at]}\\{escaped[at:]}"


def _text(text: str) -> str:
    """Return text as Markdown that shows it, on one line."""
    return _MARKUP.sub(lambda match: "\\" + match[0], visible(text).strip())

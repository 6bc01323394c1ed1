"""A figure as SVG text."""

import hashlib
import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROLOG = re.compile(r"\A<\?xml.*?>\s*<!DOCTYPE.*?>\s*", re.DOTALL)
_GROUP_ID = re.compile(r'(<g) id="[^"]*"(?=>)')
_TAG = re.compile(r"<[^<>]+>")
_ID = re.compile(r'(\bid="|url\(#|href="#)([^")]+)')


def to_svg(figure: "Figure") -> str:
    """Return a figure as one SVG element, fit to stand in an HTML page or in a file.

    The same figure gives the same text in every process: there is no date and no version in it. Text stays text, and
    the ground is transparent. Its ids are its own, so that several figures can stand in one page.
    """
    from heads.figures.canvas import styled

    with styled(), io.StringIO() as stream:
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", facecolor="none", metadata=nothing)
        svg = _GROUP_ID.sub(r"\1", _PROLOG.sub("", stream.getvalue(), count=1))
    return _with_ids(svg, "f" + hashlib.sha256(_with_ids(svg, "").encode()).hexdigest()[:8])


def _with_ids(svg: str, prefix: str) -> str:
    """Return an SVG document whose ids are numbered, in the order in which they occur.

    Matplotlib's follow from coordinates with all their digits, in which rounding shows.
    """
    numbers: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        return f"{match[1]}{prefix}-{numbers.setdefault(match[2], len(numbers))}"

    return _TAG.sub(lambda tag: _ID.sub(numbered, tag[0]), svg)

"""What a report holds: headline facts, and sections of text, tables, pictures and galleries. Plain data, no rendering.

All texts are plain text from anywhere, names of files and classes included; who renders them escapes them.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from heads.thumbnails import Thumbnail


class Tone(Enum):
    """Whether something is good news."""

    GOOD = "good"
    BAD = "bad"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Fact:
    """A headline number.

    Parameters
    ----------
    label, value
        What it is, and how much.
    detail
        How sure one is of it, or what to compare it with; may be empty.
    """

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under a header.

    Parameters
    ----------
    header, rows
        Each row has as many cells as the header. The first cell of a row names it.
    caption
        What the table shows; may be empty.
    left
        The columns that hold words and not numbers.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    left: Collection[int] = frozenset({0})


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure.

    Parameters
    ----------
    svg
        An SVG document, drawn for a light ground and transparent; see `heads.figures.to_svg`.
    caption
        What it shows, and how to read it.
    alt
        What someone needs to know who does not see it.
    """

    svg: str
    caption: str
    alt: str


@dataclass(frozen=True, slots=True)
class Shot:
    """One image of a gallery.

    Parameters
    ----------
    path
        The image's relative path.
    lines
        What is said about it, a line each, the most important first.
    classes
        Names of the classes that it has to do with; the reader may show those of one class only.
    tone
        Whether what is shown is right or wrong.
    thumbnail
        The image itself, made small; or why there is none.
    """

    path: str
    lines: tuple[str, ...]
    classes: tuple[str, ...]
    tone: Tone
    thumbnail: Thumbnail


@dataclass(frozen=True, slots=True)
class Gallery:
    """Images under a heading; ``empty`` is what is said if there are none.

    Parameters
    ----------
    title, text
        What they have in common, and how they were chosen.
    shots
        The images, in the order in which they are shown.
    empty
        What is said instead if there are none.
    """

    title: str
    text: str
    shots: tuple[Shot, ...]
    empty: str = "There are none."


Block: TypeAlias = str | Table | Picture | Gallery
"""A paragraph, a table, a picture or a gallery."""


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report.

    Parameters
    ----------
    title, subtitle
        What is judged, and on what.
    facts
        The numbers to see at a glance.
    warnings
        What the reader must know, a line each.
    sections
        The rest.
    about
        How it came about: label and text, for the end of the page.
    """

    title: str
    subtitle: str
    facts: tuple[Fact, ...] = ()
    warnings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    about: tuple[tuple[str, str], ...] = field(default=())

    def to_html(self) -> str:
        """Return one self-contained HTML page; the same report gives the same text."""
        from heads.report.html import page

        return page(self)

    def to_markdown(self) -> str:
        """Return it as Markdown (GitHub's), without pictures."""
        from heads.report.markdown import markdown

        return markdown(self)

    def _repr_html_(self) -> str:
        from heads.report.html import frame

        return frame(self)

"""What a report holds: headline facts, and sections of text, tables, figures and galleries. Plain data, no rendering.

All texts are plain text and untrusted, such as names of files and classes; the renderers escape them.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from heads.report.thumbnails import Thumbnail


class Tone(Enum):
    """Whether a result is right, wrong or neither."""

    GOOD = "good"
    BAD = "bad"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Fact:
    """A headline number.

    Parameters
    ----------
    label, value
        Its name, and its value as text.
    detail
        Its interval, or a number to compare it with; may be empty.
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
class FigureBlock:
    """A figure.

    Parameters
    ----------
    svg
        An SVG document, drawn for a light ground and transparent; see `heads.figures.to_svg`.
    caption
        Text below the figure: content, and how to read it.
    alt
        Alternative text for readers who cannot see the figure.
    """

    svg: str
    caption: str
    alt: str


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image of a gallery.

    Parameters
    ----------
    path
        The image's relative path.
    lines
        Lines of text about it, the most important first.
    classes
        Names of its label and its predicted classes; the page can filter by class.
    tone
        Whether the prediction is right or wrong.
    thumbnail
        The image, reduced in size, or the reason why there is none.
    """

    path: str
    lines: tuple[str, ...]
    classes: tuple[str, ...]
    tone: Tone
    thumbnail: Thumbnail


@dataclass(frozen=True, slots=True)
class Gallery:
    """Images under a heading.

    Parameters
    ----------
    title, text
        Heading, and a text on how they were chosen.
    images
        The images, in the order in which they are shown.
    empty
        Text that replaces the images if there are none.
    """

    title: str
    text: str
    images: tuple[GalleryImage, ...]
    empty: str = "There are none."


Block: TypeAlias = str | Table | FigureBlock | Gallery
"""A paragraph, a table, a figure or a gallery."""


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a report; `heads.Report` describes the fields."""

    title: str
    subtitle: str
    facts: tuple[Fact, ...] = ()
    warnings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    about: tuple[tuple[str, str], ...] = field(default=())

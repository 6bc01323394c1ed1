"""A report as HTML: one page that needs nothing from outside, or a few blocks for a notebook.

Every text goes through `visible` and is escaped, because the templates' environment does it to whatever they print.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import jinja2
from markupsafe import Markup, escape

from featurecache.text import visible
from heads.report.model import Block, Content, Fact, FigureBlock, Gallery, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CONTENTS_FROM = 2  # sections
_LONG = 40  # letters of a word, above which it may break anywhere
_FRAME_HEIGHT = 720  # pixels of a notebook
_KINDS: dict[type, str] = {Table: "table", FigureBlock: "figures", Gallery: "gallery", Fact: "facts"}

Piece: TypeAlias = Block | Fact
"""A block, or a headline number."""


def page(report: Content) -> str:
    """Return a report as one self-contained HTML page; the same report gives the same text.

    A Content-Security-Policy lets the page load nothing and run nothing but its own style and script.
    """
    style, script = _template("style.css"), _template("script.js")
    images = [image for gallery in _galleries(report) for image in gallery.images]
    counts = Counter(name for image in images for name in dict.fromkeys(image.classes))
    names = sorted(counts, key=lambda name: (name.casefold(), name))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            style=style,
            script=script,
            policy=_policy(style, script),
            contents=len(report.sections) >= _CONTENTS_FROM,
            counts=counts,
            numbers={name: number for number, name in enumerate(names)},
            images=len(images),
            filtering=len(names) > 1,
        )
    )


def fragment(pieces: Sequence[Piece]) -> str:
    """Return a few blocks and facts as HTML without style and script, for ``_repr_html_``; see `page`."""
    return _environment().get_template("fragment.html.j2").render(pieces=pieces)


def frame(report: Content) -> str:
    """Return a whole page in a frame, for a notebook; what it holds cannot reach the notebook."""
    title, document = html.escape(visible(report.title)), html.escape(page(report))
    return (
        f'<iframe title="{title}" srcdoc="{document}" sandbox="allow-scripts" width="100%" height="{_FRAME_HEIGHT}">'
        "</iframe>"
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["runs"] = _runs
    environment.filters["base64"] = _base64
    environment.filters["breakable"] = _breakable
    environment.tests["long"] = _is_long
    return environment


def _shown(value: object) -> object:
    """Return what a template is about to print, text made visible; what is HTML already (a macro's) stays as it is."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _breakable(text: str, longest: int = _LONG) -> Markup:
    """Return text that may break after each slash, and in parts of more letters than that after each underscore.

    So a path breaks there and not inside a file's name.
    """
    parts = (_after("_", part) if len(part) > longest else [part] for part in _after("/", visible(text)))
    return Markup("<wbr>").join(escape(piece) for part in parts for piece in part)


def _after(mark: str, text: str) -> list[str]:
    """Return the pieces of a text that end with a mark, and what is left."""
    return re.findall(f"[^{mark}]*{mark}|[^{mark}]+", text)


def _is_long(text: str) -> bool:
    """Whether a text holds a word, such as a hash, or a part of a path that is too long to stay whole."""
    return any(len(word) > _LONG for word in re.split(r"[\s/]+", visible(text)))


def _template(name: str) -> str:
    return files("heads.report").joinpath("templates", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy that allows this style, this script and embedded images, and nothing else."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_source(style)}'",
            f"script-src '{_source(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _source(text: str) -> str:
    return "sha256-" + _base64(hashlib.sha256(text.encode()).digest())


def _base64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode("ascii")


def _runs(pieces: Iterable[Piece]) -> list[tuple[str, list[Any]]]:
    """Return consecutive pieces of one kind together, with the kind's name."""
    return [(kind, list(run)) for kind, run in groupby(pieces, key=_kind)]


def _kind(piece: Piece) -> str:
    return "text" if isinstance(piece, str) else _KINDS[type(piece)]


def _galleries(report: Content) -> list[Gallery]:
    return [block for section in report.sections for block in section.blocks if isinstance(block, Gallery)]

"""The figure that all pictures are drawn on, in one style; it imports matplotlib and is itself imported on use.

Nothing here touches matplotlib's global state for longer than a picture takes, and pyplot is never imported: a figure
holds its own canvas, and settings of the user change nothing about it.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from heads.figures.style import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.backend_bases import RendererBase
    from matplotlib.legend import Legend

Place: TypeAlias = Literal["outside upper center", "outside lower center"]

_DPI = 120
_SIZE = (6.0, 4.2)  # inches
_FULL = 0.97  # part of a figure's width that a legend may take
_STYLE = {
    "figure.facecolor": "white",
    "figure.dpi": _DPI,
    "savefig.dpi": _DPI,
    "savefig.facecolor": "auto",
    "savefig.transparent": False,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollar signs
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so that widths are the same everywhere
    "font.size": 10.5,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "legend.borderpad": 0.2,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "featurecache",
}
_MISSING_GLYPH = r"(Glyph \d+ .* missing from|Matplotlib currently does not support .* natively)"


class ReportFigure(Figure):
    """A matplotlib figure on a white ground that shows itself in a notebook and says what it shows.

    Attributes
    ----------
    alt : str
        One sentence with the main numbers, for someone who does not see it.
    caption : str
        What it shows and how to read it, in a sentence or two.
    """

    alt: str = ""
    caption: str = ""

    def draw(self, renderer: "RendererBase") -> None:
        """Draw it in its own style, whatever the settings are by now."""
        with styled():
            super().draw(renderer)

    def savefig(self, *args: Any, **options: Any) -> None:
        """Save it as matplotlib does (``fname``, ``dpi``, ``format``, …), but with its own ground and resolution."""
        with styled():
            super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        with io.BytesIO() as stream:
            self.savefig(stream, format="png")
            return stream.getvalue()


@contextmanager
def styled() -> Iterator[None]:
    """Use the style of the pictures, and do not warn of letters that matplotlib's font lacks: a browser has them."""
    with warnings.catch_warnings(), style.context(["default", _STYLE]):
        warnings.filterwarnings("ignore", message=_MISSING_GLYPH, category=UserWarning)
        yield


@contextmanager
def drawing(size: tuple[float, float] = _SIZE) -> Iterator[ReportFigure]:
    """Give out an empty figure of a size in inches, to be drawn on in its style.

    What was drawn is laid out once, in the end: a layout that is made again for each resolution drifts a little.
    """
    with styled():
        layout = ConstrainedLayoutEngine()
        figure = ReportFigure(figsize=size, layout=layout)
        yield figure
        if figure.axes:
            layout.execute(figure)
        figure.set_layout_engine(None)  # with "none" matplotlib would draw twice for each file


def legend(
    figure: ReportFigure,
    handles: Sequence["Artist"],
    names: Sequence[str],
    place: Place,
    *,
    title: str | None = None,
    columns: int = 3,
) -> "Legend":
    """Name what is drawn outside all axes, so that it covers nothing, in as many columns as fit and are allowed.

    The figure grows by its height, so that the axes keep theirs. A layout sees to no legend's width.
    """
    # names that begin with an underscore would be left out of a legend, so they are written later
    numbers = [str(number) for number in range(len(names))]
    for count in range(min(columns, len(names)), 0, -1):
        made = figure.legend(handles, numbers, loc=place, ncols=count, title=title, alignment="left")
        for text, name in zip(made.get_texts(), names, strict=True):
            text.set_text(name)
        if count == 1 or made.get_window_extent().width <= _FULL * figure.bbox.width:
            break
        made.remove()
    grow(figure, made.get_window_extent().height)
    return made


def grow(figure: ReportFigure, pixels: float) -> None:
    """Make a figure higher."""
    figure.set_figheight(figure.get_figheight() + pixels / figure.dpi)


def said(text: str) -> ReportFigure:
    """Return a figure that says in words why there is nothing to draw."""
    with drawing((6.0, 1.2)) as figure:
        figure.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    figure.alt = figure.caption = text
    return figure

"""Colours, and names made fit to be drawn: what all pictures share, without matplotlib."""

from featurecache.text import printable

INK = "#1a1a1a"
GREY = "#767676"
FAINT = "#dddddd"
BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#882255", "#999933", "#332288", "#44AA99")
"""Ten colours that the colour-blind tell apart: six of Okabe and Ito, "Color universal design" (2008), four of Paul
Tol's "muted" scheme (SRON/EPS/TN/09-002)."""


def shown(name: str, width: int = 24) -> str:
    r"""Return a name as it is drawn: nothing unprintable in it, its middle left out if it is long.

    Examples
    --------
    >>> print(shown("a name\nof two lines"))
    a name\nof two lines
    >>> shown("a very long name of a class", 11)
    'a ver…class'
    """
    text = printable(name)
    if len(text) <= width:
        return text
    ending = (width - 1) // 2
    return f"{text[: width - 1 - ending]}…{text[len(text) - ending :]}"


def score(value: float) -> str:
    """Return a proportion with three digits."""
    return f"{value:.3f}"


def lopsided(highest: float, lowest: float) -> bool:
    """Whether counts differ so much that the small ones would not be seen on a linear axis."""
    return highest > 20 * max(lowest, 1)

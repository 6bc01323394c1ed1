"""A logarithmic scale for the lessons' figures; imports matplotlib, so lessons import it on use."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter


def make_logarithmic(axes: Axes, *, subs: Sequence[float] = (1,)) -> None:
    """Make the y axis logarithmic, with plain numbers at the powers of ten times each of ``subs``."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())

"""What axes of several lessons' pictures have in common; it imports matplotlib, and is itself imported on use."""

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter


def make_logarithmic(axes: Axes) -> None:
    """Make the upright axis logarithmic, with plain numbers beside its powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())

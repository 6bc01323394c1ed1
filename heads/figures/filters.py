"""The picture of a network's first filters, or of several sets of them side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heads.figures.canvas import ReportFigure

    Floats: TypeAlias = NDArray[np.floating]

_CELL = 24  # points of a filter's side, about
_GAP = 3  # points between filters
_DEAD = 1e-3  # part of the strongest filter's largest weight, below which a filter looks for nothing
_INCHES = 4.0  # width of a set


def filter_grid(sets: Mapping[str, Floats]) -> ReportFigure:
    """Draw filters as small colour pictures in a grid, each set below its name.

    Grey is a weight of 0, brighter red, green or blue is a positive weight for that colour, darker a negative one. Each
    filter has its own scale, in which its largest weight is 1: the strengths of filters differ by so much that on one
    scale most would look grey, and the layers above make up for them. A filter below a thousandth of the strongest is
    left grey.

    Parameters
    ----------
    sets
        Names to filters, shape (height, width, 3, n), channels in RGB order.
    """
    from heads.figures.canvas import drawing

    grids = {name: _grid(filters) for name, filters in sets.items()}
    tallest = max(len(grid) / len(grid[0]) for grid in grids.values())
    with drawing((_INCHES * len(grids), _INCHES * tallest + 0.3)) as figure:
        figure.set_layout_engine("constrained", wspace=0.06)
        for axes, (name, grid) in zip(figure.subplots(1, len(grids), squeeze=False)[0], grids.items(), strict=True):
            axes.imshow(grid, interpolation="nearest")
            axes.set_title(name)
            axes.set_axis_off()
    described = (
        f"{name}, {filters.shape[-1]} of them, {is_live(filters).sum()} not grey" for name, filters in sets.items()
    )
    figure.alt = f"The filters of a first layer, as colours: {'; '.join(described)}."
    figure.caption = (
        "Each square is a filter: brighter than grey where it looks for more of a colour, darker where for less. Every "
        "filter has its own scale."
    )
    return figure


def grid_shape(count: int) -> tuple[int, int]:
    """Return rows and columns for so many filters: all places are taken where that can be had in a fair shape.

    Examples
    --------
    >>> grid_shape(64), grid_shape(32), grid_shape(7)
    ((8, 8), (4, 8), (3, 3))
    """
    fewest = math.ceil(math.sqrt(count))
    whole = (columns for columns in range(fewest, 2 * fewest) if count % columns == 0)
    columns = next(whole, fewest)
    return -(-count // columns), columns


def is_live(filters: Floats) -> NDArray[np.bool_]:
    """Return which filters look for something, shape (n,): the others have no weight that counts beside the rest."""
    largest = np.abs(filters).max(axis=(0, 1, 2))
    live: NDArray[np.bool_] = (largest > 0) & (largest >= _DEAD * largest.max())
    return live


def as_colours(filters: Floats) -> NDArray[np.float64]:
    """Return filters as colours between 0 and 1, 0.5 for a weight of 0, each on its own scale; shape as given."""
    largest = np.abs(filters).max(axis=(0, 1, 2))
    scale = np.where(is_live(filters), largest, np.inf)
    colours: NDArray[np.float64] = 0.5 + 0.5 * filters.astype(np.float64) / scale
    return colours


def _grid(filters: Floats) -> NDArray[np.float64]:
    """Return the filters as one picture, white between them, shape (height, width, 3)."""
    height, width, _, count = filters.shape
    rows, columns = grid_shape(count)
    size = max(1, _CELL // max(height, width))
    cell = np.array([height, width]) * size + _GAP
    picture = np.ones((*(cell * (rows, columns) - _GAP), 3))
    for number, colours in enumerate(np.moveaxis(as_colours(filters), -1, 0)):
        top, left = cell * divmod(number, columns)
        picture[top : top + height * size, left : left + width * size] = colours.repeat(size, 0).repeat(size, 1)
    return picture

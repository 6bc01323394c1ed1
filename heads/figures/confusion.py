"""The picture of a confusion matrix, for any number of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.evaluation.metrics import confusion
from heads.figures.style import BLUE, INK, VERMILION, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

    from heads.evaluation.predictions import PredictionsTable
    from heads.figures.canvas import ReportFigure

    Floats: TypeAlias = NDArray[np.float64]

_WITH_NUMBERS = 15  # classes up to which numbers fit into the cells
_WITH_NAMES = 40  # classes up to which names fit beside them
_POINTS = 400  # cells a side up to which each gets a point of its own
_FEW = 4  # classes whose numbers are written large
_DARK = 0.2  # strength of blue above which numbers on it are white
_LEGEND = (0.01, 0.1, 1.0)
_LETTERS = 16  # of a name
_MARGIN = 0.6  # inches beside the names and the cells: the label, and space


def confusion_matrix(table: PredictionsTable, *, normalize: bool = False) -> ReportFigure:
    """Draw how often each class was taken for each: rows are the actual, columns the predicted class.

    What is right is blue, what is wrong vermilion, and the fuller the colour, the more rows it stands for (by the
    cube root). Numbers are written into the cells of up to 15 classes, and names beside those of up to 40. Above 400
    classes, neighbouring cells share a point, which shows the largest of them. Rows without a label do not count.

    Parameters
    ----------
    table
        The predictions; those of an evaluation are its ``table``.
    normalize
        Whether to show shares of each actual class's rows instead of counts; a class without rows has none.
    """
    from heads.figures.canvas import drawing, said

    labelled, k = table.true >= 0, len(table.classes)
    if not labelled.any():
        return said("No confusion matrix: no row has a label.")
    counts = confusion(table.true[labelled], table.predicted[labelled], k)
    support = counts.sum(axis=1)
    values = counts / np.maximum(support, 1)[:, None] if normalize else counts.astype(np.float64)
    highest = 1.0 if normalize else max(1.0, float(values.max()))
    side = 4.0 if k <= _FEW else 4.6 if k <= _WITH_NUMBERS else 5.4
    with drawing((6.0, side)) as figure:
        axes = figure.subplots()
        axes.grid(visible=False)
        axes.spines[["top", "right"]].set_visible(True)
        axes.imshow(
            _colours(values / highest), interpolation="nearest", aspect="auto", extent=(-0.5, k - 0.5, k - 0.5, -0.5)
        )
        axes.set_xlabel("predicted class")
        axes.set_ylabel("actual class" + (", each row is 100 %" if normalize else ""))
        _write_names(figure, axes, table.classes, support)
        if k <= _WITH_NUMBERS:
            _write_numbers(axes, counts, values / highest, normalize=normalize)
        else:
            _explain_colours(figure, highest, normalize=normalize)
    right, n = int(np.trace(counts)), int(counts.sum())
    kind = "shares of each actual class" if normalize else "counts"
    mistakes = _mistakes(counts, table.classes)
    figure.alt = f"Confusion matrix of {k:,} classes, {kind}: {right:,} of {n:,} rows on the diagonal. {mistakes}"
    size = _block(k)
    pooled = f" Each point shows the largest of {size} x {size} cells." if size > 1 else ""
    figure.caption = (
        f"Confusion matrix, {kind}: rows are the actual, columns the predicted class; blue is right, orange is wrong."
        f"{pooled} {mistakes}"
    )
    return figure


def _colours(strengths: Floats) -> Floats:
    """Return colours, shape (side, side, 4), of cells whose strengths are 0 to 1; few enough for a picture."""
    from matplotlib.colors import to_rgb

    k = len(strengths)
    diagonal = np.eye(k, dtype=bool)
    right, wrong = np.where(diagonal, strengths, 0.0), np.where(diagonal, 0.0, strengths)
    right, wrong = _pooled(right), _pooled(wrong)
    blue = right >= wrong
    colours = np.empty((*right.shape, 4))
    colours[..., :3] = np.where(blue[..., None], to_rgb(BLUE), to_rgb(VERMILION))
    colours[..., 3] = np.cbrt(np.maximum(right, wrong))
    return colours


def _block(k: int) -> int:
    """Return how many cells a side share a point."""
    return -(-k // _POINTS)


def _pooled(values: Floats) -> Floats:
    """Return the largest values of square blocks, so few that there are at most 400 a side."""
    starts = np.arange(0, len(values), _block(len(values)))
    pooled: Floats = np.maximum.reduceat(np.maximum.reduceat(values, starts, axis=0), starts, axis=1)
    return pooled


def _write_names(figure: ReportFigure, axes: Axes, classes: tuple[str, ...], support: NDArray[np.int64]) -> None:
    from heads.figures.canvas import grow

    k = len(classes)
    if k > _WITH_NAMES:
        axes.set_xlabel(f"predicted class, number 1 to {k:,}")
        axes.set_ylabel(f"actual class, number 1 to {k:,}")
        ticks = np.unique(np.linspace(0, k - 1, 5).astype(int))
        axes.set_xticks(ticks, [f"{tick + 1:,}" for tick in ticks])
        axes.set_yticks(ticks, [f"{tick + 1:,}" for tick in ticks])
        return
    size = 10.5 if k <= _WITH_NUMBERS else 9
    names = [shown(name, _LETTERS) for name in classes]
    rows = [f"{name} (no row)" if not count else name for name, count in zip(names, support, strict=True)]
    axes.set_yticks(range(k), rows, fontsize=size)
    axes.set_xticks(range(k), names, fontsize=size)
    axes.tick_params(length=0)
    beside, below = axes.get_yticklabels(), axes.get_xticklabels()
    column = (figure.bbox.width - _widest(beside) - _MARGIN * figure.dpi) / k
    if _widest(below) > column:
        turned = 90 if k > _WITH_NUMBERS else 45
        for text in below:
            text.set(rotation=turned, rotation_mode="anchor", ha="right", va="center" if turned == 90 else "top")  # noqa: PLR2004
        grow(figure, max(text.get_window_extent().height for text in below))


def _widest(texts: list[Text]) -> float:
    return max(text.get_window_extent().width for text in texts)


def _write_numbers(axes: Axes, counts: NDArray[np.int64], strengths: Floats, *, normalize: bool) -> None:
    k, support = len(counts), counts.sum(axis=1)
    size = 15 if k <= _FEW else 11 if k <= 2 * _FEW else 9
    unit = " %" if k <= _FEW else ""
    for row, column in np.ndindex(k, k):
        count = counts[row, column]
        if not support[row]:
            text = "-"
        else:
            text = f"{100 * count / support[row]:.1f}{unit}" if normalize and count else f"{count:,}"
        on_dark = row == column and strengths[row, column] > _DARK
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color="white" if on_dark else INK)


def _explain_colours(figure: ReportFigure, highest: float, *, normalize: bool) -> None:
    """Say above the matrix what some colours stand for."""
    from matplotlib.patches import Patch

    from heads.figures.canvas import legend

    values = _LEGEND if normalize else sorted({max(1, round(highest * part)) for part in _LEGEND})
    handles = [Patch(color=BLUE)] + [Patch(facecolor=VERMILION, alpha=np.cbrt(value / highest)) for value in values]
    labels = [f"{value:.0%}".replace("%", " %") if normalize else f"{value:,.0f}" for value in values]
    legend(figure, handles, ["right", f"wrong: {labels[0]}", *labels[1:]], "outside upper center", columns=len(handles))


def _mistakes(counts: NDArray[np.int64], classes: tuple[str, ...]) -> str:
    """Return which classes are confused most often, at most three pairs."""
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    most = [divmod(int(cell), len(counts)) for cell in np.argsort(-wrong, axis=None, kind="stable")[:3]]
    texts = [
        f"{shown(classes[row])} taken for {shown(classes[column])} ({wrong[row, column]:,})"
        for row, column in most
        if wrong[row, column]
    ]
    return f"Most often confused: {', '.join(texts)}." if texts else "Nothing is confused."

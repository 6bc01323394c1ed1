"""The picture of galleries: small images in rows, with what was predicted of each."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from heads.figures.style import BLUE, FAINT, GREY, VERMILION, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from PIL.Image import Image

    from heads.evaluation.galleries import Choice
    from heads.evaluation.predictions import PredictionsTable
    from heads.figures.canvas import ReportFigure
    from heads.report.thumbnails import Originals, Thumbnail

_COLUMNS = 6
_NAMED = 4  # choices that are named where there is nothing to draw
_SIDE = 160  # points of a thumbnail's longest side
_CELL = (1.45, 2.0)  # inches
_SPACE = 0.1  # inches above and below a line


def gallery(table: PredictionsTable, choices: Sequence[Choice], originals: Originals | None) -> ReportFigure:
    """Draw the images of some choices below their titles, at most six side by side.

    Below each image stand the predicted class and its probability, blue if it is right; if it is wrong, what the image
    is labelled as besides.

    Parameters
    ----------
    table
        The predictions that the choices are from.
    choices
        What is shown, from `heads.evaluation.galleries`.
    originals
        Where the image files are; in the place of an image that cannot be shown stands why. None shows their paths.
    """
    from heads.figures.canvas import drawing, said

    lines = [line for choice in choices for line in _lines(choice)]
    if not lines:
        titles = ", ".join(shown(choice.title) for choice in choices[:_NAMED])
        return said(f"{titles or 'Chosen'}: no images.")
    columns = max(len(rows) for _, rows in lines)
    with drawing((max(3.0, _CELL[0] * columns), _CELL[1] * len(lines))) as figure:
        figure.set_layout_engine("constrained", h_pad=_SPACE)
        grid = figure.subplots(len(lines), columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for line, (title, rows) in zip(grid, lines, strict=False):
            line[0].set_title(title or " ", fontsize=11)
            for axes, row in zip(line, rows, strict=False):
                _draw_image(axes, table, row, originals)
    total = sum(len(choice.rows) for choice in choices)
    figure.alt = f"{total:,} images: {', '.join(f'{shown(choice.title)} ({len(choice.rows)})' for choice in choices)}."
    figure.caption = (
        "Below each image the class that was predicted and its probability; where that is wrong, in orange, what it is "
        "labelled as."
    )
    return figure


def _lines(choice: Choice) -> list[tuple[str, tuple[int, ...]]]:
    """Return a choice's title and rows, cut into lines; only the first has the title. No rows are no line."""
    starts = range(0, len(choice.rows), _COLUMNS)
    return [("" if start else shown(choice.title, 40), choice.rows[start : start + _COLUMNS]) for start in starts]


def _draw_image(axes: Axes, table: PredictionsTable, row: int, originals: Originals | None) -> None:
    """Draw one image, and what was predicted of it."""
    axes.set_aspect("equal")
    path = table.paths[row]
    found = None if originals is None else originals.thumbnail(path, _SIDE)
    if found is not None and found.jpeg is not None:
        width, height = found.width / max(found.width, found.height), found.height / max(found.width, found.height)
        axes.imshow(_pixels(found), interpolation="lanczos", extent=((1 - width) / 2, (1 + width) / 2, 0, height))
    else:
        _draw_placeholder(axes, path, "" if found is None else found.missing)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    predicted, true = int(table.predicted[row]), int(table.true[row])
    lines = [f"{shown(table.classes[predicted], 12)}: {table.probabilities[row, predicted]:.3f}"]
    wrong = true not in {predicted, -1}
    if wrong:
        lines.append(f"labelled {shown(table.classes[true], 12)}")
    axes.text(
        0.5,
        -0.04,
        "\n".join(lines),
        color=VERMILION if wrong else BLUE,
        fontsize=9,
        ha="center",
        va="top",
        transform=axes.transAxes,
    )


def _draw_placeholder(axes: Axes, path: str, reason: str) -> None:
    from textwrap import fill

    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=FAINT, linewidth=1.2))
    name = shown(path.rsplit("/", 1)[-1], 20)
    axes.text(0.5, 0.5, f"{name}\n{fill(reason, 20)}".strip(), fontsize=7.5, ha="center", va="center", color=GREY)


def _pixels(thumbnail: Thumbnail) -> Image:
    from PIL.Image import open as open_image

    with open_image(io.BytesIO(thumbnail.jpeg or b"")) as image:
        return image.convert("RGB")

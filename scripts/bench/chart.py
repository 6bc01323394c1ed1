"""The chart of the benchmark `extract`: ``python -m scripts.bench.chart MEASURED.json CHART.svg``."""

import json
import sys
from pathlib import Path
from typing import Any

from heads.figures.canvas import drawing
from heads.figures.style import BLUE, GREY
from heads.figures.svg import to_svg

_GROUND = "<rect width='100%' height='100%' fill='white'/>"  # also readable on dark pages


def chart(measured: dict[str, Any]) -> str:
    """Return an SVG document with a bar for each measured contestant, the fastest on top.

    Parameters
    ----------
    measured
        What ``python -m scripts.bench extract --json`` prints.
    """
    rows = [row for row in measured["contestants"] if "images_per_second" in row]
    rows.sort(key=lambda row: row["images_per_second"])
    with drawing((7.2, 0.9 + 0.36 * len(rows))) as figure:
        axes = figure.subplots()
        rates = [row["images_per_second"] for row in rows]
        colours = [BLUE if row["contestant"].startswith("ours") else GREY for row in rows]
        bars = axes.barh([row["contestant"] for row in rows], rates, color=colours)
        axes.bar_label(bars, [f"{rate:.1f}" for rate in rates], padding=4)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1.12 * max(rates))
        axes.set_xlabel(f"VGG16, images a second: {measured['machine'].partition(';')[0]}")
    start, end, rest = to_svg(figure).partition(">")
    return f"{start}{end}{_GROUND}{rest}"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(chart(json.loads(source.read_text("utf-8"))), "utf-8")

"""Output of commands: results on standard output, messages on standard error.

Names of files and classes may have any characters; unprintable ones are escaped before printing.
"""

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from textwrap import wrap
from typing import Annotated, Any

import typer

from featurecache.text import printable

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

_LISTED = 20
WIDTH, LABEL_WIDTH = 80, 26


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(value, indent=2, allow_nan=False))


def show(text: str = "") -> None:
    """Print one line of a result."""
    print(printable(text), flush=True)


def say(message: str) -> None:
    """Print a message for the user, which is not part of the result."""
    print(f"{printable(message)}\n", end="", file=sys.stderr, flush=True)  # at once: two threads may say something


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, left: Collection[int] = (0,)) -> None:
    """Print aligned columns; the column numbers in ``left`` are aligned to the left, the others to the right."""
    from rich.cells import cell_len

    cells = [[printable(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        padded = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(cell))
            padded.append(cell + space if column in left else space + cell)
        print("  ".join(padded).rstrip())


def print_beside(label: str, text: str) -> None:
    """Print a label, and a wrapped text in the column to its right, below a label that is too long."""
    if len(label) >= LABEL_WIDTH:
        show(label)
        label = ""
    lines = wrap(text, WIDTH - LABEL_WIDTH)
    for beside, line in zip([label, *[""] * len(lines)], lines, strict=False):
        show(f"{beside:{LABEL_WIDTH}}{line}")


def print_failures(failures: Mapping[str, str], where: str) -> None:
    """List failed images with their reasons on standard error; ``where`` names the command or option that lists all."""
    for path, reason in list(failures.items())[:_LISTED]:
        say(f"failed: {path}: {reason}")
    if len(failures) > _LISTED:
        say(f"… and {len(failures) - _LISTED:,} more: {where}")

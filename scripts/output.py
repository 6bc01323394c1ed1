"""How commands speak: results on standard output, messages and progress on standard error."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from featurecache.run import Progress

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

_LISTED = 20


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object and nothing else."""
    print(json.dumps(value, indent=2, allow_nan=False))


def say(message: str) -> None:
    """Print a message for the person who waits, not part of the result."""
    print(message, file=sys.stderr, flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, left: int = 1) -> None:
    """Print columns, the first ``left`` of them aligned to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        padded = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(padded).rstrip())


def print_failures(failures: dict[str, str], where: str) -> None:
    """List images that gave no result, with the reasons, on standard error."""
    for path, reason in list(failures.items())[:_LISTED]:
        say(f"failed: {printable(path)}: {reason}")
    if len(failures) > _LISTED:
        say(f"… and {len(failures) - _LISTED:,} more: {where}")


def printable(text: str) -> str:
    """Return text that cannot move the cursor or break the line: what is not printable is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def number(value: float | None, digits: int = 4) -> str:
    """Return a number for people; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


@contextmanager
def progress_bar(what: str, *, shown: bool) -> Iterator[Callable[["Progress"], None]]:
    """Show a bar with images per second and the time left, on standard error if that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} images/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, rate="-")

        def update(progress: "Progress") -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            rate = f"{speed:.1f}" if speed else "-"
            bar.update(task, total=progress.total, completed=progress.done, rate=rate)

        yield update

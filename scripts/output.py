"""How commands speak: results on standard output, messages and progress on standard error.

Names of files and classes come from elsewhere; whatever is printed here as text is made printable first.
"""

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from featurecache import Progress

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

_LISTED = 20


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object and nothing else."""
    print(json.dumps(value, indent=2, allow_nan=False))


def show(text: str = "") -> None:
    """Print one line of a result."""
    print(printable(text), flush=True)


def say(message: str) -> None:
    """Print a line for the person who waits, not part of the result."""
    print(printable(message), file=sys.stderr, flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, left: Collection[int] = (0,)) -> None:
    """Print columns, those whose numbers are in ``left`` aligned to the left, the others to the right."""
    from rich.cells import cell_len

    cells = [[printable(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        padded = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(cell))
            padded.append(cell + space if column in left else space + cell)
        print("  ".join(padded).rstrip())


def print_failures(failures: Mapping[str, str], where: str) -> None:
    """List images that gave no result, with the reasons, on standard error; ``where`` says where all are listed."""
    for path, reason in list(failures.items())[:_LISTED]:
        say(f"failed: {path}: {reason}")
    if len(failures) > _LISTED:
        say(f"… and {len(failures) - _LISTED:,} more: {where}")


def printable(text: str) -> str:
    r"""Return text that cannot move the cursor or break the line: what is not printable is escaped.

    Examples
    --------
    >>> print(printable("a name\nof two lines"))
    a name\nof two lines
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def number(value: float | None, digits: int = 4) -> str:
    """Return a number for people; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def counted(count: int, noun: str) -> str:
    """Return how many there are of what.

    Examples
    --------
    >>> counted(1, "row"), counted(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@contextmanager
def progress_bar(what: str, *, shown: bool) -> Iterator[Callable[["Progress"], None]]:
    """Show a bar with images per second and the time left, on standard error if that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} images/s"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} left"),
    )
    with Bar(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None, rate="-", left="-:--:--")

        def update(progress: "Progress") -> None:
            rate, left = rate_and_time_left(progress)
            bar.update(task, total=progress.total, completed=progress.done, rate=rate, left=left)

        yield update


@contextmanager
def steps_bar(what: str, *, shown: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar of steps done, of how many, and what is being done, on standard error if that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda _done, _total, _doing: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, doing: bar.update(task, total=total, completed=done, description=doing)


def rate_and_time_left(progress: "Progress") -> tuple[str, str]:
    """Return images per second and hours, minutes and seconds left, as text; dashes before the first batch is through.

    The start of the network and images that need not pass through it would make the rate of no use to who waits.
    """
    if not progress.computing:
        return "-", "-:--:--"
    rate = progress.forwarded / (progress.waiting + progress.computing)
    minutes, seconds = divmod(round((progress.total - progress.done) / rate), 60)
    return f"{rate:.1f}", f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"

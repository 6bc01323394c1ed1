"""Writes the predictions table of several commands: CSV, or JSON lines if the suffix is .jsonl."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from heads import LabelPredictionsTable, NumberPredictionsTable, PredictionsTable

Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        readable=False,
        help="Write the predictions, one row per image, to this CSV file; JSON lines if it ends in .jsonl.",
    ),
]
_SUFFIXES = (".csv", ".jsonl")
_BEGINNING = 100  # bytes that are enough to recognise a table


def require_table(path: Path | None) -> None:
    """Raise `OutputError` unless predictions can be written to ``path``, which is new or a predictions table."""
    from featurecache import require_place
    from featurecache.errors import OutputError

    if path is None:
        return
    require_place(path)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose another path for the predictions")
    if path.exists() and not (path.is_file() and _begins_as_table(path)):
        raise OutputError(f"{path} exists already and is not a predictions table; choose another path")
    if path.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"predictions are written as CSV or JSON lines; give {path.name} the suffix .csv or .jsonl")


def write_table(path: Path | None, table: "PredictionsTable | LabelPredictionsTable | NumberPredictionsTable") -> None:
    """Write a predictions table if ``path`` is given."""
    from featurecache import publish

    if path is not None:
        text = table.to_jsonl() if path.suffix.lower() == ".jsonl" else table.to_csv()
        publish(path, text.encode(), replace=True)


def _begins_as_table(path: Path) -> bool:
    """Return whether a file is readable and begins like a predictions table."""
    from heads import LabelPredictionsTable, NumberPredictionsTable, PredictionsTable

    try:
        with path.open("rb") as stream:
            beginning = stream.read(_BEGINNING)
            tables = (PredictionsTable, LabelPredictionsTable, NumberPredictionsTable)
            return any(table.is_beginning(beginning) for table in tables)
    except PermissionError:
        return False

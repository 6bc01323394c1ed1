"""The file of predictions that several commands write: CSV, or JSON lines if it is named so."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from heads import PredictionsTable

Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        readable=False,
        help="Write the predictions, a row for each image, to this CSV file; JSON lines if it ends in .jsonl.",
    ),
]
_SUFFIXES = (".csv", ".jsonl")
_STARTS = (b"path,split,true_class,predicted_class", b'{"path": ')  # how tables begin


def require_table(path: Path | None) -> None:
    """Raise `OutputError` if ``path`` is anything but free or a table of predictions, which a new one may replace."""
    from featurecache.errors import OutputError
    from featurecache.publish import require_place

    if path is None:
        return
    require_place(path)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose another path for the predictions")
    if path.exists() and not (path.is_file() and _begins_as_table(path)):
        raise OutputError(f"{path} exists already and is no table of predictions; choose another path for them")
    if path.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"a table of predictions is written as CSV or JSON lines: end {path.name} in .csv or .jsonl")


def write_table(path: Path | None, table: "PredictionsTable") -> None:
    """Write a table of predictions, if one was asked for."""
    from featurecache.publish import publish

    if path is not None:
        text = table.to_jsonl() if path.suffix.lower() == ".jsonl" else table.to_csv()
        publish(path, text.encode(), replace=True)


def _begins_as_table(path: Path) -> bool:
    """Whether a file can be read and begins as a table of predictions does."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_STARTS[0])).startswith(_STARTS)
    except PermissionError:
        return False

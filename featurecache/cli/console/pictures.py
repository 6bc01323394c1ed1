"""Writes figures as PNG files; replaces only figures that this project drew."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heads.figures import ReportFigure

_SOFTWARE = "featurecache"  # in the metadata of every figure; distinguishes it from a photograph
_CHECKED_BYTES = 100  # the beginning of a file that must contain it


def require_picture(path: Path) -> None:
    """Raise `OutputError` unless a figure can be written to ``path``, which is new or an earlier figure."""
    from featurecache import require_place
    from featurecache.errors import OutputError

    require_place(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"figures are written as PNG files; give {path.name} the suffix .png")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose another path for the figure")
    if path.exists() and not (path.is_file() and _was_drawn(path)):
        raise OutputError(f"{path} exists already and was not drawn by featurecache; choose another path")


def write_picture(path: Path, figure: "ReportFigure") -> None:
    """Write a figure as a PNG file; it may replace an earlier figure.

    Raises
    ------
    OutputError
        If it cannot be written, or another file has this name.
    """
    from featurecache import publish

    require_picture(path)
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png", metadata={"Software": _SOFTWARE})
        publish(path, stream.getvalue(), replace=True)


def _was_drawn(path: Path) -> bool:
    """Return whether a file is readable and a figure of this project."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_CHECKED_BYTES)
    except PermissionError:
        return False
    return start.startswith(b"\x89PNG") and f"Software\0{_SOFTWARE}".encode() in start

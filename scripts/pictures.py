"""Figures as PNG files; no file is replaced but a picture that this project drew."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heads.figures.canvas import ReportFigure

_SOFTWARE = "featurecache"  # what stands in every picture's own metadata, and tells it from a photograph
_LOOKED_AT = 100  # bytes in which that must stand


def require_picture(path: Path) -> None:
    """Raise `OutputError` if ``path`` is anything but free or a picture drawn earlier, or could not be written."""
    from featurecache.errors import OutputError
    from featurecache.publish import require_place

    require_place(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"pictures are written as PNG files: end {path.name} in .png")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose another path for the picture")
    if path.exists() and not (path.is_file() and _was_drawn(path)):
        raise OutputError(f"{path} exists already and was not drawn by featurecache; choose another path")


def write_picture(path: Path, figure: "ReportFigure") -> None:
    """Write a figure as a PNG file, in place of one that was drawn earlier.

    Raises
    ------
    OutputError
        If it cannot be written, or something else bears the name.
    """
    from featurecache.publish import publish

    require_picture(path)
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png", metadata={"Software": _SOFTWARE})
        publish(path, stream.getvalue(), replace=True)


def _was_drawn(path: Path) -> bool:
    """Whether a file can be read and begins as a picture does that was drawn here."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_LOOKED_AT)
    except PermissionError:
        return False
    return start.startswith(b"\x89PNG") and f"Software\0{_SOFTWARE}".encode() in start

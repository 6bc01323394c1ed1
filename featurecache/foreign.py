"""Files that other libraries write: they take a path, so they write beside the final name, and that is published."""

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from featurecache.errors import OutputError
from featurecache.publish import in_units, output_error, publishing, require_place

_CHUNK = 1 << 24


def require_new(path: Path) -> None:
    """Raise `OutputError` if no new file can bear this name, before any work is spent on it."""
    require_place(path)
    if path.exists() or path.is_symlink():
        raise _taken(path)


def publish_written(path: Path, write: Callable[[Path], object], *, size: int) -> None:
    """Publish what a function writes to the path that it is given, whole or not at all.

    Parameters
    ----------
    path
        The final name, which must be free.
    write
        Is called with a path of the same suffix in a folder of its own, on the same disk.
    size
        About how many bytes it writes. There is room for twice as many, or it is not called.

    Raises
    ------
    OutputError
        If the name is taken, or the file cannot be written.
    """
    try:
        _require_space(path, 2 * size)
        with TemporaryDirectory(prefix=f".{path.name[:48]}.", suffix=".tmp", dir=path.parent) as folder:
            written = Path(folder) / f"file{path.suffix}"
            write(written)
            _publish_copy(path, written)
    except FileExistsError as e:
        raise _taken(path) from e
    except OutputError:
        raise
    except OSError as e:
        raise output_error(path, e, size) from e


def _require_space(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OutputError(
            f"{path.parent.absolute()} has {in_units(free)} free, and about {in_units(size)} are needed while "
            f"{path.name} is written; make room, or choose a path on another disk"
        )


def _publish_copy(path: Path, source: Path) -> None:
    with source.open("rb") as stream, publishing(path) as draft:
        offset = 0
        while chunk := stream.read(_CHUNK):
            draft.write(chunk, offset)
            offset += len(chunk)


def _taken(path: Path) -> OutputError:
    return OutputError(f"{path} exists already; remove it or choose another name")

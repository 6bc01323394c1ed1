"""Publishes files that other libraries write: to a temporary path first, then under the final name."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from featurecache.errors import OutputError
from featurecache.storage.output_errors import output_error, require_place, require_space
from featurecache.storage.publish import publishing

_CHUNK = 1 << 24


def require_new(path: Path) -> None:
    """Raise `OutputError` if a new file with this name cannot be created; call before long work."""
    require_place(path)
    if path.exists() or path.is_symlink():
        raise _taken(path)


def publish_written(path: Path, write: Callable[[Path], object], *, size: int) -> None:
    """Call a function that writes a file, and publish the file whole or not at all.

    Parameters
    ----------
    path
        The final name; no file may have it yet.
    write
        Called with a temporary path of the same suffix on the same disk.
    size
        Approximate size of the file in bytes. If there is no room for twice as much, ``write`` is not called.

    Raises
    ------
    OutputError
        If the name is taken, or the file cannot be written.
    """
    try:
        require_space(path.parent, 2 * size, f"while {path.name} is written")
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


def _publish_copy(path: Path, source: Path) -> None:
    with source.open("rb") as stream, publishing(path) as draft:
        offset = 0
        while chunk := stream.read(_CHUNK):
            draft.write(chunk, offset)
            offset += len(chunk)


def _taken(path: Path) -> OutputError:
    return OutputError(f"{path} exists already; remove it or choose another name")

"""Reads images by path: files, frames of animations and pages of TIFF files, and views of them.

``scan.tif#2`` is the second page, ``scan.tif#2#1:flip`` the first view of it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final

from featurecache.errors import ManifestError
from featurecache.images.decode import byte_limit, frame_count
from featurecache.images.failures import Failure, Ignored
from featurecache.images.files import FileContent, Stat
from featurecache.images.formats import FORMATS
from featurecache.images.image_source import ImageSource, threads_for
from featurecache.images.names import split_frame
from featurecache.images.table import Found
from featurecache.images.views import View
from featurecache.options import FRAMES, MAX_PIXELS
from featurecache.prefetch import ahead

FILE_COLUMN: Final = "file"
"""The further column with the path of the file that an image is in."""

FRAME_LIMIT: Final = 10_000
"""Frames of one file that are listed."""

_ONE_PICTURE = tuple(
    extension
    for name, known in FORMATS.items()
    if name in {"JPEG", "BMP", "PPM", "HEIF", "JPEG2000"}
    for extension in known.extensions
)


def stat_image(source: ImageSource, path: str) -> Stat | None:
    """Return size and time of an image, or of the file that it is a frame or a view of; see `ImageSource.stat`."""
    image, _ = View.split_path(path)
    found = source.stat(image)
    file, frame = split_frame(image)
    return source.stat(file) if found is None and frame > 1 else found


def read_image(source: ImageSource, path: str, *, max_bytes: int) -> FileContent | Failure:
    """Read an image, a frame of a file, or a view of either; see `ImageSource.read`.

    A file that has the name of a frame itself comes first. The content of a frame is known by the content of its file
    and by its number, that of a view by the content of its image, its number and its kinds.
    """
    image, view = View.split_path(path)
    content = _read_frame(source, image, max_bytes=max_bytes)
    if view is None or isinstance(content, Failure):
        return content
    drawn = view.drawn(content.sha256)
    return replace(content, sha256=drawn.sha256, view=drawn)


def _read_frame(source: ImageSource, path: str, *, max_bytes: int) -> FileContent | Failure:
    """Read an image, or a frame of a file."""
    content = source.read(path, max_bytes=max_bytes)
    file, frame = split_frame(path)
    if not isinstance(content, Failure) or content.code != "not_found" or frame == 1:
        return content
    content = source.read(file, max_bytes=max_bytes)
    if isinstance(content, Failure):
        return content
    sha256 = hashlib.sha256(f"{content.sha256}#{frame}".encode()).hexdigest()
    return replace(content, sha256=sha256, frame=frame)


def with_frames(
    source: ImageSource, found: Sequence[Found], columns: Mapping[str, Sequence[str]], known: Iterable[str] = ()
) -> tuple[list[Found], dict[str, list[str]], list[Ignored]]:
    """Return the images with a row for each further frame, their columns, and what is left out.

    The first frame is the row of its file. All columns are repeated; the column `FILE_COLUMN` is added.

    Parameters
    ----------
    source, found, columns
        The images, and their further columns.
    known
        The paths of an existing cache. A file that a disk, network or server does not give now has its frames there.

    Raises
    ------
    ManifestError
        If there is a column of this name already.
    """
    if taken := [name for name in columns if name.lower() == FILE_COLUMN]:
        raise ManifestError(
            f"the column {taken[0]!r} has the name of the one that frames={FRAMES[1]!r} adds; give it another name"
        )
    listed = {item.path for item in found}
    counts = _counts(source, [item.path for item in found], _most_frames(known))
    rows: list[Found] = []
    origin: list[int] = []
    files: list[str] = []
    ignored: list[Ignored] = []
    for number, (item, count) in enumerate(zip(found, counts, strict=True)):
        if isinstance(count, str):
            ignored.append(Ignored(item.path, count))
        frames = range(2, 1 + (count if isinstance(count, int) else 1))
        further = [path for frame in frames[: FRAME_LIMIT - 1] if (path := f"{item.path}#{frame}") not in listed]
        if len(frames) >= FRAME_LIMIT:
            ignored.append(Ignored(item.path, f"frames after the first {FRAME_LIMIT:,}"))
        rows += [item, *(item._replace(path=path) for path in further)]
        origin += [number] * (1 + len(further))
        files += [_file_of(source, item.path)] * (1 + len(further))
    return rows, {name: [texts[i] for i in origin] for name, texts in columns.items()} | {FILE_COLUMN: files}, ignored


def _file_of(source: ImageSource, path: str) -> str:
    file, frame = split_frame(path)
    return path if frame == 1 or source.stat(path) is not None else file


def _most_frames(paths: Iterable[str]) -> dict[str, int]:
    """Return the largest number of a frame of each file of which there are several."""
    most: dict[str, int] = {}
    for file, frame in map(split_frame, (path for path in paths if "#" in path)):
        if frame > 1:
            most[file] = max(frame, most.get(file, 1))
    return most


def _counts(source: ImageSource, paths: Sequence[str], known: Mapping[str, int]) -> Iterator[int | str]:
    """Yield the number of frames of each file, 1 for one that cannot be read, or why they are not counted."""

    def count(path: str) -> int | str:
        if path.lower().endswith(_ONE_PICTURE) or split_frame(path)[1] > 1:
            return 1
        content = source.read(path, max_bytes=byte_limit(MAX_PIXELS))
        if not isinstance(content, Failure):
            return frame_count(content.data, FRAME_LIMIT + 1)
        if content.code == "unreadable":
            return known.get(path, 1)
        too_large = content.code == "too_many_bytes"
        return f"further frames of a file above {byte_limit(MAX_PIXELS):,} bytes" if too_large else 1

    threads = threads_for(source)
    with closing(ahead(count, paths, workers=threads, window=2 * threads)) as counts:
        yield from counts

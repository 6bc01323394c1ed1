"""Image sources: a folder of image files, and the source of a location that the user gives."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from featurecache.images import archives, arrow_files
from featurecache.images.addresses import address_of
from featurecache.images.archives import ArchiveSource
from featurecache.images.arrow_files import ArrowSource
from featurecache.images.failures import Failure, Ignored
from featurecache.images.files import FileContent, Stat, read_file, stat_file
from featurecache.images.folder import is_folder, require_folder, walk
from featurecache.images.frames import read_image
from featurecache.images.guesses import guess_why_missing
from featurecache.images.image_source import ImageSource
from featurecache.images.names import decode_name, encode_name, shown_name
from featurecache.images.remote import RemoteSource
from featurecache.images.shards import ShardsSource
from featurecache.storage.platform import leads_out


@dataclass(frozen=True, slots=True)
class FolderSource(ImageSource):
    """Image files in a folder.

    A path is a file's name in the form of `featurecache.encode_name`. The name itself is understood as well.

    Parameters
    ----------
    root
        The folder that paths are relative to.
    confined
        Whether a path outside the folder (with ``..``, or absolute) is a failure. False for files that the user gives
        one by one.

    Examples
    --------
    >>> source = featurecache.FolderSource(images)
    >>> source.stat("train/dark/00.png").size < 1000
    True
    >>> source.read("../secret.png", max_bytes=1000).code
    'outside'
    """

    root: Path
    confined: bool = True

    @property
    def name(self) -> str:
        """The absolute path of the folder."""
        return str(self.root.absolute())

    def anywhere(self) -> Self:
        """Return the same source with the absolute path of the folder."""
        return replace(self, root=self.root.absolute())

    def stat(self, path: str) -> Stat | None:
        """Return the file's size and modification time; None if they cannot be read."""
        file = self._file(path)
        return None if isinstance(file, Failure) else stat_file(file)

    def read(self, path: str, *, max_bytes: int) -> FileContent | Failure:
        """Read a whole regular file, or return a failure; never wait for a pipe or a device."""
        file = self._file(path)
        return file if isinstance(file, Failure) else read_file(file, max_bytes=max_bytes)

    def list_images(self) -> tuple[list[str], list[Ignored]]:
        """Return the paths of the images below the folder, and of ignored files; see `featurecache.read_manifest`."""
        require_folder(self.root)
        return walk(os.fsencode(self.root))

    def has_file(self, name: bytes) -> bool:
        """Return whether there is a file of exactly this name below the folder."""
        return not leads_out(name) and b"\0" not in name and _exists(os.fsencode(self.root), name)

    def exists(self) -> bool:
        """Return whether the folder exists."""
        return is_folder(self.root)

    def locate(self, path: str) -> str:
        """Return the file's path."""
        file = self._file(path)
        return path if isinstance(file, Failure) else os.fsdecode(file)

    def guess(self, path: str) -> str:
        """Return what is likely wrong with a path; empty if there is a file."""
        return "" if os.path.lexists(self.locate(path)) else guess_why_missing(self.root, shown_name(path))

    def _file(self, path: str) -> bytes | Failure:
        """Return the file's name as bytes for the operating system."""
        try:
            literal, decoded = path.encode("utf-8"), decode_name(path)
        except UnicodeEncodeError:
            return Failure("bad_name", "the path has characters that a manifest does not allow")
        if self.confined and leads_out(decoded):
            return Failure("outside", "its path leads out of the folder of the images")
        root = os.fsencode(self.root)
        if (
            literal != decoded
            and (encode_name(decoded) != path or not _exists(root, decoded))
            and _exists(root, literal)
        ):
            decoded = literal
        return os.path.join(root, decoded)  # noqa: PTH118 - pathlib takes no bytes


def _exists(root: bytes, name: bytes) -> bool:
    return os.path.lexists(os.path.join(root, name))  # noqa: PTH118 - pathlib takes no bytes


def read_named_file(path: str | os.PathLike[str], *, max_bytes: int) -> FileContent | Failure:
    """Read a file that the user gave, in any folder or at an address, or a frame of it; see `read_image`."""
    address = address_of(path)
    if address:
        return read_image(RemoteSource.of_addresses([address]), encode_name(address.encode()), max_bytes=max_bytes)
    return read_image(FolderSource(Path(), confined=False), encode_name(os.fsencode(path)), max_bytes=max_bytes)


def recorded_source(location: str | None) -> ImageSource | None:
    """Return the source that a cache records, to show its images; None if there is none, or it is at an address.

    Who made the cache chose the address: it is asked only if the user names it.
    """
    source = None if location is None else open_source(location)
    return None if isinstance(source, RemoteSource) else source


_SOURCES: dict[str, Callable[[Path], ImageSource]] = {
    **dict.fromkeys(archives.SUFFIXES, ArchiveSource),
    **dict.fromkeys(arrow_files.SUFFIXES, ArrowSource),
}
"""The sources of files, by extension in lower case, such as ``".tar"``; all other locations are folders."""


def open_source(location: str | os.PathLike[str] | ImageSource) -> ImageSource:
    """Return the source of a location, which a cache's provenance records as ``images``.

    A given source is returned unchanged. Each kind of file that holds images has one line in `_SOURCES`.

    Examples
    --------
    >>> featurecache.open_source(images).exists()
    True
    """
    if isinstance(location, ImageSource):
        return location
    if address := address_of(location):
        return RemoteSource(address)
    path = Path(location)
    if is_folder(path):
        return ArrowSource.of_folder(path) or ShardsSource.of(path) or FolderSource(path)
    if shards := ShardsSource.of(path) if not os.path.lexists(path) else None:
        return shards
    if opener := _SOURCES.get(path.suffix.lower()):
        return opener(path)
    return ArchiveSource.within(path) or FolderSource(path)


def example_of(source: ImageSource, path: str) -> str:
    """Return in words where an image was looked for, and a guess at what is wrong with its path."""
    guess = source.guess(path)
    return f"the first is {shown_name(path)} in {source.name}{guess and f': {guess}'}"

"""Images in a ZIP or TAR file, which is read in place: nothing is unpacked to disk."""

import gzip
import lzma
import os
import stat
import tarfile
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Generic, NamedTuple, Self, TypeVar

from featurecache.errors import ManifestError
from featurecache.images.failures import Failure, UnusableImageError, check_bytes, one_line
from featurecache.images.files import FileContent, Stat, content_of, failure_of
from featurecache.images.folder import why_ignored
from featurecache.images.image_source import Ignored, ImageSource
from featurecache.images.names import encode_name

SUFFIXES = (".zip", ".tar", ".gz", ".tgz")
"""The suffixes of archives, in lower case."""

_LINK, _SPECIAL = "a link in an archive, which is not followed", "neither a file nor a folder"
_BAD_NAME, _OUTSIDE = "a name that is empty or has a NUL", "a name that leads out of the archive"
_REPLACED = "a later entry of the archive has the same name"
_ENCRYPTED = "encrypted; make the archive again without a password"
_SPARSE = "a sparse file; make the archive again without --sparse"
_CUT = "the archive ends here without its end mark, and what may have followed is missing; copy it again"
_DAMAGED = "the archive is damaged here, and what stood here is missing; copy it again"
_BAD_CHECKSUM = "the checksum of the compressed archive does not fit, so images in it may be damaged; copy it again"

_BLOCK = tarfile.BLOCKSIZE
_LONGEST_HEADER = 1 << 20  # bytes; a TAR header holds a name, and may claim any length
_SEEK_POINTS = 1 << 22  # bytes between the places of a compressed file from which reading can begin
_CHUNK = 1 << 20
_OPEN_ARCHIVES = 8
_UTF8_NAME, _ENCRYPTED_ENTRY = 0x800, 0x1  # general purpose flags of a ZIP entry (APPNOTE.TXT, 4.4.4)
_MADE_ON_WINDOWS = 0  # the system that made a ZIP entry (APPNOTE.TXT, 4.4.2)
_OTHER_COMPRESSION = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "RAR",
}
_DAMAGES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class ArchiveSource(ImageSource):
    """Images in a ``.zip``, ``.tar``, ``.tar.gz`` or ``.tgz`` file, read in place.

    The first bytes decide which of them it is. Every process that reads from it keeps the list of its entries, about
    500 bytes for each. A compressed TAR file is decompressed twice for this, and reading an image from it
    decompresses up to 4 MB more than the image.

    Parameters
    ----------
    archive
        The file.
    folder
        The folder in the archive that paths are relative to, with ``/`` between its parts; "" for all of the archive.

    Examples
    --------
    >>> import zipfile
    >>> with zipfile.ZipFile(folder / "photos.zip", "w") as file:
    ...     file.write(images / "train/dark/00.png", "dark/00.png")
    >>> source = featurecache.open_source(folder / "photos.zip")
    >>> source.list_images()[0]
    ['dark/00.png']
    """

    archive: Path
    folder: str = ""

    @classmethod
    def within(cls, location: Path) -> Self | None:
        """Return the source of a folder in an archive, such as ``photos.zip/train``; None if the path is none."""
        for place in location.parents:
            if place.suffix.lower() in SUFFIXES and _is_file(place):
                return cls(place, location.relative_to(place).as_posix())
        return None

    @property
    def name(self) -> str:
        """The absolute path of the archive, and of the folder in it."""
        return os.fspath(self.archive.absolute() / self.folder)

    def anywhere(self) -> Self:
        """Return the same source with the absolute path of the archive."""
        return replace(self, archive=self.archive.absolute())

    def stat(self, path: str) -> Stat | None:
        """Return the size of an image and the modification time of the archive; None if they cannot be read."""
        try:
            opened = _opened(self.archive)
        except ManifestError:
            return None
        found = opened.images.get(self._inside(path))
        return None if found is None else Stat(found[0], opened.mtime_ns)

    def read(self, path: str, *, max_bytes: int) -> FileContent | Failure:
        """Read an image, or return a failure."""
        try:
            return self._read(path, max_bytes)
        except (*_DAMAGES, KeyError, ManifestError, MemoryError, UnusableImageError) as e:
            return _failure_of(e)

    def _read(self, path: str, max_bytes: int) -> FileContent | Failure:
        opened = _opened(self.archive)
        size, place = opened.images[self._inside(path)]
        check_bytes(size, max_bytes)
        data = opened.read(place, size)
        if len(data) < size:
            return Failure("unreadable", "the archive ends before the end of this entry; copy it again")
        if opened.identity != _identity(self.archive):
            return Failure("changed", "the archive changed while it was being read")
        return content_of(data, max_bytes=max_bytes, mtime_ns=opened.mtime_ns)

    def list_images(self) -> tuple[list[str], list[Ignored]]:
        """Return the paths of the images in the archive, and of ignored entries.

        Raises
        ------
        ManifestError
            If the file does not exist, cannot be read, or is not an archive of a kind that is known.
        """
        opened, above = _opened(self.archive), self._inside("")
        images = [path.removeprefix(above) for path in opened.images if path.startswith(above)]
        ignored = [item for item in opened.ignored if item.path.startswith(above)]
        return images, opened.damage + [Ignored(item.path.removeprefix(above), item.reason) for item in ignored]

    def exists(self) -> bool:
        """Return whether the archive is a file."""
        return _is_file(self.archive)

    def _inside(self, path: str) -> str:
        return f"{self.folder}/{path}" if self.folder else path


def _failure_of(error: Exception) -> Failure:
    """Return the failure of an image that could not be read from an archive."""
    if isinstance(error, UnusableImageError):
        return error.failure
    if isinstance(error, OSError) and error.errno is not None:
        return failure_of(error)
    if isinstance(error, ManifestError):
        return Failure("unreadable", "its archive is no longer there, or is damaged")
    reasons: dict[type[Exception], Failure] = {
        KeyError: Failure("not_found", "no such file in the archive"),
        MemoryError: Failure("out_of_memory", "not enough memory to read the file"),
        NotImplementedError: Failure(
            "unreadable", "compressed in a way that is not read; make the archive again with deflate"
        ),
    }
    return reasons.get(type(error), Failure("unreadable", "its entry in the archive is damaged"))


class _Entry(NamedTuple):
    """An entry of an archive: its name, its length in bytes, its place, and why it is left out if it is."""

    name: bytes
    size: int = 0
    place: Any = None
    fault: str = ""


_Stream = IO[bytes] | gzip.GzipFile
_Place = TypeVar("_Place")


class _Archive(ABC, Generic[_Place]):
    """An open archive.

    Attributes
    ----------
    images : dict
        The path of each image to its length and its place.
    ignored : list
        The entries that are left out.
    damage : list
        Where something is missing or damaged.
    """

    def __init__(self, path: Path, identity: tuple[int, ...]) -> None:
        self.path, self.identity, self.mtime_ns = path, identity, identity[-1]
        self.images: dict[str, tuple[int, _Place]] = {}
        self.ignored: list[Ignored] = []
        self.damage: list[Ignored] = []
        for entry in self.entries():
            name, fault = _plain_name(entry.name)
            path_in = encode_name(name)
            if fault := entry.fault or fault or why_ignored(name):
                self.ignored.append(Ignored(path_in, fault))
                continue
            if path_in in self.images:
                self.ignored.append(Ignored(path_in, _REPLACED))
            self.images[path_in] = entry.size, entry.place

    @abstractmethod
    def entries(self) -> Iterator[_Entry]:
        """Yield the entries that are no folders; note damage."""

    @abstractmethod
    def read(self, place: _Place, size: int) -> bytes:
        """Return the bytes of an entry, at most ``size``; several threads call it."""


class _Zip(_Archive[zipfile.ZipInfo]):
    def entries(self) -> Iterator[_Entry]:
        self._zip = zipfile.ZipFile(self.path)
        self._lock = threading.Lock()
        for info in self._zip.infolist():
            name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437")
            if info.create_system == _MADE_ON_WINDOWS and b"/" not in name:
                name = name.replace(b"\\", b"/")
            if name.endswith(b"/"):
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            fault = _LINK if kind == stat.S_IFLNK else "" if kind in {0, stat.S_IFREG} else _SPECIAL
            yield _Entry(name, info.file_size, info, _ENCRYPTED if info.flag_bits & _ENCRYPTED_ENTRY else fault)

    def read(self, place: zipfile.ZipInfo, size: int) -> bytes:
        with self._lock:  # `ZipFile` counts its open entries without a lock
            entry = self._zip.open(place)
        try:
            return entry.read(size)
        finally:
            with self._lock:
                entry.close()


class _Tar(_Archive[int]):
    def entries(self) -> Iterator[_Entry]:
        end = 0
        with self.stream() as stream:
            headers = _Headers(stream)
            while (info := headers.next()) is not None:
                if info.offset > end and any(self._block(end)):
                    self._note(end, _DAMAGED)
                end = info.offset_data + (-(-info.size // _BLOCK) * _BLOCK if info.isreg() else 0)
                if not info.isdir():
                    name = info.name.encode("utf-8", "surrogateescape")
                    fault = "" if info.isreg() else _LINK if info.issym() or info.islnk() else _SPECIAL
                    yield _Entry(name, info.size, info.offset_data, _SPARSE if info.issparse() else fault)
            mark = self._block(end)
            if len(mark) < _BLOCK or any(mark):
                self._note(end, _CUT if len(mark) < _BLOCK else _DAMAGED)
            elif not self.is_whole(stream):
                self._note(0, _BAD_CHECKSUM)

    def _note(self, place: int, reason: str) -> None:
        self.damage.append(Ignored(f"byte {place}", reason))

    def _block(self, place: int) -> bytes:
        """Return the block at a place; less if the file ends before its end, or cannot be read there."""
        try:
            return self.read(place, _BLOCK)
        except _DAMAGES:
            return b""

    def is_whole(self, stream: _Stream) -> bool:
        """Read the rest of a stream; return whether the file is whole, as far as it has a checksum."""
        del stream
        return True

    def stream(self) -> _Stream:
        """Return the bytes of the archive without compression, to be read from beginning to end."""
        return self.path.open("rb")

    def read(self, place: int, size: int) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(place)
            return stream.read(size)


class _CompressedTar(_Tar):
    def __init__(self, path: Path, identity: tuple[int, ...]) -> None:
        import indexed_gzip

        self._bytes = indexed_gzip.IndexedGzipFile(os.fspath(path), spacing=_SEEK_POINTS, skip_crc_check=True)
        self._lock = threading.Lock()
        super().__init__(path, identity)

    def stream(self) -> _Stream:
        return gzip.open(self.path)

    def is_whole(self, stream: _Stream) -> bool:
        try:
            while stream.read(_CHUNK):
                pass
        except _DAMAGES:
            return False
        return True

    def read(self, place: int, size: int) -> bytes:
        with self._lock:
            self._bytes.seek(place)
            data: bytes = self._bytes.read(size)
            return data


class _Headers:
    """The headers of a TAR file, also those that follow damage."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        # with `ignore_zeros` the list goes on after a damaged header
        self._tar = tarfile.TarFile(fileobj=self, mode="r", ignore_zeros=True)  # type: ignore[arg-type]

    def next(self) -> tarfile.TarInfo | None:
        """Return the next header; None at the end."""
        while True:
            try:
                found = self._tar.next()
            except _DAMAGES:
                self._tar.offset += _BLOCK
                if not self._reaches(self._tar.offset):
                    return None
            else:
                self._tar.members.clear()  # type: ignore[attr-defined] # it keeps an object for each entry
                return found

    def read(self, size: int) -> bytes:
        """Read as a file does, for `TarFile`."""
        if size > _LONGEST_HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        return self._stream.read(size)

    def seek(self, place: int) -> None:
        """Seek as a file does, for `TarFile`."""
        self._stream.seek(place)

    def tell(self) -> int:
        """Return the place as a file does, for `TarFile`."""
        return self._stream.tell()

    def _reaches(self, length: int) -> bool:
        """Whether the stream can be read up to a length."""
        try:
            self._stream.seek(length - 1)
            return bool(self._stream.read(1))
        except _DAMAGES:
            return False


def _plain_name(name: bytes) -> tuple[bytes, str]:
    """Return the name of an entry without needless parts, and what is wrong with it, if anything is."""
    parts = name.split(b"/")
    if b".." in parts or name.startswith(b"/"):
        return name, _OUTSIDE
    plain = b"/".join(part for part in parts if part not in {b"", b"."})
    return plain, _BAD_NAME if not plain or b"\0" in plain else ""


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - pathlib raises where permission is missing


def _identity(path: Path) -> tuple[int, ...]:
    """Return what differs once a file was changed or exchanged; the modification time is the last."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


_opening = threading.Lock()


def _opened(path: Path) -> _Archive[Any]:
    """Return an archive as it is now; it is opened once, unless it changes.

    Raises
    ------
    ManifestError
        If it does not exist, cannot be read, or is not an archive.
    """
    path = path.absolute()
    try:
        with _opening:
            return _open(path, _identity(path))
    except ManifestError:
        raise
    except FileNotFoundError as e:
        raise ManifestError(f"{path} does not exist; expected a ZIP or TAR file of images") from e
    except (zipfile.BadZipFile, NotImplementedError) as e:
        raise ManifestError(
            f"{path} has no list of entries, which a ZIP file has at its end: it was cut, or is still being written; "
            "copy it again, or repair it with zip -FF"
        ) from e
    except _DAMAGES as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e) or type(e).__name__
        raise ManifestError(f"{path} cannot be read: {one_line(reason).lower()}; copy it again") from e


@lru_cache(_OPEN_ARCHIVES)
def _open(path: Path, identity: tuple[int, ...]) -> _Archive[Any]:
    if not _is_file(path):
        raise ManifestError(f"{path} is not a regular file; expected a ZIP or TAR file of images")
    with path.open("rb") as stream:
        start = stream.read(_BLOCK)
    if start.startswith(b"PK"):
        return _Zip(path, identity)
    kind = _CompressedTar if start.startswith(b"\x1f\x8b") else _Tar
    if kind is _CompressedTar:
        with gzip.open(path) as stream:
            start = stream.read(_BLOCK)
    if _is_tar(start):
        return kind(path, identity)
    if not identity[2]:
        raise ManifestError(f"{path} is empty (0 bytes); expected a ZIP or TAR file of images")
    other = next((name for magic, name in _OTHER_COMPRESSION.items() if start.startswith(magic)), None)
    found = f"is compressed with {other}, which is not read" if other else "is neither a ZIP nor a TAR file"
    raise ManifestError(f"{path} {found}; pack its images as .zip, .tar or .tar.gz, or give the folder that holds them")


def _is_tar(block: bytes) -> bool:
    """Whether a block is the first one of a TAR file, which may be empty."""
    try:
        return len(block) == _BLOCK and (
            not any(block) or bool(tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape"))
        )
    except tarfile.HeaderError:
        return False

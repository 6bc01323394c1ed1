"""Images in a ZIP or TAR file, which is read in place: nothing is unpacked to disk."""

import gzip
import os
import stat
import tarfile
import threading
import weakref
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Generic, NamedTuple, Self, TypeVar

from featurecache.errors import ManifestError
from featurecache.images import samples
from featurecache.images.failures import Failure, Ignored, UnusableImageError, check_bytes, one_line
from featurecache.images.files import FileContent, Stat, content_of, failure_of
from featurecache.images.folder import why_ignored
from featurecache.images.image_source import ImageSource
from featurecache.images.names import decode_name, encode_name
from featurecache.images.samples import SampleTable, Shard, has_samples

SUFFIXES = (".zip", ".tar", ".gz", ".tgz")
"""The suffixes of archives, in lower case."""

_LINK, _SPECIAL = "a link in an archive, which is not followed", "neither a file nor a folder"
_BAD_NAME, _OUTSIDE = "a name that is empty or has a NUL", "a name that leads out of the archive"
_REPLACED = "a later member of the archive has the same name"
_ENCRYPTED = "encrypted; make the archive again without a password"
_SPARSE = "a sparse file; make the archive again without --sparse"
_COMPRESSED = "compressed in a way that is not read; make the archive again with deflate"
_CUT = "the archive ends before this byte, without its end mark, and what may have followed is missing; copy it again"
_NO_LIST = (
    "has no list of members, which a ZIP file has at its end: it was cut, or is still being written; copy it again, or "
    "repair it with zip -FF"
)
_DAMAGED = "the archive is damaged here, and what stood here is missing; copy it again"
_AFTER_END = "bytes after the end mark of the archive, which are not read"
_BAD_CHECKSUM = "the checksum of the compressed archive does not fit, so images in it may be damaged; copy it again"

_BLOCK = tarfile.BLOCKSIZE
_LONGEST_HEADER = 1 << 20  # bytes; an extended header holds names, and may claim any length
_SEEK_POINTS = 1 << 22  # bytes between the places of a compressed file from which reading can begin; each takes 32 KB
_CHUNK = 1 << 18
_OPEN_ARCHIVES = 8
_ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")  # a member, no member, one of several volumes
_GZIP = b"\x1f\x8b"
_UTF8_NAME, _ENCRYPTED_MEMBER = 0x800, 0x1  # general purpose flags of a ZIP member (APPNOTE.TXT, 4.4.4)
_MADE_ON_WINDOWS = 0  # the system that made a ZIP member (APPNOTE.TXT, 4.4.2)
_OTHER_COMPRESSION = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "RAR",
}
_PAX, _LONG_NAME = b"x", b"L"
_OF_NEXT = frozenset({_PAX, _LONG_NAME, b"g", b"K"})  # types of TAR headers that describe members that follow
_IS_EXTENDED, _IS_CONTINUED = 482, 504  # bytes of headers of GNU sparse files: whether another block of the map follows
_LENGTH_DIGITS = 8  # of a record of an extended header, at most
_DAMAGES = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class ArchiveSource(ImageSource):
    """Images in a ``.zip``, ``.tar``, ``.tar.gz`` or ``.tgz`` file, read in place.

    The first bytes decide which of them it is. Every process that reads from it keeps the list of its images, about
    500 bytes for each. A compressed TAR file is decompressed twice for this, and 8 MB are kept for each GB of it;
    reading an image from it decompresses up to 4 MB more than the image.

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
                return cls(place, encode_name(os.fsencode(location.relative_to(place).as_posix())))
        return None

    @property
    def name(self) -> str:
        """The absolute path of the archive, and of the folder in it."""
        return os.fspath(self.archive.absolute() / os.fsdecode(decode_name(self.folder)))

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
            return Failure("unreadable", "the archive ends before the end of this image; copy it again")
        if opened.identity != _identity(self.archive):
            return Failure("changed", "the archive changed while it was being read")
        return content_of(data, max_bytes=max_bytes, mtime_ns=opened.mtime_ns)

    def table(self) -> SampleTable | None:
        """Return the images with the texts beside them if these are samples as WebDataset has them, else None."""
        shard = self.shard()
        return SampleTable(f"the archive {self.name}", [shard]) if has_samples(shard.images, shard.beside) else None

    def shard(self, prefix: str = "", split: str = "") -> Shard:
        """Return the images of the archive and the files beside them, as a shard with these paths and this split.

        Raises
        ------
        ManifestError
            As `list_images`.
        """
        opened, above = _opened(self.archive), self._inside("")
        images, ignored = self._listed(opened)

        def read(path: str) -> bytes:
            try:
                size, place = opened.beside[above + path]
                return opened.read(place, size)
            except _DAMAGES as e:
                raise OSError from e

        beside = [path.removeprefix(above) for path in opened.beside if path.startswith(above)]
        return Shard(prefix, split, images, beside, read, ignored)

    def list_images(self) -> tuple[list[str], list[Ignored]]:
        """Return the paths of the images in the archive, and of ignored entries.

        Raises
        ------
        ManifestError
            If the file does not exist, cannot be read, or is not an archive of a kind that is known.
        """
        opened, above = _opened(self.archive), self._inside("")
        images, ignored = self._listed(opened)
        beside = [path.removeprefix(above) for path in opened.beside if path.startswith(above)]
        return images, ignored + [Ignored(path, why_ignored(path.encode())) for path in beside]

    def _listed(self, opened: "_Archive[Any]") -> tuple[list[str], list[Ignored]]:
        """Return the paths of the images in the folder, and what is left out whatever the files beside them are."""
        above = self._inside("")
        images = [path.removeprefix(above) for path in opened.images if path.startswith(above)]
        ignored = [item for item in opened.ignored if item.path.startswith(above)]
        return images, opened.damage + [Ignored(item.path.removeprefix(above), item.reason) for item in ignored]

    def exists(self) -> bool:
        """Return whether the archive is a file, and has images in the folder."""
        try:
            return _is_file(self.archive) and (not self.folder or bool(self.list_images()[0]))
        except ManifestError:
            return True  # listing the images tells what is wrong

    def _inside(self, path: str) -> str:
        return f"{self.folder}/{path}" if self.folder else path


def _failure_of(error: Exception) -> Failure:
    """Return the failure of an image that could not be read from an archive."""
    if isinstance(error, UnusableImageError):
        return error.failure
    if isinstance(error, KeyError):
        return Failure("not_found", "no such file in the archive")
    if isinstance(error, MemoryError):
        return Failure("out_of_memory", "not enough memory to read the file")
    if isinstance(error, OSError) and error.errno is not None:
        return failure_of(error)
    if isinstance(error, _ArchiveError):
        return Failure("unreadable", one_line(f"its archive {error.fault}"))
    return Failure("unreadable", "its bytes in the archive are damaged")


class _ArchiveError(ManifestError):
    """The file is no archive that can be read."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"{path} {fault}")
        self.fault = fault


class _Member(NamedTuple):
    """A member of an archive: its name, its length in bytes, its place, and why it is left out if it is."""

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
    beside : dict
        The same for files that may belong to an image, such as its label; see `featurecache.images.samples`.
    ignored : list
        The members that are left out.
    damage : list
        Where something is missing or damaged.
    """

    def __init__(self, path: Path, identity: tuple[int, ...]) -> None:
        self.path, self.identity, self.mtime_ns = path, identity, identity[_TIME]
        self.images: dict[str, tuple[int, _Place]] = {}
        self.beside: dict[str, tuple[int, _Place]] = {}
        self.ignored: list[Ignored] = []
        self.damage: list[Ignored] = []
        for member in self.members():
            name, fault = _plain_name(member.name)
            path_in = encode_name(name)
            fault = member.fault or fault
            is_beside = not fault and _is_beside(name, member.size)
            if not is_beside and (fault := fault or why_ignored(name)):
                self.ignored.append(Ignored(path_in, fault))
                continue
            files = self.beside if is_beside else self.images
            if path_in in files:
                self.ignored.append(Ignored(path_in, _REPLACED))
            files[path_in] = member.size, member.place

    @abstractmethod
    def members(self) -> Iterator[_Member]:
        """Yield the members that are no folders; note damage."""

    @abstractmethod
    def read(self, place: _Place, size: int) -> bytes:
        """Return the bytes of a member, at most ``size``; several threads call it."""


def _is_beside(name: bytes, size: int) -> bool:
    """Return whether a member may belong to an image, and is small enough to be read."""
    is_hidden = name.startswith(b".") or b"/." in name
    return not is_hidden and size <= samples.LARGEST and os.fsdecode(name).lower().endswith(samples.SUFFIXES)


class _Zip(_Archive[zipfile.ZipInfo]):
    def members(self) -> Iterator[_Member]:
        self._zip = zipfile.ZipFile(self.path)
        self._lock = threading.Lock()
        for info in self._zip.infolist():
            name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437")
            if info.create_system == _MADE_ON_WINDOWS and b"/" not in name:
                name = name.replace(b"\\", b"/")
            if not name.endswith(b"/"):
                yield _Member(name, info.file_size, info, self._fault(info))

    @staticmethod
    def _fault(info: zipfile.ZipInfo) -> str:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in {0, stat.S_IFREG}:
            return _LINK if kind == stat.S_IFLNK else _SPECIAL
        if info.flag_bits & _ENCRYPTED_MEMBER:
            return _ENCRYPTED
        # `ZipExtFile` bounds what it decompresses at once for these alone
        return "" if info.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} else _COMPRESSED

    def read(self, place: zipfile.ZipInfo, size: int) -> bytes:
        with self._lock:  # `ZipFile` counts its open members without a lock
            member = self._zip.open(place)
        try:
            return member.read(size)
        finally:
            with self._lock:
                member.close()


class _Tar(_Archive[int]):
    """A TAR file, read block by block: `tarfile` stops at damage, and some headers make it read without end."""

    def members(self) -> Iterator[_Member]:
        with self.stream() as stream:
            blocks = _Blocks(stream)
            name, records = b"", dict[bytes, bytes]()
            for info in self._headers(blocks):
                if info.type in _OF_NEXT:
                    place = blocks.place - _BLOCK
                    data = blocks.next(info.size)
                    blocks.skip(-info.size % _BLOCK)
                    if info.type == _LONG_NAME:
                        name = data.partition(b"\0")[0]
                    elif info.type == _PAX and (found := _pax_records(data)) is not None:
                        records = found
                    elif info.type == _PAX:
                        self._note(place, _DAMAGED)
                    continue
                size = int(records.get(b"size", info.size))
                is_sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(b"GNU.sparse") for key in records)
                if not info.isdir():
                    kind = "" if info.isreg() else _LINK if info.issym() or info.islnk() else _SPECIAL
                    own_name = records.get(b"path") or name or info.name.encode("utf-8", "surrogateescape")
                    yield _Member(own_name, size, blocks.place, _SPARSE if is_sparse else kind)
                if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES:  # others have no data, whatever their size
                    blocks.skip(-(-size // _BLOCK) * _BLOCK)
                name, records = b"", {}
            self._check_end(blocks)

    def _headers(self, blocks: "_Blocks") -> Iterator[tarfile.TarInfo]:
        """Yield the headers up to the end mark, which is two blocks of zeros; note damage, once where it begins."""
        sound, zeros = True, 0
        while len(block := blocks.next()) == _BLOCK:
            place = blocks.place - _BLOCK
            info = _header(block)
            if info is None and not any(block):
                zeros += 1
                if sound and zeros == 2:  # noqa: PLR2004 - the end mark
                    return
                continue
            if sound and (info is None or zeros):
                self._note(place - zeros * _BLOCK, _DAMAGED)
            sound, zeros = info is not None, 0
            if info is not None:
                extended = info.type == tarfile.GNUTYPE_SPARSE and block[_IS_EXTENDED]
                while extended and len(more := blocks.next()) == _BLOCK:
                    extended = more[_IS_CONTINUED]
                yield info
        if sound:
            self._note(blocks.place, _CUT)

    def _note(self, place: int, reason: str) -> None:
        self.damage.append(Ignored(f"byte {place}", reason))

    def _check_end(self, blocks: "_Blocks") -> None:
        """Note what follows the end mark."""
        place = blocks.place
        while chunk := blocks.next(_CHUNK):
            if chunk.count(0) < len(chunk):
                self._note(place, _AFTER_END)
                break
        else:
            if blocks.is_broken and not self.damage:
                self._note(0, _BAD_CHECKSUM)

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

        file = path.open("rb")  # a name in place of a file is opened again and again, and one that is not UTF-8 crashes
        weakref.finalize(self, file.close)
        self._bytes = indexed_gzip.IndexedGzipFile(
            fileobj=file, spacing=_SEEK_POINTS, buffer_size=_CHUNK, skip_crc_check=True
        )
        self._lock = threading.Lock()
        super().__init__(path, identity)

    def stream(self) -> _Stream:
        return gzip.open(self.path)

    def read(self, place: int, size: int) -> bytes:
        with self._lock:
            self._bytes.seek(place)
            data: bytes = self._bytes.read(size)
            return data


class _Blocks:
    """The blocks of a TAR file, in order.

    Attributes
    ----------
    place : int
        Where the next block begins, also if the file ends before it.
    is_broken : bool
        Whether the file could not be read to its end.
    """

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self.place = 0
        self.is_broken = False

    def next(self, size: int = _BLOCK) -> bytes:
        """Return the next bytes; fewer if the file ends before, or cannot be read."""
        try:
            data = self._stream.read(size)
        except _DAMAGES:
            self.is_broken = True
            return b""
        self.place += len(data)
        return data

    def skip(self, size: int) -> None:
        """Skip the next bytes."""
        self.place += size
        with suppress(*_DAMAGES, OverflowError):
            self._stream.seek(self.place)


def _header(block: bytes) -> tarfile.TarInfo | None:
    """Return a header; None if the block is none, or claims a length that it cannot have."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError):
        return None
    return None if info.size < 0 or (info.type in _OF_NEXT and info.size > _LONGEST_HEADER) else info


def _pax_records(data: bytes) -> dict[bytes, bytes] | None:
    """Return the records of an extended header (POSIX pax: ``LENGTH KEY=VALUE`` and a line end); None if damaged."""
    records, start = dict[bytes, bytes](), 0
    while start < len(data):
        digits = data[start : start + _LENGTH_DIGITS].partition(b" ")[0]
        end = start + int(digits) if digits.isdigit() else 0
        key, equals, value = data[start + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or end > len(data):
            return None
        records[key] = value
        start = end
    return records if records.get(b"size", b"0").isdigit() else None


def _plain_name(name: bytes) -> tuple[bytes, str]:
    """Return the name of a member without needless parts, and what is wrong with it, if anything is."""
    parts = name.split(b"/")
    if b".." in parts or name.startswith(b"/"):
        return name, _OUTSIDE
    plain = b"/".join(part for part in parts if part not in {b"", b"."})
    return plain, _BAD_NAME if not plain or b"\0" in plain else ""


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - pathlib raises where permission is missing


def _identity(path: Path) -> tuple[int, ...]:
    """Return what differs once a file was changed or exchanged; `_SIZE` and `_TIME` are places in it."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


_SIZE, _TIME = 2, 3


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
    except _ArchiveError:
        raise
    except FileNotFoundError as e:
        raise _ArchiveError(path, "does not exist; expected a ZIP or TAR file of images") from e
    except zipfile.BadZipFile as e:
        has_no_list = "not a zip file" in str(e)
        raise _ArchiveError(path, _NO_LIST if has_no_list else f"is damaged: {one_line(str(e))}; copy it again") from e
    except (*_DAMAGES, MemoryError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e) or type(e).__name__
        raise _ArchiveError(path, f"cannot be read: {one_line(reason).lower()}") from e


@lru_cache(_OPEN_ARCHIVES)
def _open(path: Path, identity: tuple[int, ...]) -> _Archive[Any]:
    if not _is_file(path):
        raise _ArchiveError(path, "is not a regular file; expected a ZIP or TAR file of images")
    with path.open("rb") as stream:
        start = stream.read(_BLOCK)
    if start.startswith(_ZIP):
        return _Zip(path, identity)
    kind = _CompressedTar if start.startswith(_GZIP) else _Tar
    if kind is _CompressedTar:
        with gzip.open(path) as stream:
            start = stream.read(_BLOCK)
    if len(start) == _BLOCK and (_header(start) or not any(start)):
        return kind(path, identity)
    if not identity[_SIZE]:
        raise _ArchiveError(path, "is empty (0 bytes); expected a ZIP or TAR file of images")
    other = next((name for magic, name in _OTHER_COMPRESSION.items() if start.startswith(magic)), None)
    found = f"is compressed with {other}, which is not read" if other else "is neither a ZIP nor a TAR file"
    raise _ArchiveError(path, f"{found}; pack its images as .zip, .tar or .tar.gz, or give the folder that holds them")

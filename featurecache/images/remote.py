"""Images in buckets and on the web as a source: folders of buckets, and addresses that a table lists."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from urllib.parse import quote

from featurecache.errors import ManifestError
from featurecache.images.addresses import EXPECTED, WEB, checked, is_address
from featurecache.images.failures import Failure, Ignored, UnusableImageError
from featurecache.images.files import FileContent, Stat, content_of
from featurecache.images.folder import why_ignored
from featurecache.images.image_source import ImageSource
from featurecache.images.names import decode_name, encode_name, shown_name
from featurecache.images.remote_stores import AT_ONCE, Store, store_of

Answer = TypeVar("Answer")

_NO_FOLDER = "a name with an empty part, . or .., which no folder can have"
_WHOLE_FILES = (".zip", ".tar", ".gz", ".tgz", ".parquet", ".arrow", ".csv", ".tsv", ".txt")
_LISTED_SECONDS = 600.0
_REMEDIES = {
    "no_permission": "; credentials are taken from where the libraries look for them, such as the environment and "
    "~/.aws; for a public bucket set FSSPEC_S3_ANON=true",
}


@dataclass(slots=True)
class _Listing:
    """Sizes and numbers of entity tags as they were listed, and the time of `time.monotonic` until which they count."""

    images: dict[str, Stat] = field(default_factory=dict)
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class RemoteSource(ImageSource):
    """Images at addresses.

    An unchanged image is known by its size and its entity tag: `stat` gives a number of the tag in the place of the
    time. Threads that ask for one image at the same time, as for the frames of a file and the views of an image, share
    one request.

    Parameters
    ----------
    address
        What paths are relative to, such as ``s3://photos/cats``; a scheme alone, such as ``s3://``, if paths are
        addresses themselves.

    Examples
    --------
    >>> source = RemoteSource("s3://photos/cats")
    >>> source.locate("1.jpg")
    's3://photos/cats/1.jpg'
    """

    address: str
    _listing: _Listing = field(default_factory=_Listing, repr=False, compare=False)
    _asking: dict[object, Future[Any]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of_addresses(cls, addresses: Sequence[str]) -> Self:
        """Return the source whose paths are addresses themselves."""
        return cls(min(address.partition("://")[0].lower() for address in addresses) + "://")

    @property
    def at_once(self) -> int:
        """How many images to read at the same time at least."""
        return AT_ONCE

    @property
    def name(self) -> str:
        """The address."""
        return self.address

    def anywhere(self) -> Self:
        """Return the same source without what it knows from listing."""
        return type(self)(self.address)

    def stat(self, path: str) -> Stat | None:
        """Return the size and a number of the entity tag: soon after listing as listed, then as the server has them."""
        if (listed := self._listing.images.get(path)) and time.monotonic() < self._listing.until:
            return listed
        return self._shared(path, lambda: self._stat(path))

    def read(self, path: str, *, max_bytes: int) -> FileContent | Failure:
        """Read an image, or return a failure.

        Raises
        ------
        ManifestError
            If a bucket does not answer any more, or a package is missing.
        """
        return self._shared((path, max_bytes), lambda: self._read(path, max_bytes))

    def list_images(self) -> tuple[list[str], list[Ignored]]:
        """Return the paths of the images in a folder of a bucket, and of ignored objects.

        Raises
        ------
        ManifestError
            If it does not exist, cannot be listed, or is on the web.
        """
        scheme, _, folder = self.address.partition("://")
        suffix = next((suffix for suffix in _WHOLE_FILES if folder.lower().endswith(suffix)), None)
        if suffix:
            raise ManifestError(f"{self.address} is read as a whole; copy it to this machine, and give the copy")
        if scheme in WEB:
            raise ManifestError(
                f"{self.address} cannot be listed, as nothing on the web can; list the addresses of its images in a "
                ".txt or .csv file, and give that"
            )
        if not folder:
            raise ManifestError(f"{self.address} names no bucket; expected {EXPECTED}")
        store = store_of(scheme)
        try:
            found = store.find(folder)
        except UnusableImageError as e:
            what = "does not exist" if e.failure.code == "not_found" else "cannot be listed"
            reason = e.failure.reason + _REMEDIES.get(e.failure.code, "")
            raise ManifestError(f"{self.address} {what}: {reason}") from e
        if not found and "/" in folder:
            what = "is one object, not a folder" if store.stat(folder) else "does not exist: no name begins with it"
            raise ManifestError(f"{self.address} {what}; expected a folder of images in a bucket")
        images, ignored = [], []
        for name, stat in found:
            key = name[len(folder) + 1 :]
            if not key or key.endswith("/"):
                continue  # stands for a folder
            path = encode_name(key.encode("utf-8", "surrogateescape"))
            is_folder = {"", ".", ".."}.isdisjoint(key.split("/")) and "\0" not in key
            if reason := why_ignored(key.encode("utf-8", "surrogateescape")) if is_folder else _NO_FOLDER:
                ignored.append(Ignored(path, reason))
                continue
            images.append(path)
            if stat:
                self._listing.images[path] = stat
        self._listing.until = time.monotonic() + _LISTED_SECONDS
        return images, ignored

    def has_file(self, name: bytes) -> bool:
        """Return False: while a table is read, nothing is asked for."""
        del name
        return False

    def exists(self) -> bool:
        """Return whether there is such a folder, as far as that can be told."""
        scheme, _, folder = self.address.partition("://")
        return not folder or store_of(scheme).has_folder(folder)

    def locate(self, path: str) -> str:
        """Return the address of an image."""
        return f"{self.address}/{shown_name(path)}" if self._is_root else shown_name(path)

    def _shared(self, key: object, request: Callable[[], Answer]) -> Answer:
        """Return the answer of a request, or that of the same one which another thread is waiting for."""
        own: Future[Answer] = Future()
        first: Future[Answer] = self._asking.setdefault(key, own)
        if first is own:
            try:
                own.set_result(request())
            except BaseException as e:  # noqa: BLE001 - each thread that waits raises it
                own.set_exception(e)
            finally:
                del self._asking[key]
        return first.result()

    def _stat(self, path: str) -> Stat | None:
        try:
            store, place = self._place(path)
            return store.stat(place)
        except UnusableImageError:
            return None

    def _read(self, path: str, max_bytes: int) -> FileContent | Failure:
        try:
            store, place = self._place(path)
            data, stat = store.read(place, max_bytes)
        except UnusableImageError as e:
            return e.failure
        return content_of(data, max_bytes=max_bytes, mtime_ns=stat.mtime_ns if stat else -1)

    @property
    def _is_root(self) -> bool:
        return not self.address.endswith("://")

    def _place(self, path: str) -> tuple[Store, str]:
        """Return the store of an image, and its place there."""
        try:
            name = decode_name(path).decode("utf-8")
        except UnicodeError as e:
            raise UnusableImageError("bad_name", "a name that is not UTF-8, as all names of buckets are") from e
        if self._is_root:
            if name.startswith("/") or ".." in name.split("/"):
                raise UnusableImageError("outside", "its path leads out of the folder of the images")
            scheme, _, root = self.address.partition("://")
            return store_of(scheme), f"{root}/{quote(name) if scheme in WEB else name}"
        if not is_address(name):
            raise UnusableImageError("bad_name", f"not an address; expected {EXPECTED}")
        scheme = name.partition("://")[0].lower()
        if scheme in WEB and "#" in name:
            raise UnusableImageError("not_found", "no such file: what follows # reaches no server")
        try:
            place = checked(name).partition("://")[2]
        except ManifestError as e:
            raise UnusableImageError("bad_name", "the address has credentials in it") from e
        return store_of(scheme), place

"""Lists and reads buckets and files of the web through fsspec; what may succeed the next time is tried again.

fsspec runs all requests of a process in one thread of its own. It would try again, too, each library in its own way:
that is turned off where it can be, so that the tries and the time between them are those of this module.
"""

import hashlib
import os
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any, TypeVar

from featurecache.errors import ManifestError
from featurecache.images.addresses import WEB
from featurecache.images.failures import UnusableImageError, check_bytes
from featurecache.images.files import Stat
from featurecache.prefetch import ahead, pause

AT_ONCE = 32
"""Requests at the same time: most of the time of each is waiting."""

_NEXT_RUN = "; it is tried again in the next run"

_INSTALL = "pip install 'featurecache[remote]'"
_INSTALL_GS = "pip install gcsfs"
_TRIES = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds; each is twice the one before, unless the server asks for more
_CONNECT_SECONDS, _SILENT_SECONDS, _WHOLE_SECONDS = 10, 30, 600
_LEVELS = 2  # of folders that are listed one by one at the same time: splits and classes
_MOST_FOLDERS = 1000  # below a folder, to be listed one by one: a request gives as many names
_SILENT_IMAGES = 50  # images one after another that do not come, after which a bucket or host is out of reach
_CHUNK = 1 << 18

_NO_PERMISSION, _NOT_FOUND = frozenset({401, 403, 407}), frozenset({404, 410})
_AGAIN = frozenset({408, 409, 425, 429})  # and 500 to 599
_AGAIN_CODES = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"})
_OF_CONNECTIONS = ("aiobotocore", "aiohttp", "botocore", "urllib3")  # packages whose other errors are of connections
_NO_CREDENTIALS = frozenset(
    {
        "CredentialRetrievalError",
        "DefaultCredentialsError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "RefreshError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)

_pause: Callable[[float], bool] = pause  # tests do not wait

Answer = TypeVar("Answer")
Found = tuple[str, Stat | None]
"""The name of an object with its bucket, and its size and tag; in the place of the time a number of the tag."""


class _TryAgainError(Exception):
    """A request failed in a way that may be over the next time."""

    def __init__(self, reason: str, pause: float = 0.0, *, is_busy: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pause = pause  # seconds that the server asks for
        self.after_all_tries = _BusyError if is_busy else UnusableImageError


class _BusyError(UnusableImageError):
    """A server answered each time that it cannot answer now; so it may be for all images."""


class _NoCredentialsError(UnusableImageError):
    """A library found no credentials, or could not renew them; so it is for all images."""


def stat_of(size: object, tag: object) -> Stat | None:
    """Return the size of a remote file, with a number of its entity tag as the time; None if one is unknown."""
    if not tag or size is None:
        return None
    digest = hashlib.sha256(str(tag).strip('"').encode()).digest()
    return Stat(int(str(size)), int.from_bytes(digest[:8], "big") >> 1)


class Store(ABC):
    """Remote files of one scheme; several threads use it. A place is an address without its scheme: ``bucket/key``.

    Parameters
    ----------
    fs
        The file system of fsspec.
    tries
        Requests for one image, at most.
    """

    def __init__(self, fs: Any, tries: int = _TRIES) -> None:  # noqa: ANN401 - fsspec has no types
        self._fs = fs
        self._tries = tries
        self._silent: dict[str, int] = {}  # images one after another that did not come, by bucket or host

    def stat(self, place: str) -> Stat | None:
        """Return size and tag of a file; None if there is none, or they are not known."""
        try:
            return self._tried(partial(self._stat, place))
        except UnusableImageError:
            return None

    def read(self, place: str, max_bytes: int) -> tuple[bytes, Stat | None]:
        """Return the bytes of a file, with its size and tag.

        Raises
        ------
        UnusableImageError
            If it cannot be read, or is larger than ``max_bytes``.
        ManifestError
            If it is to be expected that no image can be read any more.
        """
        host = place.partition("/")[0]
        try:
            answer = self._tried(partial(self._read, place, max_bytes), _NEXT_RUN)
        except _NoCredentialsError as e:
            raise ManifestError(
                f"{e.failure.reason}; what is finished is kept: run the same command again with credentials"
            ) from e
        except UnusableImageError as e:
            count = self._silent.pop(host, 0) + 1 if self._may_be_all(e) else 0
            if count >= _SILENT_IMAGES:
                raise ManifestError(
                    f"{_SILENT_IMAGES} images of {host} one after another could not be read ({e.failure.reason}); what "
                    "is finished is kept: run the same command again when they can be read"
                ) from e
            if count:
                self._silent[host] = count
            raise
        self._silent.pop(host, None)
        return answer

    def _may_be_all(self, error: UnusableImageError) -> bool:
        """Return whether a failure may be one of all images of a host, for now; hosts that are gone are not meant."""
        return isinstance(error, _BusyError)

    def find(self, folder: str) -> list[Found]:
        """Return everything below a folder of a bucket, many requests at a time.

        Raises
        ------
        UnusableImageError
            If it cannot be listed.
        """
        found: list[Found] = []
        folders = [folder]
        for _ in range(_LEVELS):
            if not folders or len(folders) >= AT_ONCE:
                break
            levels = self._listed(folders, deep=False)
            below = [name for _, names in levels for name in names]
            if len(below) > _MOST_FOLDERS:
                break
            folders = below
            found += [item for items, _ in levels for item in items]
        return found + [item for items, _ in self._listed(folders, deep=True) for item in items]

    def _listed(self, folders: list[str], *, deep: bool) -> list[tuple[list[Found], list[str]]]:
        listing = ahead(partial(self._below, deep=deep), folders, workers=AT_ONCE, window=2 * AT_ONCE)
        with closing(listing):
            return list(listing)

    def has_folder(self, folder: str) -> bool:
        """Return whether there is something in a folder of a bucket; True if that cannot be told."""
        return True

    @abstractmethod
    def _stat(self, place: str) -> Stat | None: ...

    @abstractmethod
    def _read(self, place: str, max_bytes: int) -> tuple[bytes, Stat | None]: ...

    @abstractmethod
    def _below(self, folder: str, *, deep: bool) -> tuple[list[Found], list[str]]:
        """Return the files and the folders in a folder; with ``deep``, all files below it."""

    def _tried(self, request: Callable[[], Answer], remark: str = "") -> Answer:
        """Return the answer of a request; try again what may succeed then.

        Raises
        ------
        UnusableImageError
            If it fails for good, or each time.
        """
        for number in range(1, self._tries + 1):
            try:
                return request()
            except Exception as e:
                error = _understood(e)
                if isinstance(error, UnusableImageError):
                    raise error from e
                if number == self._tries:
                    reason = f"{error.reason}, {self._tries} times{remark}"
                    raise error.after_all_tries("unreadable", reason) from e
                if _pause(min(max(error.pause, _FIRST_PAUSE * 2 ** (number - 1)), _LONGEST_PAUSE)):
                    raise UnusableImageError("unreadable", f"{error.reason}, and the run ended{remark}") from e
        raise AssertionError("unreachable")

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - what it returns
        """Return the result of a coroutine that runs in fsspec's thread."""
        from fsspec.asyn import sync

        return sync(self._fs.loop, function, *arguments)


@asynccontextmanager
async def _whole_time() -> AsyncIterator[None]:
    """Bound the time of a request; another try would take as long."""
    import asyncio

    try:
        async with asyncio.timeout(_WHOLE_SECONDS) as limit:
            yield
    except TimeoutError as e:
        if limit.expired():
            raise UnusableImageError("unreadable", f"it did not come within {_WHOLE_SECONDS} s{_NEXT_RUN}") from e
        raise


def _understood(error: BaseException) -> UnusableImageError | _TryAgainError:
    """Return what an error of a library means; it shows no address and no text of a server."""
    if isinstance(error, UnusableImageError | _TryAgainError):
        return error
    status, code, headers = _answer_of(error)
    if status is None:
        return _without_answer(error)
    said = f"the server answered {status}" + (f" ({code})" if code and not code.isdecimal() else "")
    if status in _AGAIN or status >= 500 or code in _AGAIN_CODES:  # noqa: PLR2004 - errors of the server
        return _TryAgainError(said, _seconds(headers), is_busy=True)
    if status in _NOT_FOUND:
        said = "there is no such bucket" if code == "NoSuchBucket" else "no such file"
        return UnusableImageError("not_found", said)
    return UnusableImageError("no_permission" if status in _NO_PERMISSION else "unreadable", said)


def _without_answer(error: BaseException) -> UnusableImageError | _TryAgainError:
    """Return what an error means that no server has answered with."""
    kind = type(error).__name__
    found: UnusableImageError | _TryAgainError = UnusableImageError("unreadable", f"it cannot be read ({kind})")
    if isinstance(error, MemoryError):
        found = UnusableImageError("out_of_memory", "not enough memory to read the file")
    elif isinstance(error, FileNotFoundError):
        found = UnusableImageError("not_found", "no such file")
    elif isinstance(error, PermissionError):
        found = UnusableImageError("no_permission", "no permission to read the file")
    elif kind in _NO_CREDENTIALS:
        found = _NoCredentialsError("no_permission", f"no credentials were found ({kind})")
    elif any(isinstance(each, ssl.SSLCertVerificationError) for each in _causes(error)):
        found = UnusableImageError("unreadable", "the certificate of the server is not valid")
    elif isinstance(error, ValueError) or "Validation" in kind or "Url" in kind:
        found = UnusableImageError("bad_name", f"not an address that can be read ({kind})")
    elif isinstance(error, OSError) or type(error).__module__.startswith(_OF_CONNECTIONS):
        found = _TryAgainError(f"the connection failed ({kind})")
    return found


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _answer_of(error: BaseException) -> tuple[int | None, str, Mapping[str, str]]:
    """Return status, code and headers of the server's answer that an error tells of; None if there was no answer."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)  # botocore's
        if isinstance(response, dict) and "ResponseMetadata" in response:
            meta = response["ResponseMetadata"]
            return meta.get("HTTPStatusCode"), response.get("Error", {}).get("Code", ""), meta.get("HTTPHeaders", {})
    if any(type(each).__module__ == "aiohttp.http_exceptions" for each in _causes(error)):
        return None, "", {}  # an answer that was cut or is no HTTP; aiohttp gives it the status 400
    status = getattr(error, "status" if hasattr(error, "status") else "code", None)  # aiohttp's, gcsfs's
    if isinstance(status, int) and status >= 400:  # noqa: PLR2004 - an error
        return status, "", getattr(error, "headers", None) or {}
    return None, "", {}


def _seconds(headers: Mapping[str, str]) -> float:
    """Return how long a server asks to wait; 0 if it does not, or gives a time of day."""
    asked = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    return float(asked) if asked.isdecimal() else 0.0


class _Bucket(Store):
    """The buckets of a file system that fsspec knows."""

    def _may_be_all(self, error: UnusableImageError) -> bool:
        return error.failure.code in {"unreadable", "no_permission"}

    def _stat(self, place: str) -> Stat | None:
        info = self._fs.info(place)
        return stat_of(info.get("size"), info.get("generation") or info.get("ETag") or info.get("etag"))

    def _read(self, place: str, max_bytes: int) -> tuple[bytes, Stat | None]:
        info = self._fs.info(place)
        check_bytes(info["size"], max_bytes)
        data: bytes = self._fs.cat_file(place)
        _require_whole(data, info["size"])
        return data, stat_of(len(data), info.get("generation") or info.get("ETag") or info.get("etag"))

    def _below(self, folder: str, *, deep: bool) -> tuple[list[Found], list[str]]:
        listing = partial(self._fs.find if deep else self._fs.ls, folder, detail=True)
        listed = self._tried(listing)
        infos = listed.values() if deep else listed
        files = [
            (info["name"], stat_of(info["size"], info.get("generation") or info.get("ETag") or info.get("etag")))
            for info in infos
            if info["type"] == "file"
        ]
        return files, [info["name"] for info in infos if info["type"] != "file"]

    def has_folder(self, folder: str) -> bool:
        try:
            self._tried(partial(self._fs.info, folder))
        except UnusableImageError as e:
            return e.failure.code != "not_found"
        return True


class _S3(_Bucket):
    """The buckets of S3, and of what else speaks its language; one request for an image."""

    def _stat(self, place: str) -> Stat | None:
        bucket, _, key = place.partition("/")
        head = self._fs.call_s3("head_object", Bucket=bucket, Key=key)
        return stat_of(head.get("ContentLength"), head.get("ETag"))

    def _read(self, place: str, max_bytes: int) -> tuple[bytes, Stat | None]:
        return self._run(self._get, place, max_bytes)  # type: ignore[no-any-return]

    async def _get(self, place: str, max_bytes: int) -> tuple[bytes, Stat | None]:
        bucket, _, key = place.partition("/")
        async with _whole_time():
            answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                check_bytes(answer["ContentLength"], max_bytes)
                data = await body.read()
        _require_whole(data, answer["ContentLength"])
        return data, stat_of(len(data), answer.get("ETag"))

    def _below(self, folder: str, *, deep: bool) -> tuple[list[Found], list[str]]:
        bucket, _, key = folder.partition("/")
        wanted = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "" if deep else "/"}
        files: list[Found] = []
        folders: list[str] = []
        while True:
            page = self._tried(partial(self._fs.call_s3, "list_objects_v2", **wanted))
            files += [
                (f"{bucket}/{item['Key']}", stat_of(item["Size"], item.get("ETag")))
                for item in page.get("Contents", ())
            ]
            folders += [f"{bucket}/{item['Prefix'][:-1]}" for item in page.get("CommonPrefixes", ())]
            if not page.get("IsTruncated"):
                return files, folders
            wanted["ContinuationToken"] = page["NextContinuationToken"]


class _Web(Store):
    """Files of web servers, which cannot be listed."""

    def __init__(self, scheme: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._scheme = scheme
        self._session = self._run(self._fs.set_session)  # before threads would make several

    def _stat(self, place: str) -> Stat | None:
        return self._run(self._head, place)  # type: ignore[no-any-return]

    def _read(self, place: str, max_bytes: int) -> tuple[bytes, Stat | None]:
        return self._run(self._get, place, max_bytes)  # type: ignore[no-any-return]

    async def _head(self, place: str) -> Stat | None:
        async with self._session.head(self._url(place), allow_redirects=True) as response:
            response.raise_for_status()
            return stat_of(response.content_length, _tag(response.headers))

    async def _get(self, place: str, max_bytes: int) -> tuple[bytes, Stat | None]:
        async with _whole_time(), self._session.get(self._url(place)) as response:
            response.raise_for_status()
            if response.content_length is not None:
                check_bytes(response.content_length, max_bytes)
            data = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                data += chunk
                if len(data) > max_bytes:
                    check_bytes(len(data), max_bytes)
            return bytes(data), stat_of(len(data), _tag(response.headers))

    def _url(self, place: str) -> Any:  # noqa: ANN401 - an address of yarl
        return self._fs.encode_url(f"{self._scheme}://{place}")

    def _below(self, folder: str, *, deep: bool) -> tuple[list[Found], list[str]]:
        raise UnusableImageError("unreadable", "nothing on the web can be listed")


def _tag(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified", "")


def _require_whole(data: Collection[int], size: int) -> None:
    """Raise `_TryAgainError` if not all bytes of a file have come."""
    if len(data) != size:
        raise _TryAgainError(f"{len(data):,} of {size:,} bytes came")


def store_of(scheme: str) -> Store:
    """Return the store of a scheme; this process has one of each.

    Raises
    ------
    ManifestError
        If a package is not installed, or finds no credentials.
    """
    with _lock:
        return _made(scheme, os.getpid())  # a child has not the thread of its parent's requests


_lock = threading.Lock()


@lru_cache
def _made(scheme: str, process: int) -> Store:
    del process
    package = {"s3": "s3fs", "gs": "gcsfs"}.get(scheme, "aiohttp")
    try:
        import fsspec

        return _store(scheme, fsspec.filesystem)
    except ImportError as e:
        install = _INSTALL_GS if scheme == "gs" and e.name != "fsspec" else _INSTALL
        raise ManifestError(f"{scheme}:// needs {package}, which is not installed: {install}") from e
    except Exception as e:
        error = _understood(e)
        reason = error.reason if isinstance(error, _TryAgainError) else error.failure.reason
        raise ManifestError(f"{scheme}:// cannot be opened: {reason}") from e


def _store(scheme: str, file_system: Callable[..., Any]) -> Store:
    common: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme in WEB:
        import aiohttp

        agent = f"featurecache/{version('featurecache')}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
        options = {
            "trust_env": True,
            "timeout": timeout,
            "headers": {"User-Agent": agent, "Accept-Encoding": "identity"},
        }
        return _Web(scheme, file_system(scheme, client_kwargs=options, **common))
    if scheme == "gs":
        return _Bucket(file_system(scheme, **common), tries=2)  # gcsfs tries six times itself
    options = {
        "max_pool_connections": AT_ONCE,
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _SILENT_SECONDS,
        "retries": {"total_max_attempts": 1},
    }
    fs = file_system(scheme, config_kwargs=options, **common)
    fs.retries = 1
    return _S3(fs)

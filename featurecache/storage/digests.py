"""Digests of large files, remembered by path, size, modification time and inode in the user's cache folder.

Hashing a weight file of half a gigabyte takes a second, which a run without new images should not spend. If the
remembered digests cannot be read or written, files are hashed.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from featurecache.errors import OutputError
from featurecache.storage.files import cache_folder, open_regular
from featurecache.storage.publish import publish

_CHUNK = 1 << 20
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Digests:
    """SHA-256 and MD5 of a file's bytes, hexadecimal."""

    sha256: str
    md5: str


def digests(path: Path, *, rehash: bool = False) -> Digests:
    """Return the digests of a file, without reading it if it has not changed since the last call.

    Parameters
    ----------
    rehash
        Always read the file.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with open_regular(path) as stream:
        status = os.fstat(stream.fileno())
        key = f"{path.absolute()}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"
        known = _read()
        if key in known and not rehash:
            return known[key]
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
    found = Digests(sha256.hexdigest(), md5.hexdigest())
    _write({key: found} | {other: value for other, value in known.items() if other != key})
    return found


def memory_file() -> Path:
    """Return where digests are remembered."""
    return cache_folder() / "digests.json"


def _read() -> dict[str, Digests]:
    try:
        listed = json.loads(memory_file().read_text("utf-8"))
        return {str(key): Digests(str(value["sha256"]), str(value["md5"])) for key, value in listed.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _write(known: dict[str, Digests]) -> None:
    latest = {key: asdict(value) for key, value in list(known.items())[:_REMEMBERED]}
    with suppress(OSError, OutputError):
        memory_file().parent.mkdir(parents=True, exist_ok=True)
        publish(memory_file(), json.dumps(latest, indent=1).encode("utf-8", "surrogateescape"), replace=True)

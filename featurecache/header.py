"""The header of a cache file: what guards its structure before HDF5 sees a byte of it.

HDF5 skips the first bytes of a file (its user block). A cache keeps there the hash of all its bytes but the features,
which have checksums of their own. HDF5 may loop for ever on a damaged structure, so the hash is compared first.
"""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, BinaryIO

from featurecache.errors import CacheFormatError, OptionError

CACHE_FORMAT = "featurecache"
FORMAT_VERSION = 1
HEADER_BYTES = 16384

_CHUNK = 1 << 20


def structure_digest(read_into: Callable[[memoryview, int], int], size: int, spans: list[list[int]]) -> str:
    """Return the SHA-256 of a file's bytes from behind its header on, but those of the spans (offset, bytes)."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    start = HEADER_BYTES
    for offset, length in [*spans, [size, 0]]:
        while start < offset:
            count = read_into(buffer[: min(len(buffer), offset - start)], start)
            if not count:
                raise CacheFormatError(f"the file ends at byte {start}, expected {size}")
            digest.update(buffer[:count])
            start += count
        start = max(start, offset + length)
    return digest.hexdigest()


def encode_header(header: dict[str, Any]) -> bytes:
    """Return the header's bytes, with format and version added.

    Raises
    ------
    OptionError
        If there are more taps than it can hold.
    """
    text = json.dumps({"format": CACHE_FORMAT, "format_version": FORMAT_VERSION} | header).encode("ascii")
    if len(text) > HEADER_BYTES:
        raise OptionError(
            f"the places of {len(header['spans']) // 2} taps do not fit into a cache's header; keep fewer"
        )
    return text.ljust(HEADER_BYTES, b"\0")


def read_header(stream: BinaryIO) -> list[list[int]]:
    """Check all of an open cache file but its features and checksums; return where those lie, offset and bytes.

    Raises
    ------
    CacheFormatError
        If it has no header of this version, is not as long as that says, or was damaged.
    """
    descriptor, size = stream.fileno(), os.fstat(stream.fileno()).st_size
    data = os.pread(descriptor, HEADER_BYTES, 0)
    try:
        header = json.loads(data.rstrip(b"\0"))
        kind, version = header["format"], header["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise CacheFormatError("it has no featurecache header; give a file that extract made") from e
    if (kind, version) != (CACHE_FORMAT, FORMAT_VERSION):
        raise CacheFormatError(f"its format is {kind!r} {version!r}, expected {CACHE_FORMAT!r} {FORMAT_VERSION}")
    try:
        spans = [[int(offset), int(length)] for offset, length in header["spans"]]
        if encode_header({"sha256": str(header["sha256"]), "size": int(header["size"]), "spans": spans}) != data:
            raise CacheFormatError("its header is damaged")
    except (ValueError, TypeError, KeyError) as e:
        raise CacheFormatError("its header is damaged") from e
    if header["size"] != size:
        raise CacheFormatError(f"it has {size:,} bytes, expected {header['size']:,}: it is truncated or was added to")
    if structure_digest(lambda buffer, at: os.preadv(descriptor, [buffer], at), size, spans) != header["sha256"]:
        raise CacheFormatError("its structure or index is damaged")
    return spans

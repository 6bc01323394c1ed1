"""The header of a cache file: a hash that is checked before HDF5 reads the file.

The header lies in the user block, the first bytes of an HDF5 file, which HDF5 skips. It holds the hash of all other
bytes except the features, which have checksums of their own. HDF5 can loop for ever on a damaged structure.
"""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, BinaryIO

from featurecache.errors import CacheFormatError, OptionError
from featurecache.storage.platform import read_at, read_into_at

CACHE_FORMAT = "featurecache"
FORMAT_VERSION = 1
PARTS_VERSION = 2
"""The version of a cache in parts: its features lie in other files, each a cache in one file."""
COLUMNS_VERSION = 3
"""The version of a cache with further columns, in one file or in parts."""
HEADER_BYTES = 16384

REMEDY = "move the file away and extract the images again"

_CHUNK = 1 << 20


def structure_digest(read_into: Callable[[memoryview, int], int], size: int, spans: list[list[int]]) -> str:
    """Return the SHA-256 of a file's bytes after the header, without the spans (offset, bytes)."""
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


def encode_header(header: dict[str, Any], version: int = FORMAT_VERSION) -> bytes:
    """Return the header's bytes, with format and version added.

    Raises
    ------
    OptionError
        If there are more taps than it can hold.
    """
    text = json.dumps({"format": CACHE_FORMAT, "format_version": version} | header).encode("ascii")
    if len(text) > HEADER_BYTES:
        raise OptionError(
            f"the places of {len(header['spans']) // 2} taps do not fit into a cache's header; keep fewer"
        )
    return text.ljust(HEADER_BYTES, b"\0")


def read_header(stream: BinaryIO) -> tuple[int, list[list[int]]]:
    """Check an open cache file except its features and checksums; return its version and their spans (offset, bytes).

    Raises
    ------
    CacheFormatError
        If the header is missing, damaged or of another version, or the size or the hash differs from it.
    """
    descriptor, size = stream.fileno(), os.fstat(stream.fileno()).st_size
    data = read_at(descriptor, HEADER_BYTES, 0)
    try:
        header = json.loads(data.rstrip(b"\0"))
        kind, version = header["format"], header["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise CacheFormatError("it does not begin with the header of a cache; give another path") from e
    if kind != CACHE_FORMAT or version not in (FORMAT_VERSION, PARTS_VERSION, COLUMNS_VERSION):
        newer = kind == CACHE_FORMAT and isinstance(version, int) and version > COLUMNS_VERSION
        expected = f"expected {CACHE_FORMAT!r} {FORMAT_VERSION} to {COLUMNS_VERSION}"
        remedy = "; a newer version of featurecache made it, use that" if newer else ""
        raise CacheFormatError(f"its format is {kind!r} {version!r}, {expected}{remedy}")
    try:
        spans = [[int(offset), int(length)] for offset, length in header["spans"]]
        known = {"sha256": str(header["sha256"]), "size": int(header["size"]), "spans": spans}
        if encode_header(known, version) != data:
            raise CacheFormatError(f"its header is damaged; {REMEDY}")
    except (ValueError, TypeError, KeyError) as e:
        raise CacheFormatError(f"its header is damaged; {REMEDY}") from e
    if header["size"] != size:
        raise CacheFormatError(
            f"it has {size:,} bytes, expected {header['size']:,}: it is truncated or was added to; {REMEDY}"
        )
    if structure_digest(lambda buffer, at: read_into_at(descriptor, buffer, at), size, spans) != header["sha256"]:
        raise CacheFormatError(f"its structure or index is damaged; {REMEDY}")
    return version, spans

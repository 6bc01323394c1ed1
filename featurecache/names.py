"""File names as text: any bytes that a file system allows, reversibly, and how messages list names."""

import re
from collections.abc import Iterable

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_ESCAPE_LIKE = re.compile(r"%(?=[0-9A-Fa-f]{2})")
_UNDECODABLE = re.compile("[\udc80-\udcff]")
_LISTED = 5


def encode_name(name: bytes) -> str:
    """Return a file name as text; `decode_name` gives the same bytes back.

    UTF-8 stays as it is. A byte that is not UTF-8 becomes ``%HH``, and a ``%`` becomes ``%25`` where two hexadecimal
    digits follow it.
    """
    text = name.decode("utf-8", "surrogateescape")
    if "%" in text:
        text = _ESCAPE_LIKE.sub("%25", text)
    if text.isascii():
        return text
    return _UNDECODABLE.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text)


def decode_name(text: str) -> bytes:
    """Return the bytes of a file name that `encode_name` wrote as ``text``."""
    name = text.encode("utf-8")
    return _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode("ascii")), name) if b"%" in name else name


def has_escapes(text: str) -> bool:
    """Whether `decode_name` would change anything."""
    return _ESCAPE_LIKE.search(text) is not None


def listed(names: Iterable[str], *, sort: bool = True) -> str:
    """Name a few, and count the others."""
    names = sorted(names) if sort else list(names)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(repr(name) for name in names[:_LISTED]) + more

"""Converts file names of any bytes to text and back, without loss; and to the text that people read."""

import re
from collections.abc import Sequence

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_ESCAPE_LIKE = re.compile(r"%(?=[0-9A-Fa-f]{2})")
_FRAME = re.compile(r"(.+)#([2-9]|[1-9][0-9]{1,8})", re.DOTALL)
_UNDECODABLE = re.compile("[\udc80-\udcff]")


def encode_name(name: bytes) -> str:
    """Return a file name as text; `decode_name` returns the same bytes.

    UTF-8 is unchanged. A byte that is not UTF-8 becomes ``%HH``. A ``%`` before two hexadecimal digits becomes ``%25``.
    """
    text = name.decode("utf-8", "surrogateescape")
    if "%" in text:
        text = _ESCAPE_LIKE.sub("%25", text)
    if text.isascii():
        return text
    return _UNDECODABLE.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text)


def decode_name(text: str) -> bytes:
    """Return the bytes of a file name from the text that `encode_name` returned."""
    name = text.encode("utf-8")
    return _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode("ascii")), name) if b"%" in name else name


def has_escapes(text: str) -> bool:
    """Return whether the text has escapes that `decode_name` would replace."""
    return _ESCAPE_LIKE.search(text) is not None


def shown_name(text: str) -> str:
    r"""Return a name in the form of `encode_name` as people read it: the file's own name, if that is UTF-8.

    A name that is not UTF-8 keeps its escapes.

    Examples
    --------
    >>> shown_name(encode_name(b"a%20x.jpg")), shown_name(encode_name(b"caf\xe9.jpg"))
    ('a%20x.jpg', 'caf%E9.jpg')
    """
    if "%25" not in text:
        return text
    name = decode_name(text)
    try:
        return name.decode("utf-8") if encode_name(name) == text else text
    except UnicodeDecodeError:
        return text


def shown_names(names: Sequence[str]) -> list[str]:
    """Return the names of one data set as `shown_name` does; different names stay different.

    If one of them would read like another one's form of `encode_name`, all keep that form.
    """
    if not any("%25" in name for name in names):
        return list(names)
    shown = [shown_name(name) for name in names]
    is_clear = {one for one, name in zip(shown, names, strict=True) if one != name}.isdisjoint(names)
    return shown if is_clear else list(names)


def split_frame(path: str) -> tuple[str, int]:
    """Return the path of a file and the number of a frame in it; 1 if the path names a whole file.

    Examples
    --------
    >>> split_frame("a/scan.tif#12"), split_frame("a/scan.tif"), split_frame("scan.tif#1")
    (('a/scan.tif', 12), ('a/scan.tif', 1), ('scan.tif#1', 1))
    """
    found = _FRAME.fullmatch(path)
    return (found[1], int(found[2])) if found else (path, 1)

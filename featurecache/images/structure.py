"""The structure of JPEG and PNG files: whether their pixels are whole, and metadata that hides whole pixels.

Pillow decodes JPEG files without their end, and PNG files with wrong checksums, to pixels that were never in the image.
It refuses files with whole pixels whose metadata is damaged or large.
"""

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

_PNG_HEAD = 8  # bytes of the signature
_CHUNK_FRAME = 12  # bytes of a chunk's length, name and checksum
_STEP = 1 << 20  # bytes that are unpacked at a time
_END_OF_IMAGE = b"\xff\xd9"
_HUFFMAN_TABLES, _START_OF_SCAN, _COMMENT = 0xC4, 0xDA, 0xFE
_SEQUENTIAL = {0xC0, 0xC1}  # frames of one scan with Huffman codes
_BARE = {0x01, *range(0xD0, 0xDA)}  # markers without a segment
_APPLICATION = range(0xE0, 0xF0)
_ABOUT_PIXELS = {0xE0, 0xE1, 0xEE}  # JFIF, Exif and Adobe: colours and orientation
_SHORTEST = 14  # bytes of a segment of these that a decoder understands
_LOST = bytes(64)
_SYMBOLS = 17  # offset of the symbols in a Huffman table, after its number and its 16 counts of codes


def what_is_missing(data: bytes, kind: str) -> str:
    """Return why the pixels of a file that was decoded are not whole; empty if nothing is known against them.

    Parameters
    ----------
    data
        The bytes of the file.
    kind
        Its format, as in `featurecache.images.formats.FORMATS`; of others than JPEG and PNG nothing is known.
    """
    if kind == "JPEG":
        return _missing_from_jpeg(data)
    if kind == "PNG" and not _png_is_whole(data):
        return "the checksum of its pixels is wrong"
    return ""


def without_metadata(data: bytes, kind: str) -> bytes:
    """Return a JPEG or PNG file without the metadata that Pillow cannot read, and other files as they are.

    What concerns upright pixels stays: colours, transparency, and a readable orientation.
    """
    parts = {"JPEG": _kept_of_jpeg, "PNG": _kept_of_png}.get(kind)
    return data if parts is None else b"".join(parts(data))


def _missing_from_jpeg(data: bytes) -> str:
    segments = list(_segments(data))
    scan = segments[-1][2] if segments else 0
    end = data.find(_END_OF_IMAGE, scan)
    if end < 0:
        return "its end is missing"
    if data.find(_LOST, scan, end) >= 0 and not _zeros_are_blocks(data, segments):
        return "zero bytes stand in place of a part of its data"
    return ""


def _zeros_are_blocks(data: bytes, segments: list[tuple[int, int, int]]) -> bool:
    """Return whether many zero bits can stand for even blocks of pixels, as far as this is known.

    They can if the code of zeros means "no further frequencies" for all colours. Where it means a frequency, 64 zero
    bytes would be blocks of 63 equal frequencies, which no encoder writes. Known are files whose only scan has all
    colours.
    """
    frame = next((start for marker, start, _ in segments if marker in _SEQUENTIAL), None)
    _, scan, _ = segments[-1]
    colours = data[scan + 4]
    if frame is None or data[frame + 9] != colours:
        return True
    meanings: dict[int, int] = {}  # number of a table of frequencies to the symbol of its code of zeros
    for marker, start, end in segments:
        place = start + 4
        while marker == _HUFFMAN_TABLES and place + _SYMBOLS < end:
            if data[place] >> 4:
                meanings[data[place] & 15] = data[place + _SYMBOLS]
            place += _SYMBOLS + sum(data[place + 1 : place + _SYMBOLS])
    return not any(meanings.get(tables & 15) for tables in data[scan + 6 : scan + 5 + 2 * colours : 2])


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment of a JPEG file up to the first scan's, as Pillow finds them."""
    place = 2
    while 0 <= (place := data.find(b"\xff", place)) < len(data) - 3:
        marker = data[place + 1]
        if marker in {0x00, 0xFF}:
            place += 1
        elif marker in _BARE:
            place += 2
        else:
            end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
            yield marker, place, end
            if marker == _START_OF_SCAN:
                return
            place = end


def _kept_of_jpeg(data: bytes) -> Iterator[bytes]:
    """Yield the parts of a JPEG file that concern its pixels."""
    yield data[:2]
    last = 2
    for marker, start, end in _segments(data):
        is_metadata = marker == _COMMENT or marker in _APPLICATION
        if not is_metadata or (marker in _ABOUT_PIXELS and end - start - 2 >= _SHORTEST):
            yield data[start:end]
        last = end
    yield data[last:]


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each chunk of a PNG file; the last one may be cut."""
    place = _PNG_HEAD
    while place < len(data):
        end = place + _CHUNK_FRAME + int.from_bytes(data[place : place + 4])
        yield data[place + 4 : place + 8], place, end
        place = end


def _png_is_whole(data: bytes) -> bool:
    """Return whether the pixels of a PNG file have the right checksums, in their chunks or as a whole."""
    view = memoryview(data)
    pixels = [(start, end) for name, start, end in _chunks(data) if name == b"IDAT"]
    if all(zlib.crc32(view[start + 4 : end - 4]) == int.from_bytes(view[end - 4 : end]) for start, end in pixels):
        return True
    stream = zlib.decompressobj()
    try:
        for start, end in pixels:
            packed = data[start + 8 : end - 4]
            while packed and not stream.eof:
                stream.decompress(packed, _STEP)
                packed = stream.unconsumed_tail
    except zlib.error:
        return False
    return stream.eof


def _kept_of_png(data: bytes) -> Iterator[bytes]:
    """Yield the parts of a PNG file that concern its pixels, and texts that may hold an orientation."""
    yield data[:_PNG_HEAD]
    stream = PngImagePlugin.PngStream(io.BytesIO())
    for name, start, end in _chunks(data):
        if name[:1].isupper() or name == b"tRNS":
            yield data[start:end]
        elif name in {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}:
            stream.fp = io.BytesIO(data[start:end])
            try:
                stream.crc(name, stream.call(*stream.read()))
            except (SyntaxError, ValueError, OSError, IndexError, struct.error, zlib.error):
                continue
            yield data[start:end]

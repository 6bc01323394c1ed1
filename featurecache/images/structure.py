"""The structure of image files: whether their pixels are whole, what they mean, and metadata that hides whole pixels.

Pillow decodes JPEG files without their end, and PNG files with wrong checksums, to pixels that were never in the image.
libheif does so with HEIF files of which a part is lost. Pillow refuses files with whole pixels whose metadata is
damaged or large, and does not ask what the samples of JPEG 2000 files mean.
"""

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

_PNG_HEAD = 8  # bytes of the signature
_CHUNK_FRAME = 12  # bytes of a chunk's length, name and checksum
_BOX_HEAD, _LONG_BOX_HEAD = 8, 16  # bytes of the length and the name of a box
_HEVC = {b"hvc1", b"hev1"}  # kinds of items
_STEP = 1 << 20  # bytes that are unpacked at a time
_END_OF_IMAGE = b"\xff\xd9"
_HUFFMAN_TABLES, _START_OF_SCAN, _COMMENT = 0xC4, 0xDA, 0xFE
_SEQUENTIAL = {0xC0, 0xC1}  # frames of one scan with Huffman codes
_BARE = {0x01, *range(0xD0, 0xDA)}  # markers without a segment
_APPLICATION = range(0xE0, 0xF0)
_ABOUT_PIXELS = {0xE0, 0xE1, 0xEE}  # JFIF, Exif and Adobe: colours and orientation
_SHORTEST = 14  # bytes of a segment of these that a decoder understands
_LOST = bytes(64)
_LOST_FROM_HEVC = bytes(8)  # in HEVC, 3 bytes of a number may be zero, and 2 bytes in a row of compressed data
_ZEROS = "zero bytes stand in place of a part of its data"
_SYMBOLS = 17  # offset of the symbols in a Huffman table, after its number and its 16 counts of codes


def what_is_missing(data: bytes, kind: str) -> str:
    """Return why the pixels of a file that was decoded are not whole; empty if nothing is known against them.

    Parameters
    ----------
    data
        The bytes of the file.
    kind
        Its format, as in `featurecache.images.formats.FORMATS`; of others than JPEG, PNG and HEIF nothing is known.
    """
    if kind == "JPEG":
        return _missing_from_jpeg(data)
    if kind == "PNG" and not _png_is_whole(data):
        return "the checksum of its pixels is wrong"
    if kind == "HEIF" and any(data.find(_LOST_FROM_HEVC, start, end) >= 0 for start, end in _hevc_extents(data)):
        return _ZEROS
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
        return _ZEROS
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


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the contents of each box of an ISO media file, or of a box in it."""
    while start + _BOX_HEAD <= end:
        length, head = int.from_bytes(data[start : start + 4]), _BOX_HEAD
        if length == 1:
            length, head = int.from_bytes(data[start + 8 : start + 16]), _LONG_BOX_HEAD
        stop = min(start + length, end) if length else end
        if stop < start + head:
            return
        yield data[start + 4 : start + 8], start + head, stop
        start = stop


def _hevc_extents(data: bytes) -> list[tuple[int, int]]:
    """Return start and end of the places of a HEIF file that hold pictures packed by HEVC; each byte is in one at most.

    ISO/IEC 14496-12 defines the boxes: ``iinf`` has the kinds of items, ``iloc`` their places.
    """
    top = {name: (start, end) for name, start, end in _boxes(data, 0, len(data))}
    start, end = top.get(b"meta", (0, 0))
    meta = {name: (start, end) for name, start, end in _boxes(data, start + 4, end)}
    kinds = _item_kinds(data, *meta.get(b"iinf", (0, 0)))
    places = sorted(place for item, place in _item_places(data, *meta.get(b"iloc", (0, 0))) if kinds.get(item) in _HEVC)
    extents, last = [], 0
    for start, end in places:
        extents.append((max(start, last), end))
        last = max(last, end)
    return extents


def _item_kinds(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """Return the kind of each item by its number, from the box ``iinf``."""
    kinds = {}
    for _, place, _ in _boxes(data, start + (8 if data[start : start + 1] > b"\0" else 6), end):
        wide = 4 if data[place] > 2 else 2  # noqa: PLR2004 - version 3 has numbers of 4 bytes
        kinds[int.from_bytes(data[place + 4 : place + 4 + wide])] = data[place + 6 + wide : place + 10 + wide]
    return kinds


def _item_places(data: bytes, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield number, and start and end in the file, of each part of the items, from the box ``iloc``."""
    box = io.BytesIO(data[start:end])

    def number(size: int) -> int:
        return int.from_bytes(box.read(size))

    version, _, sizes, more_sizes = number(1), number(3), number(1), number(1)
    wide = 4 if version > 1 else 2
    for _ in range(number(wide)):
        item, method = number(wide), number(2) & 15 if version else 0
        number(2)  # of the file: this one
        base = number(more_sizes >> 4)
        for _ in range(number(2)):
            number(more_sizes & 15 if version else 0)
            begin = base + number(sizes >> 4)
            length = number(sizes & 15)
            if not method:
                yield item, (begin, begin + length)
        if box.tell() == end - start:
            return


def jpeg2000_depths(data: bytes) -> tuple[int, ...]:
    """Return the bits per sample of each band of a JPEG 2000 file; -1 for signed samples.

    ISO/IEC 15444-1 defines the marker SIZ, which begins each codestream.
    """
    size = _codestream(data) + 4
    bands = int.from_bytes(data[size + 36 : size + 38])
    depths = data[size + 38 : size + 38 + 3 * bands : 3]
    return tuple(depth + 1 if depth < 0x80 else -1 for depth in depths)  # noqa: PLR2004 - the bit of the sign


def has_defined_alpha(data: bytes, bands: int) -> bool:
    """Return whether a JPEG 2000 file defines its last band as opacity, and the others as colours in their order."""
    header = next(((start, end) for name, start, end in _boxes(data, 0, len(data)) if name == b"jp2h"), (0, 0))
    found = (data[start:end] for name, start, end in _boxes(data, *header) if name == b"cdef")
    colours = struct.pack(">H", bands) + b"".join(struct.pack(">HHH", i, 0, i + 1) for i in range(bands - 1))
    return next(found, b"") in {colours + struct.pack(">HHH", bands - 1, kind, 0) for kind in (1, 2)}


def _codestream(data: bytes) -> int:
    """Return the start of the codestream of a JPEG 2000 file."""
    return next((start for name, start, _ in _boxes(data, 0, len(data)) if name == b"jp2c"), 0)

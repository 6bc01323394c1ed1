"""Pillow's first exception is not the verdict: whole pixels are read, and pixels that are not whole are refused."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from featurecache.images.decode import DecodeRules, decode, shrink
from featurecache.images.failures import Failure
from featurecache.images.structure import what_is_missing

SIDE = 256
RULES = DecodeRules((SIDE, SIDE))
MANY = b"a" * 2_000_000  # more than Pillow unpacks of a text or a profile


def noise(side: int = SIDE, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def smooth() -> Image.Image:
    """A scene in which zeros in place of packed pixels unpack to pixels."""
    return noise(24).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes, checksum: bytes | None = None) -> bytes:
    found = zlib.crc32(name + data).to_bytes(4) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + found


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(data)) + data


PNG = saved(noise(), "PNG")
JPEG = saved(noise(), "JPEG", subsampling=0)
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # turned by a quarter
XMP = b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6' tiff:Orientation=\"6\"/>"

FAULTY_CHUNKS = {
    "profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(MANY)),
    "profile, packed by an unknown method": chunk(b"iCCP", b"x\0\7" + zlib.compress(b"a")),
    "packed text": chunk(b"zTXt", b"x\0\0" + zlib.compress(MANY)),
    "packed text in Unicode": chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(MANY)),
    "time with a wrong checksum": chunk(b"tIME", bytes(7), bytes(4)),
    "text with a wrong checksum": chunk(b"tEXt", b"Comment\0hello", b"abcd"),
    "gamma, too short": chunk(b"gAMA", b"\0"),
    "unknown, with a wrong checksum": chunk(b"abCd", b"private", bytes(4)),
    "animation of impossible frames": chunk(b"acTL", bytes(8)) + chunk(b"fcTL", b"\xff" * 26),
    "texts of 65 MB": chunk(b"tEXt", b"x\0" + b"a" * 1_000_000) * 68,
}


@pytest.mark.parametrize("fault", FAULTY_CHUNKS)
@pytest.mark.parametrize("place", ["before the pixels", "after the pixels"])
def test_metadata_does_not_spoil_a_png_file(fault, place):
    split = 33 if place == "before the pixels" else len(PNG) - 12
    data = PNG[:split] + FAULTY_CHUNKS[fault] + PNG[split:]

    assert np.array_equal(decode(data, RULES), np.asarray(noise()))
    assert isinstance(shrink(data, 64), np.ndarray)


FAULTY_SEGMENTS = {
    "Photoshop resource, cut": segment(0xED, b"Photoshop 3.0\x008BIM\4\4"),
    "JFIF, too short": segment(0xE0, b"JFIF\0"),
    "Adobe, too short": segment(0xEE, b"Adobe"),
    "profile without a number": segment(0xE2, b"ICC_PROFILE\0"),
}


@pytest.mark.parametrize("fault", FAULTY_SEGMENTS)
def test_metadata_does_not_spoil_a_jpeg_file(fault):
    data = JPEG[:20] + FAULTY_SEGMENTS[fault] + JPEG[20:]
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(data))

    assert np.array_equal(decode(data, RULES), decode(JPEG, RULES))


def test_the_colours_of_a_jpeg_file_do_not_change_with_its_metadata():
    for image in (noise().convert("CMYK"), noise().convert("L")):
        plain = saved(image, "JPEG")  # CMYK has an Adobe segment, grey has JFIF
        assert np.array_equal(
            decode(plain[:2] + FAULTY_SEGMENTS["Adobe, too short"] + plain[2:], RULES), decode(plain, RULES)
        )


@pytest.mark.parametrize("holder", ["eXIf", "iTXt", "zTXt"])
def test_the_orientation_is_kept_when_other_metadata_is_left_out(holder):
    profile = b"\nexif\n%d\n%s" % (len(EXIF), EXIF.hex().encode())
    held = {
        "eXIf": chunk(b"eXIf", EXIF[6:]),
        "iTXt": chunk(b"iTXt", XMP),
        "zTXt": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
    }[holder]
    data = PNG[:33] + held + FAULTY_CHUNKS["profile"] + PNG[33:]

    assert np.array_equal(decode(data, RULES), np.rot90(np.asarray(noise()), -1))


def test_the_orientation_of_a_jpeg_file_is_kept_when_other_metadata_is_left_out():
    turned = saved(noise(), "JPEG", subsampling=0, exif=EXIF)
    data = turned[:2] + FAULTY_SEGMENTS["JFIF, too short"] + turned[2:]

    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned)))
    assert np.array_equal(decode(data, RULES), np.asarray(upright))


def test_an_unreadable_orientation_is_ignored():
    data = PNG[:33] + chunk(b"eXIf", EXIF[6:], bytes(4)) + PNG[33:]

    assert np.array_equal(decode(data, RULES), np.asarray(noise()))


@pytest.mark.parametrize(
    ("name", "content"),
    [(b"IHDR", PNG[16:29]), (b"tRNS", bytes(6)), (b"PLTE", bytes(48))],
    ids=["IHDR", "tRNS", "PLTE"],
)
def test_a_wrong_checksum_of_what_concerns_pixels_is_a_failure(name, content):
    faulty = chunk(name, content, b"abcd")
    data = PNG[:8] + faulty + PNG[33:] if name == b"IHDR" else PNG[:33] + faulty + PNG[33:]

    assert decode(data, RULES) == Failure("damaged", f"a broken PNG file: bad header checksum in {name!r}")


def test_several_faults_at_once():
    pixels_cut = PNG[:33] + FAULTY_CHUNKS["profile"] + PNG[33 : len(PNG) // 2]

    assert decode(pixels_cut, RULES).reason.startswith("a broken PNG file: image file is truncated")


# Pixels that are not whole


def zeroed(data: bytes, start: float, end: float = 1.0) -> bytes:
    first, last = int(start * len(data)), int(end * len(data))
    return data[:first] + bytes(last - first) + data[last:]


@pytest.mark.parametrize("start", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(
    "name", ["PNG", "PNG of many chunks", "JPEG", "JPEG optimized", "JPEG progressive", "JPEG grey"]
)
def test_a_tail_of_zeros_is_a_failure(name, start):
    makers = {
        "PNG": lambda: saved(smooth(), "PNG"),
        "PNG of many chunks": lambda: many_chunks(saved(smooth(), "PNG")),
        "JPEG": lambda: JPEG,
        "JPEG optimized": lambda: saved(noise(), "JPEG", subsampling=0, optimize=True),
        "JPEG progressive": lambda: saved(noise(), "JPEG", progressive=True),
        "JPEG grey": lambda: saved(noise().convert("L"), "JPEG"),
    }
    data = makers[name]()
    assert isinstance(decode(data, RULES), np.ndarray)

    for damaged in (zeroed(data, start), zeroed(data, start) + bytes(2 * len(data))):
        failure = decode(damaged, RULES)
        assert isinstance(failure, Failure)
        assert failure.code == "damaged"
        assert failure.reason.startswith(f"a broken {name.split()[0]} file: ")


def heif(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, **options)
    return file.getvalue()


@pytest.mark.parametrize("start", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("options", [{}, {"tile_size": 64}, {"quality": -1}], ids=["one", "tiles", "lossless"])
def test_zeros_in_a_heif_file_are_a_failure(start, options):
    data = heif(smooth(), **options)
    assert isinstance(decode(data, RULES), np.ndarray)

    for damaged in (zeroed(data, start), zeroed(data, start, start + 0.009)):
        failure = decode(damaged, RULES)
        assert failure == Failure("damaged", "a broken HEIF file: zero bytes stand in place of a part of its data")


def test_zeros_in_the_metadata_of_a_heif_file_do_not_matter():
    image = smooth()
    image.info["exif"] = b"Exif\0\0II*\0\x08\0\0\0" + bytes(5000)
    data = heif(image)
    assert bytes(4000) in data

    assert isinstance(decode(data, RULES), np.ndarray)


def many_chunks(data: bytes) -> bytes:
    """The same PNG file with its pixels in chunks of 8,192 bytes, as libpng writes them."""
    pixels, place = b"", 33
    while data[place + 4 : place + 8] == b"IDAT":
        length = int.from_bytes(data[place : place + 4])
        pixels += data[place + 8 : place + 8 + length]
        place += 12 + length
    pieces = [chunk(b"IDAT", pixels[start : start + 8192]) for start in range(0, len(pixels), 8192)]
    return b"".join([data[:33], *pieces, chunk(b"IEND", b"")])


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [64, SIDE, 700])
def test_a_jpeg_file_without_its_end_is_a_failure(options, mode, size):
    data = saved(noise(size).convert(mode), "JPEG", **options)

    for cut in (1, 2, 3, 40):
        assert decode(data[:-cut], RULES).code == "damaged"
    assert isinstance(decode(data + b"what a camera appends \xff\xda\xff\xd8" * 9, RULES), np.ndarray)


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"optimize": True}])
def test_zeros_inside_a_jpeg_file_are_noticed(options):
    data = saved(noise(700), "JPEG", **options)

    assert decode(zeroed(data, 0.4, 0.6), RULES) == Failure(
        "damaged", "a broken JPEG file: zero bytes stand in place of a part of its data"
    )


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"quality": 1}, {"subsampling": 0}])
@pytest.mark.parametrize("colour", ["black", "white", "red", (118, 97, 33)])
def test_even_pictures_are_whole(options, colour):
    """With tables of their own, one bit can stand for an even block, so that the file is full of zeros."""
    image = Image.new("RGB", (1200, 800), colour)

    data = saved(image, "JPEG", **options)
    assert (bytes(64) in data) is ("optimize" in options or "progressive" in options)
    assert isinstance(decode(data, RULES), np.ndarray)
    assert isinstance(decode(saved(image, "PNG"), RULES), np.ndarray)


def jpeg_by_hand(frame: int, colours: int, scanned: int, first_symbols: tuple[int, int]) -> bytes:
    """A JPEG file of ``colours`` colours, the first scan of which has ``scanned`` ones and only zeros as its data."""
    tables = [bytes([0x10 + number, 1, *bytes(15), symbol]) for number, symbol in enumerate(first_symbols)]
    components = [bytes([number, 0x11, 0]) for number in range(colours)]
    parts = [
        b"\xff\xd8",
        segment(frame, struct.pack(">BHHB", 8, 8, 8, colours) + b"".join(components)),
        *(segment(0xC4, table) for table in tables),
        segment(
            0xDA, bytes([scanned, *(byte for number in range(scanned) for byte in (number, number % 2)), 0, 63, 0])
        ),
        bytes(100),
        b"\xff\xd9",
    ]
    return b"".join(parts)


@pytest.mark.parametrize(
    ("frame", "colours", "scanned", "first_symbols", "whole"),
    [
        (0xC0, 3, 3, (0, 1), False),
        (0xC1, 1, 1, (1, 0), False),
        (0xC0, 1, 1, (0, 1), True),  # the second table is not used
        (0xC0, 3, 3, (0, 0), True),
        (0xC0, 3, 1, (1, 1), True),  # a scan for each colour
        (0xC2, 3, 3, (1, 1), True),  # progressive
    ],
)
def test_zeros_are_blocks_only_where_the_tables_say_so(frame, colours, scanned, first_symbols, whole):
    missing = what_is_missing(jpeg_by_hand(frame, colours, scanned, first_symbols), "JPEG")

    assert missing == ("" if whole else "zero bytes stand in place of a part of its data")


def test_a_png_file_without_its_end_is_whole_as_its_pixels_are():
    for cut in (1, 4, 12):
        assert np.array_equal(decode(PNG[:-cut], RULES), np.asarray(noise()))


def test_a_wrong_checksum_of_a_chunk_does_not_matter_if_that_of_the_pixels_is_right():
    data = PNG[:-16] + bytes(4) + PNG[-12:]
    many = bytearray(many_chunks(PNG))
    many[41 + 8192 : 45 + 8192] = bytes(4)

    assert np.array_equal(decode(data, RULES), np.asarray(noise()))
    assert np.array_equal(decode(bytes(many), RULES), np.asarray(noise()))


def test_files_with_a_thumbnail_of_their_own():
    """A thumbnail in the metadata has an end marker, too."""
    small = saved(noise(64), "JPEG")
    data = JPEG[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + small) + JPEG[2:]

    assert isinstance(decode(data, RULES), np.ndarray)
    assert decode(data[:-2], RULES).code == "damaged"


def test_text_chunks_before_and_after_stay_harmless():
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * 100, zip=True)

    assert np.array_equal(decode(saved(noise(), "PNG", pnginfo=info), RULES), np.asarray(noise()))


@pytest.mark.real_data
def test_real_photographs_are_whole(shared_data):
    paths = sorted((shared_data / "catsdogs").rglob("*.jpg"))[::3]

    assert len(paths) >= 500
    for path in paths:
        data = path.read_bytes()
        assert isinstance(decode(data, RULES), np.ndarray), path
        assert decode(zeroed(data, 0.7), RULES).code == "damaged", path

import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from featurecache.errors import OptionError, UnknownNameError
from featurecache.images import decode as decoding
from featurecache.images.decode import DecodeRules, byte_limit, dark_images, decode, fit_pixels, shrink
from featurecache.images.failures import Failure
from featurecache.options import PIXEL_LIMIT

HEIGHT, WIDTH = 24, 32
SAME_SIZE = DecodeRules(size=(HEIGHT, WIDTH))  # no resizing, so that the conversion alone is seen
SMALL = DecodeRules(size=(16, 16))
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def scene(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth colour picture without any symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = 255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), 200 * (x + y) / (height + width)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def alpha() -> np.ndarray:
    return np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))


def picture(mode: str = "RGB") -> Image.Image:
    image = Image.fromarray(scene())
    if mode in {"RGBA", "LA", "RGBa"}:
        image = image.convert("LA" if mode == "LA" else "RGBA")
        image.putalpha(Image.fromarray(alpha()))
    if mode.startswith("I;16"):
        return Image.fromarray((scene()[..., 0].astype(np.uint16) * 257).astype(">u2" if mode == "I;16B" else "<u2"))
    return image if image.mode == mode else image.convert(mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def heif(*images: Image.Image, **options: object) -> bytes:
    """A HEIF file without loss, apart from rounding."""
    file, pictures = io.BytesIO(), pillow_heif.HeifFile()
    for image in images:
        pictures.add_from_pillow(image)
    pictures.save(file, **{"quality": -1, "chroma": 444} | options)
    return file.getvalue()


def deep_heif(mode: str, samples: np.ndarray) -> bytes:
    """A HEIF file with the high 10 bits of 16-bit samples."""
    file = io.BytesIO()
    pillow_heif.from_bytes(mode, (WIDTH, HEIGHT), samples.astype("<u2").tobytes()).save(file, quality=-1, chroma=444)
    return file.getvalue()


def jpeg2000(samples: np.ndarray, bits: int, **options: object) -> bytes:
    """A JPEG 2000 file without loss whose samples have ``bits`` bits; Pillow writes 8 or 16 alone."""
    stored = samples.itemsize * 8
    shifted = (samples.astype(int) - (1 << bits - 1) + (1 << stored - 1)).astype(samples.dtype)
    data = bytearray(saved(Image.fromarray(shifted), "JPEG2000", mct=0, **options))
    size = data.index(b"\xff\x4f\xff\x51") + 4
    for band in range(data[size + 37]):
        data[size + 38 + 3 * band] = bits - 1
    if b"ihdr" in data:
        data[data.index(b"ihdr") + 14] = bits - 1
    return bytes(data)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG file written by hand; each row starts with its filter byte 0."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"".join([PNG_SIGNATURE, header, *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def tiff(width: int, height: int, bits: int, photometric: int, pixels: bytes, bands: int = 1) -> bytes:
    """A little-endian grey TIFF file of one strip, written by hand."""
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 0),
        (277, bands),
        (278, height),
    ]
    tags.append((279, len(pixels)))
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4) + pixels


def bmp_with_alpha() -> bytes:
    """A BMP file with a version 4 header, the first that can say where the alpha lies."""
    pixels = picture("RGBA").transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + bytes(52)
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(pixels), 0, 0, 14 + 108) + header + pixels


def over_white(colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    weight = opacity[..., None] / 255
    return colour * weight + 255 * (1 - weight)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def key_white(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], 255, pixels)


def palette_scene() -> Image.Image:
    return picture().quantize(16)


def palette_file(kind: str, **options: object) -> bytes:
    return saved(palette_scene(), kind, **options)


def palette_rgb() -> np.ndarray:
    return np.asarray(palette_scene().convert("RGB"))


def palette_alpha() -> Image.Image:
    return picture("RGBA").convert("PA")


def palette_alpha_over_white() -> np.ndarray:
    pixels = np.asarray(palette_alpha().convert("RGBA"))
    return over_white(pixels[..., :3], pixels[..., 3])


def animation(kind: str, **options: object) -> bytes:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "green", "blue")]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)


RED = np.broadcast_to(np.array([255, 0, 0], np.uint8), (HEIGHT, WIDTH, 3))
RGB = scene()
GREY = np.asarray(picture("L"))
ONE = np.asarray(picture("1").convert("L"))
INDEX = np.asarray(palette_scene())
WORDS = (np.arange(HEIGHT * WIDTH) * 85).astype(np.uint16).reshape(HEIGHT, WIDTH)  # 16-bit samples that fill the range
DEEP = np.stack([WORDS, WORDS[::-1], WORDS[:, ::-1]], axis=-1)
ALPHA_RGB = over_white(RGB, alpha())
ALPHA_GREY = over_white(grey(GREY), alpha())


def rows16(samples: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)


def two_bits() -> np.ndarray:
    return (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) // 3 % 4).astype(np.uint8)


def rows2(samples: np.ndarray) -> bytes:
    packed = samples.reshape(HEIGHT, WIDTH // 4, 4) @ np.array([64, 16, 4, 1])
    return b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in packed)


def twelve_bits() -> bytes:
    values = (WORDS >> 4).reshape(-1, 2).astype(np.uint32)
    packed = values[:, 0] << 12 | values[:, 1]
    return b"".join(int(pair).to_bytes(3, "big") for pair in packed)


def netpbm(magic: str, width: int, height: int, maximum: int | None, samples: np.ndarray) -> bytes:
    """A Netpbm file whose samples are written as text."""
    header = [magic, str(width), str(height), *([] if maximum is None else [str(maximum)])]
    return "\n".join([*header, " ".join(str(int(sample)) for sample in samples.ravel())]).encode()


def text_chunks() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("transparency", "a word, not a colour")
    return info


# What is in the file, the pixels that must come out, and by how much they may differ (lossy formats, rounding).
GOOD: dict[str, tuple[Callable[[], bytes], np.ndarray, float]] = {
    "jpeg grey": (lambda: saved(picture("L"), "JPEG", quality=100), grey(GREY), 6),
    "jpeg rgb": (lambda: saved(picture(), "JPEG", quality=100, subsampling=0), RGB, 6),
    "jpeg progressive": (lambda: saved(picture(), "JPEG", quality=100, subsampling=0, progressive=True), RGB, 6),
    "jpeg cmyk": (lambda: saved(picture("CMYK"), "JPEG", quality=100, subsampling=0), RGB, 10),
    "jpeg of several pictures": (lambda: animation("MPO", quality=100, subsampling=0), RED, 6),
    "png 1": (lambda: saved(picture("1"), "PNG"), grey(ONE), 0),
    "png 1 key": (lambda: saved(picture("1"), "PNG", transparency=0), grey(np.full_like(ONE, 255)), 0),
    "png 2-bit grey": (lambda: png(WIDTH, HEIGHT, 2, 0, rows2(two_bits())), grey(two_bits() * 85), 0),
    "png 2-bit grey key": (
        lambda: png(WIDTH, HEIGHT, 2, 0, rows2(two_bits()), chunk(b"tRNS", b"\0\1")),
        key_white(grey(two_bits() * 85), two_bits() == 1),
        0,
    ),
    "png grey": (lambda: saved(picture("L"), "PNG"), grey(GREY), 0),
    "png grey key": (
        lambda: saved(picture("L"), "PNG", transparency=int(GREY[3, 3])),
        key_white(grey(GREY), GREY[3, 3] == GREY),
        0,
    ),
    "png grey alpha": (lambda: saved(picture("LA"), "PNG"), ALPHA_GREY, 1),
    "png 16-bit grey": (lambda: saved(Image.fromarray(WORDS), "PNG"), grey(WORDS >> 8), 0),
    "png 16-bit grey key": (
        lambda: png(WIDTH, HEIGHT, 16, 0, rows16(WORDS), chunk(b"tRNS", struct.pack(">H", WORDS[2, 2]))),
        key_white(grey(WORDS >> 8), WORDS[2, 2] == WORDS),
        0,
    ),
    "png 16-bit rgb": (lambda: png(WIDTH, HEIGHT, 16, 2, rows16(DEEP)), DEEP >> 8, 0),
    "png 16-bit rgb key": (
        lambda: png(WIDTH, HEIGHT, 16, 2, rows16(DEEP), chunk(b"tRNS", struct.pack(">HHH", *DEEP[0, 0]))),
        key_white(DEEP >> 8, (DEEP[0, 0] >> 8 == DEEP >> 8).all(axis=2)),
        0,
    ),
    "png palette": (lambda: palette_file("PNG"), palette_rgb(), 0),
    "png palette, one colour clear": (
        lambda: palette_file("PNG", transparency=3),
        key_white(palette_rgb(), INDEX == 3),
        0,
    ),
    "png palette, alphas": (
        lambda: palette_file("PNG", transparency=bytes(range(0, 160, 10))),
        over_white(palette_rgb(), INDEX.astype(int) * 10),
        1,
    ),
    "png rgb": (lambda: saved(picture(), "PNG"), RGB, 0),
    "png rgb key": (
        lambda: saved(picture(), "PNG", transparency=tuple(map(int, RGB[5, 7]))),
        key_white(RGB, (RGB[5, 7] == RGB).all(axis=2)),
        0,
    ),
    "png rgba": (lambda: saved(picture("RGBA"), "PNG"), ALPHA_RGB, 1),
    "png text named transparency": (lambda: saved(picture("L"), "PNG", pnginfo=text_chunks()), grey(GREY), 0),
    "png palette, text named transparency": (lambda: palette_file("PNG", pnginfo=text_chunks()), palette_rgb(), 0),
    "png animated": (lambda: animation("PNG"), RED, 0),
    "gif grey": (lambda: saved(picture("L"), "GIF"), grey(GREY), 0),
    "gif palette": (lambda: palette_file("GIF"), palette_rgb(), 0),
    "gif transparent": (lambda: palette_file("GIF", transparency=3), key_white(palette_rgb(), INDEX == 3), 0),
    "gif animated": (lambda: animation("GIF"), RED, 0),
    "bmp 1": (lambda: saved(picture("1"), "BMP"), grey(ONE), 0),
    "bmp grey": (lambda: saved(picture("L"), "BMP"), grey(GREY), 0),
    "bmp palette": (lambda: palette_file("BMP"), palette_rgb(), 0),
    "bmp rgb": (lambda: saved(picture(), "BMP"), RGB, 0),
    "bmp 32-bit": (lambda: saved(picture("RGBA"), "BMP"), RGB, 0),  # its fourth byte has no meaning
    "bmp 32-bit alpha": (bmp_with_alpha, ALPHA_RGB, 1),
    "webp lossless": (lambda: saved(picture(), "WEBP", lossless=True), RGB, 0),
    "webp lossy": (lambda: saved(picture(), "WEBP", quality=100), RGB, 16),
    "webp alpha": (lambda: saved(picture("RGBA"), "WEBP", lossless=True, exact=True), ALPHA_RGB, 1),
    "webp animated": (lambda: animation("WEBP", lossless=True), RED, 0),
    "tiff 1": (lambda: saved(picture("1"), "TIFF"), grey(ONE), 0),
    "tiff 1 group4": (lambda: saved(picture("1"), "TIFF", compression="group4"), grey(ONE), 0),
    "tiff grey": (lambda: saved(picture("L"), "TIFF"), grey(GREY), 0),
    "tiff grey, white is zero": (lambda: tiff(WIDTH, HEIGHT, 8, 0, GREY.tobytes()), grey(255 - GREY), 0),
    "tiff grey alpha": (lambda: saved(picture("LA"), "TIFF"), ALPHA_GREY, 1),
    "tiff 16-bit": (lambda: saved(Image.fromarray(WORDS), "TIFF"), grey(WORDS >> 8), 0),
    "tiff 16-bit big-endian": (lambda: saved(picture("I;16B"), "TIFF"), grey(RGB[..., 0]), 0),
    "tiff 16-bit, white is zero": (
        lambda: tiff(WIDTH, HEIGHT, 16, 0, WORDS.astype("<u2").tobytes()),
        255 - grey(WORDS >> 8),
        0,
    ),
    "tiff 12-bit": (lambda: tiff(WIDTH, HEIGHT, 12, 1, twelve_bits()), grey(WORDS >> 8), 0),
    "tiff palette": (lambda: palette_file("TIFF"), palette_rgb(), 0),
    "tiff rgb": (lambda: saved(picture(), "TIFF"), RGB, 0),
    "tiff lzw": (lambda: saved(picture(), "TIFF", compression="tiff_lzw"), RGB, 0),
    "tiff deflate": (lambda: saved(picture(), "TIFF", compression="tiff_adobe_deflate"), RGB, 0),
    "tiff jpeg": (lambda: saved(picture(), "TIFF", compression="jpeg", quality=100), RGB, 16),
    "tiff rgba": (lambda: saved(picture("RGBA"), "TIFF"), ALPHA_RGB, 1),
    "tiff cmyk": (lambda: saved(picture("CMYK"), "TIFF"), RGB, 0),
    "tiff palette alpha": (lambda: saved(palette_alpha(), "TIFF"), palette_alpha_over_white(), 1),
    "tiff lab": (lambda: saved(picture("LAB"), "TIFF"), np.asarray(picture("LAB").convert("RGB")), 0),
    "tiff of several pages": (lambda: animation("TIFF"), RED, 0),
    "pbm": (lambda: saved(picture("1"), "PPM"), grey(ONE), 0),
    "pbm text": (lambda: netpbm("P1", WIDTH, HEIGHT, None, ONE == 0), grey(ONE), 0),
    "pgm": (lambda: saved(picture("L"), "PPM"), grey(GREY), 0),
    "pgm text": (lambda: netpbm("P2", WIDTH, HEIGHT, 255, GREY), grey(GREY), 0),
    "pgm 16-bit": (lambda: b"P5 32 24 65535\n" + WORDS.astype(">u2").tobytes(), grey(WORDS >> 8), 0),
    "pgm 12-bit": (lambda: b"P5 32 24 4095\n" + (WORDS >> 4).astype(">u2").tobytes(), grey(WORDS >> 8), 0),
    "ppm": (lambda: saved(picture(), "PPM"), RGB, 0),
    "ppm with a comment": (lambda: b"P6 # a scene\n32 24\n255\n" + RGB.tobytes(), RGB, 0),
    "ppm text": (lambda: netpbm("P3", WIDTH, HEIGHT, 255, RGB), RGB, 0),
    "ppm 16-bit": (lambda: b"P6\n32 24 65535\n" + DEEP.astype(">u2").tobytes(), DEEP >> 8, 0),
    "ppm 10-bit": (lambda: b"P6\n32 24 1023\n" + (DEEP >> 6).astype(">u2").tobytes(), DEEP >> 8, 0),
    "pgm of few values": (lambda: b"P5 32 24 3\n" + two_bits().tobytes(), grey(two_bits() * 85), 0),
    "pgm with samples above its maximum": (
        lambda: b"P5 32 24 9\n" + GREY.tobytes(),
        grey(np.minimum(GREY, 9) * 28.4),
        1,
    ),
    "ppm 5-bit": (lambda: b"P6\n32 24 31\n" + (RGB >> 3).tobytes(), RGB >> 3 << 3 | RGB >> 5, 1),
    "avif": (lambda: saved(picture(), "AVIF", quality=100, subsampling="4:4:4"), RGB, 8),
    "avif grey": (lambda: saved(picture("L"), "AVIF", quality=100), grey(GREY), 8),
    "avif alpha": (lambda: saved(picture("RGBA"), "AVIF", quality=100, subsampling="4:4:4"), ALPHA_RGB, 8),
    "avif animated": (lambda: animation("AVIF", quality=100, subsampling="4:4:4"), RED, 8),
    "heic": (lambda: heif(picture()), RGB, 2),
    "heic grey": (lambda: heif(picture("L")), grey(GREY), 2),
    "heic alpha": (lambda: heif(picture("RGBA")), ALPHA_RGB, 3),
    "heic tiles": (lambda: heif(picture(), tile_size=16), RGB, 2),
    "heic 10-bit": (lambda: deep_heif("RGB;16", DEEP), DEEP >> 8, 2),
    "heic 10-bit grey": (lambda: deep_heif("L;16", WORDS), grey(WORDS >> 8), 2),
    "heic of several pictures": (lambda: heif(Image.fromarray(RED), picture()), RED, 2),
    "jp2": (lambda: saved(picture(), "JPEG2000"), RGB, 0),
    "jp2 lossy": (lambda: saved(picture(), "JPEG2000", irreversible=True), RGB, 4),
    "jp2 tiles": (lambda: saved(picture(), "JPEG2000", tile_size=(10, 10)), RGB, 0),
    "jp2 grey": (lambda: saved(picture("L"), "JPEG2000"), grey(GREY), 0),
    "jp2 alpha": (lambda: saved(picture("RGBA"), "JPEG2000"), ALPHA_RGB, 1),
    "jp2 grey alpha": (lambda: saved(picture("LA"), "JPEG2000"), ALPHA_GREY, 1),
    "jp2 1-bit": (lambda: jpeg2000(ONE >> 7, 1), grey(ONE), 0),
    "jp2 4-bit": (lambda: jpeg2000(GREY >> 4, 4), grey((GREY >> 4) * 17), 0),
    "jp2 5-bit rgb": (lambda: jpeg2000(RGB >> 3, 5), (RGB >> 3) * 255.0 / 31, 1),
    "jp2 16-bit grey": (lambda: saved(Image.fromarray(WORDS), "JPEG2000"), grey(WORDS >> 8), 0),
    "jp2 12-bit grey": (lambda: jpeg2000(WORDS >> 4, 12), grey(WORDS >> 8), 0),
    "j2k": (lambda: saved(picture(), "JPEG2000", no_jp2=True), RGB, 0),
    "j2k 10-bit grey": (lambda: jpeg2000(WORDS >> 6, 10, no_jp2=True), grey(WORDS >> 8), 0),
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_of_image_has_its_rule(kind):
    make, expected, tolerance = GOOD[kind]

    pixels = decode(make(), SAME_SIZE)

    assert isinstance(pixels, np.ndarray), pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.flags.c_contiguous
    assert np.abs(pixels - expected.astype(float)).max() <= tolerance


@pytest.mark.parametrize(
    ("mode", "expected"), [("La", ALPHA_GREY), ("RGBa", ALPHA_RGB), ("HSV", RGB), ("YCbCr", RGB), ("RGBX", RGB)]
)
def test_modes_that_pillow_knows_but_seldom_opens(mode, expected, monkeypatch):
    image = picture("LA").convert("La") if mode == "La" else picture(mode)
    monkeypatch.setitem(decoding._READERS, "GIF", lambda *_: image)

    pixels = decode(b"GIF89a", SAME_SIZE)

    assert isinstance(pixels, np.ndarray), pixels
    visible = alpha() > 32 if mode.endswith("a") else np.full((HEIGHT, WIDTH), fill_value=True)
    assert np.abs(pixels - expected.astype(float))[visible].max() <= 9  # premultiplied colour is coarse


def test_a_mode_without_a_rule_is_a_failure(monkeypatch):
    image = picture()
    image._mode = "XYZ"
    monkeypatch.setitem(decoding._READERS, "GIF", lambda *_: image)

    assert "unknown pixels (mode XYZ)" in decode(b"GIF89a", SAME_SIZE).reason


@pytest.mark.parametrize(("mode", "reason"), [("I", "32-bit or signed integer"), ("F", "floating-point")])
def test_pixels_without_a_brightness_scale_are_refused(mode, reason):
    result = decode(saved(picture("L").convert(mode), "TIFF"), SAME_SIZE)

    assert result == Failure(
        "unsupported",
        f"{reason} pixels (mode {mode}) have no defined brightness scale; convert the image to 8 bits",
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = saved(Image.fromarray(scene(24, 24)), kind, exif=exif, **options)
    oracle = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    assert np.array_equal(decode(data, DecodeRules(size=(24, 24))), np.asarray(oracle))


def test_orientation_turns_before_resizing():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(scene(20, 60)), "PNG", exif=exif)
    upright = Image.fromarray(np.rot90(scene(20, 60), -1))

    expected = np.asarray(upright.resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(decode(data, SMALL), expected)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_out_of_range_counts_as_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation

    assert np.array_equal(decode(saved(picture(), "PNG", exif=exif), SAME_SIZE), RGB)


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"no exif"])
def test_malformed_exif_counts_as_upright(exif):
    plain = saved(picture(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif

    assert np.array_equal(decode(plain[:2] + segment + plain[2:], SAME_SIZE), decode(plain, SAME_SIZE))


def test_exif_that_is_no_text_at_all_counts_as_upright():
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "not\nhexadecimal\n8\nxyz")

    assert np.array_equal(decode(saved(picture(), "PNG", pnginfo=info), SAME_SIZE), RGB)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(16, 16), (11, 29), (224, 224)])
def test_squash_is_pillows_resize(name, size):
    expected = picture().resize(size[::-1], Image.Resampling[name.upper()])

    assert np.array_equal(decode(saved(picture(), "PNG"), DecodeRules(size, filter=name)), np.asarray(expected))


@pytest.mark.parametrize("shape", [(24, 32), (32, 24), (300, 20), (20, 20)])
def test_crop_keeps_the_centre(shape):
    image = Image.fromarray(scene(*shape))
    expected = ImageOps.fit(image, (12, 16), Image.Resampling.BILINEAR)

    assert np.array_equal(decode(saved(image, "PNG"), DecodeRules((16, 12), resize="crop")), np.asarray(expected))


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_extreme_shapes(shape, resize):
    pixels = decode(saved(Image.fromarray(scene(*shape)), "PNG"), DecodeRules((224, 224), resize=resize))

    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (224, 224, 3)


ONE_OF_EACH = {
    "JPEG": lambda: saved(Image.fromarray(scene(96, 128)), "JPEG"),
    "PNG": lambda: saved(Image.fromarray(scene(96, 128)), "PNG"),
    "WEBP": lambda: saved(Image.fromarray(scene(96, 128)), "WEBP"),
    "BMP": lambda: saved(Image.fromarray(scene(96, 128)), "BMP"),
    "GIF": lambda: saved(Image.fromarray(scene(96, 128)), "GIF"),
    "TIFF": lambda: saved(Image.fromarray(scene(96, 128)), "TIFF"),
    "TIFF lzw": lambda: saved(Image.fromarray(scene(96, 128)), "TIFF", compression="tiff_lzw"),
    "PPM": lambda: saved(Image.fromarray(scene(96, 128)), "PPM"),
    "AVIF": lambda: saved(Image.fromarray(scene(96, 128)), "AVIF"),
    "HEIF": lambda: heif(Image.fromarray(scene(96, 128))),
    "JPEG2000": lambda: saved(Image.fromarray(scene(96, 128)), "JPEG2000"),
    "GIF animated": lambda: animation("GIF"),
    "PNG palette": lambda: palette_file("PNG", transparency=bytes(range(0, 160, 10))),
    "JPEG exif": lambda: saved(
        picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    ),
}


@pytest.mark.parametrize("kept", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "TIFF lzw", "PPM", "AVIF", "HEIF", "JPEG2000"]
)
def test_a_truncated_file_is_a_failure(kind, kept):
    data = ONE_OF_EACH[kind]()

    assert isinstance(decode(data, SMALL), np.ndarray)
    assert isinstance(decode(data[: int(len(data) * kept)], SMALL), Failure)


def test_the_reason_of_a_truncated_jpeg():
    data = ONE_OF_EACH["JPEG"]()

    failure = decode(data[: len(data) // 2], SMALL)

    assert failure.code == "damaged"
    assert failure.reason.startswith("a broken JPEG file: image file is truncated")


def test_flipped_bits_in_compressed_data_are_noticed():
    data = bytearray(ONE_OF_EACH["PNG"]())
    data[len(data) // 2] ^= 0x10

    failure = decode(bytes(data), SMALL)
    assert failure.code == "damaged"
    assert failure.reason.startswith("a broken PNG file: ")


@pytest.mark.parametrize("kind", ["TGA", "ICO", "PCX", "EPS", "PDF", "SGI"])
def test_other_formats_of_pillow_are_not_opened(kind):
    assert decode(saved(picture(), kind), SMALL).code == "not_an_image"


def test_a_kind_of_file_that_is_not_known_is_quoted():
    assert decode(b"\x9a\x01" + bytes(range(200, 256)), SMALL) == Failure(
        "not_an_image",
        "not a JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM, AVIF, HEIF or JPEG2000 image; "
        r"the file begins with b'\x9a\x01\xc8\xc9\xca\xcb\xcc\xcd'",
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000"])
@pytest.mark.parametrize("kept", [12, 20, 50])
def test_the_reason_of_a_file_cut_in_its_header_agrees_with_its_signature(kind, kept):
    data = ONE_OF_EACH[kind]()[:kept]

    failure = decode(data, SMALL)
    assert failure.code == "damaged"
    assert failure.reason.startswith(f"a broken {kind} file: ")


@pytest.mark.parametrize(
    ("bands", "bits", "words"),
    [(13, 16, "13 bands with 16 bits"), (5, 8, "5 bands with 8 bits"), (1, 64, "1 band with 64 bits")],
)
def test_a_tiff_file_of_unusual_bands_is_described(bands, bits, words, capfd):
    failure = decode(tiff(WIDTH, HEIGHT, bits, 1, bytes(WIDTH * HEIGHT * bands * bits // 8), bands), SMALL)

    assert failure == Failure("unsupported", f"a TIFF file of {words}, which is not read; save it as 8-bit RGB")
    assert capfd.readouterr() == ("", "")


def test_a_compression_that_is_not_known_is_named():
    known, other = struct.pack("<HHII", 259, 4, 1, 1), struct.pack("<HHII", 259, 4, 1, 33003)
    data = tiff(WIDTH, HEIGHT, 8, 1, GREY.tobytes())

    assert decode(data.replace(known, other), SMALL) == Failure(
        "unsupported",
        "a TIFF file of 1 band with 8 bits and compression 33003, which is not read; save it as 8-bit RGB",
    )


def test_a_jpeg_file_of_12_bits_is_not_called_broken():
    data = bytearray(saved(picture(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12

    assert decode(bytes(data), SMALL) == Failure(
        "unsupported", "a JPEG file that is not read: cannot handle 12-bit layers"
    )


JP2 = saved(picture(), "JPEG2000")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(picture("RGBA"), "JPEG2000", no_jp2=True), "4 bands, of which none is defined as opacity"),
        (saved(picture("LA"), "JPEG2000").replace(b"cdef", b"abcd"), "2 bands, of which none is defined as opacity"),
        (JP2.replace(b"\x07\1\1\x07\1\1\x07\1\1", b"\x87\1\1" * 3), "signed samples"),
        (jpeg2000(np.asarray(picture("RGBA")) >> 4, 4), "4 bits with a palette, opacity or CMYK"),
    ],
    ids=["raw", "undefined", "signed", "opacity of few bits"],
)
def test_samples_of_jpeg_2000_without_a_meaning_are_refused(data, words):
    assert decode(data, SAME_SIZE) == Failure(
        "unsupported", f"a JPEG2000 file of {words}, which is not read; save it as 8-bit RGB"
    )


@pytest.mark.parametrize("size", [(16, 16), (4000, 4000)])
def test_a_jpeg_2000_file_of_two_sizes_is_a_failure(size):
    header = JP2.index(b"ihdr") + 4

    assert decode(JP2[:header] + struct.pack(">II", *size) + JP2[header + 8 :], SMALL).code == "damaged"


@pytest.mark.parametrize(
    ("size", "code"), [((16, 16), "damaged"), ((400, 400), "damaged"), ((8000, 7000), "too_many_pixels")]
)
def test_a_heif_file_of_two_sizes_is_a_failure(size, code):
    data = ONE_OF_EACH["HEIF"]()
    place = data.index(b"ispe") + 8

    assert decode(data[:place] + struct.pack(">II", *size) + data[place + 8 :], SMALL).code == code


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("stated", [1, 6])
def test_a_heif_file_turns_its_pixels_itself_whatever_its_exif_states(orientation, stated):
    image, exif, file = Image.fromarray(scene()), Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    picture = pillow_heif.from_bytes("RGB", image.size, image.tobytes())
    picture[0].info["exif"] = exif.tobytes()
    picture.save(file, quality=-1, chroma=444)
    data, entry = file.getvalue(), b"\1\x12\0\3\0\0\0\1\0"
    assert (b"irot" in data or b"imir" in data) is (orientation > 1)
    assert data.count(entry + bytes([orientation])) == 1
    turned = Image.frombytes("RGB", image.size, image.tobytes())
    turned.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(turned)

    pixels = decode(
        data.replace(entry + bytes([orientation]), entry + bytes([stated])), DecodeRules(upright.size[::-1])
    )

    assert np.abs(pixels - np.asarray(upright).astype(float)).max() <= 2


def test_a_heif_file_without_its_package_names_the_command_and_is_tried_again(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)

    failure = decode(ONE_OF_EACH["HEIF"](), SMALL)

    assert failure == Failure(
        "not_installed", "a HEIF (HEIC) file, which needs pillow-heif: pip install 'featurecache[heic]'"
    )
    assert not failure.is_permanent


def test_zero_bytes():
    assert decode(b"", SMALL) == Failure("empty", "an empty file (0 bytes)")


@pytest.mark.parametrize(
    ("width", "height", "pixels"),
    [(8000, 7000, "56,000,000"), (13000, 13000, "169,000,000"), (30000, 30000, "900,000,000")],
    ids=["above our limit", "Pillow warns", "Pillow refuses"],
)
@pytest.mark.parametrize("action", ["default", "ignore", "error"])
def test_a_bomb_is_refused_by_its_header_whatever_the_warning_filters(width, height, pixels, action):
    data = png(width, height, 1, 0, b"")
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        assert decode(data, SMALL) == Failure(
            "too_many_pixels", f"{pixels} pixels are more than the limit of 50,000,000; --max-pixels raises it"
        )


def test_a_real_bomb_of_a_few_bytes_is_refused_before_it_unpacks():
    data = saved(Image.new("1", (13000, 13000)), "PNG")

    assert len(data) < 100_000
    assert "169,000,000 pixels" in decode(data, SMALL).reason


def test_an_extremely_long_side_is_refused():
    assert decode(png(2_000_000, 1, 1, 0, b""), SMALL) == Failure(
        "unsupported", "2,000,000 x 1 pixels; expected sides from 1 to 1,000,000"
    )


def test_the_limits_are_inclusive():
    data = saved(Image.new("L", (10, 10)), "PNG")

    assert isinstance(decode(data, DecodeRules((8, 8), max_pixels=100)), np.ndarray)
    assert decode(data, DecodeRules((8, 8), max_pixels=99)) == Failure(
        "too_many_pixels", "100 pixels are more than the limit of 99; --max-pixels raises it"
    )


def test_the_limit_for_bytes_grows_with_that_for_pixels():
    assert DecodeRules((8, 8), max_pixels=100).max_bytes == DecodeRules((8, 8)).max_bytes == 268_435_456
    assert byte_limit(108_000_000) >= 4 * 108_000_000  # a TIFF file without compression
    assert decode(bytes(268_435_457), SMALL) == Failure(
        "too_many_bytes", "268,435,457 bytes are more than the limit of 268,435,456; --max-pixels raises it, too"
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_limit_is_ours_alone(kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    options = {"compression": "group4"} if kind == "TIFF" else {}
    data = saved(Image.new("1", (180, 100)), kind, **options)

    assert isinstance(decode(data, DecodeRules((8, 8), max_pixels=18_000)), np.ndarray)
    assert decode(data, DecodeRules((8, 8), max_pixels=17_999)).code == "too_many_pixels"


def test_pillows_limit_is_never_lowered(monkeypatch):
    for limit in (None, 10**12):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        decode(saved(picture(), "PNG"), SMALL)
        assert limit == Image.MAX_IMAGE_PIXELS


def test_memory_that_runs_out_is_a_failure(monkeypatch):
    monkeypatch.setattr(Image.Image, "resize", lambda *args, **options: (_ for _ in ()).throw(MemoryError))

    assert decode(saved(picture(), "PNG"), SMALL) == Failure("out_of_memory", "not enough memory to decode the image")


def test_a_reason_is_one_line_without_addresses(monkeypatch):
    def resize(*args, **options):
        raise ValueError("bad\n<object at 0x7f00deadbeef>\tthing\x1b[31m" + "x" * 500)

    monkeypatch.setattr(Image.Image, "resize", resize)

    reason = decode(saved(picture(), "PNG"), SMALL).reason
    assert reason.startswith("a broken PNG file: bad <object > thing?[31mxxx")
    assert len(reason) < 250


def test_truncated_images_never_pass_for_whole_ones(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    with pytest.raises(RuntimeError, match="set it to False"):
        decode(saved(picture(), "PNG"), SMALL)


def test_metadata_warnings_are_neither_shown_nor_failures():
    script = (
        "import sys; from featurecache.images.decode import *; "
        "result = decode(sys.stdin.buffer.read(), DecodeRules((8, 8))); print(getattr(result, 'shape', result))"
    )
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0"  # the maker's name lies behind the end
    data = saved(picture(), "JPEG")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    for flags in ([], ["-W", "error"]):
        run = subprocess.run([sys.executable, *flags, "-c", script], input=data, capture_output=True, check=True)
        assert run.stdout.split() == [b"(8,", b"8,", b"3)"]
        assert run.stderr == b""


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", PNG_SIGNATURE, b"GIF89a", b"BM", b"II*\0", b"RIFF"])
)
def test_random_bytes_never_raise(data, prefix):
    check_outcome(prefix + data)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(ONE_OF_EACH)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=8),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
    near_start=st.booleans(),
)
def test_damaged_files_never_raise(kind, flips, kept, near_start):
    data = bytearray(ONE_OF_EACH[kind]())
    for where, bit in flips:
        data[int(where * min(len(data), 128 if near_start else len(data)))] ^= 1 << bit
    check_outcome(bytes(data[: int(len(data) * kept)]))


def check_outcome(data: bytes) -> None:
    rules = DecodeRules((16, 16), max_pixels=1_000_000)
    result, again = decode(data, rules), decode(data, rules)
    if isinstance(result, Failure):
        assert result == again
        assert result.reason.isprintable()
        assert result.reason.strip()
        assert "0x7" not in result.reason
    else:
        assert result.shape == (16, 16, 3)
        assert result.dtype == np.uint8
        assert np.array_equal(result, again)


def test_threads_do_not_disturb_each_other():
    files = [make() for make, _, _ in GOOD.values()] * 4
    alone = [decode(data, SMALL) for data in files]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda data: decode(data, SMALL), files))

    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"resize": "stretch"}, UnknownNameError),
        ({"filter": "bilinaer"}, UnknownNameError),
        ({"size": (0, 224)}, ValueError),
        ({"size": (224,)}, ValueError),
        ({"size": (224.0, 224)}, ValueError),
        ({"max_pixels": 0}, ValueError),
        ({"max_pixels": PIXEL_LIMIT + 1}, ValueError),
        ({"max_pixels": True}, ValueError),
    ],
)
def test_rules_are_checked_when_built(options, error):
    with pytest.raises(error, match=r"expected|did you mean|unknown"):
        DecodeRules(**{"size": (224, 224)} | options)


# Samples of more than 8 bits


def is_dark(data: bytes) -> bool:
    calls: list[bool] = []
    pixels = decode(data, SAME_SIZE, on_dark=lambda: calls.append(True))
    assert isinstance(pixels, np.ndarray), pixels
    assert len(calls) < 2
    return bool(calls)


TWELVE = WORDS >> 4
DEEP_TWELVE = DEEP >> 4
OPAQUE = np.full((HEIGHT, WIDTH, 1), 65535)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: saved(Image.fromarray(TWELVE), "PNG"), True),
        (lambda: saved(Image.fromarray(TWELVE), "TIFF"), True),
        (lambda: saved(Image.fromarray(WORDS >> 2), "TIFF"), True),
        (lambda: png(WIDTH, HEIGHT, 16, 2, rows16(DEEP_TWELVE)), True),
        (lambda: png(WIDTH, HEIGHT, 16, 6, rows16(np.concatenate([DEEP_TWELVE, OPAQUE], axis=2))), True),
        (lambda: b"P5 32 24 65535\n" + TWELVE.astype(">u2").tobytes(), True),
        (lambda: b"P6 32 24 65535\n" + DEEP_TWELVE.astype(">u2").tobytes(), True),
        (lambda: b"P5 32 24 4095\n" + TWELVE.astype(">u2").tobytes(), False),  # the file states its range
        (lambda: saved(Image.fromarray(WORDS), "PNG"), False),
        (lambda: saved(Image.fromarray(np.zeros_like(WORDS)), "PNG"), False),  # black, whatever the range
        (lambda: png(WIDTH, HEIGHT, 16, 2, rows16(DEEP)), False),
        (lambda: saved(Image.fromarray(RGB >> 4), "PNG"), False),  # 8 bits: the pixels are as dark as the image
        (lambda: tiff(WIDTH, HEIGHT, 12, 1, twelve_bits()), False),
        (lambda: saved(Image.fromarray(TWELVE), "JPEG2000"), True),
        (lambda: jpeg2000(TWELVE, 12), False),
    ],
)
def test_samples_that_leave_the_high_bits_empty_are_noticed(make, expected):
    assert is_dark(make()) is expected


def test_a_stated_depth_does_not_change_the_scale():
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"sBIT", b"\x0c"), chunk(b"IDAT", zlib.compress(rows16(TWELVE)))]
    stated = b"".join([PNG_SIGNATURE, *parts, chunk(b"IEND", b"")])

    assert np.array_equal(decode(stated, SAME_SIZE), grey(TWELVE >> 8))
    assert is_dark(stated)


def test_the_warning_about_dark_images_names_the_first():
    [warning] = dark_images(["b.png", "a.png"])

    assert warning.code == "dark_images"
    assert warning.message.startswith(
        "2 images with more than 8 bits per sample, the first a.png, use less than a quarter"
    )
    assert dark_images([]) == ()


# Pictures for people


def small(data: bytes, side: int, **options: int) -> np.ndarray:
    result = shrink(data, side, **options)
    assert isinstance(result, np.ndarray), result
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    return result


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((640, 480), 64, (64, 48)),
        ((480, 640), 64, (48, 64)),
        ((1, 5000), 64, (1, 64)),
        ((5000, 1), 64, (64, 1)),
        ((5000, 1), 1, (1, 1)),
        ((63, 50), 64, (63, 50)),
        ((64, 64), 64, (64, 64)),
        ((65, 65), 64, (64, 64)),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_is_shrunk_at_its_aspect_ratio_and_never_enlarged(kind, size, side, expected):
    assert small(saved(Image.new("RGB", size), kind), side).shape == (*expected[::-1], 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_shrunk_image_is_upright(kind, orientation):
    image = Image.fromarray(scene(240, 320))
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = Image.open(io.BytesIO(saved(image, kind, exif=exif)))
    expected = ImageOps.exif_transpose(expected).convert("RGB")
    expected = expected.resize((expected.width // 10, expected.height // 10), Image.Resampling.BOX)

    found = small(saved(image, kind, exif=exif), 32)
    assert found.shape == np.asarray(expected).shape
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 4


@pytest.mark.parametrize("name", GOOD)
def test_whatever_can_be_decoded_can_be_shrunk(name):
    data = GOOD[name][0]()

    assert small(data, 1000).shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(small(data, 1000), decode(data, SAME_SIZE))


def test_a_large_photograph_is_shrunk_from_a_coarser_version_of_it():
    data = saved(Image.fromarray(scene(1600, 2400)), "JPEG", quality=95)
    whole = Image.open(io.BytesIO(data)).resize((96, 64), Image.Resampling.BOX)

    assert np.abs(small(data, 96).astype(int) - np.asarray(whole)).max() <= 6


def test_what_cannot_be_decoded_cannot_be_shrunk():
    data = saved(picture(), "JPEG")

    assert shrink(data[:-100], 64) == decode(data[:-100], SMALL)
    assert isinstance(shrink(data[:-100], 64), Failure)
    assert shrink(b"", 64) == Failure("empty", "an empty file (0 bytes)")
    assert shrink(data, 64, max_pixels=767) == decode(data, DecodeRules((16, 16), max_pixels=767))


@pytest.mark.parametrize("side", [0, -1, 1.5, True])
def test_a_side_is_a_whole_number(side):
    with pytest.raises(OptionError, match="expected a whole number above 0"):
        shrink(saved(picture(), "PNG"), side)


def test_pixels_are_fitted_as_decoded_images_are():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    for resize in ("squash", "crop"):
        rules = DecodeRules((24, 32), resize)
        np.testing.assert_array_equal(fit_pixels(pixels, rules), decode(file.getvalue(), rules))
        np.testing.assert_array_equal(fit_pixels(pixels[:, ::-1], rules), fit_pixels(pixels[:, ::-1].copy(), rules))
    assert fit_pixels(pixels, DecodeRules((24, 32), max_pixels=1999)).code == "too_many_pixels"

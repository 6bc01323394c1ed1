"""File bytes in, uint8 RGB pixels (height, width, 3) out, by one pinned rule; Pillow and NumPy, nothing else.

An image that cannot be used is a `Failure` with a reason, never an exception. Colour profiles are not applied, as in
``keras.utils.load_img``.
"""

import errno
import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

# The two plugins that Image.open would otherwise look for by importing all forty-three.
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401
from PIL import ImageFile as PillowFile

from featurecache.errors import OptionError, UnknownNameError

DECODE_VERSION = 1
"""The number of these rules; it changes whenever the same bytes would give other pixels."""

PIXEL_LIMIT: Final = 89_478_485
"""The largest ``max_pixels``: what Pillow itself takes for a decompression bomb."""

MAX_PIXELS: Final = 50_000_000
"""A larger image is a failure, if nothing else is said."""

MAX_BYTES: Final = 268_435_456
"""A larger file is a failure, if nothing else is said."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_SIDE_LIMIT = 1_000_000  # pixels; a filter's table of weights grows with the side, not with the area
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_RESIZES = ("squash", "crop")
_OPAQUE = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
_TRANSPARENT = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_GAP = 2  # times the wanted side: how far a cheap reduction may go before the good one; Pillow's advice is 2 or 3
_WHITE = (255, 255, 255)
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_DEPTH_OFFSET = 24  # of the byte that holds the bits per sample, in every PNG file
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_WHITE_IS_ZERO = 258, 262, 0
_BOMB_PIXELS = re.compile(r"Image size \((\d+) pixels\)")
_ADDRESS = re.compile(r"\bat 0x[0-9A-Fa-f]+")
_REASON_LENGTH = 200
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
_REASONS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.ELOOP: "a loop of symbolic links",
    errno.EACCES: "no permission to read the file",
    errno.EPERM: "no permission to read the file",
    errno.EIO: "the disk or network reports a read error",
    errno.ENAMETOOLONG: "the file name is too long",
}
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _quieten_pillow() -> None:
    """Put the warning filters for Pillow first, so that the outcome does not depend on anybody else's.

    They are the whole process's, because ``warnings.catch_warnings`` is not thread-safe. What Pillow says about
    metadata concerns no pixel: it must not flood the terminal, nor, where warnings are errors, spoil a good image.
    """
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


_quieten_pillow()
_FIRST_FILTER = list(warnings.filters[:1])


@dataclass(frozen=True, slots=True)
class DecodeRules:
    """How an image becomes the network's input.

    Parameters
    ----------
    size
        Height and width in pixels of the result.
    resize
        ``"squash"``: the whole image, its aspect ratio changed; ``"crop"``: the largest centred part of the right
        aspect ratio.
    filter
        ``"bilinear"``, ``"bicubic"`` and ``"lanczos"`` are antialiased; ``"nearest"`` is what
        ``keras.utils.load_img`` does.
    max_pixels
        A larger image is a failure, at most `PIXEL_LIMIT`.
    max_bytes
        A larger file is a failure.

    Raises
    ------
    UnknownNameError
        If ``resize`` or ``filter`` is unknown.
    OptionError
        If a number is out of its range.
    """

    size: tuple[int, int]
    resize: str = "squash"
    filter: str = "bilinear"
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if self.resize not in _RESIZES:
            raise UnknownNameError("resize rule", self.resize, _RESIZES)
        if self.filter not in _FILTERS:
            raise UnknownNameError("filter", self.filter, _FILTERS)
        if len(self.size) != 2 or not all(_is_count(side) for side in self.size):  # noqa: PLR2004
            raise OptionError(f"size is {self.size!r}; expected (height, width), two whole numbers above 0")
        if not _is_count(self.max_pixels) or self.max_pixels > PIXEL_LIMIT:
            raise OptionError(f"max_pixels is {self.max_pixels!r}; expected a whole number from 1 to {PIXEL_LIMIT:,}")
        if not _is_count(self.max_bytes):
            raise OptionError(f"max_bytes is {self.max_bytes!r}; expected a whole number above 0")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image cannot be used: one line, without a path.

    It is the same for the same bytes, unless it ``may_pass``: another limit, or more memory, may do.
    """

    reason: str
    may_pass: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class ImageFile:
    """A file, read once.

    Parameters
    ----------
    data
        Its bytes.
    sha256
        Their SHA-256, 64 hexadecimal digits.
    size, mtime_ns
        Length in bytes and modification time in nanoseconds, as they were before and after reading.
    """

    data: bytes
    sha256: str
    size: int
    mtime_ns: int


class _RefusedError(Exception):
    """An image that the rules exclude; the message is the reason."""


def decode(data: bytes, rules: DecodeRules) -> NDArray[np.uint8] | Failure:
    """Return the pixels of an image file, or why there are none.

    Alpha and transparent colours are laid over white. 16-bit samples give their high byte, as libpng and Pillow do for
    colour. Animations give their first frame. The EXIF orientation is applied; one that cannot be read counts as
    upright. Then the image is converted to RGB, and then resized.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3), or Failure
        RGB, C-contiguous; it may be read-only.

    Raises
    ------
    RuntimeError
        If ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` was set, with which half an image would pass for a whole one.
    """
    return _decoded(data, rules.max_pixels, rules.max_bytes, lambda rgb: _resize(rgb, rules))


def shrink(
    data: bytes, side: int, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> NDArray[np.uint8] | Failure:
    """Return an image file's pixels at its own aspect ratio, small enough for people to look at, or why there are none.

    The image is converted and turned as by `decode`. Which pixels come out is not pinned: they are no network's input.

    Parameters
    ----------
    data
        The bytes of the file.
    side
        The longest side of the result in pixels; a smaller image is not enlarged.
    max_pixels, max_bytes
        As in `DecodeRules`.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3), or Failure
        RGB, C-contiguous; it may be read-only.

    Raises
    ------
    OptionError
        If ``side`` is not a whole number above 0.
    RuntimeError
        As in `decode`.
    """
    if not _is_count(side):
        raise OptionError(f"side is {side!r}; expected a whole number above 0")
    return _decoded(data, max_pixels, max_bytes, lambda rgb: _within(rgb, side), draft=_GAP * side)


def _decoded(
    data: bytes, max_pixels: int, max_bytes: int, finish: Callable[[Image.Image], Image.Image], *, draft: int = 0
) -> NDArray[np.uint8] | Failure:
    """Return the pixels of an image, upright, in RGB and finished, or why there are none.

    Where sides of ``draft`` pixels are enough, a JPEG file need not be decoded at its full size.
    """
    if PillowFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so that truncated images would pass for whole ones; "
            "set it to False"
        )
    if warnings.filters[:1] != _FIRST_FILTER:
        _quieten_pillow()
    opened = ""
    try:
        _check_bytes(len(data), max_bytes)
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        opened = image.format or ""
        _check_pixels(image.size, max_pixels)
        if draft:
            image.draft(None, (draft, draft))
        rgb = _to_rgb(image, data)
        turn = _turn(image)
        if turn is not None:
            rgb = rgb.transpose(turn)
        return np.asarray(finish(rgb), dtype=np.uint8)
    except Exception as e:  # noqa: BLE001 - on hostile bytes Pillow raises nearly anything, and one file ends no run
        reason = _reason(e, opened, data, max_pixels)
        return Failure(reason, may_pass=isinstance(e, MemoryError) or "than the limit of" in reason)


def read_file(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], *, max_bytes: int) -> ImageFile | Failure:
    """Read a regular file whole, or say why not; a pipe or a device is not waited for.

    Parameters
    ----------
    path
        The file's name; a link to a file is followed.
    max_bytes
        A larger file is not read.
    """
    try:
        # First, because to open a pipe or a device is to do something to it.
        _check_regular(os.stat(path).st_mode)  # noqa: PTH116 - pathlib takes no bytes
        descriptor = os.open(path, _OPEN_FLAGS)
        try:
            return _read(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except _RefusedError as e:
        return Failure(str(e))
    except OSError as e:
        if e.errno == errno.ENOENT and os.path.islink(path):  # noqa: PTH114 - pathlib takes no bytes
            return Failure("a symbolic link to nothing")
        return Failure(_REASONS.get(e.errno or 0) or _one_line((e.strerror or str(e)).lower()))
    except ValueError:
        return Failure("the file name has characters that no file name can have")
    except MemoryError:
        return Failure("not enough memory to read the file")


def _read(descriptor: int, max_bytes: int) -> ImageFile:
    before = os.fstat(descriptor)
    _check_regular(before.st_mode)
    _check_bytes(before.st_size, max_bytes)
    chunks: list[bytes] = []
    missing = before.st_size + 1  # one more than there should be, so that the end is seen
    while missing > 0 and (chunk := os.read(descriptor, missing)):
        chunks.append(chunk)
        missing -= len(chunk)
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    after = os.fstat(descriptor)
    if len(data) != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise _RefusedError("the file changed while it was being read")
    return ImageFile(data, hashlib.sha256(data).hexdigest(), before.st_size, before.st_mtime_ns)


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise _RefusedError(f"{_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a regular file")


def _check_bytes(size: int, limit: int) -> None:
    if not size:
        raise _RefusedError("an empty file (0 bytes)")
    if size > limit:
        raise _RefusedError(f"{size:,} bytes are more than the limit of {limit:,}")


def _check_pixels(size: tuple[int, int], limit: int) -> None:
    width, height = size
    if width * height > limit:
        raise _RefusedError(_too_many_pixels(width * height, limit))
    if not 1 <= min(size) <= max(size) <= _SIDE_LIMIT:
        raise _RefusedError(f"{width:,} x {height:,} pixels; expected sides from 1 to {_SIDE_LIMIT:,}")


def _too_many_pixels(pixels: int, limit: int) -> str:
    return f"{pixels:,} pixels are more than the limit of {limit:,}"


def _to_rgb(image: PillowFile.ImageFile, data: bytes) -> Image.Image:
    """Load all pixels and convert them to mode RGB by the rule for the image's mode."""
    transparency = image.info.get("transparency")  # a PNG text chunk after the pixels may overwrite it
    image.load()
    image.info.pop("transparency", None)
    mode = image.mode
    if mode.startswith("I;16"):
        return _grey16_to_rgb(image, transparency)
    if mode == "P" and isinstance(transparency, int | bytes):
        image.info["transparency"] = transparency
        return _over_white(image)
    if mode in _TRANSPARENT or (mode == "P" and image.palette is not None and image.palette.mode == "RGBA"):
        return _over_white(image)
    if mode not in _OPAQUE:
        kind = {"I": "32-bit or signed integer", "F": "floating-point"}.get(mode, "unknown")
        raise _RefusedError(
            f"{kind} pixels (mode {mode}) have no defined brightness scale; convert the image to 8 bits"
        )
    rgb = image if mode == "RGB" else image.convert("RGB")
    if mode != "P" and isinstance(transparency, int | tuple):
        return _key_to_white(rgb, transparency, data[_PNG_DEPTH_OFFSET] if image.format == "PNG" else 8)
    return rgb


def _over_white(image: Image.Image) -> Image.Image:
    """Lay an image with transparency over white."""
    # From premultiplied grey Pillow converts to grey with alpha alone; anything else would lose the alpha silently.
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, _WHITE)
    canvas.paste(rgba, mask=rgba)
    return canvas


def _key_to_white(rgb: Image.Image, key: int | tuple[int, ...], bits: int) -> Image.Image:
    """Turn the pixels of one transparent colour, given in samples of ``bits`` bits, white."""
    samples = np.array(key if isinstance(key, tuple) else (key,) * 3, dtype=np.int64)
    colour = samples >> 8 if bits == 16 else samples * 255 // ((1 << bits) - 1)  # noqa: PLR2004
    pixels = np.array(rgb)
    pixels[(pixels == colour).all(axis=2)] = 255
    return Image.fromarray(pixels)


def _grey16_to_rgb(image: PillowFile.ImageFile, transparency: object) -> Image.Image:
    """Scale grey samples of 16 (in TIFF also 12) bits to 8 by dropping the low bits."""
    values: NDArray[np.uint16] = np.asarray(image)
    bits, inverted = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(_TIFF_BITS, (16,))[0]
        inverted = image.tag_v2.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO  # which Pillow heeds for 8 bits only
    grey = (values >> (bits - 8)).astype(np.uint8)
    if inverted:
        grey = 255 - grey
    if isinstance(transparency, int):
        grey[values == transparency] = 255
    return Image.fromarray(grey).convert("RGB")


def _turn(image: PillowFile.ImageFile) -> Image.Transpose | None:
    """Return what brings the image upright, by its EXIF orientation."""
    try:  # Pillow turns TIFF while loading and removes the tag
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - malformed EXIF raises nearly anything, and says nothing about the pixels
        return None


def _resize(rgb: Image.Image, rules: DecodeRules) -> Image.Image:
    height, width = rules.size
    method = _FILTERS[rules.filter]
    return ImageOps.fit(rgb, (width, height), method) if rules.resize == "crop" else rgb.resize((width, height), method)


def _within(rgb: Image.Image, side: int) -> Image.Image:
    """Reduce an image until no side is longer than ``side``."""
    rgb.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=_GAP)
    return rgb


def _reason(error: Exception, opened: str, data: bytes, max_pixels: int) -> str:
    """Say in one line, which is the same for the same bytes, what is wrong with an image."""
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory to decode the image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        pixels = _BOMB_PIXELS.match(str(error))
        return _too_many_pixels(int(pixels[1]), max_pixels) if pixels else _one_line(str(error))
    if isinstance(error, UnidentifiedImageError):
        return f"not a {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} image; the file begins with {data[:8]!r}"
    text = "the compressed data is damaged" if str(error).startswith("decoder error") else _one_line(str(error))
    return f"a broken {opened or 'image'} file: {text or type(error).__name__}"


def _one_line(text: str) -> str:
    """Make a library's message fit for a list: no line breaks, no control characters, no memory addresses."""
    text = _ADDRESS.sub("", " ".join(text.split()))
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:_REASON_LENGTH]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

"""Decodes image files to uint8 RGB pixels, shape (height, width, 3), by fixed rules, with Pillow and NumPy.

HEIF files need pillow-heif, which is imported for the first one.

An image that cannot be used is a `Failure` with a reason, never an exception. Colour profiles are not applied, as in
``keras.utils.load_img``.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import ImageFile as PillowFile

from featurecache.errors import OptionError
from featurecache.images.failures import Failure, UnusableImageError, check_bytes, one_line
from featurecache.images.formats import format_of, what_else
from featurecache.images.names import shown_name
from featurecache.images.rgb import to_rgb
from featurecache.images.structure import what_is_missing, without_metadata
from featurecache.images.views import DrawnView
from featurecache.notices import Notice
from featurecache.options import FILTERS, MAX_PIXELS, RESIZES, DecodeOptions
from featurecache.text import counted

DECODE_VERSION = 1
"""The version of these rules; it changes whenever the same bytes would give other pixels."""

INSTALL = "pip install 'featurecache[heic]'"
_MAX_BYTES = 268_435_456  # of a file with up to MAX_PIXELS pixels


def _open_heif(file: io.BytesIO, name: str) -> PillowFile.ImageFile:
    """Open a HEIF file, if the package that reads them is installed."""
    try:
        from pillow_heif import HeifImageFile, options

        # Our threads decode many images at once; and which fault libheif's own threads report would depend on time.
        options.DECODE_THREADS = 1
        reader: Callable[[io.BytesIO, str], PillowFile.ImageFile] = HeifImageFile
        return reader(file, name)
    except ImportError:  # also of its own libraries, which it raises when it is used
        raise UnusableImageError("not_installed", f"a HEIF (HEIC) file, which needs pillow-heif: {INSTALL}") from None


# A format is read by its own class: Image.open would try others, hide their reasons, and apply a limit of its own. Of a
# JPEG file of several pictures, the first one is read.
_READERS: Final[dict[str, Callable[[io.BytesIO, str], PillowFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "HEIF": _open_heif,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
}
_WITH_FRAMES = frozenset({"GIF", "PNG", "TIFF", "WEBP", "AVIF"})
_SIDE_LIMIT = 1_000_000  # pixels; a filter's table of weights grows with the side, not with the area
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_GAP = 2  # a cheap reduction may go down to this multiple of the final side; Pillow recommends 2 or 3
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
_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_BANDS, _TIFF_SAMPLE_FORMAT = 258, 259, 277, 339
_BIG_TIFF = 43
_BOMB_PIXELS = re.compile(r"Image size \((\d+) pixels\)")
_NOT_READ = re.compile(r"cannot handle|[Uu]nsupported|not (?:yet )?supported|not installed|not available")
_SAYS_NOTHING = re.compile(r"not identified|not an? |cannot load")


def _quieten_pillow() -> None:
    """Put the warning filters for Pillow first, so that filters of other code do not change the result.

    The filters hold for the whole process, because ``warnings.catch_warnings`` is not thread-safe. Pillow's warnings on
    metadata do not concern pixels: they must not flood the terminal, or fail an image where warnings are errors.
    """
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


logging.getLogger("PIL").addHandler(logging.NullHandler())  # else logging prints what no program handles
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
        ``"squash"`` resizes the whole image and changes its aspect ratio; ``"crop"`` resizes the largest centred part
        with the final aspect ratio.
    filter
        ``"bilinear"``, ``"bicubic"`` and ``"lanczos"`` are antialiased; ``"nearest"`` is the rule of
        ``keras.utils.load_img``.
    max_pixels
        A larger image is a failure; at most `featurecache.options.PIXEL_LIMIT`.

    Raises
    ------
    UnknownNameError
        If ``resize`` or ``filter`` is unknown.
    OptionError
        If a number is out of its range.
    """

    size: tuple[int, int]
    resize: str = RESIZES[0]
    filter: str = FILTERS[0]
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        DecodeOptions(resize=self.resize, filter=self.filter, max_pixels=self.max_pixels)  # checks them
        if len(self.size) != 2 or not all(_is_count(side) for side in self.size):  # noqa: PLR2004
            raise OptionError(f"size is {self.size!r}; expected (height, width), two whole numbers above 0")

    @property
    def max_bytes(self) -> int:
        """A larger file is a failure: `byte_limit` of ``max_pixels``."""
        return byte_limit(self.max_pixels)


def byte_limit(max_pixels: int) -> int:
    """Return the size in bytes above which a file is a failure: 268,435,456, and more where larger images are allowed.

    Five bytes for each pixel are enough for files without compression with 8 bits per sample.
    """
    return _MAX_BYTES * max(max_pixels, MAX_PIXELS) // MAX_PIXELS


def decode(
    data: bytes,
    rules: DecodeRules,
    *,
    frame: int = 1,
    view: DrawnView | None = None,
    on_dark: Callable[[], object] = lambda: None,
) -> NDArray[np.uint8] | Failure:
    """Return the pixels of an image file, or a failure.

    Transparent pixels are blended with white. 16-bit samples keep their high byte, as in libpng and Pillow for colour
    images. A bit depth that the file states in addition (PNG's sBIT, TIFF's MaxSampleValue) does not change the scale,
    as both formats define. The EXIF orientation is applied; an unreadable one is ignored, and so is other metadata. The
    image is converted to RGB, then resized.

    Parameters
    ----------
    data
        The bytes of the file.
    rules
        The final size, the rule of resizing, and the limits. Pillow's own limit, ``PIL.Image.MAX_IMAGE_PIXELS``, is
        raised to ``max_pixels`` for this process if it is lower.
    frame
        The frame of an animation, or page of a TIFF file, that is wanted, counted from 1.
    view
        The view of the image that is wanted; None for the image itself.
    on_dark
        Called if the samples have more than 8 bits and none reaches a quarter of their range, such as 12-bit data in a
        16-bit file. The pixels are nearly black then.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3), or Failure
        RGB, C-contiguous, possibly read-only.

    Raises
    ------
    RuntimeError
        If ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` is set, which would accept incomplete images.
    """
    finish = partial(_viewed, view=view, resize=lambda part: _resize(part, rules))
    return _decoded(data, _Wanted(frame, rules.max_pixels, on_dark=on_dark), finish)


def frame_count(data: bytes, limit: int) -> int:
    """Return the number of frames of an animation, or of pages of a TIFF file, at most ``limit``; 1 for other files.

    Where the list of pages is damaged, the last number is that of a page that cannot be read.
    """
    kind = format_of(data)
    if kind not in _WITH_FRAMES:
        return 1
    with suppress(Exception):
        return min(int(getattr(_READERS[kind](io.BytesIO(data), ""), "n_frames", 1)), limit)
    count = 0
    try:
        image = _READERS[kind](io.BytesIO(data), "")
        while count < limit:
            image.seek(count)
            count += 1
    except EOFError:
        return count
    except Exception:  # noqa: BLE001 - Pillow raises any exception on hostile bytes
        return count + 1
    return count


def dark_images(paths: Collection[str]) -> tuple[Notice, ...]:
    """Return a warning about images that became nearly black (``on_dark`` of `decode`); none without such images."""
    if not paths:
        return ()
    return (
        Notice(
            "dark_images",
            f"{counted(len(paths), 'image')} with more than 8 bits per sample, the first {shown_name(min(paths))}, use "
            "less than a quarter of the range and become nearly black: scale the samples to the whole range",
        ),
    )


def fit_pixels(pixels: NDArray[np.uint8], rules: DecodeRules) -> NDArray[np.uint8] | Failure:
    """Resize decoded pixels by the rules, or return a failure.

    Parameters
    ----------
    pixels
        RGB, uint8, shape (height, width, 3), any size.
    rules
        The final size, and the rule of resizing.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:  # noqa: PLR2004
        return Failure(
            "unsupported", f"an array of {pixels.dtype} and shape {pixels.shape}; expected uint8 (height, width, 3)"
        )
    height, width = pixels.shape[:2]
    try:
        _check_pixels((width, height), rules.max_pixels)
        return np.asarray(_resize(Image.fromarray(np.ascontiguousarray(pixels)), rules), dtype=np.uint8)
    except UnusableImageError as e:
        return e.failure
    except MemoryError:
        return Failure("out_of_memory", "not enough memory to resize the image")


def shrink(
    data: bytes, side: int, *, max_pixels: int = MAX_PIXELS, frame: int = 1, view: DrawnView | None = None
) -> NDArray[np.uint8] | Failure:
    """Return a thumbnail of an image file with the original aspect ratio, or a failure.

    The image is converted and rotated as in `decode`. The exact pixels may change between versions, since no network
    uses them.

    Parameters
    ----------
    data
        The bytes of the file.
    side
        The longest side of the result in pixels; a smaller image is not enlarged.
    max_pixels
        As in `DecodeRules`.
    frame, view
        As in `decode`.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3), or Failure
        RGB, C-contiguous, possibly read-only.

    Raises
    ------
    OptionError
        If ``side`` is not a whole number above 0.
    RuntimeError
        As in `decode`.
    """
    if not _is_count(side):
        raise OptionError(f"side is {side!r}; expected a whole number above 0")
    finish = partial(_viewed, view=view, resize=lambda part: _within(part, side))
    return _decoded(data, _Wanted(frame, max_pixels, draft=_GAP * side), finish)


def _viewed(rgb: Image.Image, view: DrawnView | None, resize: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return an image, or a view of it, resized."""
    return resize(rgb) if view is None else view.finished(resize(view.cut(rgb)))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is wanted of a file, and its limit.

    If ``draft`` is set, a JPEG file may be decoded at a reduced size with sides of at least so many pixels.
    """

    frame: int
    max_pixels: int
    draft: int = 0
    on_dark: Callable[[], object] = lambda: None


def _decoded(data: bytes, wanted: _Wanted, finish: Callable[[Image.Image], Image.Image]) -> NDArray[np.uint8] | Failure:
    """Decode an image to upright RGB and apply ``finish``, or return a failure."""
    if PillowFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which accepts truncated images as complete ones; "
            "set it to False"
        )
    if warnings.filters[:1] != _FIRST_FILTER:
        _quieten_pillow()
    if Image.MAX_IMAGE_PIXELS is not None and wanted.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = wanted.max_pixels
    try:
        return np.asarray(finish(_read(data, wanted)), dtype=np.uint8)
    except Exception as e:  # noqa: BLE001 - Pillow raises any exception on hostile bytes, and one file must not end a run
        return _failure(e, data, wanted)


def _read(data: bytes, wanted: _Wanted) -> Image.Image:
    """Return the whole upright image in mode RGB; metadata that Pillow cannot read is left out."""
    check_bytes(len(data), byte_limit(wanted.max_pixels))
    kind = format_of(data)
    if kind is None:
        raise UnusableImageError("not_an_image", what_else(data))
    try:
        return _upright(data, kind, wanted)
    except (UnusableImageError, MemoryError):
        raise
    except Exception:
        # Without metadata there are no further frames.
        pixels_alone = without_metadata(data, kind) if wanted.frame == 1 else data
        if pixels_alone == data:
            raise
        return _upright(pixels_alone, kind, wanted)


def _upright(data: bytes, kind: str, wanted: _Wanted) -> Image.Image:
    """Return the whole upright image in mode RGB, without another attempt; ``kind`` is its format."""
    image = _READERS[kind](io.BytesIO(data), "")
    if kind != "TIFF":  # later frames are drawn on the first one; a page stands alone
        _check_pixels(image.size, wanted.max_pixels)
    if wanted.frame > 1:
        _seek(image, kind, wanted.frame)
    _check_pixels(image.size, wanted.max_pixels)
    if wanted.draft and kind == "JPEG":
        image.draft(None, (wanted.draft, wanted.draft))
    rgb = to_rgb(image, data, wanted.on_dark)
    if missing := what_is_missing(data, kind):
        raise UnusableImageError("damaged", f"a broken {kind} file: {missing}")
    turn = None if kind == "HEIF" else _turn(image)  # libheif turns, as the file says besides its EXIF
    return rgb if turn is None else rgb.transpose(turn)


def _seek(image: PillowFile.ImageFile, kind: str, frame: int) -> None:
    """Go to a frame, counted from 1."""
    if kind in _WITH_FRAMES:
        with suppress(EOFError):
            image.seek(frame - 1)
            return
    raise UnusableImageError("not_found", f"the file has no frame {frame}")


def _check_pixels(size: tuple[int, int], limit: int) -> None:
    width, height = size
    if width * height > limit:
        raise UnusableImageError("too_many_pixels", _too_many_pixels(width * height, limit))
    if not 1 <= min(size) <= max(size) <= _SIDE_LIMIT:
        raise UnusableImageError(
            "unsupported", f"{width:,} x {height:,} pixels; expected sides from 1 to {_SIDE_LIMIT:,}"
        )


def _too_many_pixels(pixels: int, limit: int) -> str:
    return f"{pixels:,} pixels are more than the limit of {limit:,}; --max-pixels raises it"


def _turn(image: PillowFile.ImageFile) -> Image.Transpose | None:
    """Return the transposition that makes the image upright, by its EXIF orientation."""
    try:  # Pillow rotates TIFF images while loading, and removes the tag
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - malformed EXIF raises any exception, and the pixels are still good
        return None


def _resize(rgb: Image.Image, rules: DecodeRules) -> Image.Image:
    height, width = rules.size
    method = _FILTERS[rules.filter]
    return ImageOps.fit(rgb, (width, height), method) if rules.resize == "crop" else rgb.resize((width, height), method)


def _within(rgb: Image.Image, side: int) -> Image.Image:
    """Shrink an image so that no side is longer than ``side``."""
    rgb.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=_GAP)
    return rgb


def _failure(error: Exception, data: bytes, wanted: _Wanted) -> Failure:
    """Return the failure for an exception; the same bytes give the same reason."""
    kind = format_of(data)
    if isinstance(error, UnusableImageError):
        return error.failure
    if isinstance(error, MemoryError):
        return Failure("out_of_memory", "not enough memory to decode the image")
    text = one_line(str(error))
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        pixels = _BOMB_PIXELS.match(text)
        return Failure("too_many_pixels", _too_many_pixels(int(pixels[1]), wanted.max_pixels) if pixels else text)
    in_header = isinstance(error, SyntaxError)  # the exception of Pillow's readers
    if kind == "TIFF" and in_header and wanted.frame == 1 and (layout := _tiff_layout(data)):
        return Failure("unsupported", f"a TIFF file of {layout}, which is not read; save it as 8-bit RGB")
    if _NOT_READ.search(text):
        return Failure("unsupported", f"a {kind} file that is not read: {text}")
    if text.startswith("decoder error"):
        text = "the compressed data is damaged"
    elif not isinstance(error, OSError | SyntaxError | ValueError) or _SAYS_NOTHING.match(text) or _is_wrapped(error):
        text = f"its {'header' if in_header else 'data'} is damaged or cut off"
    elif text.startswith(intro := f"broken {kind} file ("):
        text = text.removeprefix(intro).removesuffix(")")
    return Failure("damaged", f"a broken {kind} file: {text}")


def _is_wrapped(error: Exception) -> bool:
    """Return whether an exception holds another one, such as `struct.error` where a header ends too early."""
    return bool(error.args) and isinstance(error.args[0], Exception)


def _tiff_layout(data: bytes) -> str:
    """Return the kind of a TIFF file, such as "13 bands with 16 bits"; empty if its tags cannot be read."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2] == _BIG_TIFF else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bands, bits = int(tags[_TIFF_BANDS]), int(max(tags[_TIFF_BITS]))
    except Exception:  # noqa: BLE001 - malformed tags raise any exception
        return ""
    kind = {2: " signed", 3: " floating-point"}.get(max(tags.get(_TIFF_SAMPLE_FORMAT, (1,))), "")
    packing = tags.get(_TIFF_COMPRESSION, 1)
    packed = "" if packing in TiffImagePlugin.COMPRESSION_INFO else f" and compression {packing}"
    return f"{counted(bands, 'band')} with {bits}{kind} bits{packed}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

"""Converts the samples of an image that Pillow has opened to RGB pixels of 8 bits, by the depth that its file states.

Transparent pixels are blended with white. Samples without a defined brightness or colour are refused.
"""

import math
from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, Jpeg2KImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin
from PIL import ImageFile as PillowFile

from featurecache.images.failures import UnusableImageError
from featurecache.images.structure import has_defined_alpha, jpeg2000_depths
from featurecache.text import counted

_OPAQUE = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
_TRANSPARENT = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_VALUES = 256  # of an 8-bit sample
_DARK = 64  # of these: the top two bits of all samples are 0
_FULL_RANGE = 65_535  # the largest 16-bit sample
_WHITE = (255, 255, 255)
_PNG_DEPTH_OFFSET = 24  # of the byte that holds the bits per sample, in every PNG file
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_WHITE_IS_ZERO = 258, 262, 0


def to_rgb(image: PillowFile.ImageFile, data: bytes, on_dark: Callable[[], object]) -> Image.Image:
    """Load all pixels and convert them to mode RGB.

    Parameters
    ----------
    image
        The image as its reader has opened it, at the frame that is wanted.
    data
        The bytes of its file.
    on_dark
        As in `featurecache.images.decode.decode`.

    Raises
    ------
    UnusableImageError
        If the samples have no defined brightness or colour. Pillow raises any other exception on hostile bytes.
    """
    if isinstance(image, PpmImagePlugin.PpmImageFile) and image.tile[0].codec_name == "ppm":
        return _scaled_to_rgb(image, data, on_dark)
    depths = jpeg2000_depths(data) if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile) else ()
    if depths:
        _check_jpeg2000(image, depths, data)
    transparency = image.info.get("transparency")  # a PNG text chunk after the pixels may overwrite it
    image.load()
    image.info.pop("transparency", None)
    mode, bits = image.mode, _bits(image, data, depths)
    if mode.startswith("I;16") or (mode == "I" and isinstance(image, PpmImagePlugin.PpmImageFile)):
        return _grey16_to_rgb(image, bits, transparency, on_dark)
    if mode in {"RGB", "RGBA"} and bits > 8 and 0 < np.array(image.getextrema())[:3].max() < _DARK:  # noqa: PLR2004
        on_dark()
    if mode == "P" and isinstance(transparency, int | bytes):
        image.info["transparency"] = transparency
        return _over_white(image)
    if mode in _TRANSPARENT or (mode == "P" and image.palette is not None and image.palette.mode == "RGBA"):
        return _over_white(image)
    if mode not in _OPAQUE:
        kind = {"I": "32-bit or signed integer", "F": "floating-point"}.get(mode, "unknown")
        raise UnusableImageError(
            "unsupported",
            f"{kind} pixels (mode {mode}) have no defined brightness scale; convert the image to 8 bits",
        )
    rgb = image if mode == "RGB" else image.convert("RGB")
    if depths and min(depths) < 8:  # noqa: PLR2004
        rgb = _stretched(rgb, depths)
    if mode != "P" and isinstance(transparency, int | tuple):
        return _key_to_white(rgb, transparency, bits)
    return rgb


def _bits(image: PillowFile.ImageFile, data: bytes, depths: tuple[int, ...]) -> int:
    """Return the bits per sample of a PNG or TIFF file; those of Pillow's samples for other formats.

    ``depths`` are those of a JPEG 2000 file, whose grey samples Pillow scales by their depth.
    """
    if isinstance(image, PngImagePlugin.PngImageFile):
        return 16 if image.mode == "I;16" else data[_PNG_DEPTH_OFFSET]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_TIFF_BITS, (1,))))
    # Pillow has scaled samples of Netpbm, JPEG 2000 and HEIF files by the maximum or the depth that the file states.
    return 16 if image.mode in {"I", "I;16"} else max(depths, default=8)


def _check_jpeg2000(image: PillowFile.ImageFile, depths: tuple[int, ...], data: bytes) -> None:
    """Raise `UnusableImageError` for samples whose meaning is not defined, or that Pillow does not scale."""
    reason = ""
    if min(depths, default=0) < 1:
        reason = "signed samples"
    elif image.mode in _TRANSPARENT and not has_defined_alpha(data, len(depths)):
        reason = f"{counted(len(depths), 'band')}, of which none is defined as opacity"
    elif image.mode not in {"L", "RGB"} and min(depths) < 8:  # noqa: PLR2004
        reason = f"{min(depths)} bits with a palette, opacity or CMYK"
    if reason:
        raise UnusableImageError("unsupported", f"a JPEG2000 file of {reason}, which is not read; save it as 8-bit RGB")


def _stretched(rgb: Image.Image, depths: tuple[int, ...]) -> Image.Image:
    """Scale samples of less than 8 bits to the whole range; Pillow has shifted those of a JPEG 2000 file only."""
    tables: list[int] = []
    for depth in depths * (3 // len(depths)):
        bits = min(depth, 8)
        tables += ((value >> 8 - bits) * 255 // ((1 << bits) - 1) for value in range(_VALUES))
    return rgb.point(tables)


def _scaled_to_rgb(image: PillowFile.ImageFile, data: bytes, on_dark: Callable[[], object]) -> Image.Image:
    """Scale the samples of a binary Netpbm file by the maximum that it states; Pillow takes a microsecond for each."""
    _, _, start, description = image.tile[0]
    mode, maximum = cast("tuple[str, int]", description)
    shape = (image.height, image.width, len(mode))
    samples = np.frombuffer(data, np.dtype(">u2" if maximum >= _VALUES else "u1"), math.prod(shape), start)
    scaled = np.multiply(samples, _FULL_RANGE / maximum / _VALUES, dtype=np.float32)
    pixels = scaled.clip(max=_VALUES - 1).astype(np.uint8)
    if maximum == _FULL_RANGE and 0 < pixels.max() < _DARK:
        on_dark()
    return Image.fromarray(pixels.reshape(shape if mode == "RGB" else shape[:2])).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Blend an image with transparency with white."""
    # Pillow converts premultiplied grey correctly only to grey with alpha; other conversions drop the alpha silently.
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, _WHITE)
    canvas.paste(rgba, mask=rgba)
    return canvas


def _key_to_white(rgb: Image.Image, key: int | tuple[int, ...], bits: int) -> Image.Image:
    """Make the pixels of one transparent colour white; ``key`` is given in samples of ``bits`` bits."""
    samples = np.array(key if isinstance(key, tuple) else (key,) * 3, dtype=np.int64)
    colour = samples >> 8 if bits == 16 else samples * 255 // ((1 << bits) - 1)  # noqa: PLR2004
    pixels = np.array(rgb)
    pixels[(pixels == colour).all(axis=2)] = 255
    return Image.fromarray(pixels)


def _grey16_to_rgb(
    image: PillowFile.ImageFile, bits: int, transparency: object, on_dark: Callable[[], object]
) -> Image.Image:
    """Reduce 16-bit grey samples (in TIFF also 12-bit) to 8 bits by dropping the low bits."""
    values: NDArray[np.integer] = np.asarray(image)
    grey = (values >> (bits - 8)).astype(np.uint8)
    if grey.max() < _DARK and values.any():
        on_dark()
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO:
        grey = 255 - grey  # Pillow applies this to 8 bits only
    if isinstance(transparency, int):
        grey[values == transparency] = 255
    return Image.fromarray(grey).convert("RGB")

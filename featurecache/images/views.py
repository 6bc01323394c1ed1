"""Views: other images of a file, cropped, mirrored or in other colours, with paths and contents of their own.

The path of a view is that of its image, its number and its kinds: ``cats/1.jpg#2:crop,flip``. Its content is the
beginning of the image's content and then the SHA-256 of that and of what follows the ``#``. All random numbers follow
from the same text, so a view has the same pixels in every run.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from featurecache.options import VIEW_KINDS

_VERSION = 1  # of how views are drawn; another one gives other contents
_SUFFIX = re.compile(rf"([1-9][0-9]{{0,2}}):((?:{'|'.join(VIEW_KINDS)})(?:,(?:{'|'.join(VIEW_KINDS)}))*)")
_SMALLEST_AREA = 0.25
_MOST_STRETCHED = 4 / 3
_STRENGTH = 0.4
_PART_DIGITS = 16  # of a content: an image and its views are in the same `featurecache.options.ImagePart`


@dataclass(frozen=True, slots=True)
class View:
    """One of the views of an image.

    Parameters
    ----------
    number
        Which one it is, from 1 on.
    kinds
        How it differs from its image: some of `featurecache.options.VIEW_KINDS`, in their order.

    Examples
    --------
    >>> view = View(2, ("crop", "flip"))
    >>> view.path_of("cats/1.jpg")
    'cats/1.jpg#2:crop,flip'
    >>> View.split_path("cats/1.jpg#2:crop,flip")
    ('cats/1.jpg', View(number=2, kinds=('crop', 'flip')))
    >>> View.split_path("cats/1.jpg")
    ('cats/1.jpg', None)
    """

    number: int
    kinds: tuple[str, ...]

    @classmethod
    def split_path(cls, path: str) -> tuple[str, Self | None]:
        """Return the path of the image, and the view that a path stands for; None if it is the path of an image."""
        image, mark, suffix = path.rpartition("#")
        found = _SUFFIX.fullmatch(suffix) if mark and image else None
        return (image, cls(int(found[1]), tuple(found[2].split(",")))) if found else (path, None)

    def path_of(self, path: str) -> str:
        """Return the path of this view of an image."""
        return f"{path}#{self}"

    def drawn(self, sha256: str) -> "DrawnView":
        """Draw this view of the image with this content.

        A crop has a quarter of the area or more, and sides that are stretched by at most 4 to 3 against those of the
        image. This is the crop of Szegedy et al., "Going deeper with convolutions" (2015), with a larger smallest area:
        each view is computed once, and not anew in every epoch. Views of odd numbers are mirrored. Brightness, contrast
        and saturation change by factors from 0.6 to 1.4, as in the training of residual networks in fb.resnet.torch.
        """
        text = f"featurecache view {_VERSION}\n{sha256}\n{self}".encode()
        digest = hashlib.sha256(text).digest()
        draws = _uniform(text, 7)
        box = (0.0, 0.0, 1.0, 1.0)
        if "crop" in self.kinds:
            area = _SMALLEST_AREA + (1 - _SMALLEST_AREA) * draws[0]
            stretch = _MOST_STRETCHED ** (2 * draws[1] - 1)
            width, height = (min(1.0, math.sqrt(area * by)) for by in (stretch, 1 / stretch))
            left, top = draws[2] * (1 - width), draws[3] * (1 - height)
            box = (left, top, left + width, top + height)
        factors = tuple(1 + _STRENGTH * (2 * draw - 1) for draw in draws[4:]) if "color" in self.kinds else ()
        content = sha256[:_PART_DIGITS] + digest.hex()[_PART_DIGITS:]
        return DrawnView(content, box, mirrored="flip" in self.kinds and self.number % 2 == 1, factors=factors)

    def __str__(self) -> str:
        return f"{self.number}:{','.join(self.kinds)}"


@dataclass(frozen=True, slots=True)
class DrawnView:
    """A view of one image, with its random numbers.

    Parameters
    ----------
    sha256
        Its content, 64 hexadecimal digits.
    box
        The part of the image that it shows: left, top, right and bottom as fractions of width and height.
    mirrored
        Whether left and right change places.
    factors
        Of brightness, contrast and saturation; empty if colours stay.
    """

    sha256: str
    box: tuple[float, float, float, float]
    mirrored: bool
    factors: tuple[float, ...]

    def cut(self, image: Image.Image) -> Image.Image:
        """Return the part of an upright RGB image that the view shows, before it is resized."""
        width, height = image.size
        left, top, right, bottom = self.box
        x, y = (min(int(start * side), side - 1) for start, side in ((left, width), (top, height)))
        corner = max(x + 1, round(right * width)), max(y + 1, round(bottom * height))
        part = (x, y, *corner)
        return image if part == (0, 0, width, height) else image.crop(part)

    def finished(self, image: Image.Image) -> Image.Image:
        """Return the resized part, mirrored and in the colours of the view."""
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for enhance, factor in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), self.factors, strict=False
        ):
            image = enhance(image).enhance(factor)
        return image


def are_views(paths: Iterable[str]) -> NDArray[np.bool_]:
    """Return which paths stand for views, shape (n,).

    Examples
    --------
    >>> are_views(["cats/1.jpg", "cats/1.jpg#1:flip"])
    array([False,  True])
    """
    return np.fromiter(
        ("#" in path and _SUFFIX.fullmatch(path.rpartition("#")[2]) is not None for path in paths), np.bool_
    )


def images_of(paths: Sequence[str], contents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the path and the content of the image of each row: of a view, those of the image that it shows.

    The content of an image that has no row is replaced by the SHA-256 of its path.

    Examples
    --------
    >>> images_of(["1.jpg", "1.jpg#1:flip"], ["aa", "bb"])
    (['1.jpg', '1.jpg'], ['aa', 'aa'])
    """
    found = [View.split_path(path) if "#" in path else (path, None) for path in paths]
    of_image = {path: sha256 for (path, view), sha256 in zip(found, contents, strict=True) if view is None}
    images = [
        sha256
        if view is None
        else of_image.get(path) or hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
        for (path, view), sha256 in zip(found, contents, strict=True)
    ]
    return [path for path, _ in found], images


def _uniform(seed: bytes, count: int) -> list[float]:
    """Return numbers from 0 to 1 that follow from bytes, on every machine and in every version of Python."""
    digest = hashlib.shake_256(seed).digest(8 * count)
    return [int.from_bytes(digest[8 * number : 8 * number + 8], "big") / 2**64 for number in range(count)]

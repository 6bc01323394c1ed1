"""Images that a program holds in memory: arrays of pixels, and the bytes of image files."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurecache.errors import ManifestError, NoImagesError
from featurecache.images.failures import Failure
from featurecache.images.files import FileContent, Stat, content_of
from featurecache.images.image_source import ImageSource
from featurecache.images.manifest import Manifest, from_source
from featurecache.images.splits import split_named
from featurecache.text import listed

ImageData: TypeAlias = "bytes | NDArray[np.uint8]"
MEMORY = "images in memory"
_CHANNELS = (1, 3)
_SHAPES = "expected uint8 of shape (height, width), (height, width, 1) or (height, width, 3)"


@dataclass(frozen=True, slots=True)
class MemorySource(ImageSource):
    r"""Images in memory, by path. `from_memory` makes one, and the manifest of it.

    Pixels are given as an uncompressed image file (Netpbm's PGM or PPM), so an image has the same SHA-256 in every
    process. Its features are those of a PNG file of the same pixels.

    Parameters
    ----------
    images
        Maps a path to the bytes of an image file, or to uint8 pixels of shape (height, width), (height, width, 1) or
        (height, width, 3), RGB.

    Examples
    --------
    >>> import numpy as np
    >>> source = featurecache.MemorySource({"grey": np.zeros((2, 3), dtype=np.uint8)})
    >>> source.read("grey", max_bytes=1000).data
    b'P5\n3 2\n255\n\x00\x00\x00\x00\x00\x00'
    """

    images: dict[str, ImageData] = field(repr=False)

    @property
    def name(self) -> str:
        """What a cache's provenance records as ``images``; nothing is there later."""
        return MEMORY

    def stat(self, path: str) -> Stat | None:
        """Return None: a change is detected by the bytes alone."""
        del path
        return None

    def read(self, path: str, *, max_bytes: int) -> FileContent | Failure:
        """Return an image's bytes, or a failure."""
        image = self.images.get(path)
        if image is None:
            return Failure("not_found", "no such image in memory")
        return content_of(image if isinstance(image, bytes) else _netpbm(image), max_bytes=max_bytes)

    def list_images(self) -> tuple[list[str], list[Any]]:
        """Return the paths of all images; nothing is left out."""
        return list(self.images), []


def from_memory(
    images: Iterable[ImageData],
    labels: Iterable[str | int | None] | NDArray[Any] | None = None,
    *,
    splits: str | Iterable[str] = "",
    paths: Iterable[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Manifest:
    """Make the manifest of images in memory, such as those of ``keras.datasets``.

    Parameters
    ----------
    images
        The images, in any iterable, or one array of shape (n, height, width), (n, height, width, 1) or
        (n, height, width, 3): uint8 pixels, or the bytes of image files. Arrays are not copied.
    labels
        The class of each image: its name, its number in ``classes``, or None, ``""`` or -1 for no label; an array may
        have shape (n,) or (n, 1). Without ``classes`` a number is its own name, and classes are ordered by number.
    splits
        The split of all images, or of each one, by any of its usual names; ``""`` for none.
    paths
        The path of each image, by which rows and predictions name it; by default its number, such as ``"00000012"``.
    classes
        The names of the classes, in order.

    Raises
    ------
    ManifestError
        If an image is neither bytes nor such pixels, if there are not as many labels, splits or paths as images, or as
        `featurecache.from_source`.
    NoImagesError
        If there are no images.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    >>> featurecache.from_memory(pixels, [1, 0, 1], splits="train", classes=["airplane", "automobile"])
    <Manifest: 3 images: 2 classes (airplane, automobile); train 3>
    """
    if isinstance(images, np.ndarray) and _is_one_image(images):
        raise ManifestError(f"the array has shape {images.shape}, which is one image; give a list of images")
    data = [_checked(image, number) for number, image in enumerate(images)]
    n = len(data)
    names = [f"{number:08d}" for number in range(n)] if paths is None else _as_many("paths", map(str, paths), n)
    flat = labels.ravel().tolist() if isinstance(labels, np.ndarray) else labels
    given = [None] * n if flat is None else _as_many("labels", flat, n)
    of_splits = [splits] * n if isinstance(splits, str) else _as_many("splits", splits, n)
    rows = [
        (name, _class_name(label, classes), _split(split))
        for name, label, split in zip(names, given, of_splits, strict=True)
    ]
    if not rows:
        raise NoImagesError("no images were given")
    manifest = from_source(MemorySource(dict(zip(names, data, strict=True))), rows)
    if classes is not None:
        places = {name: number for number, name in enumerate(classes)}
        return manifest.with_classes(sorted(manifest.classes, key=lambda name: places.get(name, len(places))))
    if all(_is_number(label) for label, (_, name, _) in zip(given, rows, strict=True) if name is not None):
        return manifest.with_classes(sorted(manifest.classes, key=int))
    return manifest


def _checked(image: object, number: int) -> ImageData:
    """Return an image, or raise `ManifestError` if it is neither bytes nor pixels."""
    if isinstance(image, bytes):
        return image
    if not isinstance(image, np.ndarray):
        raise ManifestError(
            f"image {number} is of type {type(image).__name__}; expected the bytes of an image file, or an array of "
            "pixels: of an image of Pillow, np.asarray(image.convert('RGB'))"
        )
    if image.dtype != np.uint8 or not _is_one_image(image) or not image.size:
        remedy = "; multiply values from 0 to 1 by 255, and round them" if image.dtype.kind == "f" else ""
        raise ManifestError(f"image {number} has dtype {image.dtype} and shape {image.shape}; {_SHAPES}{remedy}")
    return image


def _is_one_image(pixels: NDArray[Any]) -> bool:
    return pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in _CHANNELS)  # noqa: PLR2004 - numbers of axes


def _netpbm(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels as an uncompressed image file."""
    height, width, *channels = pixels.shape
    kind = b"P6" if channels == [3] else b"P5"
    return b"%s\n%d %d\n255\n" % (kind, width, height) + pixels.tobytes()


def _as_many(what: str, values: Iterable[Any], n: int) -> list[Any]:
    if isinstance(values, str):
        raise ManifestError(f"the {what} are the text {values!r}; expected one for each image, in a list")
    found = list(values)
    if len(found) != n:
        raise ManifestError(f"got {len(found):,} {what} for {n:,} images; expected one for each image")
    return found


def _class_name(label: object, classes: Sequence[str] | None) -> str | None:
    """Return the name of a class; None for no label."""
    if isinstance(label, float) and math.isnan(label):
        label = None  # as pandas has it
    if label is None or isinstance(label, str):
        if label and classes is not None and label not in classes:
            raise ManifestError(f"the label {label!r} is not one of the classes {listed(classes, sort=False)}")
        return label or None
    if isinstance(label, bool | np.bool_):
        return _flag_name(bool(label), classes)
    if not isinstance(label, int | np.integer):
        raise ManifestError(f"the label {label!r} is of type {type(label).__name__}; expected a name, a number or None")
    if label < 0:
        return None
    if classes is None:
        return str(label)
    if label >= len(classes):
        raise ManifestError(f"the label {label} is not the number of one of {len(classes):,} classes")
    return classes[int(label)]


def _flag_name(flag: bool, classes: Sequence[str] | None) -> str:  # noqa: FBT001 - the label itself
    """Return the name of the class of a flag."""
    if classes is None:
        return str(flag)
    if len(classes) != 2:  # noqa: PLR2004 - False and True
        raise ManifestError(f"labels of True and False need two classes, got {listed(classes, sort=False)}")
    return classes[flag]


def _is_number(label: object) -> bool:
    return isinstance(label, int | np.integer) and not isinstance(label, bool)


def _split(name: object) -> str:
    split = split_named(name) if name and isinstance(name, str) else None if name else ""
    if split is None:
        raise ManifestError(f"split {name!r} is unknown (expected train, valid, test or nothing)")
    return split

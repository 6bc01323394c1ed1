"""Makes images and features for benchmarks."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.fake import FakeBackbone


def write_images(folder: Path, count: int, side: int = 32) -> None:
    """Write small images, all different, below ``folder/<train|valid>/<a|b>``."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("train", "valid")[number % 5 == 0] / "ab"[number % 2] / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def write_photographs(folder: Path, count: int, *, distinct: int = 64, size: tuple[int, int] = (500, 375)) -> None:
    """Write JPEG files of about 40 kB, all different, below ``folder/<a|b>``.

    Contents are noise of all scales, the coarser the stronger, as in photographs. After ``distinct`` ones they come
    again with another comment in the file, which costs the same to read and to decode.
    """
    generator = np.random.default_rng(0)
    made = [_photograph(generator, size) for _ in range(min(count, distinct))]
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        comment = struct.pack(">HHI", 0xFFFE, 6, number)
        data = made[number % distinct]
        path.write_bytes(
            data[:2] + comment + data[2:]
        )  # after the first two bytes, which are the same in every JPEG file


def _photograph(generator: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Return a JPEG file, quality 90."""
    from PIL import Image

    width, height = size
    pixels = np.full((height, width, 3), 128, np.float32)
    for cells, strength in ((4, 60), (12, 30), (40, 14), (120, 7), (width, 3)):
        shape = (max(1, cells * height // width), cells, 3)
        noise = generator.normal(128, strength, shape).clip(0, 255).astype(np.uint8)
        pixels += np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), np.float32) - 128
    with io.BytesIO() as stream:
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        return stream.getvalue()


class WideBackbone(FakeBackbone):
    """A backbone with the widths of VGG16's default taps that costs almost nothing."""

    def __init__(self) -> None:
        super().__init__({"fc2": 4096, "predictions": 1000})

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Repeat mean colours up to the width of each tap."""
        means = (images.mean(axis=(1, 2)) / 255).astype(np.float32)
        return {tap: np.resize(means.T, (width, len(images))).T.copy() for tap, width in self.spec.taps.items()}


class Rows:
    """A source of equal rows."""

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return rows of ones."""
        return np.ones((count, {"fc2": 4096, "predictions": 1000}[tap]), np.float32)

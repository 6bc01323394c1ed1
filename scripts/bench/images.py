"""Images and features that benchmarks are made of."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.fake import FakeBackbone


def write_images(folder: Path, count: int, side: int = 32) -> None:
    """Write small images, each of its own, below ``folder/<train|valid>/<a|b>``."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("train", "valid")[number % 5 == 0] / "ab"[number % 2] / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


class WideBackbone(FakeBackbone):
    """A backbone with the widths of VGG16's default taps that costs almost nothing."""

    def __init__(self) -> None:
        super().__init__({"fc2": 4096, "predictions": 1000})

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Repeat mean colours up to the width of each tap."""
        means = (images.mean(axis=(1, 2)) / 255).astype(np.float32)
        return {tap: np.resize(means.T, (width, len(images))).T.copy() for tap, width in self.spec.taps.items()}


class Rows:
    """A source of rows that are all alike."""

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return rows of ones."""
        return np.ones((count, {"fc2": 4096, "predictions": 1000}[tap]), np.float32)

"""A fast, deterministic backbone without a framework, for tests and examples."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.protocol import BackboneSpec, require_images


class FakeBackbone:
    """A backbone whose features are random projections of the mean colours of 8 x 8 patches.

    Parameters
    ----------
    widths
        Names of taps, and their widths.
    seed
        Seed of the random projections.
    input_size
        Height and width in pixels, multiples of 8.
    """

    def __init__(
        self, widths: Mapping[str, int] | None = None, seed: int = 0, input_size: tuple[int, int] = (32, 32)
    ) -> None:
        taps = dict(sorted((widths or {"features": 16, "predictions": 4}).items()))
        self.spec = BackboneSpec("fake", f"random:{seed}", input_size, "none", taps)
        self.provenance: Mapping[str, str] = {"engine": "numpy", "device": "cpu"}
        self.batch_size, self.passes_at_once = 32, 1
        generator = np.random.default_rng(seed)
        self._projections = {tap: generator.standard_normal((8 * 8 * 3, width)) for tap, width in taps.items()}

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every tap's activations; each row is computed separately. See `Backbone.forward`."""
        require_images(images, self.spec.input_size)
        n, height, width, _ = images.shape
        patches = images.reshape(n, 8, height // 8, 8, width // 8, 3).mean(axis=(2, 4)).reshape(n, 1, 8 * 8 * 3) / 255
        out = {}
        for tap, projection in self._projections.items():
            values = (patches @ projection)[:, 0]
            if tap == "predictions":
                values = np.exp(values - values.max(axis=1, keepdims=True))
                values /= values.sum(axis=1, keepdims=True)
            out[tap] = values.astype(np.float32)
        return out

"""A network for featurecache: color histograms of the whole image and of its quarters, in NumPy."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from featurecache import Backbone, BackboneSpec, ExternalNetwork
from featurecache.errors import WeightsError

BINS = 8
SIZE = (64, 64)
TAPS = {"quarters": 4 * 3 * BINS, "image": 3 * BINS}


class ColorHistogram:
    """Shares of the pixels in 8 bins of each color channel; a `Backbone`."""

    def __init__(self, taps: tuple[str, ...], batch_size: int) -> None:
        self.spec: BackboneSpec = NETWORK.spec(identify("imagenet"), taps)
        self.provenance: Mapping[str, str] = {"engine": "numpy", "device": "cpu"}
        self.batch_size, self.passes_at_once = batch_size, 1

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the activations of each tap, shape (n, width), for images of shape (n, 64, 64, 3)."""
        n = len(images)
        bins = np.eye(BINS, dtype=np.float32)[images // (256 // BINS)]  # (n, 64, 64, 3, BINS)
        quarters = bins.reshape(n, 2, 32, 2, 32, 3, BINS).mean(axis=(2, 4)).reshape(n, 4, 3 * BINS)
        features = {"quarters": quarters.reshape(n, -1), "image": quarters.mean(axis=1)}
        return {tap: features[tap] for tap in self.spec.taps}


def identify(weights: str) -> str:
    """Return the identity of the weights; a histogram has none, so that only the default is accepted."""
    if weights != "imagenet":
        raise WeightsError(f"weights {weights!r}: color_histogram has no weights; leave out --weights")
    return "none"


def start(*, weights: str, taps: tuple[str, ...], batch_size: int, device: str) -> Backbone:
    """Return the running network."""
    return ColorHistogram(taps, batch_size)


NETWORK = ExternalNetwork(
    name="color_histogram",
    input_size=SIZE,
    preprocessing="none",
    taps=TAPS,
    default_taps=("quarters",),
    identify=identify,
    start=start,
)

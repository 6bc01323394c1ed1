"""The VGG networks without a framework: their layers that have weights, and these weights from a file or a seed."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import Application
from featurecache.backbones.drawing import draw_kernel
from featurecache.backbones.weight_file import read_weight_file
from featurecache.backbones.weights import Weights

Weighted = tuple[NDArray[np.float32], NDArray[np.float32]]  # kernel and bias


@dataclass(frozen=True, slots=True)
class VggLayer:
    """A layer that has weights.

    Parameters
    ----------
    tap
        The tap that reads it.
    kind
        ``"conv2d"`` or ``"dense"``, as Keras counts its layers in weight files.
    kernel
        The shape of its kernel: (height, width, inputs, units) or (inputs, units).
    """

    tap: str
    kind: str
    kernel: tuple[int, ...]


def layers_of(application: Application) -> list[VggLayer]:
    """Return the layers of a network of the VGG family that have weights, from the input on."""
    layers, inputs = [], 3
    for block, (count, channels) in enumerate(application.blocks, start=1):
        for convolution in range(1, count + 1):
            layers.append(VggLayer(f"block{block}_conv{convolution}", "conv2d", (3, 3, inputs, channels)))
            inputs = channels
    dense = ("flatten", "fc1", "fc2", "logits")
    return layers + [
        VggLayer(above, "dense", (application.taps[below], application.taps[above])) for below, above in pairwise(dense)
    ]


def weights_of(application: Application, weights: Weights, needed: int) -> Generator[Weighted, None, None]:
    """Yield kernel and bias of the first ``needed`` layers of `layers_of`, float32, one layer at a time.

    Raises
    ------
    WeightsError
        If the file is not one of this network, in any of its layers.
    """
    layers = layers_of(application)
    if weights.path is not None:
        yield from read_weight_file(weights.path, application, [(each.kind, each.kernel) for each in layers], needed)
    else:
        yield from _drawn(layers[:needed], weights.seed or 0)


def _drawn(layers: Sequence[VggLayer], seed: int) -> Generator[Weighted, None, None]:
    generator = np.random.default_rng(seed)
    for layer in layers:
        yield draw_kernel(generator, layer.kernel), np.zeros(layer.kernel[-1], np.float32)

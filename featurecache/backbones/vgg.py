"""Lists the layers of VGG networks that have weights, and reads or draws these weights, without a framework."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import NetworkSpec
from featurecache.backbones.drawing import draw_kernel
from featurecache.backbones.weight_file import WeightedLayer, numbered, read_weight_file
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
        ``"conv2d"`` or ``"dense"``, the kind of layer by which Keras numbers layers in weight files.
    kernel
        The shape of its kernel: (height, width, inputs, units) or (inputs, units).
    """

    tap: str
    kind: str
    kernel: tuple[int, ...]


def layers_of(network_spec: NetworkSpec) -> list[VggLayer]:
    """Return the layers of a network of the VGG family that have weights, from the input on."""
    layers, inputs = [], 3
    for block, (count, channels) in enumerate(network_spec.blocks, start=1):
        for convolution in range(1, count + 1):
            layers.append(VggLayer(f"block{block}_conv{convolution}", "conv2d", (3, 3, inputs, channels)))
            inputs = channels
    dense = ("flatten", "fc1", "fc2", "logits")
    return layers + [
        VggLayer(above, "dense", (network_spec.taps[below], network_spec.taps[above]))
        for below, above in pairwise(dense)
    ]


def weights_of(network_spec: NetworkSpec, weights: Weights, needed: int) -> Generator[Weighted, None, None]:
    """Yield kernel and bias of the first ``needed`` layers of `layers_of`, float32, one layer at a time.

    Raises
    ------
    WeightsError
        If the file is not one of this network; see `read_weight_file`.
    """
    layers = layers_of(network_spec)
    if weights.path is None:
        yield from _drawn(layers[:needed], weights.seed or 0)
        return
    stored = [
        WeightedLayer((name,), (layer.kernel, layer.kernel[-1:]), is_top=layer.kind == "dense")
        for layer, name in zip(layers, numbered(layer.kind for layer in layers), strict=True)
    ]
    with closing(read_weight_file(weights.path, network_spec, stored, needed)) as arrays:
        yield from ((kernel, bias) for kernel, bias in arrays)


def _drawn(layers: Sequence[VggLayer], seed: int) -> Generator[Weighted, None, None]:
    generator = np.random.default_rng(seed)
    for layer in layers:
        yield draw_kernel(generator, layer.kernel), np.zeros(layer.kernel[-1], np.float32)

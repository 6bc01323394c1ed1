"""Reads the filters of a network's first convolution, as RGB."""

from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import NetworkSpec
from featurecache.backbones.keras_runtime import load_keras
from featurecache.backbones.network import build, leaf_layers
from featurecache.backbones.vgg import weights_of
from featurecache.backbones.weights import Weights


def first_filters(network_spec: NetworkSpec, weights: Weights) -> NDArray[np.float32]:
    """Return the kernel of a network's first convolution, shape (height, width, 3, filters), channels in RGB order.

    The filters of VGG networks are read without a framework; other networks are built by Keras. For networks with BGR
    input the channels are reversed.

    Raises
    ------
    WeightsError
        If the weights are not of this network.
    """
    if network_spec.blocks:
        with closing(weights_of(network_spec, weights, 1)) as layers:
            kernel = next(layers)[0]
    else:
        first = next(iter(network_spec.taps))  # needs the fewest layers
        kernel = _first_kernel(build(network_spec, weights, (first,)))
    return kernel[:, :, ::-1] if network_spec.preprocessing == "caffe" else kernel


def _first_kernel(network: Any) -> NDArray[np.float32]:  # noqa: ANN401 - a keras.Model
    keras = load_keras()
    layer = next(layer for _, _, layer in leaf_layers(network.layers) if isinstance(layer, keras.layers.Conv2D))
    kernel: NDArray[np.float32] = keras.ops.convert_to_numpy(layer.kernel)
    return kernel

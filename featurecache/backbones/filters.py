"""Reads the filters of a network's first convolution, as RGB."""

from collections.abc import Iterable
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import RGB_MEAN, NetworkSpec
from featurecache.backbones.keras_runtime import load_keras
from featurecache.backbones.model_file import tapped_model
from featurecache.backbones.network import build, leaf_layers
from featurecache.backbones.vgg import weights_of
from featurecache.backbones.weights import Weights
from featurecache.errors import WeightsError


def first_filters(network_spec: NetworkSpec, weights: Weights) -> NDArray[np.float32]:
    """Return the kernel of a network's first convolution, shape (height, width, 3, filters), channels in RGB order.

    The filters of VGG networks are read without a framework; other networks are built by Keras. For networks with BGR
    input the channels are reversed.

    Raises
    ------
    WeightsError
        If the weights are not of this network, or it is a model of the user's own without a convolution of RGB pixels.
    """
    if network_spec.blocks:
        with closing(weights_of(network_spec, weights, 1)) as layers:
            kernel = next(layers)[0]
    elif network_spec.is_own_model and weights.path is not None:
        model = tapped_model(weights.path, network_spec.input_size)
        layers = load_keras().Model(model.images, list(model.taps.values()))._flatten_layers(include_self=False)
        kernel = _first_kernel(weights.source, layers)
    else:
        first = next(iter(network_spec.taps))  # needs the fewest layers
        network = build(network_spec, weights, (first,))
        kernel = _first_kernel(network_spec.name, (layer for _, _, layer in leaf_layers(network.layers)))
    return kernel[:, :, ::-1] if network_spec.preprocessing == "caffe" else kernel


def _first_kernel(name: str, layers: Iterable[Any]) -> NDArray[np.float32]:
    keras = load_keras()
    for layer in layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel.shape[2] == len(RGB_MEAN):
            kernel: NDArray[np.float32] = keras.ops.convert_to_numpy(layer.kernel)
            return kernel
    raise WeightsError(f"{name} has no layer Conv2D that takes pixels, so there are no filters to draw")

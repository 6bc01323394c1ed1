"""What the first layer of a network looks for: its filters, in the colours that they see."""

from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import Application
from featurecache.backbones.network import build
from featurecache.backbones.runtime import load_keras
from featurecache.backbones.vgg import weights_of
from featurecache.backbones.weights import Weights


def first_filters(application: Application, weights: Weights) -> NDArray[np.float32]:
    """Return the kernel of a network's first convolution, shape (height, width, 3, filters), channels in RGB order.

    Of a VGG network it is read without a framework; others are built by Keras. Networks that take their channels in
    BGR order have them turned, so that a filter shows the colour that it sees.

    Raises
    ------
    WeightsError
        If the weights are not of this network.
    """
    if application.blocks:
        with closing(weights_of(application, weights, 1)) as layers:
            kernel = next(layers)[0]
    else:
        kernel = _first_kernel(build(application, weights))
    return kernel[:, :, ::-1] if application.preprocessing == "caffe" else kernel


def _first_kernel(network: Any) -> NDArray[np.float32]:  # noqa: ANN401 - a keras.Model
    keras = load_keras()
    layer = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    kernel: NDArray[np.float32] = keras.ops.convert_to_numpy(layer.kernel)
    return kernel

"""The kernels of random networks, drawn with NumPy, so that every engine gets the same ones."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw_kernel(
    generator: np.random.Generator, shape: Sequence[int], *, depthwise: bool = False, biased: bool = True
) -> NDArray[np.float32]:
    """Draw the kernel of a convolution or of a dense layer.

    It is Glorot-uniform (Glorot and Bengio 2010), which is Keras's default. One without a bias, which in the
    catalogue's networks stands before a batch normalisation that has not learnt to rescale, is He-uniform (He et al.
    2015), so that the signal does not die out.

    Parameters
    ----------
    generator
        Where the numbers come from; each kernel takes as many as it has entries.
    shape
        (height, width, inputs, units), or (inputs, units).
    depthwise
        Whether a unit sees one input alone.
    biased
        Whether the layer has a bias.
    """
    *field, inputs, units = shape
    fan_in = math.prod(field) * (1 if depthwise else inputs)
    fan_out = math.prod(field) * units if biased else 0
    values = generator.random(tuple(shape), np.float32)
    values *= 2
    values -= 1
    values *= np.float32(math.sqrt(6 / (fan_in + fan_out)))
    return values

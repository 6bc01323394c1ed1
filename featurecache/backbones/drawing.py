"""Draws the kernels of random networks and the images of trials with NumPy, so that every engine gets the same ones."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw_kernel(
    generator: np.random.Generator, shape: Sequence[int], *, depthwise: bool = False, biased: bool = True
) -> NDArray[np.float32]:
    """Draw the kernel of a convolution or of a dense layer.

    Kernels are Glorot-uniform (Glorot and Bengio 2010), Keras's default. Kernels of layers without a bias are
    He-uniform (He et al. 2015): in the catalogue's networks an untrained batch normalisation follows them, and with
    Glorot's scale the signal would vanish.

    Parameters
    ----------
    generator
        Source of random numbers; a kernel draws one number for each of its entries.
    shape
        (height, width, inputs, units), or (inputs, units).
    depthwise
        Whether each unit has a single input.
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


def trial_images(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return images from noise to one colour, shape (n, height, width, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return (noise // (1 + np.arange(shape[0]) * 255 // shape[0])[:, None, None, None]).astype(np.uint8)

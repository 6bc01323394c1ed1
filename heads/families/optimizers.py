"""Keras's optimizers and initializers in NumPy, with the same numbers.

For networks as small as heads they are faster on a CPU than a framework, and need no start-up time.
"""

import math
from abc import ABC, abstractmethod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32s: TypeAlias = NDArray[np.float32]

_EPSILON = np.float32(1e-7)  # of Keras's optimizers
_TRUNCATED = 0.87962566103423978  # standard deviation of a standard normal distribution that is truncated at 2


# Initial weights


def initial_kernel(init: str, inputs: int, units: int, generator: np.random.Generator) -> Float32s:
    """Draw a kernel, shape (inputs, units), from the distribution of Keras's initializer of this name.

    ``glorot_*``: Glorot and Bengio 2010; ``he_normal``: He et al. 2015; ``lecun_normal``: LeCun et al. 1998;
    ``normal:S``: standard deviation S, not truncated.
    """
    shape = (inputs, units)
    if init == "zeros":
        return np.zeros(shape, np.float32)
    if init.startswith("normal:"):
        return generator.standard_normal(shape, np.float32) * np.float32(init.removeprefix("normal:"))
    if init == "glorot_uniform":
        limit = np.float32(math.sqrt(6 / (inputs + units)))
        return (generator.random(shape, np.float32) * 2 - 1) * limit
    variance = {"glorot_normal": 2 / (inputs + units), "he_normal": 2 / inputs, "lecun_normal": 1 / inputs}[init]
    drawn = generator.standard_normal(shape, np.float32)
    while (outside := np.abs(drawn) > 2).any():  # noqa: PLR2004 - Keras truncates here
        drawn[outside] = generator.standard_normal(np.count_nonzero(outside), np.float32)
    return drawn * np.float32(math.sqrt(variance) / _TRUNCATED)


# Optimizers


class Optimizer(ABC):
    """Updates one array of weights in place, step by step, as the Keras optimizer of the same name.

    Parameters
    ----------
    weights
        The array that is changed.
    rate
        Learning rates, of a shape that broadcasts to that of the weights.
    momentum, decay
        ``momentum`` and ``weight_decay`` of the Keras optimizer; optimizers without them ignore them.
    """

    def __init__(self, weights: Float32s, rate: Float32s, momentum: float, decay: float) -> None:
        self._weights, self._full_rate, self._rate, self._steps = weights, rate, rate, 0
        self._momentum, self._decay = np.float32(momentum), np.float32(decay)
        self._scratch = np.empty_like(weights)
        self._prepare()

    def step(self, gradient: Float32s, factor: float = 1.0) -> None:
        """Take a step with learning rates times a factor. The gradient, shaped as the weights, is overwritten."""
        self._steps += 1
        self._rate = self._full_rate * np.float32(factor)
        self._step(gradient, self._scratch)

    @abstractmethod
    def _prepare(self) -> None:
        """Allocate the state that is kept between steps."""

    @abstractmethod
    def _step(self, gradient: Float32s, scratch: Float32s) -> None:
        """Change the weights."""


class SGD(Optimizer):
    """``keras.optimizers.SGD``, with momentum."""

    def _prepare(self) -> None:
        self._velocity = np.zeros_like(self._weights) if self._momentum else None

    def _step(self, gradient: Float32s, scratch: Float32s) -> None:
        gradient *= self._rate
        if self._velocity is not None:
            self._velocity *= self._momentum
            self._velocity -= gradient
            self._weights += self._velocity
        else:
            self._weights -= gradient


class RMSprop(Optimizer):
    """``keras.optimizers.RMSprop`` (Hinton 2012), rho 0.9, not centred, with momentum."""

    def _prepare(self) -> None:
        self._squares = np.zeros_like(self._weights)
        self._velocity = np.zeros_like(self._weights) if self._momentum else None

    def _step(self, gradient: Float32s, scratch: Float32s) -> None:
        np.multiply(gradient, gradient, out=scratch)
        scratch *= np.float32(0.1)
        self._squares *= np.float32(0.9)
        self._squares += scratch
        np.add(self._squares, _EPSILON, out=scratch)
        np.sqrt(scratch, out=scratch)
        np.divide(gradient, scratch, out=gradient)
        gradient *= self._rate
        if self._velocity is not None:
            self._velocity *= self._momentum
            self._velocity += gradient
            self._weights -= self._velocity
        else:
            self._weights -= gradient


class Adam(Optimizer):
    """``keras.optimizers.Adam`` (Kingma and Ba 2015), betas 0.9 and 0.999."""

    def _prepare(self) -> None:
        self._mean, self._squares = np.zeros_like(self._weights), np.zeros_like(self._weights)

    def _step(self, gradient: Float32s, scratch: Float32s) -> None:
        np.multiply(gradient, gradient, out=scratch)
        scratch *= np.float32(0.001)
        self._squares *= np.float32(0.999)
        self._squares += scratch
        self._mean *= np.float32(0.9)
        gradient *= np.float32(0.1)
        self._mean += gradient
        np.sqrt(self._squares, out=scratch)
        scratch += _EPSILON
        np.divide(self._mean, scratch, out=scratch)
        scratch *= self._rate * np.float32(math.sqrt(1 - 0.999**self._steps) / (1 - 0.9**self._steps))
        self._weights -= scratch


class AdamW(Adam):
    """``keras.optimizers.AdamW`` (Loshchilov and Hutter 2019): Adam with decay of the weights before each step."""

    def _step(self, gradient: Float32s, scratch: Float32s) -> None:
        np.multiply(self._weights, self._rate * self._decay, out=scratch)
        self._weights -= scratch
        super()._step(gradient, scratch)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW}

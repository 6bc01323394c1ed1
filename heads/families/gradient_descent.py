"""Gradient descent on several dense networks at once, on the same batches, with different learning rates and l2.

The steps equal those of Keras's ``Model.fit``, in NumPy: for such small networks a framework costs more than it saves.
The networks are stored side by side in one array, so that each batch is read once for all of them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.families.layers import ACTIVATIONS, Layer
from heads.families.optimizers import Float32s, Optimizer
from heads.rows import Features, Floats, Labels, Scaling, Targets

Aims: TypeAlias = NDArray[np.intp] | NDArray[np.floating[Any]]
"""What the rows of a batch are to get, shape (b,): positions of classes, or numbers."""

Loss: TypeAlias = Callable[..., tuple[Float32s, Floats, NDArray[Any]]]
"""A loss: called with scores (S, b, k), aims (b,), weights (b,) and ``limited``, as `cross_entropy`."""

_OF_ZERO = -math.log(np.finfo(np.float64).eps)  # the loss of a probability of 0, clipped as in scikit-learn
_VALID_ROWS = 256  # validation rows of a forward pass
_SMALL_PRODUCT = 2**28  # multiplications
_LOWEST = -60.0  # a lower score is that of a probability of 0: products of numbers below 1e-38 are many times slower


class NetworkBatch:
    """S dense networks of the same shape, with the same initial weights.

    The first kernel has the shape (d, S * units), so that one matrix product serves all networks; those of later layers
    have (S, inputs, units).

    Parameters
    ----------
    layers
        The initial layers of every network; k units in the last one.
    activation
        Activation of all layers but the last: a key of `ACTIVATIONS`.
    rates, l2
        Learning rate and penalty of each network, shape (S,).
    optimizer
        Called with an array of weights and its learning rates; returns the optimizer.
    loss
        What the steps make smaller.

    Attributes
    ----------
    count : int
        The number of networks, S.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        activation: str,
        *,
        rates: Floats,
        l2: Floats,
        optimizer: Callable[[Float32s, Float32s], Optimizer],
        loss: Loss,
    ) -> None:
        self._loss = loss
        self.count, self._units = len(rates), len(layers[0].bias)
        self._activate, self._slope = ACTIVATIONS[activation]
        self._kernels, self._biases = [], []
        for number, layer in enumerate(layers):
            kernel, bias = layer.kernel.astype(np.float32), layer.bias.astype(np.float32)
            side_by_side = np.tile(kernel, (1, self.count)) if number == 0 else np.tile(kernel, (self.count, 1, 1))
            self._kernels.append(side_by_side)
            self._biases.append(np.tile(bias, (self.count, 1, 1)))
        penalty = (2 * l2).astype(np.float32)
        self._penalties = [self._spread(penalty, number) for number in range(len(layers))] if l2.any() else None
        rate = rates.astype(np.float32)
        self._optimizers = [
            (optimizer(kernel, self._spread(rate, number)), optimizer(bias, rate[:, np.newaxis, np.newaxis]))
            for number, (kernel, bias) in enumerate(zip(self._kernels, self._biases, strict=True))
        ]

    def threads(self, rows: int) -> AbstractContextManager[object]:
        """Return a context manager that limits BLAS to one thread if batches of this many rows give small products.

        A second thread saves at most half of the time, and products wait for it if other programs use the processors.
        Three epochs of 1,024 hidden units on 9,000 x 1,280 took 7 s with one thread on two busy processors, and 37 s
        with two; those of 256 units 2 s and 20 s.
        """
        from threadpoolctl import threadpool_limits

        small = rows * self._kernels[0].size <= _SMALL_PRODUCT
        limits: AbstractContextManager[object] = threadpool_limits(1 if small else None, user_api="blas")
        return limits

    def step(
        self, X: Float32s, targets: Aims, weights: Float32s, masks: Sequence[Float32s], factor: float = 1.0
    ) -> tuple[Floats, NDArray[Any]]:
        """Take one step of every network on a batch.

        Parameters
        ----------
        X
            Standardised features, shape (b, d).
        targets
            What the loss compares scores with, shape (b,).
        weights
            Weights of the rows, shape (b,).
        masks
            Dropout masks, one of shape (b, units) for each hidden layer; empty for no dropout.
        factor
            What the learning rates are multiplied by in this step.

        Returns
        -------
        losses, hits
            Weighted sum of the losses without penalty, and number of correct rows, or what else the loss counts, of
            each network before the step, shape (S,).
        """
        outputs, scores = self._forward(X, masks)
        gradient, losses, hits = self._loss(scores, targets, weights)
        gradient *= (weights / np.float32(len(X)))[:, np.newaxis]
        gradients = self._backward(X, outputs, gradient, masks)
        for (kernels, biases), (kernel, bias) in zip(self._optimizers, gradients, strict=True):
            kernels.step(kernel, factor)
            biases.step(bias, factor)
        return losses, hits

    def evaluate(self, X: Float32s, targets: Aims, weights: Float32s) -> tuple[Floats, NDArray[Any]]:
        """Return losses and hits of a batch as `step` does, without a step.

        A target of -1 is a class that the networks do not know. The cross-entropy of a row is limited as in
        `heads.rows.loss_and_accuracy`.
        """
        _, losses, hits = self._loss(self._forward(X, ())[1], targets, weights, limited=True)
        return losses, hits

    def layers(self, network: int) -> list[Layer]:
        """Return a copy of the weights of one network."""
        first = self._kernels[0][:, network * self._units : (network + 1) * self._units]
        kernels = [first, *(kernel[network] for kernel in self._kernels[1:])]
        return [
            Layer(kernel.copy(), bias[network, 0].copy()) for kernel, bias in zip(kernels, self._biases, strict=True)
        ]

    def _spread(self, values: Float32s, layer: int) -> Float32s:
        """Return values of shape (S,), one for each network, in a shape that broadcasts to the kernel of a layer."""
        return np.repeat(values, self._units) if layer == 0 else values[:, np.newaxis, np.newaxis]

    def _forward(self, X: Float32s, masks: Sequence[Float32s]) -> tuple[list[Float32s], Float32s]:
        """Return the output of each hidden layer before its mask, (S, b, units), and the scores, (S, b, k)."""
        scores = (X @ self._kernels[0]).reshape(len(X), self.count, -1).transpose(1, 0, 2) + self._biases[0]
        outputs = []
        for number in range(1, len(self._kernels)):
            outputs.append(self._activate(scores))
            scores = _masked(outputs[-1], masks, number - 1) @ self._kernels[number] + self._biases[number]
        return outputs, scores

    def _backward(
        self, X: Float32s, outputs: Sequence[Float32s], gradient: Float32s, masks: Sequence[Float32s]
    ) -> list[tuple[Float32s, Float32s]]:
        """Return the gradients of kernels and biases, given the gradient of the scores, shape (S, b, k)."""
        gradients = []
        for number in range(len(self._kernels) - 1, 0, -1):
            output = outputs[number - 1]
            kernel = _masked(output, masks, number - 1).transpose(0, 2, 1) @ gradient
            gradients.append((kernel, gradient.sum(axis=1, keepdims=True)))
            gradient = gradient @ self._kernels[number].transpose(0, 2, 1)
            gradient *= self._slope(output)
            gradient = _masked(gradient, masks, number - 1)
        bias = gradient.sum(axis=1, keepdims=True)
        gradients.append((X.T @ gradient.transpose(1, 0, 2).reshape(len(X), -1), bias))
        gradients.reverse()
        if self._penalties is not None:
            for (of_kernel, _), penalty, kernel in zip(gradients, self._penalties, self._kernels, strict=True):
                np.add(of_kernel, penalty * kernel, out=of_kernel)
        return gradients


def _masked(outputs: Float32s, masks: Sequence[Float32s], number: int) -> Float32s:
    return outputs * masks[number] if masks else outputs


def cross_entropy(
    scores: Float32s, targets: Aims, weights: Float32s, *, limited: bool = False
) -> tuple[Float32s, Floats, NDArray[np.int64]]:
    """Return the gradient of the cross-entropy by the scores, shape (S, b, k), and the results of `NetworkBatch.step`.

    A target of -1 has the loss of a probability of 0; it is also the largest loss of a row if it is limited.
    """
    rows = np.arange(len(targets))
    best = scores.argmax(axis=2)
    scores = scores - scores.max(axis=2, keepdims=True)
    of_truth = scores[:, rows, targets].copy()
    scores[scores < _LOWEST] = -np.inf
    probabilities = np.exp(scores, out=scores)
    sums = probabilities.sum(axis=2)
    losses = np.log(sums) - of_truth
    known = targets >= 0
    if not known.all():
        losses = np.where(known, losses, _OF_ZERO)
    if limited:
        losses = np.minimum(losses, _OF_ZERO)
    probabilities /= sums[:, :, np.newaxis]
    probabilities[:, rows[known], targets[known]] -= 1
    return probabilities, (losses * weights).sum(axis=1, dtype=np.float64), np.count_nonzero(best == targets, axis=1)


def squared_error(
    scores: Float32s, targets: NDArray[np.floating[Any]], weights: Float32s, *, limited: bool = False
) -> tuple[Float32s, Floats, Floats]:
    """Return the gradient of the squared error by the scores (S, b, 1), the losses, and what `_explained` counts."""
    del limited
    errors = scores - targets[:, np.newaxis]
    squares = np.square(errors[:, :, 0])
    return 2 * errors, (squares * weights).sum(axis=1, dtype=np.float64), _explained(squares)


def absolute_error(
    scores: Float32s, targets: NDArray[np.floating[Any]], weights: Float32s, *, limited: bool = False
) -> tuple[Float32s, Floats, Floats]:
    """Return the gradient of the absolute error by the scores (S, b, 1), the losses, and what `_explained` counts."""
    del limited
    errors = scores - targets[:, np.newaxis]
    losses = (np.abs(errors[:, :, 0]) * weights).sum(axis=1, dtype=np.float64)
    return np.sign(errors), losses, _explained(np.square(errors[:, :, 0]))


def _explained(squares: Float32s) -> Floats:
    """Return the sum over rows (S, b) of 1 - squared error, shape (S,): of numbers with deviation 1, its mean is R2."""
    return np.asarray((1 - squares).sum(axis=1, dtype=np.float64))


# Rows


class Batches:
    """Batches of standardised float32 rows, in one reused buffer.

    Parameters
    ----------
    width
        The number of features, d.
    scaling
        Their standardisation.
    size
        Largest number of rows of a batch.
    """

    def __init__(self, width: int, scaling: Scaling, size: int) -> None:
        self._buffer = np.empty((size, width), np.float32)
        self._plain = not scaling.mean.any() and bool((scaling.scale == 1).all())
        self._mean, self._factor = scaling.mean.astype(np.float32), (1 / scaling.scale).astype(np.float32)

    def take(self, X: Features, rows: NDArray[np.intp]) -> Float32s:
        """Return these rows of features (n, d) of any floating-point type, shape (b, d); valid until the next call."""
        batch = self._buffer[: len(rows)]
        if isinstance(X, np.ndarray) and X.dtype == np.float32:
            np.take(X, rows, axis=0, out=batch, mode="clip")  # this mode needs no second buffer
        else:
            batch[:] = X[rows]
        if not self._plain:
            batch -= self._mean
            batch *= self._factor
        return batch


def batches_of(count: int, size: int) -> Iterable[slice]:
    """Yield consecutive slices of length ``size`` that cover ``count``; the last may be shorter."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def evaluate_rows(networks: NetworkBatch, X: Features, targets: Aims, scaling: Scaling) -> tuple[Floats, Floats]:
    """Return mean loss and mean of what it counts of every network on rows (n, d), shapes (S,)."""
    batches = Batches(X.shape[1], scaling, _VALID_ROWS)
    losses, hits = np.zeros(networks.count), np.zeros(networks.count)
    for rows in batches_of(len(X), _VALID_ROWS):
        batch = batches.take(X, np.arange(rows.start, rows.stop))
        loss, hit = networks.evaluate(batch, targets[rows], np.ones(len(batch), np.float32))
        losses += loss
        hits += hit
    return losses / len(X), hits / len(X)


def positions(classes: Labels, y: Labels) -> Targets:
    """Return the position of each label among ascending classes, shape (n,); -1 for others."""
    places = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    return np.where(classes[places] == y, places, -1)

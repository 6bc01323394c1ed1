"""Dense layers, their activations, and a model made of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from heads.errors import ArtifactError, TrainingError
from heads.families.affine import softmax
from heads.fitted_model import checked_arrays, not_finite
from heads.rows import Features, Floats, Scaling, by_blocks, finite

# The activation of hidden layers, computed in place, and its derivative as a function of its output.
ACTIVATIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "relu": (lambda scores: np.maximum(scores, 0, out=scores), lambda outputs: outputs > 0),
    "tanh": (lambda scores: np.tanh(scores, out=scores), lambda outputs: 1 - outputs * outputs),
    "sigmoid": (
        lambda scores: np.divide(1, 1 + np.exp(-scores), out=scores),
        lambda outputs: outputs * (1 - outputs),
    ),
    "linear": (lambda scores: scores, lambda outputs: np.ones((), outputs.dtype)),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One dense layer of a network: a kernel (inputs, units) and a bias (units,)."""

    kernel: NDArray[Any]
    bias: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Layers(ABC):
    """Dense layers with an activation between them, on standardised features, in float64.

    Parameters
    ----------
    layers
        Kernels (inputs, units) and biases (units,), float64; k units in the last.
    activation
        Activation of all layers but the last: a key of `ACTIVATIONS`.
    scaling
        The standardisation of the features.
    """

    layers: tuple[Layer, ...]
    activation: str
    scaling: Scaling

    def __post_init__(self) -> None:
        faults = not_finite(self.arrays)
        if not (self.scaling.scale > 0).all():
            faults.append("scale holds values that are not above 0")
        if faults:
            raise ValueError("; ".join(faults))

    @classmethod
    def learned(cls, layers: Sequence[Layer], activation: str, scaling: Scaling) -> Self:
        """Make a model of trained layers; raise `TrainingError` if a weight is not finite."""
        if not all(finite(layer.kernel) and finite(layer.bias) for layer in layers):
            raise TrainingError("the training diverged: weights are no longer finite numbers")
        exact = (Layer(layer.kernel.astype(np.float64), layer.bias.astype(np.float64)) for layer in layers)
        return cls(tuple(exact), activation, scaling)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int, params: Mapping[str, Any]
    ) -> Self:
        """Rebuild it from its stored arrays; see `FittedModel`."""
        sizes = (width, *map(int, params["hidden"].split(",")), classes)
        shapes: dict[str, tuple[int, ...]] = {"mean": (width,), "scale": (width,)}
        for number, (inputs, units) in enumerate(pairwise(sizes)):
            shapes |= {f"coef_{number}": (units, inputs), f"intercept_{number}": (units,)}
        checked = checked_arrays(arrays, shapes)
        layers = (Layer(checked[f"coef_{n}"].T, checked[f"intercept_{n}"]) for n in range(len(sizes) - 1))
        try:
            return cls(tuple(layers), params["activation"], Scaling(checked["mean"], checked["scale"]))
        except ValueError as e:
            raise ArtifactError(str(e)) from e

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The stored arrays; ``coef_N`` has one row of weights for each unit of layer N."""
        named: dict[str, NDArray[Any]] = {"mean": self.scaling.mean, "scale": self.scaling.scale}
        for number, layer in enumerate(self.layers):
            named |= {f"coef_{number}": layer.kernel.T, f"intercept_{number}": layer.bias}
        return named

    @property
    def width(self) -> int:
        """The number of features that it takes, d."""
        return len(self.scaling.mean)

    @final
    def predict_proba(self, X: Features) -> Floats:
        """Return what the last layer gives, shape (n, k), for features of shape (n, d); see `by_blocks`."""
        return by_blocks(X, self.width, len(self.layers[-1].bias), self._outputs)

    def _outputs(self, block: Floats) -> Floats:
        outputs = (block - self.scaling.mean) / self.scaling.scale
        activate, _ = ACTIVATIONS[self.activation]
        for layer in self.layers[:-1]:
            outputs = activate(outputs @ layer.kernel + layer.bias)
        return self._finished(outputs @ self.layers[-1].kernel + self.layers[-1].bias)

    @staticmethod
    @abstractmethod
    def _finished(scores: Floats) -> Floats:
        """Return the outputs, shape (n, k), of the scores of the last layer, which may be overwritten."""


@final
class LayersModel(_Layers):
    """Dense layers with an activation between them and softmax at the end, on standardised features, in float64."""

    __slots__ = ()

    @staticmethod
    def _finished(scores: Floats) -> Floats:
        return softmax(scores)


@final
class LayersNumberModel(_Layers):
    """Dense layers with an activation between them, on standardised features, in float64; k is 1, the number."""

    __slots__ = ()

    @staticmethod
    def _finished(scores: Floats) -> Floats:
        return scores

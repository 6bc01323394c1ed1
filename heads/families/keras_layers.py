"""Layers of Keras that heads can be stored as: plain arrays with a description, computed by NumPy in float64.

A description names kinds of layers of the list below and their numbers, and nothing that could be imported.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from heads.errors import ArtifactError, TrainingError
from heads.families.affine import softmax
from heads.fitted_model import checked_arrays, not_finite
from heads.rows import Features, Floats, Scaling, by_blocks, finite

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
"""Klambauer et al. 2017."""


def _sigmoid(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -x))


def _gelu(x: Floats) -> Floats:
    from scipy.special import erf

    gelu: Floats = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    return gelu


ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x >= 0, x, 0.2 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0))),
    "gelu": _gelu,
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "softmax": lambda x: softmax(x.copy()),
}
"""Keras's activations by name, as functions of scores (n, units)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of layer.

    Parameters
    ----------
    numbers
        The names of its settings that are numbers, as in Keras.
    arrays
        The names of its arrays, in the order of Keras's weights.
    compute
        Called with inputs (n, units), the settings and the arrays; returns the outputs.
    activation
        Whether it has a setting ``activation`` as well.
    """

    numbers: tuple[str, ...]
    arrays: tuple[str, ...]
    compute: Callable[[Floats, Mapping[str, Any], Mapping[str, Floats]], Floats]
    activation: bool = False


def _dense(x: Floats, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Floats:
    outputs: Floats = ACTIVATIONS[settings["activation"]](x @ arrays["kernel"] + arrays["bias"])
    return outputs


def _batch_normalization(x: Floats, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Floats:
    scale: Floats = arrays["gamma"] / np.sqrt(arrays["moving_variance"] + settings["epsilon"])
    return (x - arrays["moving_mean"]) * scale + arrays["beta"]


def _layer_normalization(x: Floats, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Floats:
    deviations = x - x.mean(axis=1, keepdims=True)
    variance = np.square(deviations).mean(axis=1, keepdims=True)
    normal: Floats = deviations / np.sqrt(variance + settings["epsilon"]) * arrays["gamma"] + arrays["beta"]
    return normal


def _unchanged(x: Floats, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Floats:
    del settings, arrays  # it acts in training alone
    return x


KINDS: Mapping[str, Kind] = {
    "Dense": Kind((), ("kernel", "bias"), _dense, activation=True),
    "Activation": Kind((), (), lambda x, settings, arrays: ACTIVATIONS[settings["activation"]](x), activation=True),
    "LeakyReLU": Kind(
        ("negative_slope",), (), lambda x, settings, arrays: np.where(x >= 0, x, settings["negative_slope"] * x)
    ),
    "BatchNormalization": Kind(
        ("epsilon", "momentum"), ("gamma", "beta", "moving_mean", "moving_variance"), _batch_normalization
    ),
    "LayerNormalization": Kind(("epsilon",), ("gamma", "beta"), _layer_normalization),
    "Dropout": Kind(("rate",), (), _unchanged),
    "AlphaDropout": Kind(("rate",), (), _unchanged),
    "GaussianDropout": Kind(("rate",), (), _unchanged),
    "GaussianNoise": Kind(("stddev",), (), _unchanged),
}
"""The kinds by the names of their classes in ``keras.layers``."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredLayer:
    """A layer: the name of its kind, its settings, and its arrays by name, float64."""

    kind: str
    settings: Mapping[str, Any]
    arrays: Mapping[str, Floats]


@final
@dataclass(frozen=True, slots=True, eq=False)
class LayerStack:
    """Layers on standardised features, one after another, and softmax of the scores that the last one gives.

    Parameters
    ----------
    layers
        The layers.
    scaling
        The standardisation of the features.
    """

    layers: tuple[StoredLayer, ...]
    scaling: Scaling

    @classmethod
    def learned(cls, layers: Sequence[StoredLayer], scaling: Scaling) -> Self:
        """Make a model of trained layers; raise `TrainingError` if a weight is not finite."""
        if not all(finite(array) for layer in layers for array in layer.arrays.values()):
            raise TrainingError("the training diverged: weights are no longer finite numbers")
        return cls(tuple(layers), scaling)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int, params: Mapping[str, Any]
    ) -> Self:
        """Rebuild it from its stored arrays; see `FittedModel`."""
        del params  # the layers have all
        shapes: dict[str, tuple[int, ...]] = {"mean": (width,), "scale": (width,)}
        units, found = width, list(_described(arrays.get("layers")))
        for number, (kind, settings) in enumerate(found):
            expected = _shapes(kind, units, arrays.get(f"kernel_{number}"))
            shapes |= {f"{name}_{number}": shape for name, shape in expected.items()}
            units = expected["bias"][0] if kind == "Dense" else units
            del settings
        if units != classes:
            raise ArtifactError(f"the last layer gives {units} scores, expected {classes}")
        checked = checked_arrays({name: array for name, array in arrays.items() if name != "layers"}, shapes)
        faults = not_finite(checked)
        variances = [array for name, array in checked.items() if name.startswith("moving_variance_")]
        if not (checked["scale"] > 0).all() or any((array < 0).any() for array in variances):
            faults.append("scale or a variance holds values that are not above 0")
        if faults:
            raise ArtifactError("; ".join(faults))
        layers = [
            StoredLayer(kind, settings, {name: checked[f"{name}_{number}"] for name in KINDS[kind].arrays})
            for number, (kind, settings) in enumerate(found)
        ]
        return cls(tuple(layers), Scaling(checked["mean"], checked["scale"]))

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The stored arrays; ``layers`` is the description as the bytes of a JSON text."""
        described = json.dumps([{"layer": layer.kind, **layer.settings} for layer in self.layers], allow_nan=False)
        named: dict[str, NDArray[Any]] = {
            "layers": np.frombuffer(described.encode("ascii"), np.uint8),
            "mean": self.scaling.mean,
            "scale": self.scaling.scale,
        }
        for number, layer in enumerate(self.layers):
            named |= {f"{name}_{number}": array for name, array in layer.arrays.items()}
        return named

    @property
    def width(self) -> int:
        """The number of features that it takes, d."""
        return len(self.scaling.mean)

    def predict_proba(self, X: Features) -> Floats:
        """Return probabilities, shape (n, k), rows summing to 1, for features of shape (n, d); see `by_blocks`."""
        k = next(len(layer.arrays["bias"]) for layer in reversed(self.layers) if layer.kind == "Dense")
        return by_blocks(X, self.width, k, self._probabilities)

    def _probabilities(self, block: Floats) -> Floats:
        outputs = (block - self.scaling.mean) / self.scaling.scale
        for layer in self.layers:
            outputs = KINDS[layer.kind].compute(outputs, layer.settings, layer.arrays)
        return softmax(np.array(outputs))


def _described(stored: NDArray[Any] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield kind and settings of each layer of a description; raise `ArtifactError` for what is not as it must be."""
    try:
        stored = np.zeros(0, np.uint8) if stored is None or stored.dtype != np.uint8 else stored
        layers = json.loads(stored.tobytes().decode("ascii"))
        found = [(settings.pop("layer"), settings) for settings in layers]
        kinds = [KINDS[kind] for kind, _ in found]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise ArtifactError("layers does not describe layers that are known") from e
    if "Dense" not in [kind for kind, _ in found]:
        raise ArtifactError("layers has no Dense layer")
    for (name, settings), kind in zip(found, kinds, strict=True):
        expected = {*kind.numbers, *(["activation"] if kind.activation else [])}
        numbers = [settings.get(number) for number in kind.numbers]
        if settings.keys() != expected or not all(type(number) is float and 0 <= number <= 1e3 for number in numbers):  # noqa: PLR2004
            raise ArtifactError(f"a layer {name} has other settings than {', '.join(sorted(expected)) or 'none'}")
        if kind.activation and settings["activation"] not in ACTIVATIONS:
            raise ArtifactError(f"a layer {name} has an activation that is not known")
    yield from found


def _shapes(kind: str, units: int, kernel: NDArray[Any] | None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of a layer that takes so many units."""
    if kind == "Dense":
        given = kernel.shape[1] if kernel is not None and kernel.ndim == 2 else 0  # noqa: PLR2004
        return {"kernel": (units, given), "bias": (given,)}
    return dict.fromkeys(KINDS[kind].arrays, (units,))

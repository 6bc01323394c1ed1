"""Models with scores that are an affine function of the features; most families use them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from heads.errors import ArtifactError, TrainingError
from heads.fitted_model import checked_arrays, not_finite
from heads.rows import Features, Floats, Scaling, by_blocks, finite


@dataclass(frozen=True, slots=True, eq=False)
class _Affine(ABC):
    """Scores are ((X - mean) / scale) @ coef.T + intercept, computed in float64, by blocks of rows.

    Parameters
    ----------
    coef
        One row of weights per class, shape (k, d), float64.
    intercept
        Shape (k,), float64.
    mean, scale
        Standardisation of the features, shape (d,), float64; scale is above 0.
    """

    coef: Floats
    intercept: Floats
    mean: Floats
    scale: Floats
    _weights: Floats = field(init=False, repr=False)
    _bias: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        faults = not_finite(self.arrays)
        if not (self.scale > 0).all():
            faults.append("scale holds values that are not above 0")
        if faults:
            raise ValueError("; ".join(faults))
        with np.errstate(over="ignore", invalid="ignore"):
            weights = self.coef / self.scale
            bias = self.intercept - weights @ self.mean
        if not (finite(weights) and finite(bias)):
            raise ValueError("coef, mean and scale together give weights that are not finite")
        object.__setattr__(self, "_weights", weights)
        object.__setattr__(self, "_bias", bias)

    @classmethod
    def learned(cls, coef: NDArray[Any], intercept: NDArray[Any], scaling: Scaling | None = None) -> Self:
        """Make a model of trained weights.

        Parameters
        ----------
        coef, intercept
            Weights, shape (k, d), and intercepts, shape (k,).
        scaling
            The standardisation of the features that they were trained on; None for none.

        Raises
        ------
        TrainingError
            If a weight is not finite.
        """
        if not (finite(coef) and finite(intercept)):
            raise TrainingError("the training diverged: weights are no longer finite numbers")
        scaling = scaling or Scaling(np.zeros(coef.shape[1]), np.ones(coef.shape[1]))
        arrays = (coef, intercept, scaling.mean, scaling.scale)
        try:
            return cls(*(np.ascontiguousarray(array, dtype=np.float64) for array in arrays))
        except ValueError as e:
            raise TrainingError(f"the training diverged: {e}") from e

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int, params: Mapping[str, Any]
    ) -> Self:
        """Rebuild it from its stored arrays; see `FittedModel`."""
        del params  # they do not change what is computed
        shapes = {"coef": (classes, width), "intercept": (classes,), "mean": (width,), "scale": (width,)}
        try:
            return cls(**checked_arrays(arrays, shapes))
        except ValueError as e:
            raise ArtifactError(str(e)) from e

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that is stored of it."""
        return {"coef": self.coef, "intercept": self.intercept, "mean": self.mean, "scale": self.scale}

    @property
    def width(self) -> int:
        """The number of features that it takes, d."""
        return len(self.mean)

    @property
    def scaling(self) -> Scaling:
        """The standardisation of the features."""
        return Scaling(self.mean, self.scale)

    @final
    def predict_proba(self, X: Features) -> Floats:
        """Return probabilities, shape (n, k), rows summing to 1, for features of shape (n, d); see `by_blocks`."""
        return by_blocks(
            X, self.width, len(self.coef), lambda block: self._probabilities(block @ self._weights.T + self._bias)
        )

    @final
    @classmethod
    def together(cls, models: Sequence[Self], X: Features) -> Floats:
        """Return the probability of the second of two classes by each model, (n, models), with one matrix product."""
        weights, bias = (np.concatenate([getattr(model, name) for model in models]) for name in ("_weights", "_bias"))

        def of_block(block: Floats) -> Floats:
            return cls._probabilities((block @ weights.T + bias).reshape(-1, 2))[:, 1].reshape(len(block), -1)

        return by_blocks(X, models[0].width, len(models), of_block)

    @staticmethod
    @abstractmethod
    def _probabilities(scores: Floats) -> Floats:
        """Return probabilities, shape (n, k), of scores (n, k), which may be overwritten."""


@final
class AffineModel(_Affine):
    """Probabilities are softmax(((X - mean) / scale) @ coef.T + intercept), computed in float64, by blocks of rows."""

    __slots__ = ()

    @staticmethod
    def _probabilities(scores: Floats) -> Floats:
        return softmax(scores)


@final
class OneVsRestModel(_Affine):
    """Probabilities are sigmoid(((X - mean) / scale) @ coef.T + intercept), divided by their sum in each row.

    scikit-learn does the same for classifiers of one class against the rest.
    """

    __slots__ = ()

    @staticmethod
    def _probabilities(scores: Floats) -> Floats:
        # sigmoid(s) divided by the sum is softmax(log sigmoid(s)), which does not underflow
        return softmax(-np.logaddexp(0.0, -scores))


@final
class AffineNumberModel(_Affine):
    """The number is ((X - mean) / scale) @ coef.T + intercept, computed in float64, by blocks of rows; k is 1."""

    __slots__ = ()

    @staticmethod
    def _probabilities(scores: Floats) -> Floats:
        return scores


def softmax(scores: Floats) -> Floats:
    """Return softmax of every row of scores (n, k), in place."""
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def two_rows(coef: NDArray[Any], intercept: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return weights of two classes for softmax, given the single row of scikit-learn: 0 for the first class."""
    return np.concatenate([np.zeros_like(coef), coef]), np.concatenate([np.zeros_like(intercept), intercept])

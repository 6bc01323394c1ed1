"""What a head is: a fit that may be watched, and a predictor in plain NumPy that can be stored.

Every head learns in its own library and hands over a `Predictor`: a few arrays that give the same probabilities
without that library. What is trained here is therefore exactly what a stored head predicts later. This module
imports NumPy and nothing heavier.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from heads.errors import ArtifactError, EvaluationError, HeadError, MismatchError, TrainingError

Features: TypeAlias = NDArray[np.floating[Any]]
Labels: TypeAlias = NDArray[np.integer[Any]]
Floats: TypeAlias = NDArray[np.float64]

_BLOCK_VALUES = 2**21  # values of a block of rows; 16 MiB in float64
_TWO_CLASSES = 2


class Classifier(Protocol):
    """Anything fitted that gives probabilities: a head, a stored head, a scikit-learn estimator."""

    @property
    def classes_(self) -> Labels:
        """The class index of each column of probabilities, shape (k,), ascending."""
        ...

    def predict_proba(self, X: Features, /) -> NDArray[np.floating[Any]]:
        """Return probabilities, shape (n, k), rows summing to 1, for features of shape (n, d)."""
        ...


class Predictor(Protocol):
    """What a head has learned: named arrays, from which probabilities follow without the library that learned them."""

    @property
    def arrays(self) -> dict[str, Floats]:
        """Everything that is stored of it."""
        ...

    @property
    def width(self) -> int:
        """The number of features that it takes, d."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int) -> Self:
        """Rebuild it for so many classes and features; raise `ArtifactError` unless all arrays are as they must be."""
        ...

    def predict_proba(self, X: Features) -> Floats:
        """Return probabilities, shape (n, k), for features of shape (n, d)."""
        ...


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training rows.

    Parameters
    ----------
    epoch
        Its number, from 1.
    loss, accuracy
        Mean cross-entropy (nats, without any penalty) and accuracy of the training rows, each row as it was seen: a
        running mean while the weights moved.
    valid_loss, valid_accuracy
        The same of the validation rows, all with the weights at the end of the epoch; None without such rows.
    """

    epoch: int
    loss: float
    accuracy: float
    valid_loss: float | None
    valid_accuracy: float | None


class Monitor:
    """Watches a training: keeps every epoch's record, and passes it on. A head without epochs has nothing to report.

    Parameters
    ----------
    X, y
        Validation rows, shapes (n, d) and (n,); the heads do not learn from them. None for no such rows.
    on_epoch
        Called with each epoch's record as soon as it is known.
    """

    def __init__(
        self, X: Features | None = None, y: Labels | None = None, on_epoch: Callable[[Epoch], object] | None = None
    ) -> None:
        self.epochs: list[Epoch] = []
        self._valid = (X, y) if X is not None and y is not None and len(y) else None
        self._on_epoch = on_epoch

    def after_epoch(self, loss: float, accuracy: float, predictor: Predictor, classes: Labels) -> None:
        """Record an epoch, given its running means and what has been learned so far."""
        valid_loss, valid_accuracy = None, None
        if self._valid is not None:
            X, y = self._valid
            valid_loss, valid_accuracy = loss_and_accuracy(predictor.predict_proba(X), classes, y)
        epoch = Epoch(len(self.epochs) + 1, loss, accuracy, valid_loss, valid_accuracy)
        self.epochs.append(epoch)
        if self._on_epoch is not None:
            self._on_epoch(epoch)


class Head(ABC):
    """A classifier on features: scikit-learn's contract, and a predictor that can be stored.

    A family of heads implements `_learn` alone; that rows can be trained on is checked here, once for all.

    Attributes
    ----------
    classes_ : NDArray
        The class indices that occurred in ``y``, shape (k,), ascending: the columns of `predict_proba`.
    predictor_ : Predictor
        What was learned.
    warnings_ : tuple of str
        What the user must know about the training, such as that it did not converge.
    """

    classes_: Labels
    predictor_: Predictor
    warnings_: tuple[str, ...]

    @final
    def fit(self, X: Features, y: Labels, *, monitor: Monitor | None = None) -> Self:
        """Learn from labelled rows.

        Parameters
        ----------
        X
            Features, shape (n, d), float16, float32 or float64; never changed, may be a read-only memory map.
        y
            Class indices, shape (n,), at least 0.
        monitor
            Watches the epochs, of heads that have any.

        Raises
        ------
        TrainingError
            If the rows cannot be trained on, or the training diverged.
        """
        require_trainable(X, y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        self.predictor_, self.warnings_ = self._learn(X, targets, monitor or Monitor())
        return self

    @final
    def predict_proba(self, X: Features) -> Floats:
        """Return the probability of each of ``classes_``, shape (n, k), for features of shape (n, d)."""
        if not hasattr(self, "predictor_"):
            raise HeadError(f"this {type(self).__name__} has not been trained: call fit first")
        return self.predictor_.predict_proba(X)

    @abstractmethod
    def _learn(self, X: Features, targets: NDArray[np.intp], monitor: Monitor) -> tuple[Predictor, tuple[str, ...]]:
        """Learn from rows whose ``targets``, shape (n,), are positions in ``classes_``; return warnings besides."""


@dataclass(frozen=True, slots=True, eq=False)
class AffinePredictor:
    """Probabilities are softmax(((X - mean) / scale) @ coef.T + intercept), computed in float64, by blocks of rows.

    Parameters
    ----------
    coef
        One row of weights per class, shape (k, d), float64.
    intercept
        Shape (k,), float64.
    mean, scale
        What features are standardised with, shape (d,), float64; scale is above 0.
    """

    coef: Floats
    intercept: Floats
    mean: Floats
    scale: Floats
    _weights: Floats = field(init=False, repr=False)
    _bias: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        faults = self._faults()
        if faults:
            raise ValueError("; ".join(faults))
        with np.errstate(over="ignore", invalid="ignore"):
            weights = self.coef / self.scale
            bias = self.intercept - weights @ self.mean
        if not (_finite(weights) and _finite(bias)):
            raise ValueError("coef, mean and scale together give weights that are not finite")
        object.__setattr__(self, "_weights", weights)
        object.__setattr__(self, "_bias", bias)

    @classmethod
    def learned(
        cls,
        coef: NDArray[Any],
        intercept: NDArray[Any],
        mean: NDArray[Any] | None = None,
        scale: NDArray[Any] | None = None,
    ) -> Self:
        """Build it from what a library learned; without ``mean`` and ``scale``, features are taken as they are.

        One row of weights stands for two classes (scikit-learn's binary form) and becomes two: 0 and itself.

        Raises
        ------
        TrainingError
            If a weight is not finite.
        """
        if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
            raise TrainingError("the training diverged: weights are no longer finite numbers")
        if len(coef) == 1:
            coef = np.concatenate([np.zeros_like(coef), coef])
            intercept = np.concatenate([np.zeros_like(intercept), intercept])
        width = coef.shape[1]
        mean = np.zeros(width) if mean is None else mean
        scale = np.ones(width) if scale is None else scale
        return cls(*(np.ascontiguousarray(array, dtype=np.float64) for array in (coef, intercept, mean, scale)))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int) -> Self:
        """Rebuild it from its stored arrays; see `Predictor`."""
        shapes = {"coef": (classes, width), "intercept": (classes,), "mean": (width,), "scale": (width,)}
        if set(arrays) != set(shapes):
            raise ArtifactError(f"the arrays are {', '.join(sorted(arrays))}; expected {', '.join(sorted(shapes))}")
        faults = [
            f"{name} has dtype {arrays[name].dtype} and shape {arrays[name].shape}, expected float64 and {shape}"
            for name, shape in shapes.items()
            if arrays[name].dtype != np.float64 or arrays[name].shape != shape
        ]
        if faults:
            raise ArtifactError("; ".join(faults))
        try:
            return cls(**arrays)
        except ValueError as e:
            raise ArtifactError(str(e)) from e

    @property
    def arrays(self) -> dict[str, Floats]:
        """Everything that is stored of it."""
        return {"coef": self.coef, "intercept": self.intercept, "mean": self.mean, "scale": self.scale}

    @property
    def width(self) -> int:
        """The number of features that it takes, d."""
        return len(self.mean)

    def predict_proba(self, X: Features) -> Floats:
        """Return probabilities, shape (n, k), rows summing to 1, for features of shape (n, d).

        Raises
        ------
        MismatchError
            If rows have another number of features than the head was trained on.
        EvaluationError
            If a row holds a number that is not finite.
        """
        if X.ndim != _TWO_CLASSES or X.shape[1] != self.width:
            raise MismatchError(
                f"the features have shape {X.shape}, the head was trained on (n, {self.width}); "
                "take the tap that it was trained on"
            )
        probabilities = np.empty((len(X), len(self.coef)))
        for rows in row_blocks(X):
            logits = X[rows].astype(np.float64) @ self._weights.T + self._bias
            finite = np.isfinite(logits).all(axis=1)
            if not finite.all():
                row = rows.start + int(np.argmin(finite))
                raise EvaluationError(f"row {row} holds features that are not finite; extract them again", row)
            logits -= logits.max(axis=1, keepdims=True)
            np.exp(logits, out=logits)
            np.divide(logits, logits.sum(axis=1, keepdims=True), out=probabilities[rows])
        return probabilities

    def _faults(self) -> list[str]:
        faults = [
            f"{name} holds values that are not finite" for name, array in self.arrays.items() if not _finite(array)
        ]
        if not (self.scale > 0).all():
            faults.append("scale holds values that are not above 0")
        return faults


def row_blocks(X: Features) -> Iterator[slice]:
    """Yield consecutive rows that together are all rows, few enough at a time for any width."""
    count = max(1, _BLOCK_VALUES // max(1, X.shape[1]))
    for start in range(0, len(X), count):
        yield slice(start, min(start + count, len(X)))


def require_trainable(X: Features, y: Labels) -> None:
    """Raise `TrainingError` unless rows of features (n, d) and their labels (n,) can train a head."""
    if X.ndim != 2 or y.ndim != 1 or len(X) != len(y) or X.shape[1] == 0:  # noqa: PLR2004
        raise TrainingError(f"features of shape {X.shape} and labels of shape {y.shape}, expected (n, d) and (n,)")
    if X.dtype.kind != "f" or y.dtype.kind not in "iu":
        raise TrainingError(f"features are {X.dtype} and labels {y.dtype}, expected floating-point and whole numbers")
    if len(y) and y.min() < 0:
        raise TrainingError(f"{np.count_nonzero(y < 0)} of {len(y)} rows have no label; leave them out")
    present = np.unique(y)
    if len(present) < _TWO_CLASSES:
        found = "no row at all" if not len(y) else f"all {len(y)} rows are of class {present[0]}"
        raise TrainingError(f"{found}; a head needs labelled rows of at least two classes")
    for rows in row_blocks(X):
        if not _finite(X[rows]):
            row = rows.start + int(np.argmin(np.isfinite(X[rows]).all(axis=1)))
            raise TrainingError(f"row {row} holds features that are not finite; extract them again", row)


def mean_and_scale(X: Features) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation of every feature, shapes (d,), of rows (n, d), by blocks, in float64.

    A feature that is constant but for rounding, by the bound of scikit-learn's ``StandardScaler``, or whose deviation
    float32 cannot hold, gets the scale 1.
    """
    n, epsilon = len(X), np.finfo(np.float64).eps
    total, squares = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for rows in row_blocks(X):
        total += X[rows].sum(axis=0, dtype=np.float64)
    mean = total / n
    for rows in row_blocks(X):
        squares += np.square(X[rows] - mean).sum(axis=0)
    variance = squares / n
    constant = variance <= n * epsilon * variance + (n * mean * epsilon) ** 2
    scale = np.sqrt(variance)
    return mean, np.where(constant | (scale < np.finfo(np.float32).tiny), 1.0, scale)


def loss_and_accuracy(probabilities: NDArray[np.floating[Any]], classes: Labels, y: Labels) -> tuple[float, float]:
    """Return the mean cross-entropy in nats, and the accuracy, of probabilities (n, k) for labels (n,).

    A label that is not among ``classes`` has probability 0, which counts as the smallest spacing of float64 at 1 (a
    loss of 36.04), as in scikit-learn's ``log_loss``.
    """
    columns = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    known = classes[columns] == y
    of_truth = np.where(known, probabilities[np.arange(len(y)), columns], 0.0)
    losses = -np.log(np.maximum(of_truth, np.finfo(np.float64).eps))
    right = classes[np.argmax(probabilities, axis=1)] == y
    return float(losses.mean()), float(right.mean())


def _finite(values: NDArray[np.floating[Any]]) -> bool:
    return bool(np.isfinite(values).all())

"""Votes of the nearest training rows, which the model stores; distances are computed in float64 by blocks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, cast, final

import numpy as np
from numpy.typing import NDArray

from heads.base import Head, Learned
from heads.epochs import Monitor
from heads.errors import ArtifactError, TrainingError
from heads.families.shared_parameters import CLASS_WEIGHT, LARGEST_INT, NO_STANDARDIZE
from heads.fitted_model import FittedModel, checked_arrays
from heads.notices import Code, Notice
from heads.parameters import HeadSpec, Parameter
from heads.rows import (
    Features,
    Floats,
    Scaling,
    Targets,
    by_blocks,
    class_weights,
    finite,
    first_not_finite,
    row_blocks,
)

_BLOCK_DISTANCES = 2**21  # distances, or values of rows, in memory at a time: 16 MiB in float64
_BLOCK_ROWS = 2**12
RESOLUTION = 2.0**-40
"""Of squared distances relative to squared lengths: float32 features have no finer one."""

ROUNDING = 2.0**27 + 1
"""The factor of Veltkamp's splitting, which keeps 26 of 53 bits."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class NeighborsModel:
    """The probability of a class is its share of the votes of the ``n_neighbors`` nearest rows, or of all if fewer.

    Distances are Euclidean, or cosine distances 1 - cos, which are 1 from and to a row of zeros. Distances that agree
    in 26 bits are equal. They are 0 if their square (for cosine: the distance itself) is below 2^-40 of the squared
    lengths. So neither rounding nor the size of blocks changes the result. At equal distance, earlier rows are nearer.

    Parameters
    ----------
    rows
        Standardised rows, shape (n, d), float32.
    targets
        The positions of their classes, shape (n,), int64.
    votes
        The vote of a row of each class, shape (k,), float64, above 0.
    mean, scale
        Standardisation of the features, shape (d,), float64; scale is above 0.
    n_neighbors
        Number of rows that vote.
    metric
        ``cosine`` or ``euclidean``.
    weights
        ``uniform``, or ``distance``: votes are divided by the distance. If rows are at distance 0, only they vote.
    squares
        The squared lengths of the rows, shape (n,), float64; computed from them.
    """

    rows: NDArray[np.float32]
    targets: NDArray[np.int64]
    votes: Floats
    mean: Floats
    scale: Floats
    n_neighbors: int
    metric: str
    weights: str
    squares: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        squares = np.empty(len(self.rows))
        for rows in row_blocks(self.rows):
            squares[rows] = _squared_lengths(self.rows[rows].astype(np.float64))
        known = (self.targets >= 0) & (self.targets < len(self.votes))
        faults = {
            "there are no rows": not len(self.rows),
            "rows holds values that are not finite": not finite(squares),
            "targets holds positions of no class": not known.all(),
            "votes holds values that are not finite and above 0": not (finite(self.votes) and (self.votes > 0).all()),
            "mean holds values that are not finite": not finite(self.mean),
            "scale holds values that are not finite and above 0": not (finite(self.scale) and (self.scale > 0).all()),
        }
        if any(faults.values()):
            raise ValueError("; ".join(fault for fault, found in faults.items() if found))
        object.__setattr__(self, "squares", squares)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int, params: Mapping[str, Any]
    ) -> Self:
        """Rebuild it from its stored arrays; see `heads.fitted_model.FittedModel`."""
        n = arrays["targets"].size if "targets" in arrays else 0
        shapes = {"rows": (n, width), "targets": (n,), "votes": (classes,), "mean": (width,), "scale": (width,)}
        fields: dict[str, Any] = checked_arrays(arrays, shapes, {"rows": np.float32, "targets": np.int64})
        fields |= {name: params[name] for name in ("n_neighbors", "metric", "weights")}
        try:
            return cls(**fields)
        except ValueError as e:
            raise ArtifactError(str(e)) from e

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that is stored of it."""
        return {name: getattr(self, name) for name in ("rows", "targets", "votes", "mean", "scale")}

    @property
    def width(self) -> int:
        """The number of features that it takes, d."""
        return len(self.mean)

    @property
    def training_features(self) -> NDArray[np.float32]:
        """The features of the training rows, shape (n, d): of standardised ones within the rounding of float32."""
        plain = not self.mean.any() and (self.scale == 1).all()
        return self.rows if plain else (self.rows * self.scale + self.mean).astype(np.float32)

    def predict_proba(self, X: Features) -> Floats:
        """Return probabilities, shape (n, k), rows summing to 1, for features of shape (n, d); see `by_blocks`."""
        return by_blocks(X, self.width, len(self.votes), self._probabilities)

    @classmethod
    def together(cls, models: Sequence[Self], X: Features) -> Floats:
        """Return the probability of the second of two classes by each model, (n, models).

        Models that hold the same rows look for neighbours once.
        """
        first = models[0]
        if any(model.rows is not first.rows for model in models):
            return np.stack([model.predict_proba(X)[:, 1] for model in models], axis=1)

        def of_block(block: Floats) -> Floats:
            return first._of_nearest(
                block, len(models), lambda *nearest: np.stack([each._shares(*nearest)[:, 1] for each in models], axis=1)
            )

        return by_blocks(X, first.width, len(models), of_block)

    def _probabilities(self, block: Floats) -> Floats:
        return self._of_nearest(block, len(self.votes), self._shares)

    def _of_nearest(self, block: Floats, k: int, results_of: Callable[[Floats, NDArray[np.intp]], Floats]) -> Floats:
        """Return results (q, k) of features (q, d), of distances and positions of the nearest rows, both (q, n)."""
        queries = (block - self.mean) / self.scale
        results = np.empty((len(queries), k))
        at_once = _BLOCK_DISTANCES // (self._rows_at_once + min(self.n_neighbors, len(self.rows)))
        for batch in _slices(len(queries), max(1, at_once)):
            results[batch] = results_of(*self._nearest(queries[batch]))
        return results

    @property
    def _rows_at_once(self) -> int:
        return max(1, min(_BLOCK_ROWS, _BLOCK_DISTANCES // self.width))

    def _nearest(self, queries: Floats) -> tuple[Floats, NDArray[np.intp]]:
        """Return distances and positions of the nearest rows of each query (q, d), both (q, n_neighbors)."""
        q, squares = len(queries), _squared_lengths(queries)[:, np.newaxis]
        nearest, positions = np.empty((q, 0)), np.empty((q, 0), np.intp)
        for rows in _slices(len(self.rows), self._rows_at_once):
            nearest = np.concatenate([nearest, self._distances(queries, squares, rows)], axis=1)
            numbers = np.broadcast_to(np.arange(rows.start, rows.stop), (q, rows.stop - rows.start))
            positions = np.concatenate([positions, numbers], axis=1)
            kept = _smallest(nearest, self.n_neighbors)
            nearest, positions = nearest[kept].reshape(q, -1), positions[kept].reshape(q, -1)
        return np.sqrt(nearest) if self.metric == "euclidean" else nearest, positions

    def _distances(self, queries: Floats, squares: Floats, rows: slice) -> Floats:
        """Return squared Euclidean or cosine distances from queries (q, d) to the rows of a slice."""
        products = queries @ self.rows[rows].astype(np.float64).T
        if self.metric == "cosine":
            whole = np.ones_like(products)
            lengths = np.sqrt(squares) * np.sqrt(self.squares[rows])
            distances = whole - np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
        else:
            whole = squares + self.squares[rows]
            distances = whole - 2 * products
        distances[distances < RESOLUTION * whole] = 0
        split = distances * ROUNDING
        rounded: Floats = split - (split - distances)
        return rounded

    def _weights(self, distances: Floats) -> Floats:
        """Return by how much the vote of a row at each distance counts, of the same shape."""
        if self.weights == "uniform":
            return np.ones(distances.shape)
        hits = distances == 0
        weights: Floats = np.divide(1, distances, out=hits.astype(np.float64), where=~hits.any(axis=1, keepdims=True))
        return weights

    def _mean(self, values: Floats, block: Floats) -> Floats:
        """Return the mean of the values (n,) of the nearest rows of each query (q, d), weighted, shape (q, 1)."""

        def mean(distances: Floats, positions: NDArray[np.intp]) -> Floats:
            weights = self._weights(distances)
            sums = (weights * values[positions]).sum(axis=1, keepdims=True)
            means: Floats = sums / weights.sum(axis=1, keepdims=True)
            return means

        return self._of_nearest(block, 1, mean)

    def _shares(self, distances: Floats, positions: NDArray[np.intp]) -> Floats:
        """Return the share of each class (q, k) in the votes of rows, given distances and positions, (q, n)."""
        weights = self._weights(distances)
        targets, k = self.targets[positions], len(self.votes)
        cells = np.arange(len(targets))[:, np.newaxis] * k + targets
        given = weights * self.votes[targets]
        sums = np.bincount(cells.ravel(), given.ravel(), minlength=len(targets) * k).reshape(-1, k)
        shares: Floats = sums / sums.sum(axis=1, keepdims=True)
        return shares


@final
@dataclass(frozen=True, slots=True, eq=False)
class NeighborsNumberModel:
    """The mean of the numbers of the nearest rows, weighted as the votes of `NeighborsModel`.

    Parameters
    ----------
    neighbors
        The rows, all of one class.
    numbers
        Shape (n,), float64.
    """

    neighbors: NeighborsModel
    numbers: Floats

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int, params: Mapping[str, Any]
    ) -> Self:
        """Rebuild it from its stored arrays; see `heads.fitted_model.FittedModel`."""
        own = dict(arrays)
        numbers = own.pop("numbers", np.empty(0))
        if numbers.ndim != 1 or numbers.dtype != np.float64 or not finite(numbers):
            raise ArtifactError("numbers is not a row of finite numbers, float64")
        votes = {"targets": np.zeros(len(numbers), np.int64), "votes": np.ones(1)}
        if own.keys() & votes.keys():
            raise ArtifactError("there are targets or votes, and numbers have neither")
        return cls(NeighborsModel.from_arrays(own | votes, classes=classes, width=width, params=params), numbers)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that is stored of it."""
        return {name: getattr(self.neighbors, name) for name in ("rows", "mean", "scale")} | {"numbers": self.numbers}

    @property
    def width(self) -> int:
        """The number of features that it takes, d."""
        return self.neighbors.width

    @property
    def training_features(self) -> NDArray[np.float32]:
        """The features of the training rows, shape (n, d); see `NeighborsModel`."""
        return self.neighbors.training_features

    def predict_proba(self, X: Features) -> Floats:
        """Return the numbers, shape (n, 1), for features of shape (n, d); see `by_blocks`."""
        return by_blocks(X, self.width, 1, lambda block: self.neighbors._mean(self.numbers, block))


@final
@dataclass(slots=True, kw_only=True, eq=False)
class NeighborsHead(Head):
    """Votes of the ``n_neighbors`` nearest training rows, as scikit-learn's ``KNeighborsClassifier``.

    Of numbers, it is their mean, as of ``KNeighborsRegressor``. `NeighborsModel` defines distances and votes. With
    ``class_weight=balanced`` the vote of a row counts n / (k * rows of its class).

    Rows are stored in float32. Features that are float32 and not standardised are not copied: do not change them while
    the head is in use.

    Raises
    ------
    TrainingError
        If a feature is too large for float32.
    """

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="knn",
        summary="Votes of the nearest training rows; the head stores all of them.",
        parameters=(
            Parameter("n_neighbors", "int", 10, "Number of rows that vote.", low=1, high=LARGEST_INT),
            Parameter("metric", "choice", "cosine", "Distance between rows.", choices=("cosine", "euclidean")),
            Parameter(
                "weights",
                "choice",
                "uniform",
                "distance: votes are divided by the distance.",
                choices=("uniform", "distance"),
            ),
            CLASS_WEIGHT,
            NO_STANDARDIZE,
        ),
        shared=("n_neighbors",),
        measured_rows=1000,
        grid={"n_neighbors": (1, 3, 5, 10, 20, 50), "metric": ("cosine", "euclidean")},
        cost=lambda n, d, k: n**2 * d / 10,
    )
    model_class: ClassVar[type[FittedModel]] = NeighborsModel
    number_model_class: ClassVar[type[FittedModel] | None] = NeighborsNumberModel

    n_neighbors: int
    metric: str
    weights: str
    class_weight: str
    standardize: bool

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        del monitors  # there are no epochs
        model = heads[0]._model(X, targets, len(heads[0].classes_))
        return [head._learned(replace(model, n_neighbors=head.n_neighbors)) for head in heads]

    def _learn_numbers(self, X: Features, y: Floats, monitor: Monitor) -> Learned:
        """Store the rows with their numbers."""
        del monitor  # there are no epochs
        model, warnings = self._learned(self._model(X, np.zeros(len(y), np.intp), 1))
        return NeighborsNumberModel(cast("NeighborsModel", model), y), warnings

    def _model(self, X: Features, targets: Targets, k: int) -> NeighborsModel:
        """Return the model that holds these rows, of k classes."""
        scaling = Scaling.from_rows(X, standardize=self.standardize)
        if not self.standardize and X.dtype == np.float32:
            rows = np.asarray(X, np.float32)
        else:
            rows = np.empty(X.shape, np.float32)
            with np.errstate(over="ignore"):
                for block in row_blocks(X):
                    rows[block] = scaling.applied(X[block])
            row = first_not_finite(rows)
            if row is not None:
                raise TrainingError(f"row {row} holds features too large for float32; leave it out or scale it", row)
        return NeighborsModel(
            rows=rows,
            targets=targets.astype(np.int64),
            votes=class_weights(targets, k, self.class_weight),
            mean=scaling.mean,
            scale=scaling.scale,
            n_neighbors=self.n_neighbors,
            metric=self.metric,
            weights=self.weights,
        )

    def _learned(self, model: NeighborsModel) -> Learned:
        """Return the model, and a warning if it has fewer rows than are to vote."""
        n = len(model.rows)
        message = f"n_neighbors is {self.n_neighbors}, but there are {n} training rows: all of them vote"
        return model, (Notice(Code.FEW_NEIGHBORS, message),) if self.n_neighbors > n else ()


def _smallest(values: Floats, count: int) -> NDArray[np.bool_]:
    """Return a mask of the ``count`` smallest values of each row; the first of equal ones."""
    if values.shape[1] <= count:
        return np.ones(values.shape, bool)
    largest = np.partition(values, count - 1, axis=1)[:, count - 1, np.newaxis]
    smaller, equal = values < largest, values == largest
    wanted = count - smaller.sum(axis=1, keepdims=True)
    smallest: NDArray[np.bool_] = smaller | (equal & (equal.cumsum(axis=1) <= wanted))
    return smallest


def _squared_lengths(rows: Floats) -> Floats:
    """Return the squared length of each row (n, d), shape (n,)."""
    squares: Floats = np.einsum("nd,nd->n", rows, rows)
    return squares


def _slices(n: int, count: int) -> list[slice]:
    """Return consecutive slices of at most ``count`` that cover 0 to n."""
    return [slice(start, min(start + count, n)) for start in range(0, n, count)]

"""Calibration: a map from the probabilities of a head to probabilities that fit rows which it was not trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from heads.errors import ArtifactError, TrainingError
from heads.fitted_model import checked_arrays, not_finite
from heads.notices import Code, Notice
from heads.rows import Floats, Targets

NONE = "none"
"""No calibration: the probabilities of the model as they are."""

_LOG_RANGE = 10.0  # of the temperature, as in scikit-learn
SMALLEST = float(np.finfo(np.float64).eps)
"""What a probability of 0 counts as, as in the log loss."""
_ENOUGH_ROWS = 1000  # for a free curve per class (scikit-learn's user guide, "Probability calibration")
_TWO_CLASSES = 2

_Fitted = tuple["ProbabilityMap", tuple[Notice, ...]]


class ProbabilityMap(Protocol):
    """A map of the probabilities of k classes, made of named arrays; each row is mapped by itself."""

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that are stored."""
        ...

    @classmethod
    def fitted(cls, probabilities: Floats, targets: Targets) -> _Fitted:
        """Fit a map to probabilities (n, k) of rows, and the columns of their classes (n,); return it with notices."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], classes: int) -> Self:
        """Rebuild it from stored arrays, which may be damaged; raise `ArtifactError` if they cannot be right."""
        ...

    def applied(self, probabilities: Floats) -> Floats:
        """Return mapped probabilities, shape (n, k), rows summing to 1."""
        ...


@dataclass(frozen=True, slots=True)
class Temperature:
    """Probabilities are softmax(log(p) / temperature): Guo et al., "On calibration of modern neural networks" (2017).

    For a head with a softmax this divides its scores. The order of the classes stays, so that no prediction changes. A
    probability of 0 counts as 2.2e-16, or as the smallest positive one of its row if that is smaller.

    Parameters
    ----------
    temperature
        Above 0; above 1 it makes probabilities less sure.
    """

    temperature: float

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that are stored."""
        return {"temperature": np.array([self.temperature])}

    @classmethod
    def fitted(cls, probabilities: Floats, targets: Targets) -> _Fitted:
        """Minimise the log loss of rows. If all of them are right, the temperature stays 1: any lower one is better."""
        from scipy.optimize import minimize_scalar

        if (probabilities.argmax(axis=1) == targets).all():
            message = (
                f"all {len(targets):,} rows that calibrate are right, so that they determine no temperature: it stays 1"
            )
            return cls(1.0), (Notice(Code.NOT_CALIBRATED, message),)
        logs = _logs(probabilities)
        of_class = logs[np.arange(len(targets)), targets]

        def loss(log_temperature: float) -> float:
            inverse = np.exp(-log_temperature)
            return float(np.mean(np.log(np.exp(inverse * logs).sum(axis=1)) - inverse * of_class))

        found = minimize_scalar(loss, bounds=(-_LOG_RANGE, _LOG_RANGE), method="bounded", options={"xatol": 1e-10})
        return cls(float(np.exp(found.x))), ()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], classes: int) -> Self:
        """Rebuild it from its stored array."""
        del classes
        (value,) = checked_arrays(arrays, {"temperature": (1,)})["temperature"].tolist()
        if not np.exp(-_LOG_RANGE) * 0.99 <= value <= np.exp(_LOG_RANGE) * 1.01:
            raise ArtifactError(f"the temperature is {value}, expected a number from 4.5e-05 to 22,000")
        return cls(value)

    def applied(self, probabilities: Floats) -> Floats:
        """Return the probabilities at this temperature, shape (n, k)."""
        found = np.exp(_logs(probabilities) / self.temperature)
        found /= found.sum(axis=1, keepdims=True)
        # rounding can make the first two equal; then the likeliest class must still be the same
        first = probabilities.argmax(axis=1)[:, np.newaxis]
        highest = np.take_along_axis(found, first, axis=1)
        below = np.minimum(found, np.nextafter(highest, 0))
        return np.asarray(np.where(np.arange(found.shape[1]) < first, below, found))


def _logs(probabilities: Floats) -> Floats:
    """Return logarithms of probabilities over the highest one of their row, shape (n, k)."""
    positive = np.where(probabilities > 0, probabilities, SMALLEST).min(axis=1, keepdims=True)
    logs = np.log(np.maximum(probabilities, np.minimum(positive, SMALLEST)))
    logs -= logs.max(axis=1, keepdims=True)
    return np.asarray(logs)


@dataclass(frozen=True, slots=True, eq=False)
class Isotonic:
    """Each class has a rising curve of its own, and each row is divided by its sum (Zadrozny and Elkan 2002).

    The curves join points by straight lines, and are constant beyond the first and last point. Of two classes the
    second has a curve. A row in which all curves are 0 gets equal probabilities. scikit-learn's
    ``CalibratedClassifierCV`` does the same.

    Parameters
    ----------
    lengths
        The number of points of each curve, shape (k,), or (1,) for two classes, int64.
    x, y
        The points of all curves one after the other, shape (sum of lengths,): probability of the model, ascending in
        each curve, and calibrated probability.
    """

    lengths: NDArray[np.int64]
    x: Floats
    y: Floats

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that are stored."""
        return {"lengths": self.lengths, "x": self.x, "y": self.y}

    @property
    def curves(self) -> dict[int, tuple[Floats, Floats]]:
        """The points of each curve by the column of its class: probability of the model, and calibrated probability."""
        ends = np.cumsum(self.lengths)[:-1]
        columns = _curve_columns(_TWO_CLASSES if len(self.lengths) == 1 else len(self.lengths))
        return dict(zip(columns, zip(np.split(self.x, ends), np.split(self.y, ends), strict=True), strict=True))

    @classmethod
    def fitted(cls, probabilities: Floats, targets: Targets) -> _Fitted:
        """Fit the curve of each class by least squares, with scikit-learn's ``IsotonicRegression``.

        Raises
        ------
        TrainingError
            If a class has no row.
        """
        from sklearn.isotonic import IsotonicRegression

        k, n = probabilities.shape[1], len(targets)
        missing = int(np.count_nonzero(np.bincount(targets, minlength=k) == 0))
        if missing:
            raise TrainingError(
                f"isotonic calibration needs rows of every class, and {missing:,} of {k:,} classes have none among the "
                f"{n:,} rows that calibrate: calibrate by temperature, or give more rows"
            )
        curves = []
        for column in _curve_columns(k):
            curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
            curve.fit(probabilities[:, column], targets == column)
            curves.append((curve.X_thresholds_, curve.y_thresholds_))
        message = (
            f"{n:,} rows are few for isotonic calibration, which needs about {_ENOUGH_ROWS:,}: compare with temperature"
        )
        notices = (Notice(Code.FEW_CALIBRATION_ROWS, message),) if n < _ENOUGH_ROWS else ()
        lengths = np.array([len(x) for x, _ in curves], np.int64)
        x, y = (np.concatenate([curve[axis] for curve in curves]).astype(np.float64) for axis in (0, 1))
        return cls(lengths, x, y), notices

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], classes: int) -> Self:
        """Rebuild it from its stored arrays."""
        points = len(arrays["x"]) if "x" in arrays and arrays["x"].ndim == 1 else 0
        shapes = {"lengths": (len(_curve_columns(classes)),), "x": (points,), "y": (points,)}
        found = cls(**checked_arrays(arrays, shapes, {"lengths": np.int64}))
        faults = not_finite({"x": found.x, "y": found.y})
        if (found.lengths < 1).any() or found.lengths.sum() != points:
            faults.append("lengths do not sum up to the number of points")
        elif any((np.diff(curve) < 0).any() for each in found.curves.values() for curve in each):
            faults.append("a curve does not rise")
        if not faults and not ((found.y >= 0) & (found.y <= 1)).all():
            faults.append("y holds values that are no probabilities")
        if faults:
            raise ArtifactError("; ".join(faults))
        return found

    def applied(self, probabilities: Floats) -> Floats:
        """Return the calibrated probabilities, shape (n, k)."""
        k = probabilities.shape[1]
        found = np.empty_like(probabilities)
        for column, (x, y) in self.curves.items():
            found[:, column] = np.interp(probabilities[:, column], x, y)
        if k == _TWO_CLASSES:
            found[:, 0] = 1 - found[:, 1]
            return found
        total = found.sum(axis=1, keepdims=True)
        return np.asarray(np.divide(found, total, out=np.full_like(found, 1 / k), where=total > 0))


def _curve_columns(k: int) -> range:
    """Return the columns of k classes that have a curve."""
    return range(1, 2) if k == _TWO_CLASSES else range(k)


METHODS: Mapping[str, type[ProbabilityMap]] = MappingProxyType({"temperature": Temperature, "isotonic": Isotonic})
"""The ways to calibrate a head, by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The calibration of a head: the map of its probabilities, and the rows that it was fitted on.

    Parameters
    ----------
    method
        ``"temperature"`` or ``"isotonic"``.
    map
        The map of the probabilities of the trained classes.
    folds
        The number of folds of the training rows that it was fitted on; 0 if it was fitted on the valid rows.
    n_rows, rows_sha256
        The number of these rows, and the SHA-256 of their contents and labels, as in `TrainingRecord`.
    log_loss_before, log_loss_after
        The mean log loss of these rows, in nats, without and with the calibration. With folds, the probabilities are
        those of heads that were trained without the row.
    """

    method: str
    map: ProbabilityMap
    folds: int
    n_rows: int
    rows_sha256: str
    log_loss_before: float
    log_loss_after: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as in ``head.json``, without the arrays."""
        names = ("method", "folds", "n_rows", "rows_sha256", "log_loss_before", "log_loss_after")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], classes: int) -> Self:
        """Rebuild it from ``head.json`` and the stored arrays of its map.

        Raises
        ------
        ArtifactError
            If the method is not known, a number is out of its range, or the arrays cannot be right.
        """
        if data["method"] not in METHODS:
            raise ArtifactError(
                f"the calibration is {data['method']!r}, this program knows {', '.join(METHODS)}; "
                "use the version of featurecache that wrote it"
            )
        if data["folds"] < 0 or data["folds"] == 1 or data["n_rows"] < 1:
            raise ArtifactError("the calibration was fitted on no rows")
        return cls(map=METHODS[data["method"]].from_arrays(arrays, classes), **data)

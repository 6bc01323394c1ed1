"""What a head is: a fit that may be watched, and a predictor in plain NumPy that can be stored.

Every head learns in its own way and hands over a `Predictor`: a few arrays that give the same probabilities without
the library that learned them. What is trained here is therefore exactly what a stored head predicts later. This module
imports NumPy and nothing heavier.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from heads.errors import ArtifactError, HeadError, TrainingError
from heads.rows import Features, Floats, Labels, Targets, finite, first_not_finite


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
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that is stored of it."""
        ...

    @property
    def width(self) -> int:
        """The number of features that it takes, d."""
        ...

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int, params: Mapping[str, Any]
    ) -> Self:
        """Rebuild it for so many classes and features, from stored arrays and the head's parameters.

        Raises
        ------
        ArtifactError
            Unless all arrays are exactly as they must be, and finite.
        """
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
        Mean cross-entropy (nats, without any penalty, rows weighted by class if the head was told to) and accuracy of
        the training rows, each row as it was seen: a running mean while the weights moved.
    valid_loss, valid_accuracy
        The same of the validation rows, unweighted, all with the weights at the end of the epoch, and with a loss of at
        most 36.04 for a row; None without such rows.
    """

    epoch: int
    loss: float
    accuracy: float
    valid_loss: float | None
    valid_accuracy: float | None


Learned: TypeAlias = tuple[Predictor, tuple[str, ...]]


class Monitor:
    """Watches a training: keeps every epoch's record, and passes it on. A head without epochs has nothing to report.

    Parameters
    ----------
    X, y
        Validation rows, shapes (n, d) and (n,); heads do not learn from them, but may choose an epoch by them. None
        for no such rows.
    on_epoch
        Called with each epoch's record as soon as it is known.
    earlier, kept
        The epochs of the training that this one goes on with, and the number of the one whose weights it begins with.

    Attributes
    ----------
    epochs : list of Epoch
        All records, the earlier ones included.
    kept : int or None
        The number of the epoch whose weights the head has; None for heads without epochs.
    """

    def __init__(
        self,
        X: Features | None = None,
        y: Labels | None = None,
        on_epoch: Callable[[Epoch], object] | None = None,
        earlier: Sequence[Epoch] = (),
        kept: int | None = None,
    ) -> None:
        self.epochs = list(earlier)
        self.kept = kept
        self.valid = (X, y) if X is not None and y is not None and len(y) else None
        self._on_epoch = on_epoch

    def record(self, loss: float, accuracy: float, valid: tuple[float, float] | None) -> Epoch:
        """Record an epoch: its running means, and loss and accuracy of the validation rows if there are any."""
        valid_loss, valid_accuracy = valid or (None, None)
        epoch = Epoch(len(self.epochs) + 1, loss, accuracy, valid_loss, valid_accuracy)
        self.epochs.append(epoch)
        self.kept = epoch.epoch
        if self._on_epoch is not None:
            self._on_epoch(epoch)
        return epoch


class Head(ABC):
    """A classifier on features: scikit-learn's contract, and a predictor that can be stored.

    A family of heads implements `_learn` alone; that rows can be trained on is checked here, once for all. A family
    whose heads share work if they are fitted on the same rows implements `_learn_together` besides, and one that can
    go on from what a head has learned implements `_go_on`.

    Attributes
    ----------
    classes_ : NDArray
        The class indices that occurred in ``y``, shape (k,), ascending: the columns of `predict_proba`.
    names_ : tuple of str
        The names of ``classes_``; empty if `fit` was told none.
    predictor_ : Predictor
        What was learned.
    warnings_ : tuple of str
        What the user must know about the training, such as that it did not converge.
    """

    classes_: Labels
    names_: tuple[str, ...]
    predictor_: Predictor
    warnings_: tuple[str, ...]

    @final
    def fit(
        self,
        X: Features,
        y: Labels,
        *,
        names: Sequence[str] = (),
        monitor: Monitor | None = None,
        start: Predictor | None = None,
    ) -> Self:
        """Learn from labelled rows.

        Parameters
        ----------
        X
            Features, shape (n, d), float16, float32 or float64; never changed, may be a read-only memory map.
        y
            Class indices, shape (n,), at least 0.
        names
            The name of each class, by index; few heads ask for them.
        monitor
            Watches the epochs, of heads that have any.
        start
            What a head of this kind has learned on rows of the same classes, to go on from.

        Raises
        ------
        TrainingError
            If the rows cannot be trained on, the training diverged, or the head cannot go on from a start.
        """
        targets = self._prepare(X, y, names)
        monitor = monitor or Monitor()
        learned = self._learn(X, targets, monitor) if start is None else self._go_on(start, X, targets, monitor)
        self.predictor_, self.warnings_ = learned
        return self

    @final
    def predict_proba(self, X: Features) -> Floats:
        """Return the probability of each of ``classes_``, shape (n, k), for features of shape (n, d)."""
        if not hasattr(self, "predictor_"):
            raise HeadError(f"this {type(self).__name__} has not been trained: call fit first")
        return self.predictor_.predict_proba(X)

    @final
    def _prepare(self, X: Features, y: Labels, names: Sequence[str]) -> Targets:
        """Check rows and set the classes; return positions in them, shape (n,)."""
        require_trainable(X, y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        self.names_ = tuple(names[index] for index in self.classes_) if names else ()
        return targets

    @abstractmethod
    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        """Learn from rows whose ``targets``, shape (n,), are positions in ``classes_``; return warnings besides."""

    def _go_on(self, start: Predictor, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        """Learn as `_learn` does, but from a start."""
        del start, X, targets, monitor
        raise TrainingError(f"a {type(self).__name__} is not trained in epochs, there is nothing to go on with")

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        """Learn with several heads on the same rows; a head that fails does not stop the others."""
        results: list[Learned | TrainingError] = []
        for head, monitor in zip(heads, monitors, strict=True):
            try:
                results.append(head._learn(X, targets, monitor))
            except TrainingError as e:
                results.append(e)
        return results


def only_or_raise(results: Sequence[Learned | TrainingError]) -> Learned:
    """Return what the only head of a `Head._learn_together` has learned, or raise why it has not."""
    (learned,) = results
    if isinstance(learned, TrainingError):
        raise learned
    return learned


def fit_together(
    heads: Sequence[Head], X: Features, y: Labels, *, names: Sequence[str] = (), monitors: Sequence[Monitor] = ()
) -> list[TrainingError | None]:
    """Fit heads of one family on the same rows, sharing what work they can.

    Heads may differ in the parameters that their row of the catalogue calls shared, and in no others. What each
    learns is, up to rounding, what it would learn by itself.

    Parameters
    ----------
    heads
        Heads of the same class.
    X, y, names
        As in `Head.fit`.
    monitors
        One for each head, or none at all.

    Returns
    -------
    list
        For each head None, or the error for which it has learned nothing.

    Raises
    ------
    TrainingError
        If the rows cannot be trained on.
    """
    targets = heads[0]._prepare(X, y, names)
    for head in heads[1:]:
        head.classes_, head.names_ = heads[0].classes_, heads[0].names_
    watching = monitors or [Monitor() for _ in heads]
    faults: list[TrainingError | None] = []
    for head, learned in zip(heads, type(heads[0])._learn_together(heads, X, targets, watching), strict=True):
        if isinstance(learned, TrainingError):
            faults.append(learned)
        else:
            head.predictor_, head.warnings_ = learned
            faults.append(None)
    return faults


def require_trainable(X: Features, y: Labels) -> None:
    """Raise `TrainingError` unless rows of features (n, d) and their labels (n,) can train a head."""
    if X.ndim != 2 or y.ndim != 1 or len(X) != len(y) or X.shape[1] == 0:  # noqa: PLR2004
        raise TrainingError(f"features of shape {X.shape} and labels of shape {y.shape}, expected (n, d) and (n,)")
    if X.dtype.kind != "f" or y.dtype.kind not in "iu":
        raise TrainingError(f"features are {X.dtype} and labels {y.dtype}, expected floating-point and whole numbers")
    if len(y) and y.min() < 0:
        raise TrainingError(f"{np.count_nonzero(y < 0)} of {len(y)} rows have no label; leave them out")
    present = np.unique(y)
    if len(present) < 2:  # noqa: PLR2004
        found = "no row at all" if not len(y) else f"all {len(y)} rows are of class {present[0]}"
        raise TrainingError(f"{found}; a head needs labelled rows of at least two classes")
    row = first_not_finite(X)
    if row is not None:
        raise TrainingError(f"row {row} holds features that are not finite; extract them again", row)


def checked_arrays(
    arrays: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, type[np.generic]] = MappingProxyType({}),
) -> dict[str, NDArray[Any]]:
    """Return stored arrays that are exactly these names and shapes, float64 where ``dtypes`` names nothing else.

    That their values are finite, and whatever else they must be, is for the predictor that is made of them to check.

    Raises
    ------
    ArtifactError
        If they are not; all that is wrong at once.
    """
    if set(arrays) != set(shapes):
        raise ArtifactError(f"the arrays are {', '.join(sorted(arrays))}; expected {', '.join(sorted(shapes))}")
    expected = {name: (np.dtype(dtypes.get(name, np.float64)), shape) for name, shape in shapes.items()}
    faults = [
        f"{name} has dtype {arrays[name].dtype} and shape {arrays[name].shape}, expected {dtype} and {shape}"
        for name, (dtype, shape) in expected.items()
        if arrays[name].dtype != dtype or arrays[name].shape != shape
    ]
    if faults:
        raise ArtifactError("; ".join(faults))
    return dict(arrays)


def not_finite(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return one line for each array that holds a value that is not finite."""
    return [f"{name} holds values that are not finite" for name, array in arrays.items() if not finite(array)]

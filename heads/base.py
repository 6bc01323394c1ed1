"""The contract of heads: an abstract `Head` with ``fit`` and ``predict_proba``.

A head learns with any library and returns a `FittedModel`: arrays from which plain NumPy computes the probabilities.
So a stored head predicts exactly what the trained one does, without the library that trained it. This module imports
nothing heavier than NumPy.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeAlias, cast, final

import numpy as np
from numpy.typing import NDArray

from featurecache.rows import selected
from heads.each_label import EachLabelModel
from heads.epochs import Monitor
from heads.errors import HeadError, TrainingError
from heads.fitted_model import FittedModel
from heads.notices import Notice
from heads.parameters import HeadSpec
from heads.rows import Features, Floats, Labels, Targets, class_weights, finite, first_not_finite

_TABLE = 2  # dimensions of features, and of several labels

Learned: TypeAlias = tuple[FittedModel, tuple[Notice, ...]]


class Head(ABC):
    """Base class of heads: a classifier on features with scikit-learn's ``fit`` and ``predict_proba``.

    A head is a keyword-only dataclass. Its fields are its parameters, and it declares them in ``spec``. It implements
    `_learn_together`, or inherits `IndependentHead` and implements `_learn`. A head that can continue the training of
    another one implements `_continue_from` as well, and `widened` if new classes can join. A head whose training is
    random has a further field ``seed``.

    Attributes
    ----------
    spec : HeadSpec
        Class attribute: name, summary, parameters, default grid and limits of the head.
    model_class : type of FittedModel
        Class attribute: the class of ``model_``, which rebuilds it from stored arrays.
    number_model_class : type of FittedModel or None
        Class attribute: the class of ``model_`` where a number was learned; None for heads that cannot.
    classes_ : NDArray
        The class indices in ``y``, shape (k,), ascending: the columns of `predict_proba`. Of several labels, all their
        indices; empty for numbers.
    names_ : tuple of str
        The names of ``classes_``; empty if `fit` was called without names.
    model_ : FittedModel
        What was learned.
    weights_ : NDArray or None
        While a head with ``spec.weighted`` learns, the weight of each row, shape (n,), float64, above 0; else None.
    together_ : NDArray or None
        While a head learns, the number of each row's group, shape (n,), or None; see `fit`.
    warnings_ : tuple of Notice
        Warnings about the training, such as that it did not converge.
    versions_ : Mapping
        Versions of what trained it beside NumPy and ``spec.libraries``.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.array([[0.0], [0.1], [5.0], [5.1]]), np.array([0, 0, 1, 1])
    >>> fitted = heads.make_head("centroid").fit(X, y)
    >>> fitted.predict_proba(X).argmax(axis=1)
    array([0, 0, 1, 1])
    """

    spec: ClassVar[HeadSpec]
    model_class: ClassVar[type[FittedModel]]
    number_model_class: ClassVar[type[FittedModel] | None] = None

    classes_: Labels
    names_: tuple[str, ...]
    weights_: Floats | None
    together_: Targets | None = None
    model_: FittedModel
    warnings_: tuple[Notice, ...]
    versions_: Mapping[str, str] = MappingProxyType({})

    @property
    def keras_can_train(self) -> bool:
        """Whether Keras can train it, with its parameters: then `Monitor.tensorboard` has an effect."""
        return False

    @final
    def fit(
        self,
        X: Features,
        y: NDArray[Any],
        *,
        sample_weight: Floats | None = None,
        together: Targets | None = None,
        names: Sequence[str] = (),
        monitor: Monitor | None = None,
        start: FittedModel | None = None,
    ) -> Self:
        """Learn from labelled rows.

        Parameters
        ----------
        X
            Features, shape (n, d), float16, float32 or float64. They are not changed and may be a read-only memory map,
            or `featurecache.Rows`, which heads with ``spec.by_blocks`` read by blocks, and others as a whole.
        y
            Class indices, shape (n,), at least 0. For several labels, shape (n, k): 1 for a label that a row has, 0 for
            one that it has not; each label is learned by itself. For a number, shape (n,), float64.
        sample_weight
            The weight of each row, shape (n,), finite and at least 0; None if all have weight 1. A row of weight 2
            counts as two rows do. Heads without ``spec.weighted`` take none.
        together
            A number for each row, shape (n,); None if all are different. A head that leaves rows out of a training of
            its own, as to fit its probabilities, leaves out all rows of a number.
        names
            The name of each class, or label, by index. Few heads use them.
        monitor
            Receives the record of each epoch, if the head has epochs and learns classes.
        start
            The model of a trained head of the same kind and classes, to continue from; see `widened`.

        Raises
        ------
        TrainingError
            If the rows cannot train a head, the training diverged, or the head cannot continue from a start.
        """
        monitor = monitor or Monitor()
        if start is not None and (y.ndim != 1 or y.dtype.kind == "f"):
            raise TrainingError("a head of several labels, or of a number, cannot be continued; train a new one")
        learned: Learned | TrainingError
        if y.ndim == _TABLE:
            X, y = self._checked(X, y, sample_weight, together)
            learned = self._learn_labels(X, y, names, monitor)
        elif y.dtype.kind == "f":
            X, y = self._checked(X, y, sample_weight, together)
            self.classes_, self.names_ = np.empty(0, np.int64), ()
            learned = self._learn_numbers(X, y.astype(np.float64), monitor)
        else:
            X, targets = self._prepare(X, y, names, sample_weight, together)
            if start is None:
                (learned,) = self._learn_together([self], X, targets, [monitor])
            else:
                learned = self._continue_from(start, X, targets, monitor)
        if isinstance(learned, TrainingError):
            raise learned
        self.model_, self.warnings_, self.weights_, self.together_ = *learned, None, None
        return self

    @final
    def predict_proba(self, X: Features) -> Floats:
        """Return the probability of each of ``classes_``, shape (n, k), for features of shape (n, d)."""
        if not hasattr(self, "model_"):
            raise HeadError(f"this {type(self).__name__} has not been trained: call fit first")
        return self.model_.predict_proba(X)

    @final
    def _prepare(
        self,
        X: Features,
        y: Labels,
        names: Sequence[str],
        sample_weight: Floats | None = None,
        together: Targets | None = None,
    ) -> tuple[Features, Targets]:
        """Check the rows, set classes and weights; return features to learn from, and positions of labels, (n,)."""
        X, y = self._checked(X, y, sample_weight, together)
        self.classes_, targets = np.unique(y, return_inverse=True)
        self.names_ = tuple(names[index] for index in self.classes_) if names else ()
        return X, targets

    @final
    def _checked(
        self, X: Features, y: NDArray[Any], sample_weight: Floats | None, together: Targets | None
    ) -> tuple[Features, NDArray[Any]]:
        """Check the rows, and set their weights and groups; return those of a weight above 0."""
        X = X if self.spec.by_blocks else np.asarray(X)
        require_trainable(X, y)
        self.weights_, self.together_ = None, together
        if sample_weight is not None:
            weights = checked_weights(self.spec, sample_weight, len(y))
            used = np.flatnonzero(weights)
            if len(used) < len(y):
                X, y, weights = selected(X, used), y[used], weights[used]
                self.together_ = None if together is None else together[used]
                require_trainable(X, y)
            self.weights_ = weights
        return X, y

    @final
    def _learn_labels(self, X: Features, y: Labels, names: Sequence[str], monitor: Monitor) -> Learned | TrainingError:
        """Train one head of two classes for each label, on rows (n, d) and labels (n, k)."""
        k = y.shape[1]
        self.classes_, self.names_ = np.arange(k), tuple(names)
        models: list[FittedModel | bool] = []
        warnings: list[Notice] = []
        for number in range(k):
            targets = y[:, number].astype(np.intp)
            if targets.min() == targets.max():
                models.append(bool(targets[0]))
                continue
            head = copy(self)
            head.classes_, head.names_ = np.arange(2), ()
            watching = Monitor() if monitor.valid is None else Monitor(monitor.valid[0], monitor.valid[1][:, number])
            (learned,) = self._learn_together([head], X, targets, [watching])
            label = names[number] if names else str(number)
            if isinstance(learned, TrainingError):
                return TrainingError(f"the label {label!r}: {learned}", learned.row)
            models.append(learned[0])
            self.versions_ = head.versions_
            warnings += [Notice(each.code, f"the label {label!r}: {each}") for each in learned[1]]
        # it is read by `EachLabelModel.of`, which needs the class of the models
        return cast("FittedModel", EachLabelModel(tuple(models), X.shape[1])), tuple(warnings)

    def _learn_numbers(self, X: Features, y: Floats, monitor: Monitor) -> Learned | TrainingError:
        """Train on features (n, d) and finite numbers (n,), and return a model whose ``predict_proba`` is (n, 1)."""
        del X, y, monitor
        return TrainingError(f"the head {self.spec.name!r} does not learn numbers")

    @final
    def _weights_of(self, targets: NDArray[Any], class_weight: str) -> Floats:
        """Return the weight of each row, shape (n,): that of its class, if it has one, times its own."""
        if targets.dtype.kind == "f":
            return np.ones(len(targets)) if self.weights_ is None else self.weights_
        weights: Floats = class_weights(targets, len(self.classes_), class_weight, self.weights_)[targets]
        return weights if self.weights_ is None else weights * self.weights_

    @classmethod
    @abstractmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        """Train one or more heads of this class on the same rows.

        Parameters
        ----------
        heads
            The heads, with ``classes_`` and ``weights_`` set. They differ at most in the parameters that
            ``spec.shared`` names.
        X
            Features, shape (n, d), checked by `require_trainable`: an array, or, for heads with ``spec.by_blocks``, an
            array or `featurecache.Rows`.
        targets
            The position of each label in ``classes_``, shape (n,).
        monitors
            One for each head.

        Returns
        -------
        list
            For each head its model and warnings, or the error that stopped it. One failure does not stop the others.

        Raises
        ------
        TrainingError
            If no head can be trained on these rows.
        """

    def _continue_from(
        self, start: FittedModel, X: Features, targets: Targets, monitor: Monitor
    ) -> Learned | TrainingError:
        """Train this head as `_learn_together` does, but from the model of an earlier training."""
        del start, X, targets, monitor
        return TrainingError(f"a {type(self).__name__} is not trained in epochs, so it cannot continue from a head")

    def widened(self, model: FittedModel, columns: Sequence[int | None]) -> FittedModel:
        """Return the model of a trained head of this kind with new classes, to continue from.

        Parameters
        ----------
        model
            The model.
        columns
            For each class of the new model, its column among the classes of ``model``, or None for a new class.

        Raises
        ------
        TrainingError
            If no class can join a head of this kind.
        """
        del model, columns
        raise TrainingError(f"no new class can join the layers of {self.spec.name}; train a new head")


class IndependentHead(Head):
    """Base class of heads that share no work with others trained on the same rows."""

    @abstractmethod
    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        """Train this head on features (n, d) and targets (n,), positions in ``classes_``; return model and warnings.

        Raises
        ------
        TrainingError
            If the training fails.
        """

    @final
    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        results: list[Learned | TrainingError] = []
        for head, monitor in zip(heads, monitors, strict=True):
            try:
                results.append(head._learn(X, targets, monitor))
            except TrainingError as e:
                results.append(e)
        return results


def fit_together(
    heads: Sequence[Head],
    X: Features,
    y: Labels,
    *,
    sample_weight: Floats | None = None,
    together: Targets | None = None,
    names: Sequence[str] = (),
    monitors: Sequence[Monitor] = (),
) -> list[TrainingError | None]:
    """Fit several heads of one class on the same rows, sharing work where the class can.

    Each head learns, up to rounding, what `Head.fit` would learn.

    Parameters
    ----------
    heads
        Heads of the same class. They may differ only in the parameters that ``spec.shared`` names.
    X, y, sample_weight, together, names
        As in `Head.fit`.
    monitors
        One for each head, or none.

    Returns
    -------
    list
        For each head None, or the error that stopped its training.

    Raises
    ------
    TrainingError
        If the rows cannot train any head.
    """
    X, targets = heads[0]._prepare(X, y, names, sample_weight, together)
    for head in heads[1:]:
        head.classes_, head.names_, head.weights_ = heads[0].classes_, heads[0].names_, heads[0].weights_
        head.together_ = heads[0].together_
    watching = monitors or [Monitor() for _ in heads]
    faults: list[TrainingError | None] = []
    for head, learned in zip(heads, type(heads[0])._learn_together(heads, X, targets, watching), strict=True):
        if isinstance(learned, TrainingError):
            faults.append(learned)
        else:
            head.model_, head.warnings_ = learned
            faults.append(None)
    for head in heads:
        head.weights_ = head.together_ = None
    return faults


def checked_weights(spec: HeadSpec, weights: Floats, n: int) -> Floats:
    """Return the weights of n rows, float64; raise `TrainingError` unless the head can take them."""
    if not spec.weighted:
        raise TrainingError(f"the head {spec.name!r} takes no weights of rows; leave them out, or take another head")
    weights = np.asarray(weights, np.float64)
    if weights.shape != (n,):
        raise TrainingError(f"weights of shape {weights.shape} for {n} rows; expected one for each row")
    wrong = np.flatnonzero(~((weights >= 0) & (weights < np.inf)))
    if len(wrong):
        row = int(wrong[0])
        raise TrainingError(f"row {row} has the weight {weights[row]}, expected a finite number of at least 0", row)
    if not weights.any():
        raise TrainingError(f"all {n} training rows have the weight 0; give at least two classes a row above 0")
    return weights


def require_trainable(X: Features, y: NDArray[Any]) -> None:
    """Raise `TrainingError` unless features (n, d) and classes (n,), labels (n, k) or numbers (n,) can train a head.

    Features and numbers must be finite. There must be two classes, or a label that a row has and another has not, or
    two different numbers.
    """
    if X.ndim != _TABLE or not 1 <= y.ndim <= _TABLE or len(X) != len(y) or X.shape[1] == 0:
        raise TrainingError(f"features of shape {X.shape} and labels of shape {y.shape}, expected (n, d) and (n,)")
    numbers = y.dtype.kind == "f" and y.ndim == 1
    if X.dtype.kind != "f" or not (numbers or y.dtype.kind in "iu"):
        raise TrainingError(f"features are {X.dtype} and labels {y.dtype}, expected floating-point and whole numbers")
    missing = np.isnan(y) if numbers else y < 0 if y.ndim == 1 else (y < 0).any(axis=1)
    if missing.any():
        raise TrainingError(f"{np.count_nonzero(missing)} of {len(y)} rows have no label; leave them out")
    if y.ndim == _TABLE:
        _require_labels(y)
    elif len(y) == 0 or y.min() == y.max():
        found = "no row at all" if not len(y) else f"all {len(y)} rows are of {'number' if numbers else 'class'} {y[0]}"
        needed = "with at least two different numbers" if numbers else "of at least two classes"
        raise TrainingError(f"{found}; a head needs labelled rows {needed}")
    elif numbers and not finite(y):
        raise TrainingError("a number is not finite; leave its row out")
    row = first_not_finite(X)
    if row is not None:
        raise TrainingError(f"row {row} holds features that are not finite; extract them again", row)


def _require_labels(y: Labels) -> None:
    if y.size and y.max() > 1:
        raise TrainingError(f"labels hold {y.max()}, expected 0 and 1, shape (n, k)")
    if not y.size or (y.min(axis=0) == y.max(axis=0)).all():
        raise TrainingError(
            f"all {len(y)} rows have the same labels; a head needs a label that some rows have and others have not"
        )

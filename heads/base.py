"""The contract of heads: an abstract `Head` with ``fit`` and ``predict_proba``, and the fitted model that is stored.

A head learns with any library and returns a `FittedModel`: arrays from which plain NumPy computes the probabilities.
So a stored head predicts exactly what the trained one does, without the library that trained it. This module imports
nothing heavier than NumPy.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from heads.epochs import Monitor
from heads.errors import ArtifactError, HeadError, TrainingError
from heads.notices import Notice
from heads.parameters import HeadSpec
from heads.rows import Features, Floats, Labels, Targets, finite, first_not_finite


class Classifier(Protocol):
    """A fitted classifier: a head, a stored head, or a scikit-learn estimator."""

    @property
    def classes_(self) -> Labels:
        """The class index of each column of probabilities, shape (k,), ascending."""
        ...

    def predict_proba(self, X: Features, /) -> NDArray[np.floating[Any]]:
        """Return probabilities, shape (n, k), rows summing to 1, for features of shape (n, d)."""
        ...


class FittedModel(Protocol):
    """What a head has learned: named arrays, and the probabilities that NumPy computes from them.

    Examples
    --------
    >>> head.model.width
    16
    >>> sorted(head.model.arrays)
    ['coef', 'intercept', 'mean', 'scale']
    """

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that are stored."""
        ...

    @property
    def width(self) -> int:
        """The number of features, d."""
        ...

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int, params: Mapping[str, Any]
    ) -> Self:
        """Rebuild a model from stored arrays.

        Parameters
        ----------
        arrays
            What `arrays` returned, read from a file that may be damaged or forged.
        classes, width
            The number of classes, k, and of features, d.
        params
            The parameters of the head.

        Raises
        ------
        ArtifactError
            If names, shapes, dtypes or values of the arrays are not as they must be.
        """
        ...

    def predict_proba(self, X: Features) -> Floats:
        """Return probabilities, shape (n, k), for features of shape (n, d)."""
        ...


Learned: TypeAlias = tuple[FittedModel, tuple[Notice, ...]]


class Head(ABC):
    """Base class of heads: a classifier on features with scikit-learn's ``fit`` and ``predict_proba``.

    A head is a keyword-only dataclass. Its fields are its parameters, and it declares them in ``spec``. It implements
    `_learn_together`, or inherits `IndependentHead` and implements `_learn`. A head that can continue the training of
    another one implements `_continue_from` as well. A head whose training is random has a further field ``seed``.

    Attributes
    ----------
    spec : HeadSpec
        Class attribute: name, summary, parameters, default grid and limits of the head.
    model_class : type of FittedModel
        Class attribute: the class of ``model_``, which rebuilds it from stored arrays.
    classes_ : NDArray
        The class indices in ``y``, shape (k,), ascending: the columns of `predict_proba`.
    names_ : tuple of str
        The names of ``classes_``; empty if `fit` was called without names.
    model_ : FittedModel
        What was learned.
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

    classes_: Labels
    names_: tuple[str, ...]
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
        y: Labels,
        *,
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
            Class indices, shape (n,), at least 0.
        names
            The name of each class, by index. Few heads use them.
        monitor
            Receives the record of each epoch, if the head has epochs.
        start
            The model of a trained head of the same kind and classes, to continue from.

        Raises
        ------
        TrainingError
            If the rows cannot train a head, the training diverged, or the head cannot continue from a start.
        """
        X, targets = self._prepare(X, y, names)
        monitor = monitor or Monitor()
        if start is None:
            (learned,) = self._learn_together([self], X, targets, [monitor])
        else:
            learned = self._continue_from(start, X, targets, monitor)
        if isinstance(learned, TrainingError):
            raise learned
        self.model_, self.warnings_ = learned
        return self

    @final
    def predict_proba(self, X: Features) -> Floats:
        """Return the probability of each of ``classes_``, shape (n, k), for features of shape (n, d)."""
        if not hasattr(self, "model_"):
            raise HeadError(f"this {type(self).__name__} has not been trained: call fit first")
        return self.model_.predict_proba(X)

    @final
    def _prepare(self, X: Features, y: Labels, names: Sequence[str]) -> tuple[Features, Targets]:
        """Check the rows and set the classes; return features to learn from, and each label's position, shape (n,)."""
        X = X if self.spec.by_blocks else np.asarray(X)
        require_trainable(X, y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        self.names_ = tuple(names[index] for index in self.classes_) if names else ()
        return X, targets

    @classmethod
    @abstractmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        """Train one or more heads of this class on the same rows.

        Parameters
        ----------
        heads
            The heads, with ``classes_`` set. They differ at most in the parameters that ``spec.shared`` names.
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
    heads: Sequence[Head], X: Features, y: Labels, *, names: Sequence[str] = (), monitors: Sequence[Monitor] = ()
) -> list[TrainingError | None]:
    """Fit several heads of one class on the same rows, sharing work where the class can.

    Each head learns, up to rounding, what `Head.fit` would learn.

    Parameters
    ----------
    heads
        Heads of the same class. They may differ only in the parameters that ``spec.shared`` names.
    X, y, names
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
    X, targets = heads[0]._prepare(X, y, names)
    for head in heads[1:]:
        head.classes_, head.names_ = heads[0].classes_, heads[0].names_
    watching = monitors or [Monitor() for _ in heads]
    faults: list[TrainingError | None] = []
    for head, learned in zip(heads, type(heads[0])._learn_together(heads, X, targets, watching), strict=True):
        if isinstance(learned, TrainingError):
            faults.append(learned)
        else:
            head.model_, head.warnings_ = learned
            faults.append(None)
    return faults


def require_trainable(X: Features, y: Labels) -> None:
    """Raise `TrainingError` unless features (n, d) and labels (n,) can train a head.

    They must be finite, have labels of at least 0, and be of at least two classes.
    """
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
    """Return stored arrays after a check of their names, shapes and dtypes; not of their values.

    Parameters
    ----------
    arrays
        The arrays by name.
    shapes
        The expected shape of each array; no other array is allowed.
    dtypes
        The expected dtypes; float64 for arrays that are not named here.

    Raises
    ------
    ArtifactError
        If they differ from what is expected; the message names every difference.
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
    """Return one line for each array with values that are not finite."""
    return [f"{name} holds values that are not finite" for name, array in arrays.items() if not finite(array)]

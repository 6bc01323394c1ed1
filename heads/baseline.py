"""What every other head must beat: the classes' shares of the rows, and what the network itself says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from heads.affine import AffinePredictor
from heads.base import Head, Learned, Monitor, checked_arrays
from heads.errors import ArtifactError, EvaluationError, TrainingError
from heads.rows import Features, Floats, Targets, by_blocks, class_weights, row_blocks

IMAGENET_CLASSES = 1000
# WordNet's domestic dogs, n02085620 (Chihuahua) to n02113978 (Mexican hairless), and domestic cats, n02123045 (tabby)
# to n02124075 (Egyptian cat), as positions among the classes of ImageNet's 2012 challenge
_IMAGENET_ANIMALS = {"cat": slice(281, 286), "dog": slice(151, 269)}


@final
@dataclass(slots=True, kw_only=True, eq=False)
class MajorityHead(Head):
    """The classes' shares of the training rows, for every image; like scikit-learn's ``DummyClassifier`` (prior)."""

    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        del monitor
        counts = np.bincount(targets, minlength=len(self.classes_))
        return AffinePredictor.learned(np.zeros((len(counts), X.shape[1])), np.log(counts / len(X))), ()


@final
@dataclass(slots=True, kw_only=True, eq=False)
class ImageNetMapHead(Head):
    """Adds up the probabilities of the network's own classes, each of which speaks for one class or for none.

    With ``groups=learned``, an ImageNet class speaks for the class whose training rows have the largest sum of its
    probabilities, each row weighted as ``class_weight`` says: for the class that it meets most, or with ``balanced``
    for the class whose rows have the highest mean. With ``groups=cats_dogs``, WordNet says which are cats and which
    are dogs, the rest speaks for none, and nothing is learned from the rows but which of the two classes is which, by
    their names; ``class_weight`` changes nothing then.

    Raises
    ------
    TrainingError
        If a feature is below 0; or if ``cats_dogs`` meets other classes or features than those it is for.
    """

    groups: str
    class_weight: str
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        del monitor
        row = _row_below_zero(X)
        if row is not None:
            raise TrainingError(f"row {row} holds features below 0; train on probabilities: --tap predictions", row)
        groups = self._learned(X, targets) if self.groups == "learned" else self._cats_and_dogs(X.shape[1])
        names = self.names_ or self.classes_.tolist()
        silent = [str(name) for name, group in zip(names, groups, strict=True) if not group.any()]
        said = f"no ImageNet class speaks for {', '.join(silent)}: its probability is 0 wherever any class has one"
        return MapPredictor(groups), (said,) if silent else ()

    def _learned(self, X: Features, targets: Targets) -> Floats:
        """Return the group of each class, shape (k, d), by the probabilities of labelled rows (n, d)."""
        k = len(self.classes_)
        sums = np.zeros((k, X.shape[1]))
        weights = np.diag(class_weights(targets, k, self.class_weight))
        for rows in row_blocks(X):
            sums += weights[targets[rows]].T @ X[rows].astype(np.float64)
        return np.where(sums.max(axis=0) > 0, np.eye(k)[sums.argmax(axis=0)].T, 0.0)

    def _cats_and_dogs(self, width: int) -> Floats:
        """Return the group of each of the two classes, shape (2, 1000)."""
        if width != IMAGENET_CLASSES:
            raise TrainingError(
                f"groups=cats_dogs needs the {IMAGENET_CLASSES} probabilities of ImageNet, found {width} features; "
                "train on --tap predictions of a network that was trained on ImageNet"
            )
        animals = [[animal for animal in _IMAGENET_ANIMALS if animal in name.lower()] for name in self.names_]
        if sorted(animals) != [[animal] for animal in _IMAGENET_ANIMALS]:
            raise TrainingError(
                "groups=cats_dogs needs two classes, one with 'cat' in its name and one with 'dog'; found "
                f"{len(self.classes_)}: {', '.join(self.names_) or 'without names'}; use groups=learned"
            )
        groups = np.zeros((len(animals), width))
        for position, [animal] in enumerate(animals):
            groups[position, _IMAGENET_ANIMALS[animal]] = 1
        return groups


@final
@dataclass(frozen=True, slots=True, eq=False)
class MapPredictor:
    """Probability of a class: the sum of its features, divided by that of all classes; all the same if that is 0.

    Parameters
    ----------
    groups
        1 where a feature belongs to a class and 0 elsewhere, shape (k, d), float64; it belongs to one at most.
    """

    groups: Floats

    def __post_init__(self) -> None:
        if not np.isin(self.groups, (0, 1)).all():
            raise ValueError("groups holds values other than 0 and 1")
        if (self.groups.sum(axis=0) > 1).any():
            raise ValueError("groups gives a feature to more than one class")

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int, params: Mapping[str, Any]
    ) -> Self:
        """Rebuild it from its stored arrays; see `heads.base.Predictor`."""
        del params  # they do not change what is computed
        try:
            return cls(**checked_arrays(arrays, {"groups": (classes, width)}))
        except ValueError as e:
            raise ArtifactError(str(e)) from e

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that is stored of it."""
        return {"groups": self.groups}

    @property
    def width(self) -> int:
        """The number of features that it takes, d."""
        return len(self.groups[0])

    def predict_proba(self, X: Features) -> Floats:
        """Return probabilities, shape (n, k), rows summing to 1, for features of shape (n, d); see `by_blocks`.

        Raises
        ------
        EvaluationError
            If a feature is below 0, too.
        """
        probabilities = by_blocks(X, self.width, len(self.groups), self._probabilities)
        row = _row_below_zero(X)
        if row is not None:
            raise EvaluationError(
                f"row {row} holds features below 0, expected probabilities; use the tap predictions", row
            )
        return probabilities

    def _probabilities(self, block: Floats) -> Floats:
        sums = block @ self.groups.T
        totals = sums.sum(axis=1, keepdims=True)
        equal = np.full(sums.shape, 1 / len(self.groups))
        shares: Floats = np.divide(sums, totals, out=equal, where=totals > 0)
        return shares


def _row_below_zero(X: Features) -> int | None:
    """Return the first row (n, d) that holds a feature below 0; None if there is none."""
    for rows in row_blocks(X):
        below = (X[rows] < 0).any(axis=1)
        if below.any():
            return int(rows.start + np.argmax(below))
    return None

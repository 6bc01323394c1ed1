"""Baselines for other heads: the shares of the classes, and the network's own ImageNet probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from heads.base import IndependentHead, Learned
from heads.epochs import Monitor
from heads.errors import ArtifactError, EvaluationError, TrainingError
from heads.families.affine import AffineModel, AffineNumberModel
from heads.families.shared_parameters import CLASS_WEIGHT
from heads.fitted_model import FittedModel, checked_arrays
from heads.notices import Code, Notice
from heads.parameters import HeadSpec, Parameter
from heads.rows import Features, Floats, Targets, by_blocks, class_weights, row_blocks

IMAGENET_CLASSES = 1000
# WordNet's domestic dogs, n02085620 (Chihuahua) to n02113978 (Mexican hairless), and domestic cats, n02123045 (tabby)
# to n02124075 (Egyptian cat), as positions among the classes of ImageNet's 2012 challenge
_IMAGENET_ANIMALS = {"cat": slice(281, 286), "dog": slice(151, 269)}


@final
@dataclass(slots=True, kw_only=True, eq=False)
class MajorityHead(IndependentHead):
    """The shares of the classes in the training rows, for every image: ``DummyClassifier`` with strategy ``prior``."""

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="majority",
        summary="The shares of the classes in the training rows, or the mean number, for every image: the baseline.",
        parameters=(),
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: n,
    )
    model_class: ClassVar[type[FittedModel]] = AffineModel
    number_model_class: ClassVar[type[FittedModel] | None] = AffineNumberModel

    def _learn_numbers(self, X: Features, y: Floats, monitor: Monitor) -> Learned:
        """Learn the mean: ``DummyRegressor`` with strategy ``mean``."""
        del monitor
        return AffineNumberModel.learned(
            np.zeros((1, X.shape[1])), np.array([np.average(y, weights=self.weights_)])
        ), ()

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        del monitor
        counts = np.bincount(targets, self.weights_, minlength=len(self.classes_))
        return AffineModel.learned(np.zeros((len(counts), X.shape[1])), np.log(counts / counts.sum())), ()


@final
@dataclass(frozen=True, slots=True, eq=False)
class MapModel:
    """The probability of a class is its share of the sum of all grouped features; all are equal if the sum is 0.

    Parameters
    ----------
    groups
        1 where a feature counts for a class, else 0, shape (k, d), float64. A feature counts for at most one class.
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
        """Rebuild it from its stored arrays; see `heads.fitted_model.FittedModel`."""
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


@final
@dataclass(slots=True, kw_only=True, eq=False)
class ImageNetMapHead(IndependentHead):
    """Adds up the network's ImageNet probabilities, where each ImageNet class counts for one class or for none.

    With ``groups=learned``, an ImageNet class counts for the class whose training rows have the largest sum of its
    probability. ``class_weight=balanced`` compares means instead of sums.

    With ``groups=cats_dogs``, the ImageNet classes of domestic cats and dogs, by WordNet, count for the class with
    "cat" or "dog" in its name; all others count for none. Nothing is learned, and ``class_weight`` has no effect.

    Raises
    ------
    TrainingError
        If a feature is below 0; or if ``cats_dogs`` is used for other classes or features.
    """

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="imagenet_map",
        summary="Adds up the network's own ImageNet probabilities; each ImageNet class counts for one class.",
        parameters=(
            Parameter(
                "groups",
                "choice",
                "learned",
                "learned: count for the class with the highest sum in train; cats_dogs: by WordNet names.",
                choices=("learned", "cats_dogs"),
            ),
            CLASS_WEIGHT,
        ),
        grid={"groups": ("learned",)},
        taps=("predictions",),
        by_blocks=True,
        cost=lambda n, d, k: n * d,
    )
    model_class: ClassVar[type[FittedModel]] = MapModel

    groups: str
    class_weight: str

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        del monitor
        row = _row_below_zero(X)
        if row is not None:
            raise TrainingError(f"row {row} holds features below 0; train on probabilities: --tap predictions", row)
        groups = self._learned(X, targets) if self.groups == "learned" else self._cats_and_dogs(X.shape[1])
        names = self.names_ or self.classes_.tolist()
        silent = [str(name) for name, group in zip(names, groups, strict=True) if not group.any()]
        unmapped = f"no ImageNet class is mapped to {', '.join(silent)}"
        message = f"{unmapped}: its probability is 0 wherever another class has one"
        return MapModel(groups), (Notice(Code.NO_IMAGENET_CLASS, message),) if silent else ()

    def _learned(self, X: Features, targets: Targets) -> Floats:
        """Return the features that count for each class, shape (k, d), given training rows (n, d)."""
        k = len(self.classes_)
        sums = np.zeros((k, X.shape[1]))
        weights = np.diag(class_weights(targets, k, self.class_weight))
        for rows in row_blocks(X):
            sums += weights[targets[rows]].T @ X[rows].astype(np.float64)
        return np.where(sums.max(axis=0) > 0, np.eye(k)[sums.argmax(axis=0)].T, 0.0)

    def _cats_and_dogs(self, width: int) -> Floats:
        """Return the ImageNet classes that count for each of the two classes, shape (2, 1000)."""
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


def _row_below_zero(X: Features) -> int | None:
    """Return the number of the first row with a feature below 0, of rows (n, d); None if there is none."""
    for rows in row_blocks(X):
        below = (X[rows] < 0).any(axis=1)
        if below.any():
            return int(rows.start + np.argmax(below))
    return None

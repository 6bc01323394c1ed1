"""The fitted model of several labels: one model of two classes for each label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from heads.errors import ArtifactError
from heads.fitted_model import FittedModel
from heads.rows import Features, Floats, row_blocks

_AGREED = "agreed"  # of each label: 0 or 1 if all training rows agree that they have it or not, else -1
_STATES = (-1, 0, 1)
_NAMED = 80  # characters of a wrong name that a message shows


@final
@dataclass(frozen=True, slots=True, eq=False)
class EachLabelModel:
    """The models of several labels, each with two classes: whether an image has the label.

    Stored arrays that all models share are stored once, under their own name. Others are stored for each label, under
    ``NUMBER.NAME``.

    Parameters
    ----------
    models
        The model of each label; or, if all training rows agree, whether they have the label.
    width
        The number of features, d.
    """

    models: tuple[FittedModel | bool, ...]
    width: int

    @classmethod
    def of(
        cls,
        model_class: type[FittedModel],
        arrays: Mapping[str, NDArray[Any]],
        *,
        classes: int,
        width: int,
        params: Mapping[str, Any],
    ) -> Self:
        """Rebuild it from the stored arrays of models of a class; see `FittedModel.from_arrays`."""
        arrays = dict(arrays)
        agreed = arrays.pop(_AGREED, None)
        sound = agreed is not None and agreed.shape == (classes,) and agreed.dtype == np.int8
        if agreed is None or not sound or not np.isin(agreed, _STATES).all():
            raise ArtifactError(f"{_AGREED} is not -1, 0 or 1 for each of {classes} labels, int8")
        if not (agreed < 0).any():
            raise ArtifactError("all training rows agree on every label: nothing was learned")
        own: dict[str, dict[str, NDArray[Any]]] = {str(number): {} for number in range(classes)}
        shared = {}
        for name, array in arrays.items():
            number, dot, of_label = name.partition(".")
            if not dot:
                shared[name] = array
            elif number in own:
                own[number][of_label] = array
            else:
                raise ArtifactError(f"the array {name[:_NAMED]} is of no label")
        models: list[FittedModel | bool] = []
        for state, mine in zip(agreed.tolist(), own.values(), strict=True):
            if state < 0:
                models.append(model_class.from_arrays(shared | mine, classes=2, width=width, params=params))
            elif mine:
                raise ArtifactError("a label has arrays, and all its training rows agree")
            else:
                models.append(bool(state))
        return cls(tuple(models), width)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that are stored."""
        stored = {_AGREED: np.array([-1 if not isinstance(each, bool) else each for each in self.models], np.int8)}
        found = {number: each.arrays for number, each in enumerate(self.models) if not isinstance(each, bool)}
        first = next(iter(found.values()), {})
        for name, array in first.items():
            if all(np.array_equal(arrays[name], array) for arrays in found.values()):
                stored[name] = array
            else:
                stored |= {f"{number}.{name}": arrays[name] for number, arrays in found.items()}
        return stored

    @property
    def training_features(self) -> NDArray[np.float32] | None:
        """The features of the training rows, shape (n, d), if the models keep them, as those of `knn` do."""
        first = next((each for each in self.models if not isinstance(each, bool)), None)
        features: NDArray[np.float32] | None = getattr(first, "training_features", None)
        return features

    def predict_proba(self, X: Features) -> Floats:
        """Return the probability of each label, shape (n, k), for features of shape (n, d).

        A class of models may have a class method ``together``: given models of two classes, and features, it returns
        the probability of the second class by each of them, shape (n, number of models), at less cost.
        """
        probabilities = np.array([each if isinstance(each, bool) else 0.0 for each in self.models])
        probabilities = np.repeat(probabilities[np.newaxis], len(X), axis=0)
        learned = {number: each for number, each in enumerate(self.models) if not isinstance(each, bool)}
        together = getattr(type(next(iter(learned.values()))), "together", _one_by_one) if learned else _one_by_one
        for rows in row_blocks(X):  # features larger than memory are read once, not once for each label
            if learned:
                probabilities[rows, list(learned)] = together(list(learned.values()), np.asarray(X[rows]))
        return probabilities


def learned_models(model: FittedModel | EachLabelModel) -> tuple[FittedModel, ...]:
    """Return the models of the labels that were learned; of another model itself."""
    if isinstance(model, EachLabelModel):
        return tuple(each for each in model.models if not isinstance(each, bool))
    return (model,)


def _one_by_one(models: Sequence[FittedModel], X: Features) -> Floats:
    return np.stack([model.predict_proba(X)[:, 1] for model in models], axis=1)

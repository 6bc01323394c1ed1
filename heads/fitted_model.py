"""The fitted model, what a head has learned and what is stored of it, and checks of stored arrays."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from heads.errors import ArtifactError
from heads.rows import Features, Floats, Labels, finite


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
        """Return probabilities, shape (n, k), for features of shape (n, d).

        Of several labels, each row of k probabilities is of labels that do not exclude each other. A model of numbers
        returns the number, shape (n, 1).
        """
        ...


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

"""Models made of decision trees: forests, whose trees share their votes, and boosted trees, whose scores are summed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from heads.errors import ArtifactError, TrainingError
from heads.families.affine import softmax
from heads.fitted_model import checked_arrays, not_finite
from heads.rows import Features, Floats, by_blocks

_BLOCK_VALUES = 2**18  # values of leaves that are added at a time
_ROUNDING = 1e-9  # of sums of probabilities
_DEEPEST = 2**12  # far more than trees of images have; a forged one would take long

_DTYPES: dict[str, type[np.generic]] = {
    "feature": np.int32,
    "threshold": np.float32,
    "children": np.int32,
    "roots": np.int32,
    "leaf_start": np.int64,
    "leaf_class": np.int32,
    "leaf_value": np.float64,
}


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree as a library gives it, with n nodes; node 0 is the root, and children follow their parents.

    Parameters
    ----------
    feature, threshold
        The test of each inner node, shape (n,): rows whose feature is at most the threshold go left.
    left, right
        The numbers of the children, shape (n,); at most 0 for leaves.
    values
        What each node gives each class, shape (n, k), or, with ``target``, that class alone, shape (n,).
    target
        The class of ``values`` of shape (n,).
    """

    feature: NDArray[Any]
    threshold: NDArray[Any]
    left: NDArray[Any]
    right: NDArray[Any]
    values: NDArray[Any]
    target: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Trees(ABC):
    """Trees in plain arrays: m inner nodes and l leaves of all trees together, and e values of leaves.

    Features are rounded to float32 before they are compared, as scikit-learn's forests do.

    Parameters
    ----------
    feature, threshold
        The test of each inner node, shape (m,): rows whose feature is at most the threshold go left.
    children
        The left and the right child of each inner node, shape (m, 2): the number of an inner node, which is larger than
        that of its parent, or -1 - the number of a leaf.
    roots
        Where each tree begins, shape (t,), numbered as children.
    leaf_start
        The first value of each leaf, and e at the end, shape (l + 1,).
    leaf_class, leaf_value
        What a leaf gives to which class, shape (e,); nothing to the other classes.
    baseline
        What every row gets before the trees, shape (k,).
    width
        The number of features, d.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    children: NDArray[np.int32]
    roots: NDArray[np.int32]
    leaf_start: NDArray[np.int64]
    leaf_class: NDArray[np.int32]
    leaf_value: Floats
    baseline: Floats
    width: int
    _counts: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        faults = [*self._faults(), *not_finite({"leaf_value": self.leaf_value, "baseline": self.baseline})]
        if not faults:
            leaves = len(self.leaf_start) - 1
            faults = [*_faults_of_shape(self.children, self.roots, leaves), *self._faults_of_values()]
        if faults:
            raise ValueError("; ".join(faults))
        object.__setattr__(self, "_counts", np.diff(self.leaf_start))

    def _faults(self) -> Iterator[str]:
        """Yield a line for each array that points to something that does not exist."""
        nodes, values, starts = len(self.feature), len(self.leaf_value), self.leaf_start
        pointers = np.concatenate([self.children.ravel(), self.roots])
        if not len(self.roots):
            yield "there are no roots"
        if not nodes == len(self.threshold) == len(self.children):
            yield "feature, threshold and children are not of the same nodes"
        if nodes and not 0 <= self.feature.min() <= self.feature.max() < self.width:
            yield f"feature holds numbers that are not from 0 to {self.width - 1}"
        yield from not_finite({"threshold": self.threshold})
        if len(pointers) and not 1 - len(starts) <= pointers.min() <= pointers.max() < nodes:
            yield "children and roots hold numbers of no node and no leaf"
        if len(self.leaf_class) != values:
            yield "leaf_class and leaf_value do not have the same length"
        elif starts[0] != 0 or starts[-1] != values or (np.diff(starts) < 1).any():
            yield f"leaf_start does not rise from 0 to {values}"
        elif values and not 0 <= self.leaf_class.min() <= self.leaf_class.max() < len(self.baseline):
            yield f"leaf_class holds numbers that are not from 0 to {len(self.baseline) - 1}"
        elif (np.delete(np.diff(self.leaf_class), starts[1:-1] - 1) < 1).any():
            yield "leaf_class does not rise within a leaf"

    @abstractmethod
    def _faults_of_values(self) -> Iterator[str]:
        """Yield a line for each rule that the values of the leaves break."""

    @classmethod
    def joined(
        cls, trees: Sequence[Tree], *, classes: int, width: int, features: NDArray[np.intp] | None = None
    ) -> Self:
        """Make a model of the trees of a library, with a baseline of 0.

        Parameters
        ----------
        trees
            The trees, in the order in which their values are added.
        classes, width
            The number of classes, k, and of features, d.
        features
            The features that the trees number, shape (at most d,); all if None.

        Raises
        ------
        TrainingError
            If a tree is too deep, or has values that are not finite.
        """
        parts: list[dict[str, NDArray[Any]]] = []
        nodes = leaves = 0
        for tree in trees:
            inner = tree.left > 0
            numbers = np.where(inner, nodes + np.cumsum(inner) - 1, -leaves - np.cumsum(~inner))
            columns = tree.feature[inner].astype(np.intp)
            entries, given, values = _leaf_values(tree, ~inner)
            parts.append(
                {
                    "feature": columns if features is None else features[columns],
                    "threshold": _rounded_down(tree.threshold[inner]),
                    "children": numbers[np.stack([tree.left[inner], tree.right[inner]], axis=1).astype(np.intp)],
                    "roots": numbers[:1],
                    "leaf_start": entries,
                    "leaf_class": given,
                    "leaf_value": values,
                }
            )
            nodes, leaves = nodes + int(inner.sum()), leaves + int((~inner).sum())
        arrays: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        arrays["leaf_start"] = np.concatenate([[0], np.cumsum(arrays["leaf_start"])])
        try:
            return cls(
                **{name: np.ascontiguousarray(array, _DTYPES[name]) for name, array in arrays.items()},
                baseline=np.zeros(classes),
                width=width,
            )
        except ValueError as e:
            raise TrainingError(f"the trees cannot be stored: {e}") from e

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int, params: Mapping[str, Any]
    ) -> Self:
        """Rebuild it from its stored arrays; see `heads.fitted_model.FittedModel`."""
        del params  # they do not change what is computed
        sizes = {name: array.size for name, array in arrays.items()}
        shapes: dict[str, tuple[int, ...]] = {name: (sizes.get(name, 0),) for name in _DTYPES} | {
            "children": (sizes.get("children", 0) // 2, 2),
            "leaf_start": (max(1, sizes.get("leaf_start", 0)),),
            "baseline": (classes,),
        }
        try:
            return cls(**checked_arrays(arrays, shapes, _DTYPES), width=width)
        except ValueError as e:
            raise ArtifactError(str(e)) from e

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that is stored of it."""
        return {name: getattr(self, name) for name in (*_DTYPES, "baseline")}

    @property
    def depth(self) -> int:
        """The largest number of tests between a root and a leaf."""
        return sum(1 for _ in _levels(self.children, self.roots))

    @final
    def predict_proba(self, X: Features) -> Floats:
        """Return probabilities, shape (n, k), rows summing to 1, for features of shape (n, d); see `by_blocks`."""
        return by_blocks(X, self.width, len(self.baseline), lambda block: self._probabilities(self.sums(block)))

    @staticmethod
    @abstractmethod
    def _probabilities(sums: Floats) -> Floats:
        """Return probabilities, shape (n, k), of what baseline and trees give, (n, k), which may be overwritten."""

    @final
    def sums(self, X: Floats) -> Floats:
        """Return what baseline and trees together give each class, shape (n, k), for finite rows (n, d)."""
        sums = np.tile(self.baseline, (len(X), 1))
        count = max(1, int(_BLOCK_VALUES // (len(self.roots) * self._counts.max())))
        for start in range(0, len(X), count):
            self._add(X[start : start + count].astype(np.float32), sums[start : start + count])
        return sums

    def _add(self, X: NDArray[np.float32], sums: Floats) -> None:
        """Add what the trees give rows (n, d) to sums (n, k), tree after tree, whatever the number of rows."""
        n, trees = len(X), len(self.roots)
        places = np.tile(self.roots, n)  # of each row in each tree
        rows = np.repeat(np.arange(n), trees)
        values, tests, children = X.ravel(), self.feature, self.children.ravel()
        moving = np.flatnonzero(places >= 0)
        while len(moving):
            nodes = places[moving]
            right = values[rows[moving] * self.width + tests[nodes]] > self.threshold[nodes]
            places[moving] = reached = children[2 * nodes.astype(np.intp) + right]
            moving = moving[reached >= 0]
        leaves = -1 - places
        first, counts = self.leaf_start[leaves], self._counts[leaves]
        before = np.cumsum(counts) - counts
        entries = np.arange(counts.sum()) + np.repeat(first - before, counts)
        cells = np.repeat(rows * len(self.baseline), counts) + self.leaf_class[entries]
        np.add.at(sums.reshape(-1), cells, self.leaf_value[entries])


@final
class ForestModel(_Trees):
    """Each tree gives probabilities; those of the forest are their mean."""

    __slots__ = ()

    def _faults_of_values(self) -> Iterator[str]:
        sums = np.add.reduceat(self.leaf_value, self.leaf_start[:-1])
        if self.leaf_value.min() < 0 or np.abs(sums - 1).max() > _ROUNDING:
            yield "leaf_value holds values that are no probabilities"
        if self.baseline.any():
            yield "baseline holds values other than 0"

    @staticmethod
    def _probabilities(sums: Floats) -> Floats:
        sums /= sums.sum(axis=1, keepdims=True)
        return sums


@final
class BoostedTreesModel(_Trees):
    """Probabilities are the softmax of the baseline and of what all trees add to it."""

    __slots__ = ()

    def _faults_of_values(self) -> Iterator[str]:
        yield from ()

    @staticmethod
    def _probabilities(sums: Floats) -> Floats:
        return softmax(sums)


@final
class NumberTreesModel(_Trees):
    """The number is the sum of the baseline and of what all trees give; k is 1."""

    __slots__ = ()

    def _faults_of_values(self) -> Iterator[str]:
        yield from ()

    @staticmethod
    def _probabilities(sums: Floats) -> Floats:
        return sums


def _leaf_values(tree: Tree, leaves: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return how many values each leaf of a tree has, their classes, and the values."""
    values = tree.values[leaves]
    if values.ndim == 1:
        return np.ones(len(values), np.intp), np.full(len(values), tree.target), values
    given = values != 0
    return given.sum(axis=1), np.nonzero(given)[1], values[given]


def _rounded_down(thresholds: NDArray[Any]) -> NDArray[np.float32]:
    """Return the largest float32 numbers that are not above thresholds (m,); they divide float32 features alike."""
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _faults_of_shape(children: NDArray[np.int32], roots: NDArray[np.int32], leaves: int) -> Iterator[str]:
    """Yield a line if nodes (m, 2) with these roots are no trees: if a row could go in circles, or on and on."""
    pointers = np.concatenate([children.ravel(), roots])
    inner = pointers >= 0
    parents = (
        np.bincount(pointers[inner], minlength=len(children)),
        np.bincount(-1 - pointers[~inner], minlength=leaves),
    )
    if not ((children < 0) | (children > np.arange(len(children))[:, np.newaxis])).all():
        yield "children holds a child that does not come after its parent"
    elif any((found != 1).any() for found in parents):
        yield "children and roots do not lead to every node and leaf once"
    elif any(depth > _DEEPEST for depth, _ in enumerate(_levels(children, roots))):
        yield f"a tree is more than {_DEEPEST} nodes deep; train with a smaller max_depth"


def _levels(children: NDArray[np.int32], roots: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    """Yield the inner nodes of all trees, level by level from the roots on."""
    level = roots[roots >= 0]
    while len(level):
        yield level
        below = children[level].ravel()
        level = below[below >= 0]

"""A feature set: the features of one tap, with the labels, paths, classes and recipe that belong to them."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.errors import OptionError
from featurecache.format.mapped_file import ArrayPlace
from featurecache.images.views import are_views
from featurecache.recipe import Recipe
from featurecache.rows import Rows, Selection, selected
from featurecache.targets import Target, is_labelled, read_targets, require_target
from featurecache.text import counted


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """The features of one tap, with the labels, paths, classes and recipe that belong to them.

    Parameters
    ----------
    X
        Features, shape (n, d), float32: a read-only memory map of the cache file, or `featurecache.Rows`, which
        indexing and `numpy.asarray` read. These are features in parts, and, if they take more than 512 MiB, features
        stored as float16 and chosen rows that do not follow one another.
    y
        Class indices into ``classes``, shape (n,), int64; -1 for an image without a label. See `with_target` for other
        targets.
    paths, splits, sha256
        Relative path, split and content hash (64 hexadecimal digits) of every row, shape (n,), `str` objects. A path is
        the file's own name; a name that is not UTF-8 has the form of `featurecache.encode_name`. The hash of an
        augmented view is that of its image: rows with the same hash belong together.
    classes
        Class names, in the order of the indices.
    split
        The requested split; None for all rows.
    tap
        The layer that the features come from.
    recipe
        What determined the features.
    groups
        The name of the group of each row, shape (n,), `str` objects, if the cache was asked for groups
        (`FeatureCache.with_groups`), else None. Rows without a label may have the empty name: they are in no group.
    target
        What ``y`` stands for: ``"class"``, ``"labels"`` or ``"number"``.
    weights
        The weight of each row in training, shape (n,), float64, at least 0, if the cache was asked for weights
        (`FeatureCache.with_weights`), else None. Rows without a label may have 0.

    Examples
    --------
    >>> rows = cache.features("features")
    >>> rows
    <FeatureSet: 48 rows of features (16), 2 classes>
    >>> rows.classes
    ('dark', 'light')
    >>> light = rows.take(rows.y == rows.classes.index("light"))
    >>> len(light)
    24
    """

    X: NDArray[np.float32] | Rows
    y: NDArray[Any]
    paths: NDArray[np.object_]
    splits: NDArray[np.object_]
    sha256: NDArray[np.object_]
    classes: tuple[str, ...]
    split: str | None
    tap: str
    recipe: Recipe
    groups: NDArray[np.object_] | None = None
    target: Target = "class"
    weights: NDArray[np.float64] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle features that are mapped in a cache file as their place in it, others with their values."""
        values = [getattr(self, field.name) for field in fields(self)]
        place = None if isinstance(self.X, Rows) else ArrayPlace.find(self.X)
        return _feature_set, (type(self), place or self.X, *values[1:])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[NDArray[np.float32], Any]:
        """Return a copy of the features of a row, shape (d,), and its ``y``: PyTorch takes a feature set as a dataset.

        Examples
        --------
        >>> x, y = cache.features("features")[0]
        >>> x.shape, int(y)
        ((16,), 0)
        """
        return np.array(self.X[range(len(self))[row]]), self.y[row]

    def __repr__(self) -> str:
        rows, width = self.X.shape
        kind = "classes" if self.target == "class" else "labels"
        what = "numbers" if self.target == "number" else f"{len(self.classes):,} {kind}"
        return f"<FeatureSet: {counted(rows, 'row')} of {self.tap} ({width}), {what}>"

    @property
    def fingerprint(self) -> str:
        """The recipe's fingerprint."""
        return self.recipe.fingerprint

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which rows have a label, shape (n,)."""
        return is_labelled(self.target, self.y)

    @property
    def is_view(self) -> NDArray[np.bool_]:
        """Which rows are augmented views of images, shape (n,): they train heads and judge none."""
        return are_views(self.paths)

    def with_target(self, target: str) -> "FeatureSet":
        """Return the same rows with the names of their classes read as several labels, or as numbers.

        Parameters
        ----------
        target
            ``"labels"``: the name of a class is labels with ``|`` between them, or ``|`` alone for an image that has
            none. ``y`` then has shape (n, k), int8: 1 for a label that the image has, 0 for one that it has not, and -1
            throughout for an image without a label; ``classes`` are the k labels. ``"number"``: ``y`` is float64, NaN
            for an image without a label, and there are no classes. ``"class"`` changes nothing.

        Raises
        ------
        UnknownNameError
            If there is no such target.
        ManifestError
            If the names are no such texts.
        OptionError
            If the rows have another target already.

        Examples
        --------
        >>> tags = cache.with_labels({"train/dark/00.png": "dark|empty", "train/dark/04.png": "|"})
        >>> rows = tags.features("features").with_target("labels")
        >>> rows.classes, rows.y[:3].tolist()
        (('dark', 'empty', 'light'), [[1, 1, 0], [0, 0, 0], [1, 0, 0]])
        """
        target = require_target(target)
        if target == self.target:
            return self
        if self.target != "class":
            raise OptionError(f"these rows have the target {self.target!r}; take the features of the cache again")
        values = read_targets(target, self.y, self.classes)
        return replace(self, y=values.y, classes=values.names, target=target)

    def take(self, rows: Selection) -> "FeatureSet":
        """Return the selected rows, in the given order; a slice copies nothing, other rows at most 512 MiB."""
        return replace(
            self,
            X=selected(self.X, rows),
            y=self.y[rows],
            paths=self.paths[rows],
            splits=self.splits[rows],
            sha256=self.sha256[rows],
            groups=None if self.groups is None else self.groups[rows],
            weights=None if self.weights is None else self.weights[rows],
        )


def _feature_set(kind: type[FeatureSet], X: ArrayPlace | NDArray[np.float32] | Rows, *values: Any) -> FeatureSet:
    """Return a feature set that was pickled."""
    return kind(X.array() if isinstance(X, ArrayPlace) else X, *values)

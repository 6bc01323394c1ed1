"""The three likeliest ImageNet classes of each row, as the pretrained network predicts them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache as remembered
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featurecache.backbones.catalog import OWN_MODEL
from heads.errors import MismatchError
from heads.rows import row_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache
    from featurecache.feature_set import FeatureSet

TAP = "predictions"  # the layer that gives the probabilities of ImageNet's classes
TOP = 3


@remembered
def names() -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes in Keras's order; two pairs of classes share a name."""
    return tuple(files("heads.evaluation").joinpath("imagenet_classes.txt").read_text("ascii").splitlines())


@dataclass(frozen=True, slots=True, eq=False)
class ImageNetTop3:
    """The three ImageNet classes that the network finds likeliest in each of n images, the likeliest first.

    Parameters
    ----------
    classes
        Their indices, shape (n, 3), int16; of classes that are equally likely, those of lower index.
    probabilities
        Shape (n, 3), float32.
    """

    classes: NDArray[np.int16]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.classes)

    def texts(self, row: int) -> tuple[tuple[str, float], ...]:
        """Return names and probabilities of the classes of a row, the likeliest first."""
        called = names()
        pairs = zip(self.classes[row].tolist(), self.probabilities[row].tolist(), strict=True)
        return tuple((called[index], probability) for index, probability in pairs)

    def take(self, rows: slice | NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Self:
        """Return the rows with these numbers, in the order given."""
        return type(self)(self.classes[rows], self.probabilities[rows])


def imagenet_top3(cache: FeatureCache, features: FeatureSet) -> ImageNetTop3 | None:
    """Return the three likeliest ImageNet classes of rows of a cache; None if the cache has no such predictions.

    The cache must hold the tap ``predictions`` of a network that was trained on the 1,000 classes of ImageNet.
    The probabilities are read by blocks of rows.

    Parameters
    ----------
    cache
        The cache.
    features
        Rows of it, of any tap, in any order; they are found by their paths.

    Raises
    ------
    MismatchError
        If an image of ``features`` is not in the cache.

    Examples
    --------
    >>> heads.imagenet_top3(cache, cache.features("features")) is None  # the cache has no ImageNet predictions
    True
    """
    if cache.taps.get(TAP) != len(names()):
        return None
    everything = cache.features(TAP)
    if everything.recipe.weights.startswith("random:") or everything.recipe.backbone == OWN_MODEL:
        return None
    place = {path: row for row, path in enumerate(everything.paths)}
    unknown = next((path for path in features.paths if path not in place), None)
    if unknown is not None:
        raise MismatchError(f"{unknown!r} is not in the cache: take the features from the cache that is asked")
    rows = np.array([place[path] for path in features.paths], dtype=np.intp)
    classes = np.empty((len(rows), TOP), np.int16)
    probabilities = np.empty((len(rows), TOP), np.float32)
    for block in row_blocks(np.broadcast_to(np.float32(0), (len(rows), len(names())))):
        classes[block], probabilities[block] = _top(everything.X[rows[block]])
    return ImageNetTop3(classes, probabilities)


def _top(block: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return indices and values of the highest of each row, shapes (n, 3); ``block`` is overwritten."""
    np.nan_to_num(block, copy=False, nan=0.0, posinf=0.0, neginf=0.0)  # of a network that broke down on an image
    each = np.arange(len(block))
    indices, values = np.empty((len(block), TOP), np.intp), np.empty((len(block), TOP), np.float32)
    for place in range(TOP):
        indices[:, place] = block.argmax(axis=1)
        values[:, place] = block[each, indices[:, place]]
        block[each, indices[:, place]] = -np.inf
    return indices, values

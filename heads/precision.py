"""The use case ``precision``: how far features computed in another way are, and which decisions of a head they flip."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurecache.cached_network import find_network, originals_of, unchanged_images
from featurecache.errors import OptionError
from featurecache.named_backbone import as_stored
from featurecache.options import NetworkOptions, RunOptions, check_without_words
from heads.evaluation.intervals import Interval, wilson
from heads.predictor import row_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from featurecache.backbones.protocol import Backbone
    from featurecache.cache import FeatureCache
    from featurecache.images.image_source import ImageSource
    from heads.artifact import TrainedHead
    from heads.notices import Notice


@dataclass(frozen=True, slots=True)
class Flip:
    """A row whose decision another way of computing changes.

    Parameters
    ----------
    path
        The row's path.
    label
        The name of its class; None without a label.
    before, after
        The classes that the head decides for, with the features of the cache and with the others.
    probability_before, probability_after
        The probabilities of these classes, each with its own features.
    """

    path: str
    label: str | None
    before: str
    after: str
    probability_before: float
    probability_after: float


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """How features computed in another way differ from those of a cache, and what this does to a head's decisions.

    Parameters
    ----------
    precision, engine, dtype
        How the other features were computed and stored; the engine is ``""`` where no image passed the network.
    n
        How many rows were compared.
    skipped
        How many chosen rows were not, since their images have changed or are gone.
    error_median, error_99, error_max
        The relative error of a row is the largest difference of a feature, divided by the largest absolute feature of
        the row: its median, 99th percentile and maximum over the rows.
    flipped
        The proportion of rows whose decision differs, with Wilson's 95 % interval.
    flips
        These rows, in the order of the cache.
    """

    precision: str
    engine: str
    dtype: str
    n: int
    skipped: int
    error_median: float
    error_99: float
    error_max: float
    flipped: Interval
    flips: tuple[Flip, ...]

    @property
    def warnings(self) -> Sequence[Notice]:
        """Warnings for the user: none."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return asdict(self) | {"flips": [asdict(flip) for flip in self.flips], "warnings": []}


def check_precision(
    cache: FeatureCache,
    head: TrainedHead,
    *,
    precision: str | None = None,
    dtype: str | None = None,
    engine: str | None = None,
    rows: int = 500,
    images: str | os.PathLike[str] | ImageSource | None = None,
    backbone: Backbone | None = None,
    weights: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda *_: None,
    notify: Callable[[str], None] = lambda _: None,
) -> PrecisionCheck:
    """Compute a sample of a cache's rows in another way, and compare features and a head's decisions.

    Parameters
    ----------
    cache
        The cache.
    head
        A head for classes, trained on a tap of this recipe.
    precision, engine, device
        Another precision, engine or device for the network; see `featurecache.extract`. If all are left out, nothing
        passes the network: the features of the cache are stored in another type.
    dtype
        The type in which the other features are stored; that of the cache if None.
    rows
        How many rows are compared, chosen at random; all if the cache has fewer.
    images, backbone, weights, batch_size, seed, notify
        As in `featurecache.verify`.
    progress
        Called with the number of rows that are done, and of all.

    Raises
    ------
    OptionError
        If nothing else is asked for than what the cache has, or an option is out of its range.
    MismatchError
        If the head has another recipe, or predicts no class.
    RecipeError
        If the network or its weights differ from those of the cache.
    ManifestError
        If the images of all chosen rows are missing or have changed.

    Examples
    --------
    >>> found = heads.check_precision(cache, head, dtype="float16")
    >>> found.n, len(found.flips), found.error_max < 0.001
    (48, 0, True)
    """
    head.require_target("class", "precision")
    head.check_recipe(cache.recipe, head.tap)
    check_without_words(NetworkOptions, precision=precision, dtype=dtype)
    check_without_words(RunOptions, batch_size=batch_size, device=device, engine=engine or "auto")
    if rows < 1:
        raise OptionError(f"rows is {rows}; expected at least 1")
    if not len(cache):
        raise OptionError(f"{cache.path} has no rows to compare")
    recipe = cache.recipe
    other = replace(recipe, precision=precision or recipe.precision, dtype=dtype or recipe.dtype)
    is_computed = bool(engine or backbone or device != "auto" or other.precision != recipe.precision)
    if not is_computed and other == recipe:
        raise OptionError("nothing to compare: give another precision, dtype, engine or device than the cache has")
    if not is_computed and np.dtype(other.dtype).itemsize > np.dtype(recipe.dtype).itemsize:
        raise OptionError(
            f"the cache has {recipe.dtype} features, which {other.dtype} cannot make better; give an engine or a "
            "precision, so that images are computed again"
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(~cache.is_view))[:rows])
    found, used = chosen.tolist(), ""
    if is_computed:
        network = find_network(
            cache,
            backbone=backbone,
            weights=weights,
            device=device,
            precision=precision,
            engine=engine or "auto",
            notify=notify,
        )
        size, used = batch_size or network.batch_size, network.engine
        batches = unchanged_images(cache, chosen, originals_of(cache, images), batch_size=size, progress=progress)
        started: Backbone | None = None
        found, parts = [], []
        for some, pixels in batches:
            started = started or network.start(size, size)
            parts.append(as_stored(started.forward(pixels), head.tap, other))
            found += some
        after = np.concatenate(parts)
    before = np.concatenate([cache.read(head.tap, row, 1) for row in found])
    if not is_computed:
        after = as_stored({head.tap: before}, head.tap, other)
    errors = _relative_errors(before, after)
    flips = _flips(cache, head, found, before, after)
    return PrecisionCheck(
        precision=other.precision,
        engine=used,
        dtype=other.dtype,
        n=len(found),
        skipped=len(chosen) - len(found),
        error_median=float(np.median(errors)),
        error_99=float(np.quantile(errors, 0.99)),
        error_max=float(errors.max()),
        flipped=wilson(len(flips), len(found)),
        flips=flips,
    )


def _relative_errors(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """Return the largest difference in each row, relative to the row's largest absolute value; shape (n,)."""
    ours, theirs = before.astype(np.float64), after.astype(np.float64)
    scale = np.maximum(np.abs(ours).max(axis=1), np.finfo(np.float32).tiny)
    errors: NDArray[np.float64] = np.abs(theirs - ours).max(axis=1) / scale
    return errors


def _flips(
    cache: FeatureCache, head: TrainedHead, rows: list[int], before: NDArray[Any], after: NDArray[Any]
) -> tuple[Flip, ...]:
    """Return the rows whose decisions differ."""
    ours, theirs = row_answers(head, before), row_answers(head, after)
    labels = cache.text_columns()["label"]
    found = []
    for place, (row, first, second) in enumerate(zip(rows, ours.argmax(axis=1), theirs.argmax(axis=1), strict=True)):
        if first != second:
            decisions = head.classes[first], head.classes[second]
            probabilities = float(ours[place, first]), float(theirs[place, second])
            found.append(Flip(cache.paths[row], labels[row] or None, *decisions, *probabilities))
    return tuple(found)

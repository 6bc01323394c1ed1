"""The use case ``similar``: the images of a cache that are most similar to given images, or to its own rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.errors import NoImagesError, UnknownNameError
from heads.errors import ParameterError
from heads.similarity import SimilarImage, SimilaritySearch

if TYPE_CHECKING:
    from featurecache.cache import FeatureCache
    from featurecache.images.failures import Failure
    from heads.notices import Notice


_COMPARED = 1000  # paths that a wrong one is compared with


@dataclass(frozen=True, slots=True)
class SimilarTo:
    """An image, and the images of a cache that are most similar to it.

    Parameters
    ----------
    path
        Its path: of a row of the cache, or as it was given.
    in_cache
        Whether it was asked for as a row of the cache; that row is not among its similar images.
    images
        The similar images, the most similar first.
    """

    path: str
    in_cache: bool
    images: tuple[SimilarImage, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Similar:
    """The most similar images of a cache for several images.

    Parameters
    ----------
    tap
        The tap whose features were compared.
    n_images
        How many images the cache has.
    found
        What was found for each image, in the given order: rows of the cache first.
    failures
        Maps the path of each given image that cannot be used to its failure.
    given
        Maps the path of each given image that can be used to the SHA-256 of its bytes.

    Examples
    --------
    >>> heads.similar(cache, rows=["valid/dark/02.png"], k=2, tap="features").to_dict()["similar"][0]["in_cache"]
    True
    """

    tap: str
    n_images: int
    found: tuple[SimilarTo, ...]
    failures: Mapping[str, Failure] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def warnings(self) -> Sequence[Notice]:
        """Warnings for the user: none."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "tap": self.tap,
            "n_images": self.n_images,
            "similar": [
                {"path": one.path, "in_cache": one.in_cache, "images": [image.to_dict() for image in one.images]}
                for one in self.found
            ],
            "failures": [{"path": path} | failure.to_dict() for path, failure in self.failures.items()],
            "warnings": [],
        }


def similar(
    cache: FeatureCache,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    *,
    rows: str | Iterable[str] = (),
    k: int = 9,
    tap: str | None = None,
    **options: Any,
) -> Similar:
    """Find the images of a cache whose features are most similar to those of given images, exactly.

    Similarity is the cosine of the angle between two feature vectors. See `heads.SimilaritySearch` to search again and
    again.

    Parameters
    ----------
    cache
        The cache to search, all splits.
    images
        Image files and folders of images. An image whose bytes the cache has needs no forward pass.
    rows
        Paths of rows of the cache, to search for images that are similar to them.
    k
        Number of similar images for each one.
    tap
        The tap whose features are compared; optional if the cache has only one.
    options
        ``backbone``, ``weights``, ``device``, ``engine``, ``batch_size``, ``workers``, ``progress`` and ``notify`` of
        `featurecache.features_of`.

    Raises
    ------
    UnknownNameError
        If the cache has no such tap or row.
    ParameterError
        If ``k`` is below 1, or neither images nor rows are given.
    NoImagesError
        If none of the images can be used, and no row is given.
    RecipeError
        If the network or its weights differ from those of the cache.

    Examples
    --------
    >>> found = heads.similar(cache, rows=["valid/dark/02.png"], k=2, tap="features")
    >>> [(image.path, round(image.similarity, 4)) for image in found.found[0].images]
    [('train/dark/04.png', 0.9937), ('train/dark/00.png', 0.9934)]
    """
    from featurecache.cached_network import features_of

    if k < 1:
        raise ParameterError(f"k is {k}; expected at least 1")
    search = SimilaritySearch(cache, tap)
    own = [rows] if isinstance(rows, str) else list(rows)
    place_of = {path: row for row, path in enumerate(cache.paths.tolist())} if own else {}
    unknown = next((path for path in own if path not in place_of), None)
    if unknown is not None:
        folder, slash, _ = unknown.rpartition("/")  # names are compared with few paths: this takes 0.1 ms for each
        near = [path for path in place_of if path.startswith(folder + slash)] or list(place_of)
        raise UnknownNameError("row", unknown, near[:_COMPARED])
    given = [images] if isinstance(images, str | os.PathLike) else list(images)
    if not own and not given:
        raise ParameterError("nothing to compare; give image files, or paths of rows of the cache")
    found: list[SimilarTo] = []
    if own:
        queries = np.concatenate([cache.read(search.tap, place_of[path], 1) for path in own])
        for path, nearest in zip(own, search.nearest(queries, k + 1), strict=True):
            others = [image for image in nearest if image.path != path]
            found.append(SimilarTo(path, in_cache=True, images=tuple(others[:k])))
    failures: dict[str, Failure] = {}
    contents: dict[str, str] = {}
    if given:
        features, failures = features_of(cache, given, search.tap, **options)
        if not len(features) and not own:
            path, failure = next(iter(failures.items()))
            raise NoImagesError(
                f"none of the {len(failures)} images can be used; the first is {path}: {failure.reason}"
            )
        contents = dict(zip(features.paths.tolist(), features.sha256.tolist(), strict=True))
        nearest_of_all = search.nearest(np.asarray(features.X), k)
        for path, nearest in zip(features.paths.tolist(), nearest_of_all, strict=True):
            found.append(SimilarTo(path, in_cache=False, images=tuple(nearest)))
    return Similar(search.tap, int(np.count_nonzero(~cache.is_view)), tuple(found), failures, contents)

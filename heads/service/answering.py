"""From the bytes of images to features and to the answers of heads; knows nothing of HTTP."""

from __future__ import annotations

import hashlib
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featurecache.images.failures import Failure
from heads.evaluation import imagenet
from heads.predictor import ranked, row_answers
from heads.service.batching import UnusableFeaturesError, Work
from heads.service.content_cache import Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from featurecache.recipe import Recipe
    from heads.service.batching import Batcher
    from heads.service.content_cache import ContentCache, Rows
    from heads.service.models import ServedHead

NETWORK_TOP = 5
_HEAD_BYTES = 32_768  # could be read in the time that the smallest head takes


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image as a client sends it: its bytes, and its name if it has one."""

    data: bytes
    name: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ImageFeatures:
    """The features of one image.

    Parameters
    ----------
    name, sha256
        The image's name, None if it has none, and the digest of its bytes.
    rows
        Features of every served tap, shape (d,), in the data type of the cache.
    found
        Where they came from.
    passed
        Whether a forward pass was spent on this image for this request.
    """

    name: str | None
    sha256: str
    rows: Rows
    found: Found | Literal["network"]
    passed: bool


@dataclass(frozen=True, slots=True)
class UnusableImage:
    """An image without features, and why.

    Parameters
    ----------
    name, sha256
        As in `ImageFeatures`.
    code, reason
        For programs, and for people.
    """

    name: str | None
    sha256: str
    code: str
    reason: str


class PendingImages:
    """The images of one request on their way to their features.

    Parameters
    ----------
    images
        The images.
    content
        Where features are known. Memory is asked here; ask the other places, which are slower, with `look_further`.
    batcher
        What computes the others.
    """

    def __init__(self, images: Sequence[ImageFile], content: ContentCache, batcher: Batcher) -> None:
        self._names, self._content, self._batcher = [image.name for image in images], content, batcher
        self._digests = [hashlib.sha256(image.data).hexdigest() for image in images]
        self._known: dict[str, tuple[Rows, Found]] = {}
        self._submitted: dict[str, Work] = {}
        self._own: set[str] = set()
        self._missing: dict[str, bytes] = {}
        for digest, image in zip(self._digests, images, strict=True):
            if digest not in self._known and digest not in self._missing:
                rows = content.memory.get(digest)
                if rows is None:
                    self._missing[digest] = image.data
                else:
                    self._known[digest] = rows, "memory"

    def __len__(self) -> int:
        return len(self._names)

    @property
    def hits(self) -> dict[str, int]:
        """How many different contents were found in each place."""
        counts: dict[str, int] = {}
        for _, found in self._known.values():
            counts[found] = counts.get(found, 0) + 1
        return counts

    @property
    def unknown(self) -> int:
        """How many different contents are not known."""
        return len(self._missing)

    @property
    def is_known(self) -> bool:
        """Whether all features are known already."""
        return not self._missing

    def look_further(self) -> None:
        """Ask the cache and the file for what is not in memory."""
        for digest in list(self._missing):
            known = self._content.stored(digest)
            if known is not None:
                self._known[digest] = known
                del self._missing[digest]

    def submit(self) -> list[Work]:
        """Queue what is not known, and return the work to wait for; see `Batcher.submit`. Call `leave` afterwards."""
        for digest, taken in self._batcher.submit(self._missing).items():
            if isinstance(taken, Work):
                self._submitted[digest] = taken
            else:
                self._known[digest] = taken, "memory"
        self._missing = {}  # the batcher has the bytes, and drops them when they are decoded
        work = [*self._submitted.values()]
        self._own = {item.sha256 for item in work if item.callers == 1}
        return work

    def leave(self) -> None:
        """End the request: nothing is computed for it any more."""
        for item in self._submitted.values():
            self._batcher.leave(item)

    def results(self) -> list[ImageFeatures | UnusableImage]:
        """Return features or a reason for every image, in order; all work must be finished.

        Raises
        ------
        NotServingError
            If the network failed.
        """
        found: list[ImageFeatures | UnusableImage] = []
        counted: set[str] = set()
        for name, digest in zip(self._names, self._digests, strict=True):
            found.append(self._result(name, digest, own=digest in self._own - counted))
            counted.add(digest)
        return found

    def _result(self, name: str | None, sha256: str, *, own: bool) -> ImageFeatures | UnusableImage:
        if sha256 in self._known:
            rows, found = self._known[sha256]
            return ImageFeatures(name, sha256, rows, found, passed=False)
        try:
            result = self._submitted[sha256].future.result(timeout=0)
        except UnusableFeaturesError as e:
            return UnusableImage(name, sha256, "not_finite", str(e))
        except CancelledError as e:
            raise TimeoutError from e
        if isinstance(result, Failure):
            return UnusableImage(name, sha256, result.code, result.reason)
        return ImageFeatures(name, sha256, result, "network", passed=own)


def work_of(heads: Iterable[ServedHead], images: int) -> int:
    """Return how much work the answers of heads for images are, in bytes that are read."""
    return images * sum(_HEAD_BYTES + sum(array.nbytes for array in one.head.model.arrays.values()) for one in heads)


def head_answer(served: ServedHead, rows: Rows, top: int | None) -> dict[str, Any]:
    """Return version, class and probabilities of one head for one image, ready for JSON."""
    head = served.head
    probabilities = row_answers(head, rows[head.tap][np.newaxis])[0]
    best = ranked(head.classes, probabilities, top)
    return {"version": served.version, "class": next(iter(best)), "probabilities": best}


def predictions(
    results: Iterable[ImageFeatures | UnusableImage],
    heads: Mapping[str, ServedHead],
    recipe: Recipe,
    *,
    top: int | None = None,
) -> list[dict[str, Any]]:
    """Return the answers of heads for images, ready for JSON; an unusable image has an error instead.

    Parameters
    ----------
    results
        The images.
    heads
        The heads that answer.
    recipe
        The recipe of the features.
    top
        Only so many classes of each head, the most probable ones.
    """
    names_of_network = sees_imagenet(recipe)
    return [
        unusable(image)
        if isinstance(image, UnusableImage)
        else found(image)
        | {
            "heads": {name: head_answer(head, image.rows, top) for name, head in heads.items()},
            "network": network_answer(image.rows) if names_of_network else None,
        }
        for image in results
    ]


def found(image: ImageFeatures) -> dict[str, Any]:
    """Return what every answer says of an image, ready for JSON."""
    return {"name": image.name, "sha256": image.sha256, "found": image.found, "pass": image.passed}


def unusable(image: UnusableImage) -> dict[str, Any]:
    """Return an image without features, ready for JSON."""
    return {"name": image.name, "sha256": image.sha256, "error": {"code": image.code, "message": image.reason}}


def sees_imagenet(recipe: Recipe) -> bool:
    """Whether the features hold the predictions of a network that was trained on ImageNet."""
    return recipe.taps.get(imagenet.TAP) == len(imagenet.names()) and not recipe.weights.startswith("random:")


def network_answer(rows: Rows) -> dict[str, float]:
    """Return the ImageNet classes that the network itself finds likeliest, the likeliest first."""
    return ranked(imagenet.names(), rows[imagenet.TAP].astype(np.float64), NETWORK_TOP)

"""Keeps a network and its heads started, to predict images again and again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurecache.errors import UnknownNameError
from featurecache.images.decode import DecodeRules, decode, fit_pixels
from featurecache.images.failures import Failure
from featurecache.images.sources import read_named_file
from featurecache.named_backbone import as_stored, network_of, recipe_of, source_of
from featurecache.options import RunOptions, check_without_words
from featurecache.prefetch import ahead
from featurecache.processors import processor_count
from heads.artifact import TrainedHead
from heads.errors import HeadError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from featurecache.backbones.protocol import Backbone

_IMAGE_DIMENSIONS = 3  # height, width, channels

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.uint8]


def ranked(classes: Sequence[str], probabilities: NDArray[np.float64], top: int | None = None) -> dict[str, float]:
    """Map classes to ``probabilities``, shape (k,), the most probable first; only ``top`` of them if given.

    Equally probable classes keep their order.
    """
    best = np.argsort(-probabilities, kind="stable")[:top]
    return {classes[index]: float(probabilities[index]) for index in best}


@dataclass(frozen=True, slots=True, eq=False)
class ImagePrediction:
    """The predictions of all heads of a `Predictor` for one image.

    Parameters
    ----------
    probabilities
        Maps the name of each head to its probabilities, shape (k,), float64, in the order of its classes.
    classes
        Maps the name of each head to its k classes.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> with heads.Predictor(head, backbone=FakeBackbone()) as predictor:
    ...     [prediction] = predictor.predict([images / 'valid' / 'light' / '05.png'])
    >>> prediction.best()
    'light'
    """

    probabilities: Mapping[str, NDArray[np.float64]]
    classes: Mapping[str, tuple[str, ...]]

    def best(self, head: str | None = None) -> str:
        """Return the most probable class of a head; the name is optional if there is only one."""
        return next(iter(self.ranked(head, 1)))

    def ranked(self, head: str | None = None, top: int | None = None) -> dict[str, float]:
        """Map the classes of a head to their probabilities, the most probable first.

        Raises
        ------
        UnknownNameError
            If there is no head of this name.
        HeadError
            If no name is given, and there are several heads.
        """
        name = _only(self.classes) if head is None else head
        if name not in self.classes:
            raise UnknownNameError("head", name, self.classes)
        return ranked(self.classes[name], self.probabilities[name], top)

    def to_dict(self, top: int | None = None) -> dict[str, dict[str, float]]:
        """Return the `ranked` classes of each head, ready for JSON."""
        return {name: self.ranked(name, top) for name in self.classes}


class Predictor:
    """A network and its heads, started once and used many times.

    An image passes through the network once, however many heads there are. The network starts when the first image
    needs it; call `start` to start it earlier. Threads may use one predictor at the same time: they decode images
    concurrently and take turns at the network.

    The features of an image do not depend on the other images of its batch, for engines that promise this (see
    `Backbone.forward`), and heads compute each image by itself: an image gets the same bits alone and in company.

    Parameters
    ----------
    heads
        A trained head, a mapping of names to heads, or a sequence of heads, which get the names of their families
        (``svm``, ``svm-2``, …). Their recipes may differ in the taps only.
    backbone
        The backbone itself, if it is not in the catalogue.
    weights
        The network's weights, if they have moved since the extraction.
    batch_size
        Images per forward pass; the engine's default if None.
    workers
        Threads that read and decode images, per call; one per processor if None.
    device, engine
        As in `featurecache.extract`.
    max_pixels
        A larger image is a failure; the limit of the extraction that the heads come from if None.
    notify
        Called with one-line status messages for the user.

    Raises
    ------
    MismatchError
        If the heads have different recipes, or another network or other weights; the message names the field.
    HeadError
        If there is no head.
    UnknownNameError, OptionError
        If an option is out of its range.
    WeightsError, DeviceError, EngineError
        If the network is not available.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from PIL import Image
    >>> import featurecache, heads
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> with TemporaryDirectory() as folder:
    ...     for number in range(8):
    ...         path = Path(folder, "images", ("dark", "light")[number % 2], f"{number}.png")
    ...         path.parent.mkdir(parents=True, exist_ok=True)
    ...         Image.new("L", (40, 40), 20 * number + 100 * (number % 2)).save(path)
    ...     cache = featurecache.extract(Path(folder, "images"), Path(folder, "c.h5"), backbone=FakeBackbone())
    ...     head = heads.train(cache, "centroid", tap="features", holdout=0)
    >>> white = np.full((60, 40, 3), 255, np.uint8)
    >>> with heads.Predictor(head, backbone=FakeBackbone()) as predictor:
    ...     good, bad = predictor.predict([white, b"not an image"])
    >>> good.best()
    'light'
    >>> bad.code
    'not_an_image'
    """

    def __init__(
        self,
        heads: TrainedHead | Mapping[str, TrainedHead] | Sequence[TrainedHead],
        *,
        backbone: Backbone | None = None,
        weights: str | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        device: str = "auto",
        engine: str = "auto",
        max_pixels: int | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        check_without_words(RunOptions, batch_size=batch_size, workers=workers, device=device, engine=engine)
        self.heads: Mapping[str, TrainedHead] = MappingProxyType(_named(heads))
        _require_one_recipe(self.heads)
        first = next(iter(self.heads.values()))
        recipe = first.recipe
        limit = max(head.max_pixels for head in self.heads.values()) if max_pixels is None else max_pixels
        self.rules = DecodeRules(recipe.input_size, recipe.resize, recipe.filter, limit)
        self._source = source_of(
            backbone or network_of(recipe),
            weights or first.weights_source,
            taps=sorted({head.tap for head in self.heads.values()}),
            device=device,
            precision=recipe.precision,
            engine=engine,
            notify=notify,
        )
        found = recipe_of(self._source.spec, self.rules, recipe.dtype)
        for head in self.heads.values():
            head.check_recipe(found, head.tap)
        self.batch_size = batch_size or self._source.batch_size
        self._workers = workers or processor_count()
        self._classes = MappingProxyType({name: head.classes for name, head in self.heads.items()})
        self._network: Backbone | None = None
        self._closed = False
        self._lock = Lock()

    @classmethod
    def load(cls, directories: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], **options: Any) -> Self:
        """Load heads from their directories, whose names become the names of the heads.

        Parameters
        ----------
        directories
            One directory or several.
        options
            The options of `Predictor`.

        Raises
        ------
        ArtifactError
            If a directory holds no head, or a damaged one.
        """
        paths = [directories] if isinstance(directories, str | os.PathLike) else list(directories)
        return cls(_distinct((Path(path).resolve().name, TrainedHead.load(path)) for path in paths), **options)

    def start(self) -> None:
        """Start the network now, if it has not been started yet."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """Release the network; a closed predictor cannot predict."""
        with self._lock:
            self._network, self._closed = None, True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> list[ImagePrediction | Failure]:
        """Return a prediction or a failure for each image, in the given order.

        Parameters
        ----------
        images
            One image or several: paths of files, contents of files as ``bytes``, or pixels as RGB uint8 arrays
            (height, width, 3) of any size, which are resized by the recipe's rule. About ``2 * batch_size`` decoded
            images are in memory.

        Raises
        ------
        HeadError
            If the predictor is closed.
        MismatchError
            If a head predicts no class; see `heads.predict_labels` and `heads.predict_numbers`.
        """
        if self._closed:
            raise HeadError("the predictor is closed; make a new one")
        for head in self.heads.values():
            head.require_target("class", "Predictor.predict")
        results: list[ImagePrediction | Failure | None] = []
        batch: list[tuple[int, NDArray[np.uint8]]] = []
        with closing(
            ahead(self._pixels, _listed(images), workers=self._workers, window=2 * self.batch_size)
        ) as decoded:
            for position, pixels in enumerate(decoded):
                results.append(pixels if isinstance(pixels, Failure) else None)
                if not isinstance(pixels, Failure):
                    batch.append((position, pixels))
                if len(batch) == self.batch_size:
                    self._fill(results, batch)
                    batch.clear()
        if batch:
            self._fill(results, batch)
        return [result for result in results if result is not None]

    def probabilities(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        """Return the probabilities of each head for decoded images, with one forward pass.

        Parameters
        ----------
        pixels
            RGB, shape (n, height, width, 3), uint8, decoded by `Predictor.rules`.

        Returns
        -------
        dict
            Maps the name of each head to its probabilities, shape (n, k), float64; of a number, to the number, (n, 1).

        Raises
        ------
        ValueError
            If the images have another dtype or shape.
        RecipeError
            If features are not finite.
        HeadError
            If the predictor is closed.
        """
        with self._lock:
            features = self._started().forward(pixels)
        return {
            name: row_answers(head, as_stored(features, head.tap, head.recipe)) for name, head in self.heads.items()
        }

    def _started(self) -> Backbone:
        """Return the started network; the caller holds the lock."""
        if self._closed:
            raise HeadError("the predictor is closed; make a new one")
        if self._network is None:
            self._network = self._source.start(self.batch_size, self.batch_size)
        return self._network

    def _pixels(self, image: ImageLike) -> NDArray[np.uint8] | Failure:
        """Return the network's input for an image, shape (height, width, 3), or a failure."""
        if isinstance(image, np.ndarray):
            return fit_pixels(image, self.rules)
        if isinstance(image, bytes):
            return decode(image, self.rules)
        content = read_named_file(image, max_bytes=self.rules.max_bytes)
        return content if isinstance(content, Failure) else decode(content.data, self.rules, frame=content.frame)

    def _fill(
        self, results: list[ImagePrediction | Failure | None], batch: Sequence[tuple[int, NDArray[np.uint8]]]
    ) -> None:
        """Compute the predictions of a batch and put them into ``results``."""
        positions, pixels = zip(*batch, strict=True)
        probabilities = self.probabilities(np.stack(pixels))
        for row, position in enumerate(positions):
            rows = {name: values[row] for name, values in probabilities.items()}
            results[position] = ImagePrediction(rows, self._classes)


def _listed(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """Return the images as an iterable, also if there is one image."""
    if isinstance(images, np.ndarray):
        return [images] if images.ndim == _IMAGE_DIMENSIONS else images
    return [images] if isinstance(images, str | os.PathLike | bytes) else images


def row_answers(head: TrainedHead, rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the probabilities of a head, shape (n, k), for features as a cache stores them, shape (n, d).

    Of a head of numbers it is the number, shape (n, 1).

    Each row is computed by itself: rounding in a matrix product depends on the number of rows, so the bits of an
    answer would depend on its company otherwise.
    """
    rows = rows.astype(np.float32, copy=False)
    answers = np.empty((len(rows), len(head.classes) or 1))
    for number in range(len(rows)):
        row = rows[number : number + 1]
        answers[number] = head.predict_numbers(row) if head.target == "number" else head.predict_proba(row)[0]
    return answers


def _only(names: Iterable[str]) -> str:
    first, *others = names
    if others:
        raise HeadError(f"there are the heads {', '.join([first, *others])}; name one of them")
    return first


def _named(heads: TrainedHead | Mapping[str, TrainedHead] | Sequence[TrainedHead]) -> dict[str, TrainedHead]:
    """Return heads by name."""
    if isinstance(heads, TrainedHead):
        heads = [heads]
    named = dict(heads) if isinstance(heads, Mapping) else _distinct((head.name, head) for head in heads)
    if not named:
        raise HeadError("there is no head to predict with; give at least one")
    return named


def _distinct(heads: Iterable[tuple[str, TrainedHead]]) -> dict[str, TrainedHead]:
    """Return heads by name; add a number to a name that is taken."""
    named: dict[str, TrainedHead] = {}
    for name, head in heads:
        free = next(candidate for candidate in _numbered(name) if candidate not in named)
        named[free] = head
    return named


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def _require_one_recipe(heads: Mapping[str, TrainedHead]) -> None:
    """Raise `MismatchError`, naming the fields, unless the recipes agree in everything but the taps."""
    (name, first), *others = heads.items()
    for other_name, other in others:
        fields = [item for item in first.recipe.differences(other.recipe) if item.field != "taps"]
        if other.tap == first.tap and other.model.width != first.model.width:
            fields += [item for item in first.recipe.differences(other.recipe) if item.field == "taps"]
        if fields:
            found = "; ".join(
                f"{item.field}: {name} has {item.ours!r}, {other_name} {item.theirs!r}" for item in fields
            )
            raise MismatchError(f"the heads have different recipes: {found}; start a predictor for each recipe")

"""The use case ``predict``: classifies image files with a `Predictor`, and returns a predictions table."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np

from featurecache.errors import NoImagesError
from featurecache.images.batches import image_batches
from featurecache.images.decode import dark_images
from featurecache.images.manifest import Manifest, from_files
from featurecache.images.names import shown_names
from heads.evaluation.label_predictions import LabelPredictionsTable
from heads.evaluation.number_predictions import NumberPredictionsTable
from heads.evaluation.predictions import PredictionsTable
from heads.notices import Notice, to_dicts
from heads.predictor import Predictor, ranked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from featurecache.backbones.protocol import Backbone
    from featurecache.images.failures import Failure
    from heads.artifact import TrainedHead


Images: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Manifest"
"""A file or folder, several of them, or a manifest."""


Table = TypeVar("Table", PredictionsTable, LabelPredictionsTable, NumberPredictionsTable)


@dataclass(frozen=True, slots=True, eq=False)
class _Answers(Generic[Table]):
    """What a head predicts for image files, of any target: its table, and what was not predicted."""

    table: Table
    failures: Mapping[str, Failure]
    warnings: tuple[Notice, ...] = ()

    def _with_failures(self, predictions: dict[str, Any]) -> dict[str, Any]:
        """Return predictions, ready for JSON, with failures and warnings."""
        return predictions | {
            "failures": [{"path": path} | failure.to_dict() for path, failure in self.failures.items()],
            "warnings": to_dicts(self.warnings),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Prediction(_Answers[PredictionsTable]):
    """The predictions of a head for image files.

    Parameters
    ----------
    table
        One row per usable image, in the given order.
    failures
        Maps the path of each other image to its failure.
    warnings
        Warnings about images.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> prediction = heads.predict(head, [images / "valid" / "dark"], backbone=FakeBackbone())
    >>> [next(iter(ranked)) for ranked in prediction.ranked(top=1)]
    ['dark', 'dark', 'dark', 'dark', 'dark', 'dark', 'dark', 'dark']
    """

    def ranked(self, top: int | None = None) -> Iterator[dict[str, float]]:
        """Yield for each row a mapping of classes to probabilities, the most probable first.

        Parameters
        ----------
        top
            The number of classes per image, at least 1; all if None.
        """
        classes = self.table.classes
        for row in self.table.probabilities:
            yield ranked(classes, row, top)

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Return everything, ready for JSON, with all classes or the ``top`` most probable ones per image."""
        classes = self.table.classes
        if top is None:
            probabilities = [dict(zip(classes, row, strict=True)) for row in self.table.probabilities.tolist()]
        else:
            probabilities = list(self.ranked(top))
        predictions = [
            {"path": path, "class": classes[index], "probabilities": values}
            for path, index, values in zip(self.table.paths, self.table.predicted, probabilities, strict=True)
        ]
        return self._with_failures({"classes": list(classes), "predictions": predictions})


@dataclass(frozen=True, slots=True, eq=False)
class LabelsPrediction(_Answers[LabelPredictionsTable]):
    """The labels of image files; the fields are those of `Prediction`."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        table = self.table
        predictions = [
            {
                "path": path,
                "labels": list(table.names(row)),
                "probabilities": dict(zip(table.labels, table.probabilities[row].tolist(), strict=True)),
            }
            for row, path in enumerate(table.paths.tolist())
        ]
        thresholds = dict(zip(table.labels, table.thresholds.tolist(), strict=True))
        return self._with_failures({"labels": list(table.labels), "thresholds": thresholds, "predictions": predictions})


@dataclass(frozen=True, slots=True, eq=False)
class NumbersPrediction(_Answers[NumberPredictionsTable]):
    """The numbers of image files; the fields are those of `Prediction`."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        pairs = zip(self.table.paths.tolist(), self.table.predicted.tolist(), strict=True)
        predictions = [{"path": path, "number": number} for path, number in pairs]
        return self._with_failures({"predictions": predictions})


def predict(
    head: TrainedHead,
    images: Images,
    *,
    backbone: Backbone | None = None,
    weights: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    engine: str = "auto",
    max_pixels: int | None = None,
    progress: Callable[[int, int], object] = lambda *_: None,
    notify: Callable[[str], None] = lambda _: None,
) -> Prediction:
    """Classify image files, and all images in folders.

    Parameters
    ----------
    head
        A trained head; its recipe determines the decoding and the network.
    images
        A file or folder, several of them, or a manifest of any source (see `featurecache.from_source`).
    backbone
        The backbone itself, if it is not in the catalogue.
    weights
        The network's weights, if they have moved since the extraction.
    batch_size
        Images per forward pass; the engine's default if None.
    workers, device, engine
        As in `featurecache.extract`.
    max_pixels
        A larger image is a failure; the limit of the extraction that the head comes from if None.
    progress
        Called after every batch with the number of images that are done, and of all.
    notify
        Called with one-line status messages for the user.

    Raises
    ------
    NoImagesError
        If there are no images, or none that can be used.
    MismatchError
        If the network or its weights differ from those of the head, or the head predicts no class (see
        `predict_labels` and `predict_numbers`).
    UnknownNameError, OptionError
        If an option is out of its range.
    WeightsError, DeviceError, EngineError
        If the network is not available.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> prediction = heads.predict(head, [images / "valid"], backbone=FakeBackbone())
    >>> len(prediction.table), prediction.failures
    (16, {})
    """
    head.require_target("class", "predict")
    paths, values, failures, warnings = _predicted(
        head,
        images,
        backbone=backbone,
        weights=weights,
        batch_size=batch_size,
        workers=workers,
        device=device,
        engine=engine,
        max_pixels=max_pixels,
        progress=progress,
        notify=notify,
    )
    unknown = np.full(len(paths), -1, np.int64)
    table = PredictionsTable(paths, _no_splits(paths), unknown, values, head.classes)
    return Prediction(table, failures, warnings)


def predict_labels(head: TrainedHead, images: Images, **options: Any) -> LabelsPrediction:
    """Find the labels of image files, and of all images in folders, with a head of several labels.

    Parameters
    ----------
    head
        A trained head of the target ``"labels"``.
    images, options
        As in `predict`, also for errors.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> tagged = cache.with_labels({"train/dark/00.png": "dark|first"})
    >>> tagger = heads.train(tagged, "centroid", tap="features", target="labels")
    >>> found = heads.predict_labels(tagger, images / "valid" / "light", backbone=FakeBackbone())
    >>> found.table.names(0)
    ('light',)
    """
    head.require_target("labels", "predict_labels")
    paths, values, failures, warnings = _predicted(head, images, **options)
    unknown, thresholds = np.full(values.shape, -1, np.int8), np.array(head.thresholds)
    table = LabelPredictionsTable(paths, _no_splits(paths), unknown, values, thresholds, head.classes)
    return LabelsPrediction(table, failures, warnings)


def predict_numbers(head: TrainedHead, images: Images, **options: Any) -> NumbersPrediction:
    """Predict the number of image files, and of all images in folders, with a head of numbers.

    Parameters
    ----------
    head
        A trained head of the target ``"number"``.
    images, options
        As in `predict`, also for errors.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> measured = cache.with_labels({path: str(int(path[-6:-4])) for path in cache.paths})
    >>> counter = heads.train(measured, "ridge", tap="features", target="number")
    >>> found = heads.predict_numbers(counter, images / "valid", backbone=FakeBackbone())
    >>> len(found.table)
    16
    """
    head.require_target("number", "predict_numbers")
    paths, values, failures, warnings = _predicted(head, images, **options)
    table = NumberPredictionsTable(paths, _no_splits(paths), np.full(len(paths), np.nan), values[:, 0])
    return NumbersPrediction(table, failures, warnings)


def _no_splits(paths: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return the split of each image, shape (n,): none."""
    return np.full(len(paths), "", dtype=object)


def _predicted(
    head: TrainedHead,
    images: Images,
    *,
    progress: Callable[[int, int], object] = lambda *_: None,
    workers: int | None = None,
    **options: Any,
) -> tuple[NDArray[np.object_], NDArray[np.float64], Mapping[str, Failure], tuple[Notice, ...]]:
    """Pass images through the network and a head: paths (n,), values (n, k), failures by path, warnings."""
    if isinstance(images, str | os.PathLike):
        images = [images]
    manifest = images if isinstance(images, Manifest) else from_files([Path(path) for path in images])
    predictor = Predictor(
        {head.name: head},
        workers=workers,
        **options,
    )
    failures: dict[str, Failure] = {}
    dark: list[str] = []
    batches = image_batches(
        manifest.entries,
        manifest.source,
        predictor.rules,
        batch_size=predictor.batch_size,
        failures=failures,
        on_dark=dark.append,
        workers=workers,
    )
    paths: list[str] = []
    rows: list[NDArray[np.float64]] = []
    with closing(batches), predictor:
        for batch in batches:
            rows.append(predictor.probabilities(batch.pixels)[head.name])
            paths += [entry.path for entry in batch.entries]
            progress(len(paths) + len(failures), len(manifest))
    names = [*paths, *failures]
    shown = dict(zip(names, shown_names(names), strict=True))
    failures = {shown[path]: failure for path, failure in failures.items()}
    if not paths:
        path, failure = next(iter(failures.items()))
        raise NoImagesError(f"none of the {len(failures)} images can be used; the first is {path}: {failure.reason}")
    found = np.array([shown[path] for path in paths], dtype=object)
    return found, np.concatenate(rows), failures, dark_images(dark)

"""The use case: from image files to what a head says about them, by the recipe that the head was trained with."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.batches import image_batches
from featurecache.decode import DecodeRules
from featurecache.errors import NoImagesError
from featurecache.manifest import from_files
from featurecache.source import as_stored, recipe_of, source_of
from heads.table import PredictionsTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featurecache.backbones.protocol import Backbone
    from featurecache.batches import ImageBatch
    from featurecache.manifest import ImageEntry
    from heads.artifact import TrainedHead


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a head says about image files.

    Parameters
    ----------
    table
        A row for each image that could be used, in the order given.
    failures
        Path of every other image, to the reason.
    """

    table: PredictionsTable
    failures: Mapping[str, str]

    def ranked(self, top: int | None = None) -> Iterator[dict[str, float]]:
        """Yield, for each row of the table, classes to their probabilities, the most probable first.

        Parameters
        ----------
        top
            How many classes of each image, at least 1; all if not given.
        """
        classes = self.table.classes
        for row in self.table.probabilities:
            best = np.argsort(-row, kind="stable")[:top]  # of equal ones the first, as in the table
            yield {classes[index]: float(row[index]) for index in best}

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Return everything, ready for JSON; of each image only the ``top`` most probable classes, if given."""
        classes = self.table.classes
        if top is None:
            probabilities = [dict(zip(classes, row, strict=True)) for row in self.table.probabilities.tolist()]
        else:
            probabilities = list(self.ranked(top))
        return {
            "classes": list(classes),
            "predictions": [
                {"path": path, "class": classes[index], "probabilities": values}
                for path, index, values in zip(self.table.paths, self.table.predicted, probabilities, strict=True)
            ],
            "failures": [{"path": path, "reason": reason} for path, reason in self.failures.items()],
        }


def predict(
    head: TrainedHead,
    images: Sequence[Path],
    *,
    backbone: Backbone | None = None,
    weights: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    engine: str = "auto",
    notify: Callable[[str], None] = lambda _: None,
) -> Prediction:
    """Classify image files, and all images in folders.

    Parameters
    ----------
    head
        A trained head; its recipe says how images are decoded and which network they go through.
    images
        Files and folders.
    backbone
        The network itself, if it is none of the catalogue.
    weights
        Where the network's weights are, if they are no longer where the extraction found them.
    batch_size
        Images in a forward pass; the engine's own number if not given.
    workers, device, engine
        As in `featurecache.extract`.
    notify
        Is told in one line what a person might want to know.

    Raises
    ------
    NoImagesError
        If there is no image, or none that can be used.
    MismatchError
        If the network or its weights are not those that the head was trained with.
    WeightsError, DeviceError, EngineError
        If the network cannot be had.
    """
    manifest = from_files(images)
    recipe = head.recipe
    source = source_of(
        backbone or recipe.backbone,
        weights or head.weights_source,
        taps=(head.tap,),
        device=device,
        precision=recipe.precision,
        engine=engine,
        notify=notify,
    )
    rules = DecodeRules(recipe.input_size, recipe.resize, recipe.filter)
    head.check_recipe(recipe_of(source.spec, rules, recipe.dtype), head.tap)
    failures: dict[ImageEntry, str] = {}
    size = batch_size or source.batch_size
    batches = image_batches(manifest.entries, manifest.file, rules, batch_size=size, failures=failures, workers=workers)
    with closing(batches):
        paths, probabilities = _probabilities(head, partial(source.start, size, len(manifest.entries)), batches)
    if not paths:
        entry, reason = next(iter(failures.items()))
        raise NoImagesError(f"none of the {len(failures)} images can be used; the first is {entry.path}: {reason}")
    nothing = np.full(len(paths), "", dtype=object)
    unlabelled = np.full(len(paths), -1, dtype=np.int64)
    table = PredictionsTable(np.array(paths, dtype=object), nothing, unlabelled, probabilities, head.classes)
    return Prediction(table, {entry.path: reason for entry, reason in failures.items()})


def _probabilities(
    head: TrainedHead, start: Callable[[], Backbone], batches: Iterable[ImageBatch[ImageEntry]]
) -> tuple[list[str], NDArray[np.float64]]:
    """Return the paths and the probabilities, shape (n, k), of all images; the network starts if there is one."""
    network: Backbone | None = None
    paths: list[str] = []
    rows: list[NDArray[np.float64]] = [np.empty((0, len(head.classes)))]
    for batch in batches:
        network = network or start()
        features = as_stored(network.forward(batch.pixels), head.tap, head.recipe)
        rows.append(head.predict_proba(features.astype(np.float32, copy=False)))
        paths += [entry.path for entry in batch.items]
    return paths, np.concatenate(rows)

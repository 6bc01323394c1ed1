"""The use case: from image files to what a head says about them, by the recipe that the head was trained with."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.ahead import ahead
from featurecache.decode import DecodeRules, Failure, decode, read_file
from featurecache.errors import NoImagesError
from featurecache.manifest import from_files
from featurecache.source import as_stored, recipe_of, source_of
from heads.evaluation import PredictionsTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from featurecache.backbones.protocol import Backbone
    from featurecache.manifest import ImageEntry, Manifest
    from featurecache.source import Source
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

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        classes = self.table.classes
        rows = zip(self.table.paths, self.table.predicted, self.table.probabilities.tolist(), strict=True)
        return {
            "classes": list(classes),
            "predictions": [
                {"path": path, "class": classes[index], "probabilities": dict(zip(classes, values, strict=True))}
                for path, index, values in rows
            ],
            "failures": [{"path": path, "reason": reason} for path, reason in self.failures.items()],
        }


def predict(
    head: TrainedHead,
    images: Sequence[Path],
    *,
    backbone: Backbone | None = None,
    weights: str | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    device: str = "auto",
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
    batch_size, workers, device
        As in `featurecache.extract`.
    notify
        Is told in one line what a person might want to know.

    Raises
    ------
    NoImagesError
        If there is no image, or none that can be used.
    MismatchError
        If the network or its weights are not those that the head was trained with.
    WeightsError, DeviceError
        If the network cannot be had.
    """
    manifest = from_files(images)
    recipe = head.recipe
    source = source_of(
        backbone or recipe.backbone,
        weights or head.weights_source,
        taps=(head.tap,),
        batch_size=batch_size,
        device=device,
        precision=recipe.precision,
        notify=notify,
    )
    rules = DecodeRules(recipe.input_size, recipe.resize, recipe.filter)
    head.check_recipe(recipe_of(source.spec, rules, recipe.dtype), head.tap)
    failures: dict[str, str] = {}
    images_of = _decoded(manifest, rules, failures, window=2 * batch_size, workers=workers)
    paths, probabilities = _probabilities(head, source, images_of, batch_size)
    if not paths:
        path, reason = next(iter(failures.items()))
        raise NoImagesError(f"none of the {len(failures)} images can be used; the first is {path}: {reason}")
    nothing = np.full(len(paths), "", dtype=object)
    unlabelled = np.full(len(paths), -1, dtype=np.int64)
    table = PredictionsTable(np.array(paths, dtype=object), nothing, unlabelled, probabilities, head.classes)
    return Prediction(table, failures)


def _decoded(
    manifest: Manifest, rules: DecodeRules, failures: dict[str, str], *, window: int, workers: int | None
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield path and pixels of every image that can be used, in order; the others go to ``failures``."""

    def look(entry: ImageEntry) -> tuple[str, NDArray[np.uint8] | Failure]:
        read = read_file(manifest.file(entry), max_bytes=rules.max_bytes)
        return entry.path, read if isinstance(read, Failure) else decode(read.data, rules)

    threads = workers or len(os.sched_getaffinity(0))
    with closing(ahead(look, manifest.entries, workers=threads, window=window)) as results:
        for path, pixels in results:
            if isinstance(pixels, Failure):
                failures[path] = pixels.reason
            else:
                yield path, pixels


def _probabilities(
    head: TrainedHead, source: Source, images: Iterator[tuple[str, NDArray[np.uint8]]], batch_size: int
) -> tuple[list[str], NDArray[np.float64]]:
    """Return the paths and the probabilities, shape (n, k), of all images; the network starts if there is one."""
    network: Backbone | None = None
    paths: list[str] = []
    rows: list[NDArray[np.float64]] = [np.empty((0, len(head.classes)))]
    batch: list[NDArray[np.uint8]] = []

    def forward() -> None:
        nonlocal network
        network = network or source.start()
        features = as_stored(network.forward(np.stack(batch)), head.tap, head.recipe)
        rows.append(head.predict_proba(features.astype(np.float32, copy=False)))
        batch.clear()

    for path, pixels in images:
        paths.append(path)
        batch.append(pixels)
        if len(batch) == batch_size:
            forward()
    if batch:
        forward()
    return paths, np.concatenate(rows)

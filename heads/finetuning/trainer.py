"""Trains a Keras model that classifies images, on image files, epoch by epoch."""

from __future__ import annotations

import math
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.backbones.keras_runtime import load_keras
from featurecache.errors import NoImagesError
from featurecache.images.batches import image_batches
from featurecache.images.sources import example_of
from heads.epochs import Epoch
from heads.errors import TrainingError
from heads.rows import loss_and_accuracy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from featurecache.images.batches import ImageBatch
    from featurecache.images.decode import DecodeRules
    from featurecache.images.failures import Failure
    from featurecache.images.manifest import ImageEntry, Manifest
    from heads.parameters import Value

OPTIMIZERS = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}
"""Maps the names of optimizers to Keras's class names."""

_WORST = -math.log(np.finfo(np.float64).eps)  # the loss if the true class has probability 0


class Trainer:
    """Trains the trainable weights of a model, with Keras's own steps.

    Parameters
    ----------
    model
        A model from images to probabilities; its last layer, ``probabilities``, is a softmax.
    manifest, rules
        The images with their source, and the decode rules.
    settings
        ``lr``, ``batch_size`` and ``optimizer``; other settings of the optimizer are Keras's defaults.
    workers
        Threads that read and decode images; one per processor if None.

    Attributes
    ----------
    failures : dict
        Maps the path of each unusable image to its failure.
    dark : set
        Paths of images that are nearly black; see `featurecache.images.decode.decode`.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - a keras.Model
        manifest: Manifest,
        rules: DecodeRules,
        settings: Mapping[str, Value],
        workers: int | None,
    ) -> None:
        keras = load_keras()
        self.failures: dict[str, Failure] = {}
        self.dark: set[str] = set()
        self._manifest, self._rules, self._workers = manifest, rules, workers
        self._batch_size, self._lr = int(settings["batch_size"]), float(settings["lr"])
        self._model = model
        self._passed = 0
        self._report: Callable[[int], object] = lambda _: None
        self._scores = keras.Model(model.input, model.get_layer("probabilities").input)
        self._scores.compile(
            optimizer=getattr(keras.optimizers, OPTIMIZERS[str(settings["optimizer"])])(self._lr),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        )

    def train(
        self,
        train: Sequence[ImageEntry],
        valid: Sequence[ImageEntry],
        *,
        epochs: int,
        seed: int,
        on_epoch: Callable[[Epoch], object] = lambda _: None,
        progress: Callable[[int, int], object] = lambda *_: None,
    ) -> list[Epoch]:
        """Train, and return the record of each epoch, beginning with epoch 0, the start.

        ``progress`` is called after every batch with the number of images that were passed in all epochs, and of all.

        `Epoch` defines loss and accuracy; in epoch 0 all images are measured with the same weights. The seed
        determines the order of the images.

        Raises
        ------
        NoImagesError
            If no training image can be used.
        TrainingError
            If the training diverged.
        """
        count = len(train) + len(valid)
        self._passed, self._report = 0, lambda done: progress(done, (epochs + 1) * (count - len(self.failures)))
        start = self._measured(train)
        if start is None:
            raise self._none_usable(train)
        records = [Epoch(0, *start, *(self._measured(valid) or (None, None)))]
        on_epoch(records[0])
        for epoch in range(1, epochs + 1):
            usable = [entry for entry in train if entry.path not in self.failures]
            order = np.random.default_rng([seed, epoch]).permutation(len(usable))
            trained = self._trained([usable[place] for place in order], epoch)
            records.append(Epoch(epoch, *trained, *(self._measured(valid) or (None, None))))
            on_epoch(records[-1])
        return records

    def _trained(self, entries: Sequence[ImageEntry], epoch: int) -> tuple[float, float]:
        """Take a step on every batch; return mean loss and accuracy, each batch measured with its step."""
        last: list[ImageBatch] = []

        def step(batch: ImageBatch) -> tuple[float, float]:
            last[:] = [batch]
            self._scores.reset_metrics()
            loss, accuracy = self._scores.train_on_batch(batch.pixels, _labels(batch))
            if not math.isfinite(loss):
                raise self._diverged(epoch, loss)
            return loss, accuracy

        means = self._means(entries, step)
        if means is None:
            raise self._none_usable(entries)
        self._scores.reset_metrics()
        after, _ = self._scores.test_on_batch(last[0].pixels, _labels(last[0]))  # after the last step
        for loss in (means[0], after):
            if not loss <= _WORST:
                raise self._diverged(epoch, loss)
        return means

    def _diverged(self, epoch: int, loss: float) -> TrainingError:
        return TrainingError(
            f"the training diverged in epoch {epoch} with lr={self._lr:g}: the loss is {loss:.3g}; nothing was saved, "
            "choose a lower -p lr"
        )

    def _none_usable(self, entries: Sequence[ImageEntry]) -> NoImagesError:
        path, failure = next(iter(self.failures.items()))
        return NoImagesError(
            f"none of the {len(entries)} training images can be used ({failure.reason}); "
            f"{example_of(self._manifest.source, path)}"
        )

    def _measured(self, entries: Sequence[ImageEntry]) -> tuple[float, float] | None:
        """Return mean loss and accuracy of images with the current weights; None without images."""

        def measure(batch: ImageBatch) -> tuple[float, float]:
            probabilities = self._model.predict_on_batch(batch.pixels)
            return loss_and_accuracy(probabilities, np.arange(probabilities.shape[1]), _labels(batch))

        return self._means([entry for entry in entries if entry.path not in self.failures], measure)

    def _means(
        self, entries: Sequence[ImageEntry], of_batch: Callable[[ImageBatch], tuple[float, float]]
    ) -> tuple[float, float] | None:
        """Average two means per batch over all images; None without images."""
        total, count = np.zeros(2), 0
        batches = image_batches(
            entries,
            self._manifest.source,
            self._rules,
            batch_size=self._batch_size,
            failures=self.failures,
            on_dark=self.dark.add,
            workers=self._workers,
        )
        with closing(batches):
            for batch in batches:
                total += np.array(of_batch(batch)) * len(batch.entries)
                count += len(batch.entries)
                self._passed += len(batch.entries)
                self._report(self._passed)
        return (float(total[0] / count), float(total[1] / count)) if count else None


def _labels(batch: ImageBatch) -> Any:  # noqa: ANN401 - an array of labels
    return np.array([entry.label for entry in batch.entries])

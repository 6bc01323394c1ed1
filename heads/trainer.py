"""A Keras model that classifies raw images, trained on image files epoch by epoch."""

from __future__ import annotations

import math
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.backbones.runtime import load_keras
from featurecache.batches import image_batches
from featurecache.errors import NoImagesError
from heads.base import Epoch
from heads.errors import TrainingError
from heads.rows import loss_and_accuracy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from featurecache.batches import ImageBatch
    from featurecache.decode import DecodeRules
    from featurecache.manifest import ImageEntry, Manifest
    from heads.parameters import Value

OPTIMIZERS = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}
"""What an optimizer is called here, to the name of Keras's class."""

_WORST = -math.log(np.finfo(np.float64).eps)  # the loss where the probability of the truth is 0


class Trainer:
    """Trains what of a model is trainable, by Keras's own steps.

    Parameters
    ----------
    model
        From images to probabilities; its last layer, ``probabilities``, is a softmax.
    manifest, rules
        Where images lie, and how they are decoded.
    settings
        ``lr``, ``batch_size`` and ``optimizer``; all others of the optimizer are Keras's defaults.
    workers
        Threads that read and decode; one for each processor if None.

    Attributes
    ----------
    failures : dict
        Every image that could not be used, to the reason.
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
        self.failures: dict[ImageEntry, str] = {}
        self._manifest, self._rules, self._workers = manifest, rules, workers
        self._batch_size, self._lr = int(settings["batch_size"]), float(settings["lr"])
        self._model = model
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
    ) -> list[Epoch]:
        """Train, and return the record of each epoch, before them that of the start, epoch 0.

        Loss and accuracy are those that `heads.base.Epoch` says; at the start all images meet the same weights. The
        order of the images follows from the seed.

        Raises
        ------
        NoImagesError
            If no training image can be used.
        TrainingError
            If the training diverged.
        """
        start = self._judged(train)
        if start is None:
            raise self._none_usable(train)
        records = [Epoch(0, *start, *(self._judged(valid) or (None, None)))]
        on_epoch(records[0])
        for epoch in range(1, epochs + 1):
            usable = [entry for entry in train if entry not in self.failures]
            order = np.random.default_rng([seed, epoch]).permutation(len(usable))
            trained = self._trained([usable[place] for place in order], epoch)
            records.append(Epoch(epoch, *trained, *(self._judged(valid) or (None, None))))
            on_epoch(records[-1])
        return records

    def _trained(self, entries: Sequence[ImageEntry], epoch: int) -> tuple[float, float]:
        """Take a step on every batch; return mean loss and accuracy of the images, each as it was seen."""
        last: list[ImageBatch[ImageEntry]] = []

        def step(batch: ImageBatch[ImageEntry]) -> tuple[float, float]:
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
        entry, reason = next(iter(self.failures.items()))
        return NoImagesError(
            f"none of the {len(entries)} training images can be used; the first is {entry.path}: {reason}"
        )

    def _judged(self, entries: Sequence[ImageEntry]) -> tuple[float, float] | None:
        """Return mean loss and accuracy of images with the weights as they are; None if there are none."""

        def judge(batch: ImageBatch[ImageEntry]) -> tuple[float, float]:
            probabilities = self._model.predict_on_batch(batch.pixels)
            return loss_and_accuracy(probabilities, np.arange(probabilities.shape[1]), _labels(batch))

        return self._means([entry for entry in entries if entry not in self.failures], judge)

    def _means(
        self, entries: Sequence[ImageEntry], of_batch: Callable[[ImageBatch[ImageEntry]], tuple[float, float]]
    ) -> tuple[float, float] | None:
        """Return the mean over all images of two numbers that are means over a batch; None without an image."""
        total, count = np.zeros(2), 0
        batches = image_batches(
            entries,
            self._manifest.file,
            self._rules,
            batch_size=self._batch_size,
            failures=self.failures,
            workers=self._workers,
        )
        with closing(batches):
            for batch in batches:
                total += np.array(of_batch(batch)) * len(batch.items)
                count += len(batch.items)
        return (float(total[0] / count), float(total[1] / count)) if count else None


def _labels(batch: ImageBatch[ImageEntry]) -> Any:  # noqa: ANN401 - an array of labels
    return np.array([entry.label for entry in batch.items])

"""One dense layer with softmax, trained by gradient descent in Keras: the only module here that uses Keras.

The layer is trained on its logits, with cross-entropy of softmax: the same function and the same steps as
``Dense(k, activation="softmax")`` with categorical cross-entropy, but the gradient survives where softmax rounds
to 0 or 1. It runs on any backend of Keras 3. Nothing global is touched: no seed, no configuration.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.engine import load_keras
from heads.base import AffinePredictor, Features, Head, Monitor, mean_and_scale
from heads.errors import TrainingError

_OPTIMIZERS = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}
_INITIALIZERS = {
    "glorot_uniform": "GlorotUniform",
    "glorot_normal": "GlorotNormal",
    "he_normal": "HeNormal",
    "lecun_normal": "LecunNormal",
}


@dataclass(slots=True, kw_only=True, eq=False)
class SoftmaxHead(Head):
    """``Dense(k, softmax)`` on features; its parameters are declared, with defaults, in the catalogue.

    Every epoch sees all training rows once, in an order drawn from the seed. Rows are read batch by batch, so that
    memory-mapped features are never copied as a whole. After each epoch the monitor gets the mean cross-entropy and
    accuracy of the training rows, each as its batch was seen before the step that it caused (what Keras's ``fit``
    shows, without the l2 penalty), and computes those of the validation rows with the weights reached.

    The same seed gives the same weights on the same machine; across machines and backends they differ by rounding.
    """

    lr: float
    epochs: int
    batch_size: int
    optimizer: str
    init: str
    standardize: bool
    l2: float
    seed: int

    def _learn(
        self, X: Features, targets: NDArray[np.intp], monitor: Monitor
    ) -> tuple[AffinePredictor, tuple[str, ...]]:
        k = len(self.classes_)
        mean, scale = mean_and_scale(X) if self.standardize else (np.zeros(X.shape[1]), np.ones(X.shape[1]))
        batches = _Batches(X, targets, k, mean.astype(np.float32), scale.astype(np.float32), self.batch_size)
        # A seed of its own: the order of the rows must not follow from the draws of the initial weights.
        order = np.random.default_rng([self.seed, 1])
        model = self._model(X.shape[1], k)
        predictor = None
        for epoch in range(1, self.epochs + 1):
            with _no_advice_on_tracing():
                loss, accuracy = _train_epoch(model, batches, order.permutation(len(X)))
            kernel, bias = (np.asarray(weights) for weights in model.weights)
            if not (math.isfinite(loss) and np.isfinite(kernel).all() and np.isfinite(bias).all()):
                raise TrainingError(
                    f"the loss is no longer a finite number after epoch {epoch} with lr={self.lr:g}; "
                    f"try a lower learning rate, such as lr={self.lr / 10:g}"
                )
            predictor = AffinePredictor.learned(kernel.T, bias, batches.mean, batches.scale)
            monitor.after_epoch(loss, accuracy, predictor, self.classes_)
        if predictor is None:
            raise TrainingError(f"epochs is {self.epochs}, expected at least 1")
        return predictor, ()

    def _model(self, d: int, k: int) -> Any:  # noqa: ANN401 - Keras has no types
        """Return a compiled Keras model from d features to the logits of k classes."""
        keras = load_keras()

        layer = keras.layers.Dense(
            k,
            kernel_initializer=self._initializer(),
            kernel_regularizer=keras.regularizers.L2(self.l2) if self.l2 else None,
            dtype="float32",
        )
        model = keras.Sequential([keras.Input((d,), dtype="float32"), layer])
        model.compile(
            optimizer=getattr(keras.optimizers, _OPTIMIZERS[self.optimizer])(learning_rate=self.lr),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=[
                keras.metrics.CategoricalCrossentropy(from_logits=True, name="cross_entropy", dtype="float32"),
                keras.metrics.CategoricalAccuracy(name="accuracy", dtype="float32"),
            ],
        )
        return model

    def _initializer(self) -> Any:  # noqa: ANN401 - Keras has no types
        keras = load_keras()

        if self.init == "zeros":
            return keras.initializers.Zeros()
        if self.init.startswith("normal:"):
            deviation = float(self.init.removeprefix("normal:"))
            return keras.initializers.RandomNormal(stddev=deviation, seed=self.seed)
        return getattr(keras.initializers, _INITIALIZERS[self.init])(seed=self.seed)


@dataclass(frozen=True, slots=True, eq=False)
class _Batches:
    """Training rows as Keras takes them, a few at a time: standardised float32, and one-hot labels."""

    X: Features
    targets: NDArray[np.intp]
    classes: int
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    size: int

    def take(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return features (b, d) and one-hot labels (b, k) of these rows."""
        features = self.X[rows].astype(np.float32, copy=False)
        features -= self.mean  # a list of rows is always a copy
        features /= self.scale
        labels = np.zeros((len(rows), self.classes), dtype=np.float32)
        labels[np.arange(len(rows)), self.targets[rows]] = 1.0
        return features, labels


@contextmanager
def _no_advice_on_tracing() -> Iterator[None]:
    """Drop TensorFlow's advice to compile less often: every head that is trained is a model of its own."""

    def keep(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in str(record.msg)

    logger = logging.getLogger("tensorflow")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _train_epoch(model: Any, batches: _Batches, order: NDArray[np.intp]) -> tuple[float, float]:  # noqa: ANN401
    """Take one step per batch of rows in this order; return the mean loss and accuracy of all rows."""
    loss = accuracy = 0.0
    for start in range(0, len(order), batches.size):
        rows = order[start : start + batches.size]
        # Versions of Keras differ in whether metrics run on from batch to batch: each batch is counted by itself.
        model.reset_metrics()
        measured = model.train_on_batch(*batches.take(rows), return_dict=True)
        loss += float(measured["cross_entropy"]) * len(rows)
        accuracy += float(measured["accuracy"]) * len(rows)
    return loss / len(order), accuracy / len(order)

"""Trains a head with Keras's ``Model.fit``, on any backend, with the batches that NumPy would get.

The weights of the best epoch are chosen, and the records of epochs made, as by the other trainer. Keras is imported by
`featurecache.backbones.keras_runtime`, when a training begins.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurecache.backbones.keras_runtime import find_device, fixed_settings, load_keras, placed, versions
from featurecache.errors import EngineError
from heads.base import Learned
from heads.epochs import Monitor
from heads.errors import TrainingError
from heads.families.epoch_head import Batch, EpochBatches, EpochHead, Progress, valid_rows
from heads.families.gradient_descent import Aims, Batches, batches_of, cross_entropy
from heads.families.layers import Layer
from heads.rows import Features, Scaling

_VALID_ROWS = 1024  # validation rows of a forward pass
_HALF = {"gpu": "mixed_float16", "cpu": "mixed_bfloat16"}
"""Keras's name of mixed precision by device."""


def dense_network(
    layers: Sequence[Layer], activation: str, *, l2: float, masked: bool
) -> tuple[Any, Any]:  # two keras.Models
    """Return a network that trains, and the same without dropout: from features to scores, with these weights.

    Parameters
    ----------
    layers
        The initial layers.
    activation
        Activation of all layers but the last.
    l2
        Factor of the penalty of every kernel.
    masked
        Whether the training network takes a dropout mask (units,) for each hidden layer, after the features.
    """
    keras = load_keras()
    features = keras.Input((len(layers[0].kernel),), name="features")
    masks, trained, plain = [], features, features
    for number, layer in enumerate(layers, start=1):
        last = number == len(layers)
        dense = keras.layers.Dense(
            len(layer.bias),
            "linear" if last else activation,
            kernel_initializer="zeros",
            kernel_regularizer=keras.regularizers.L2(l2) if l2 else None,
            dtype="float32" if last else None,
            name="scores" if last else f"hidden_{number}",
        )
        trained, plain = dense(trained), dense(plain)
        dense.set_weights([layer.kernel, layer.bias])
        if masked and not last:
            masks.append(keras.Input((len(layer.bias),), name=f"mask_{number}"))
            trained = keras.layers.Multiply()([trained, masks[-1]])
    return keras.Model([features, *masks] if masks else features, trained), keras.Model(features, plain)


def train_with_keras(
    head: EpochHead,
    network: Callable[[], tuple[Any, Any]],
    batches: EpochBatches,
    monitor: Monitor,
    progress: Progress,
    *,
    going_on: bool = False,
) -> Learned | TrainingError:
    """Train a head, and return what it has learned.

    Parameters
    ----------
    head
        The head; it gets ``versions_``.
    network
        Called with Keras's settings in place; returns a model that trains and one that is evaluated, which share their
        weights. Both give scores (b, k); the first takes what a `Batch` has.
    batches
        The training rows.
    monitor, progress
        What chooses the epoch.
    going_on
        Whether an epoch must improve on the weights that the network has.

    Raises
    ------
    EngineError
        If Keras cannot start, or TensorBoard is asked for and not installed.
    TrainingError
        If an epoch is to be chosen and there are no valid rows.
    """
    valid = valid_rows(head, monitor)
    keras = load_keras()
    device = find_device("auto")
    head.versions_ = versions()
    with placed(device), fixed_settings(_HALF[device] if head.precision == "mixed" else "float32"):
        model, evaluated = network()
        model.compile(
            optimizer=_optimizer(head, head.epochs * batches.steps),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy", from_logits=True)],
        )
        if going_on and valid:
            progress.start(model.get_weights(), _evaluated(evaluated, *valid, batches.scaling)[0])

        def after_epoch(epoch: int, logs: dict[str, float]) -> None:
            del epoch
            loss, accuracy = logs["cross_entropy"] * batches.mean_weight, logs["accuracy"]
            scores = _evaluated(evaluated, *valid, batches.scaling) if valid else None
            progress.after_epoch(model.get_weights(), loss, accuracy, scores)
            model.stop_training = progress.stopped
            logs.clear()  # TensorBoard shows what the monitor gets
            logs |= {"loss": loss, "accuracy": accuracy}
            if scores is not None:
                logs |= {"val_loss": scores[0], "val_accuracy": scores[1]}

        callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=after_epoch)]
        if monitor.tensorboard is not None:
            callbacks.append(_tensorboard(monitor.tensorboard))
        source = _Source(batches, head.epochs)
        try:
            model.fit(
                source.batches(),
                epochs=head.epochs,
                steps_per_epoch=batches.steps,
                callbacks=callbacks,
                shuffle=False,
                verbose=0,
            )
        except Exception:
            if source.error is not None:  # what a backend makes of it says less
                raise source.error from None
            raise
    return progress.learned()


class _Source:
    """Gives batches to ``fit``, which may read them in another thread; keeps the error that ended it."""

    def __init__(self, batches: EpochBatches, epochs: int) -> None:
        self._batches, self._epochs = batches, epochs
        self.error: Exception | None = None

    def batches(self) -> Iterator[tuple[Any, ...]]:
        """Yield the batches of all epochs, as Keras takes them."""
        try:
            for _ in range(self._epochs):
                for batch in self._batches.epoch(copied=True):
                    yield _as_keras(batch)
        except Exception as e:
            self.error = e
            raise


def _as_keras(batch: Batch) -> tuple[Any, ...]:
    return (batch.X, *batch.masks) if batch.masks else batch.X, batch.targets.astype(np.int32), batch.weights


def _optimizer(head: EpochHead, steps: int) -> Any:  # noqa: ANN401 - Keras has no types
    """Return Keras's optimizer with the parameters of a head, for so many steps."""
    keras = load_keras()
    schedules, rate = keras.optimizers.schedules, head.lr
    if head.schedule == "cosine":
        rate = schedules.CosineDecay(head.lr, steps)
    elif head.schedule == "step":
        ends = [-(-third * steps // 3) - 1 for third in (1, 2)]  # the last steps of the first two thirds
        rate = schedules.PiecewiseConstantDecay(ends, [head.lr, head.lr * 0.1, head.lr * 0.01])
    return {
        "sgd": lambda: keras.optimizers.SGD(rate, momentum=head.momentum),
        "rmsprop": lambda: keras.optimizers.RMSprop(rate, momentum=head.momentum),
        "adam": lambda: keras.optimizers.Adam(rate),
        "adamw": lambda: keras.optimizers.AdamW(rate, weight_decay=head.weight_decay),
    }[head.optimizer]()


def _evaluated(model: Any, X: Features, targets: Aims, scaling: Scaling) -> tuple[float, float]:  # noqa: ANN401
    """Return mean cross-entropy (nats) and accuracy of rows (n, d)."""
    batches = Batches(X.shape[1], scaling, _VALID_ROWS)
    loss, hits = 0.0, 0
    for rows in batches_of(len(X), _VALID_ROWS):
        batch = batches.take(X, np.arange(rows.start, rows.stop))
        scores = np.asarray(model.predict_on_batch(batch), np.float32)[np.newaxis]
        _, losses, hit = cross_entropy(scores, targets[rows], np.ones(len(batch), np.float32), limited=True)
        loss += float(losses[0])
        hits += int(hit[0])
    return loss / len(X), hits / len(X)


def _tensorboard(folder: Path) -> Any:  # noqa: ANN401 - a Keras callback
    """Return the callback that writes the records of epochs and the learning rate for TensorBoard."""
    try:
        import tensorboard  # noqa: F401 - TensorFlow needs it to write them
    except ImportError as e:
        raise EngineError(
            "TensorBoard is not installed, which writes what --tensorboard asks for; pip install "
            "'featurecache[tensorboard]', or leave out --tensorboard"
        ) from e
    return load_keras().callbacks.TensorBoard(str(folder), write_graph=False)

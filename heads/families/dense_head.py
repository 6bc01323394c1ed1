"""The base class of dense heads, and their two trainers: NumPy, many settings in one pass, and Keras's ``Model.fit``.

Initial weights have the distributions of Keras's initializers. Both trainers get the same batches and dropout
masks, and their steps are equal up to rounding; tests compare them.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple, Self, final

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.keras_runtime import may_have_gpu
from heads.base import Learned
from heads.epochs import Monitor
from heads.errors import ParameterError, TrainingError
from heads.families.epoch_head import EpochBatches, EpochHead, Progress, Weights, rate_factor, valid_rows
from heads.families.gradient_descent import Aims, Loss, NetworkBatch, batches_of, cross_entropy, evaluate_rows
from heads.families.keras_training import dense_network, train_with_keras
from heads.families.layers import Layer
from heads.families.optimizers import OPTIMIZERS, initial_kernel
from heads.fitted_model import FittedModel
from heads.rows import Features, Floats, Scaling, Targets

# Weights of a layer of all networks. More of them, with what the optimizer keeps for each, do not fit into the cache of
# a processor: then networks one after the other take less time than together.
_BATCH_VALUES = 2**19
# With a GPU, "auto" takes Keras for a training of as many products: NumPy needs some 10 s for them on two cores, and
# Keras as long to start.
_LARGE = 2e11


def trained_together(weights: float) -> float:
    """Return how many networks it pays to train together, by the weights of their largest layer."""
    return _BATCH_VALUES / weights


class Start(NamedTuple):
    """The layers and the standardisation that a training starts from."""

    layers: Sequence[Layer]
    scaling: Scaling


@dataclass(slots=True, kw_only=True, eq=False)
class DenseHead(EpochHead):
    """Base class of dense heads; see `EpochHead`.

    The same seed gives the same weights on the same machine; weights on other machines differ by rounding.
    """

    init: str
    l2: float
    trainer: str

    def __post_init__(self) -> None:
        if self.trainer == "numpy" and self.precision == "mixed":
            raise ParameterError(
                f"head {self.spec.name!r}: precision=mixed needs Keras, and trainer is 'numpy'; set trainer=keras"
            )

    @property
    @abstractmethod
    def units(self) -> tuple[int, ...]:
        """Units of each hidden layer."""

    @property
    @abstractmethod
    def hidden_activation(self) -> str:
        """Activation of the hidden layers: a key of `ACTIVATIONS`."""

    @property
    @abstractmethod
    def dropout_rate(self) -> float:
        """Share of the hidden units that are left out of each step."""

    @abstractmethod
    def _model(self, layers: Sequence[Layer], scaling: Scaling) -> FittedModel:
        """Return the model of trained layers; raise `TrainingError` if a weight is not finite."""

    @abstractmethod
    def _start(self, model: FittedModel) -> Start:
        """Return the layers and the standardisation of a model of this class."""

    @property
    def keras_can_train(self) -> bool:
        """Whether ``trainer`` allows it."""
        return self.trainer != "numpy"

    @final
    def _continue_from(
        self, start: FittedModel, X: Features, targets: Targets, monitor: Monitor
    ) -> Learned | TrainingError:
        (learned,) = _train([self], self._start(start), X, targets, [monitor], going_on=True)
        return learned

    @final
    def widened(self, model: FittedModel, columns: Sequence[int | None]) -> FittedModel:
        """Return a model with outputs for new classes, which have initial weights and no bias."""
        *inner, last = self._start(model).layers
        new = Layer(
            initial_kernel(self.init, len(last.kernel), len(columns), np.random.default_rng([self.seed, 3])),
            np.zeros(len(columns), np.float32),
        )
        known = [place for place, column in enumerate(columns) if column is not None]
        earlier = [column for column in columns if column is not None]
        new.kernel[:, known], new.bias[known] = last.kernel[:, earlier], last.bias[earlier]
        return self._model([*inner, new], self._start(model).scaling)

    def _begin(self, X: Features, outputs: int) -> Start:
        """Return initial layers, with so many units in the last, and the standardisation of the features (n, d)."""
        generator = np.random.default_rng([self.seed, 0])
        layers = [
            Layer(initial_kernel(self.init, inputs, units, generator), np.zeros(units, np.float32))
            for inputs, units in pairwise((X.shape[1], *self.units, outputs))
        ]
        return Start(layers, Scaling.from_rows(X, standardize=self.standardize, weights=self.weights_))

    @final
    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        layers, scaling = heads[0]._begin(X, len(heads[0].classes_))
        at_once = max(1, int(trained_together(max(layer.kernel.size for layer in layers))))
        results: list[Learned | TrainingError] = []
        for group in batches_of(len(heads), at_once):
            results += _train(heads[group], Start(layers, scaling), X, targets, monitors[group])
        return results


@dataclass(frozen=True, slots=True)
class _Task:
    """What dense layers learn.

    Parameters
    ----------
    loss
        What the steps make smaller.
    model_of
        Returns the model of a head, given the standardisation of features and the trained weights.
    aims_of
        Returns what valid rows are to get, given their labels; None for the positions of their classes.
    """

    loss: Loss
    model_of: Callable[[Any, Scaling, Weights], FittedModel]
    aims_of: Callable[[NDArray[Any]], Aims] | None = None


def train_numbers(
    head: DenseHead,
    X: Features,
    y: Floats,
    monitor: Monitor,
    *,
    loss: Loss,
    model_of: Callable[[Sequence[Layer], Scaling], FittedModel],
) -> Learned | TrainingError:
    """Train a head with one output on numbers (n,), which are standardised; NumPy takes the steps.

    Parameters
    ----------
    head, X, y, monitor
        The head, its training rows, and what receives its epochs: their accuracy is R2, relative to the mean and the
        deviation of the training rows.
    loss
        A loss of numbers.
    model_of
        Returns the model of trained layers, whose last one gives the numbers themselves.
    """
    if head.trainer == "keras" or head.precision == "mixed":
        return TrainingError("Keras does not train heads of numbers here; set trainer=numpy and precision=float32")
    mean = float(np.average(y, weights=head.weights_))
    deviation = float(np.sqrt(np.average(np.square(y - mean), weights=head.weights_))) or 1.0

    def aims_of(numbers: Floats) -> NDArray[np.float32]:
        return ((numbers - mean) / deviation).astype(np.float32)

    def model(_: DenseHead, scaling: Scaling, weights: Weights) -> FittedModel:
        *inner, last = _layers(weights)
        kernel, bias = (part.astype(np.float64) * deviation for part in (last.kernel, last.bias))
        return model_of([*inner, Layer(kernel, bias + mean)], scaling)

    start, task = head._begin(X, 1), _Task(loss, model, aims_of)
    (learned,) = _train_with_numpy([head], start, X, aims_of(y), [monitor], task=task)
    return learned


def _train(
    heads: Sequence[DenseHead],
    start: Start,
    X: Features,
    targets: Targets,
    monitors: Sequence[Monitor],
    *,
    going_on: bool = False,
) -> list[Learned | TrainingError]:
    """Train heads that differ only in lr and l2 from the same start; see `Head._learn_together`."""
    if _keras_trains(heads, start, X, monitors):
        return [
            _train_with_keras(head, start, X, targets, monitor, going_on=going_on)
            for head, monitor in zip(heads, monitors, strict=True)
        ]
    return _train_with_numpy(heads, start, X, targets, monitors, task=_CLASSES, going_on=going_on)


def _keras_trains(heads: Sequence[DenseHead], start: Start, X: Features, monitors: Sequence[Monitor]) -> bool:
    """Whether Keras trains: if it is asked for, if only Keras can, or if a GPU makes up for the time that it starts."""
    first = heads[0]
    if first.trainer != "auto":
        return first.trainer == "keras"
    if first.precision == "mixed" or monitors[0].tensorboard is not None:
        return True
    # forward, and backward to weights and inputs
    products = 3 * len(X) * first.epochs * sum(layer.kernel.size for layer in start.layers)
    return len(heads) == 1 and products >= _LARGE and may_have_gpu()


def _train_with_keras(
    head: DenseHead, start: Start, X: Features, targets: Targets, monitor: Monitor, *, going_on: bool
) -> Learned | TrainingError:
    batches = EpochBatches(head, X, start.scaling, targets, units=head.units, dropout=head.dropout_rate)
    return train_with_keras(
        head,
        partial(dense_network, start.layers, head.hidden_activation, l2=head.l2, masked=head.dropout_rate > 0),
        batches,
        monitor,
        Progress(head, monitor, partial(_model, head, start.scaling)),
        going_on=going_on,
    )


def _train_with_numpy(
    heads: Sequence[DenseHead],
    start: Start,
    X: Features,
    targets: Aims,
    monitors: Sequence[Monitor],
    *,
    task: _Task,
    going_on: bool = False,
) -> list[Learned | TrainingError]:
    first = heads[0]
    valid = valid_rows(first, monitors[0], task.aims_of)
    progresses = [
        Progress(head, monitor, partial(task.model_of, head, start.scaling))
        for head, monitor in zip(heads, monitors, strict=True)
    ]
    with np.errstate(all="ignore"):  # after each epoch, progress checks for divergence
        networks = NetworkBatch(
            start.layers,
            first.hidden_activation,
            rates=np.array([head.lr for head in heads]),
            l2=np.array([head.l2 for head in heads]),
            optimizer=partial(OPTIMIZERS[first.optimizer], momentum=first.momentum, decay=first.weight_decay),
            loss=task.loss,
        )
        if going_on and valid:  # an epoch must improve on the weights it starts from
            losses, _ = evaluate_rows(networks, *valid, start.scaling)
            for number, progress in enumerate(progresses):
                progress.start(_weights(networks.layers(number)), float(losses[number]))
        batches = EpochBatches(first, X, start.scaling, targets, units=first.units, dropout=first.dropout_rate)
        for epoch in range(first.epochs):
            losses, accuracies = _epoch(networks, batches, first, epoch * batches.steps, len(X))
            valid_scores = evaluate_rows(networks, *valid, start.scaling) if valid else None
            for number, progress in enumerate(progresses):
                if not progress.stopped:
                    of_head = (float(valid_scores[0][number]), float(valid_scores[1][number])) if valid_scores else None
                    progress.after_epoch(
                        _weights(networks.layers(number)), float(losses[number]), float(accuracies[number]), of_head
                    )
            if all(progress.stopped for progress in progresses):
                break
    return [progress.learned() for progress in progresses]


def _epoch(networks: NetworkBatch, batches: EpochBatches, head: DenseHead, taken: int, n: int) -> tuple[Floats, Floats]:
    """Take one step for each batch, after so many; return mean loss and accuracy before each step, shapes (S,)."""
    losses, hits = np.zeros(networks.count), np.zeros(networks.count)
    with networks.threads(head.batch_size):
        for number, batch in enumerate(batches.epoch()):
            factor = rate_factor(head.schedule, taken + number, head.epochs * batches.steps)
            loss, hit = networks.step(*batch, factor)
            losses += loss
            hits += hit
    return losses / n, hits / n


def _weights(layers: Iterable[Layer]) -> Weights:
    """Return kernel and bias of each layer, in order."""
    return list(chain.from_iterable((layer.kernel, layer.bias) for layer in layers))


def _layers(weights: Weights) -> list[Layer]:
    """Return layers of their kernels and biases, in order."""
    return [Layer(kernel, bias) for kernel, bias in zip(weights[::2], weights[1::2], strict=True)]


def _model(head: DenseHead, scaling: Scaling, weights: Weights) -> FittedModel:
    return head._model(_layers(weights), scaling)


_CLASSES = _Task(cross_entropy, _model)

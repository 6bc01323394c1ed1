"""The base class of dense heads, and their training: epochs of gradient descent, many settings in one pass.

Initial weights have the distributions of Keras's initializers. Every step equals that of Keras's ``Model.fit`` with the
same optimizer and batches; tests compare them. Keras itself is not used.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple, Self, final

import numpy as np

from heads.base import FittedModel, Head, Learned
from heads.epochs import Monitor
from heads.errors import EvaluationError, TrainingError
from heads.families.gradient_descent import Batches, NetworkBatch, batches_of, evaluate_rows, positions
from heads.families.layers import Layer
from heads.families.optimizers import OPTIMIZERS, Float32s, initial_kernel
from heads.families.shuffling import shuffled
from heads.rows import Features, Floats, Scaling, Targets, class_weights, finite, first_not_finite

_BATCH_VALUES = 2**22  # weights of a layer of all networks: 16 MiB, and a multiple of it for the optimizer


class Start(NamedTuple):
    """The layers and the standardisation that a training starts from."""

    layers: Sequence[Layer]
    scaling: Scaling


@dataclass(slots=True, kw_only=True, eq=False)
class DenseHead(Head):
    """Base class of dense heads.

    An epoch uses all training rows once, in an order drawn from the seed; see `heads.families.shuffling`. Features are
    never copied as a whole. After each epoch the monitor receives the mean cross-entropy and
    accuracy of the training rows, each measured before the step of its batch (as Keras's ``fit`` does, but without the
    l2 penalty), and those of the validation rows with the weights at the end of the epoch.

    The same seed gives the same weights on the same machine; weights on other machines differ by rounding.
    """

    lr: float
    epochs: int
    batch_size: int
    optimizer: str
    momentum: float
    weight_decay: float
    init: str
    standardize: bool
    l2: float
    class_weight: str
    patience: int
    keep: str
    seed: int

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

    @final
    def _continue_from(
        self, start: FittedModel, X: Features, targets: Targets, monitor: Monitor
    ) -> Learned | TrainingError:
        (learned,) = _train([self], self._start(start), X, targets, [monitor], going_on=True)
        return learned

    @final
    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        first = heads[0]
        scaling = Scaling.from_rows(X, standardize=first.standardize)
        generator = np.random.default_rng([first.seed, 0])
        layers = [
            Layer(initial_kernel(first.init, inputs, units, generator), np.zeros(units, np.float32))
            for inputs, units in pairwise((X.shape[1], *first.units, len(first.classes_)))
        ]
        at_once = max(1, _BATCH_VALUES // max(layer.kernel.size for layer in layers))
        results: list[Learned | TrainingError] = []
        for group in batches_of(len(heads), at_once):
            results += _train(heads[group], Start(layers, scaling), X, targets, monitors[group])
        return results


class _Progress:
    """The progress of one head: records its epochs, keeps its best or last weights, and decides when it stops."""

    def __init__(self, head: DenseHead, monitor: Monitor) -> None:
        self._head, self._monitor = head, monitor
        self._best, self._stale = np.inf, 0
        self._layers: list[Layer] = []
        self.fault: TrainingError | None = None
        self.stopped = False

    def start(self, layers: list[Layer], valid_loss: float) -> None:
        """Count the weights that the training continues from as the best so far."""
        self._layers, self._best = layers, valid_loss

    def after_epoch(self, layers: list[Layer], loss: float, accuracy: float, valid: tuple[float, float] | None) -> None:
        """Record an epoch, and decide whether it was the last one."""
        if not (np.isfinite((loss, *(valid or ()))).all() and all(finite(part.kernel) for part in layers)):
            self.stopped, self.fault = True, _diverged(len(self._monitor.epochs) + 1, self._head.lr)
            return
        kept = self._monitor.kept
        self._monitor.record(loss, accuracy, valid)
        better = valid is None or valid[0] < self._best
        self._best, self._stale = (valid[0], 0) if valid and better else (self._best, self._stale + 1)
        if better or self._head.keep == "last":
            self._layers = layers
        else:
            self._monitor.kept = kept
        self.stopped = 0 < self._head.patience <= self._stale

    def learned(self, scaling: Scaling) -> Learned | TrainingError:
        """Return the model of the head, or the error that stopped its training."""
        return self.fault or (self._head._model(self._layers, scaling), ())


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
    first = heads[0]
    valid = _valid_rows(first, monitors[0])
    progresses = [_Progress(head, monitor) for head, monitor in zip(heads, monitors, strict=True)]
    with np.errstate(all="ignore"):  # after each epoch, progress checks for divergence
        networks = NetworkBatch(
            start.layers,
            first.hidden_activation,
            rates=np.array([head.lr for head in heads]),
            l2=np.array([head.l2 for head in heads]),
            optimizer=partial(OPTIMIZERS[first.optimizer], momentum=first.momentum, decay=first.weight_decay),
        )
        if going_on and valid:  # an epoch must improve on the weights it starts from
            losses, _ = evaluate_rows(networks, *valid, start.scaling)
            for number, progress in enumerate(progresses):
                progress.start(networks.layers(number), float(losses[number]))
        epochs = _Epochs(first, X, start.scaling, targets)
        for _ in range(first.epochs):
            losses, accuracies = epochs.run(networks)
            valid_scores = evaluate_rows(networks, *valid, start.scaling) if valid else None
            for number, progress in enumerate(progresses):
                if not progress.stopped:
                    of_head = (float(valid_scores[0][number]), float(valid_scores[1][number])) if valid_scores else None
                    progress.after_epoch(
                        networks.layers(number), float(losses[number]), float(accuracies[number]), of_head
                    )
            if all(progress.stopped for progress in progresses):
                break
    return [progress.learned(start.scaling) for progress in progresses]


class _Epochs:
    """The epochs of a training. Separate generators draw the order of the rows and the units that are left out."""

    def __init__(self, head: DenseHead, X: Features, scaling: Scaling, targets: Targets) -> None:
        self._head, self._X, self._targets = head, X, targets
        self._batches = Batches(X.shape[1], scaling, min(head.batch_size, len(X)))
        self._weights = class_weights(targets, len(head.classes_), head.class_weight)[targets].astype(np.float32)
        self._order = np.random.default_rng([head.seed, 1])
        self._dropped = np.random.default_rng([head.seed, 2])

    def run(self, networks: NetworkBatch) -> tuple[Floats, Floats]:
        """Take one step for each batch; return mean cross-entropy and accuracy before each step, shapes (S,)."""
        n, losses, hits = len(self._targets), np.zeros(networks.count), np.zeros(networks.count)
        size = self._head.batch_size
        with networks.threads(size):
            for window in shuffled(self._X, self._order, size):
                for batch in batches_of(len(window.rows), size):
                    rows = window.rows[batch]
                    X = self._batches.take(window.X, window.places[batch])
                    loss, hit = networks.step(X, self._targets[rows], self._weights[rows], self._masks(len(rows)))
                    losses += loss
                    hits += hit
        return losses / n, hits / n

    def _masks(self, rows: int) -> list[Float32s]:
        """Draw the dropout mask of each hidden layer: factors 0, or 1 / (1 - rate), which keeps the mean."""
        rate = self._head.dropout_rate
        if not rate:
            return []
        drawn = (self._dropped.random((rows, units), np.float32) for units in self._head.units)
        return [np.where(values >= rate, np.float32(1 / (1 - rate)), np.float32(0)) for values in drawn]


def _valid_rows(head: DenseHead, monitor: Monitor) -> tuple[Features, Targets] | None:
    """Return the validation rows and the positions of their classes; None if there are none."""
    if monitor.valid is None:
        if head.patience or head.keep == "best":
            raise TrainingError(
                "patience and keep=best need valid rows, and there are none; hold some out, or leave out both"
            )
        return None
    X, y = monitor.valid
    row = first_not_finite(X)
    if row is not None:
        raise EvaluationError(f"row {row} holds features that are not finite; extract them again", row)
    return X, positions(head.classes_, y)


def _diverged(epoch: int, lr: float) -> TrainingError:
    return TrainingError(
        f"the loss is no longer a finite number after epoch {epoch} with lr={lr:g}; "
        f"try a lower learning rate, such as lr={lr / 10:g}"
    )

"""Dense heads, ``Dense(k, softmax)`` with or without hidden layers, trained by gradient descent epoch by epoch.

Weights start from the distributions of Keras's initializers, and every step is that of Keras's ``Model.fit`` with the
same optimizer and batches, whose numbers the tests compare; Keras itself is not needed.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple, Self, cast, final

import numpy as np

from heads.affine import AffinePredictor
from heads.base import Head, Learned, Monitor, Predictor, only_or_raise
from heads.descent import Bank, Batches, batches_of, judge_rows, positions
from heads.errors import EvaluationError, TrainingError
from heads.layers import Layer, LayersPredictor
from heads.optimizers import OPTIMIZERS, Float32s, initial_kernel
from heads.rows import Features, Floats, Scaling, Targets, class_weights, finite, first_not_finite

_BANK_VALUES = 2**22  # weights of a layer in a bank: 16 MiB, and some times that with what the optimizer remembers


class _Start(NamedTuple):
    """What a training starts from."""

    layers: Sequence[Layer]
    scaling: Scaling


@dataclass(slots=True, kw_only=True, eq=False)
class DenseHead(Head):
    """What dense heads share; parameters and defaults are in the catalogue.

    Every epoch sees all training rows once, in an order drawn from the seed. Rows are read batch by batch, so that
    memory-mapped features are never copied as a whole. After each epoch the monitor gets the mean cross-entropy and
    accuracy of the training rows, each as its batch was seen before the step that it caused (what Keras's ``fit``
    shows, without the l2 penalty), and those of the validation rows with the weights reached.

    The same seed gives the same weights on the same machine; across machines they differ by rounding.
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
        """What follows each hidden layer."""

    @property
    @abstractmethod
    def dropout_rate(self) -> float:
        """Part of the hidden units that are left out of a step."""

    @abstractmethod
    def _predictor(self, layers: Sequence[Layer], scaling: Scaling) -> Predictor:
        """Return what layers and scaling together predict; raise `TrainingError` if a weight is not finite."""

    @abstractmethod
    def _start(self, predictor: Predictor) -> _Start:
        """Return the layers and the scaling of a predictor of this family."""

    @final
    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        return only_or_raise(self._learn_together([self], X, targets, [monitor]))

    @final
    def _go_on(self, start: Predictor, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        return only_or_raise(_train([self], self._start(start), X, targets, [monitor], going_on=True))

    @final
    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        first = heads[0]
        scaling = Scaling.of(X, standardize=first.standardize)
        generator = np.random.default_rng([first.seed, 0])
        layers = [
            Layer(initial_kernel(first.init, inputs, units, generator), np.zeros(units, np.float32))
            for inputs, units in pairwise((X.shape[1], *first.units, len(first.classes_)))
        ]
        at_once = max(1, _BANK_VALUES // max(layer.kernel.size for layer in layers))
        results: list[Learned | TrainingError] = []
        for some in batches_of(len(heads), at_once):
            results += _train(heads[some], _Start(layers, scaling), X, targets, monitors[some])
        return results


@final
@dataclass(slots=True, kw_only=True, eq=False)
class SoftmaxHead(DenseHead):
    """``Dense(k, softmax)`` on features; see `DenseHead`."""

    @property
    def units(self) -> tuple[int, ...]:
        """No hidden layer."""
        return ()

    @property
    def hidden_activation(self) -> str:
        """None."""
        return "linear"

    @property
    def dropout_rate(self) -> float:
        """None."""
        return 0.0

    def _predictor(self, layers: Sequence[Layer], scaling: Scaling) -> AffinePredictor:
        return AffinePredictor.learned(layers[0].kernel.T, layers[0].bias, scaling)

    def _start(self, predictor: Predictor) -> _Start:
        affine = cast(AffinePredictor, predictor)
        return _Start([Layer(affine.coef.T, affine.intercept)], affine.scaling)


@final
@dataclass(slots=True, kw_only=True, eq=False)
class MLPHead(DenseHead):
    """Dense layers with an activation and dropout after each, then ``Dense(k, softmax)``; see `DenseHead`."""

    hidden: str
    activation: str
    dropout: float

    @property
    def units(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return tuple(map(int, self.hidden.split(",")))

    @property
    def hidden_activation(self) -> str:
        """What follows each hidden layer."""
        return self.activation

    @property
    def dropout_rate(self) -> float:
        """Part of the hidden units that are left out of a step."""
        return self.dropout

    def _predictor(self, layers: Sequence[Layer], scaling: Scaling) -> LayersPredictor:
        return LayersPredictor.learned(layers, self.activation, scaling)

    def _start(self, predictor: Predictor) -> _Start:
        network = cast(LayersPredictor, predictor)
        return _Start(network.layers, network.scaling)


class _Watch:
    """One head of a bank in training: passes its epochs on, and keeps the weights that it shall end with."""

    def __init__(self, head: DenseHead, monitor: Monitor) -> None:
        self._head, self._monitor = head, monitor
        self._best, self._stale = np.inf, 0
        self._layers: list[Layer] = []
        self.fault: TrainingError | None = None
        self.over = False

    def start(self, layers: list[Layer], valid_loss: float) -> None:
        """Take the weights that training goes on from for the best so far."""
        self._layers, self._best = layers, valid_loss

    def after_epoch(self, layers: list[Layer], loss: float, accuracy: float, valid: tuple[float, float] | None) -> None:
        """Take note of an epoch, and decide whether it was the last."""
        if not (np.isfinite((loss, *(valid or ()))).all() and all(finite(part.kernel) for part in layers)):
            self.over, self.fault = True, _diverged(len(self._monitor.epochs) + 1, self._head.lr)
            return
        kept = self._monitor.kept
        self._monitor.record(loss, accuracy, valid)
        better = valid is None or valid[0] < self._best
        self._best, self._stale = (valid[0], 0) if valid and better else (self._best, self._stale + 1)
        if better or self._head.keep == "last":
            self._layers = layers
        else:
            self._monitor.kept = kept
        self.over = 0 < self._head.patience <= self._stale

    def learned(self, scaling: Scaling) -> Learned | TrainingError:
        """Return what the head has learned."""
        return self.fault or (self._head._predictor(self._layers, scaling), ())


def _train(
    heads: Sequence[DenseHead],
    start: _Start,
    X: Features,
    targets: Targets,
    monitors: Sequence[Monitor],
    *,
    going_on: bool = False,
) -> list[Learned | TrainingError]:
    """Train heads that differ in lr and l2 alone, all from this start; return what each learned, or why not."""
    first = heads[0]
    valid = _judging_rows(first, monitors[0])
    watches = [_Watch(head, monitor) for head, monitor in zip(heads, monitors, strict=True)]
    with np.errstate(all="ignore"):  # what diverges is noticed after each epoch
        bank = Bank(
            start.layers,
            first.hidden_activation,
            rates=np.array([head.lr for head in heads]),
            l2=np.array([head.l2 for head in heads]),
            optimizer=partial(OPTIMIZERS[first.optimizer], momentum=first.momentum, decay=first.weight_decay),
        )
        if going_on and valid:  # an epoch is only better if it is better than what there was
            losses, _ = judge_rows(bank, *valid, start.scaling)
            for number, watch in enumerate(watches):
                watch.start(bank.layers(number), float(losses[number]))
        epochs = _Epochs(first, Batches(X, start.scaling, first.batch_size), targets)
        for _ in range(first.epochs):
            losses, accuracies = epochs.run(bank)
            judged = judge_rows(bank, *valid, start.scaling) if valid else None
            for number, watch in enumerate(watches):
                if not watch.over:
                    seen = (float(judged[0][number]), float(judged[1][number])) if judged else None
                    watch.after_epoch(bank.layers(number), float(losses[number]), float(accuracies[number]), seen)
            if all(watch.over for watch in watches):
                break
    return [watch.learned(start.scaling) for watch in watches]


class _Epochs:
    """The epochs of a training: the order of the rows and the units left out, drawn from seeds of their own."""

    def __init__(self, head: DenseHead, batches: Batches, targets: Targets) -> None:
        self._head, self._batches, self._targets = head, batches, targets
        self._weights = class_weights(targets, len(head.classes_), head.class_weight)[targets].astype(np.float32)
        self._order = np.random.default_rng([head.seed, 1])
        self._dropped = np.random.default_rng([head.seed, 2])

    def run(self, bank: Bank) -> tuple[Floats, Floats]:
        """Take one step per batch; return mean cross-entropy and accuracy of all rows as seen, shapes (S,)."""
        n, losses, hits = len(self._targets), np.zeros(bank.count), np.zeros(bank.count)
        order = self._order.permutation(n)
        with bank.threads(self._head.batch_size):
            for some in batches_of(n, self._head.batch_size):
                rows = order[some]
                masks = self._masks(len(rows))
                loss, hit = bank.step(self._batches.take(rows), self._targets[rows], self._weights[rows], masks)
                losses += loss
                hits += hit
        return losses / n, hits / n

    def _masks(self, rows: int) -> list[Float32s]:
        """Draw what the outputs of each hidden layer are multiplied with: 0, or what keeps their mean."""
        rate = self._head.dropout_rate
        if not rate:
            return []
        drawn = (self._dropped.random((rows, units), np.float32) for units in self._head.units)
        return [np.where(values >= rate, np.float32(1 / (1 - rate)), np.float32(0)) for values in drawn]


def _judging_rows(head: DenseHead, monitor: Monitor) -> tuple[Features, Targets] | None:
    """Return the validation rows and the positions of their classes; None if there are none."""
    if monitor.valid is None:
        if head.patience or head.keep == "best":
            raise TrainingError(
                "patience and keep=best need valid rows, and there are none; hold some out, or leave both"
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

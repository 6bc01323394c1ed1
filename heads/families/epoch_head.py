"""What heads that are trained in epochs share, whoever takes the steps: parameters, batches, the choice of an epoch."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.base import Head, Learned
from heads.epochs import Monitor
from heads.errors import EvaluationError, TrainingError
from heads.families.gradient_descent import Aims, Batches, batches_of, positions
from heads.families.optimizers import Float32s
from heads.families.shared_parameters import LARGEST_INT
from heads.families.shuffling import shuffled
from heads.fitted_model import FittedModel
from heads.parameters import Parameter
from heads.rows import Features, Scaling, finite, first_not_finite

# The defaults of the optimizers are those of Keras.
STEPS = (
    Parameter("lr", "float", 0.001, "Learning rate of the optimizer.", above=0),
    Parameter("epochs", "int", 10, "Number of passes over the training rows.", low=1, high=LARGEST_INT),
    Parameter("batch_size", "int", 64, "Rows of a step.", low=1, high=LARGEST_INT),
    Parameter("optimizer", "choice", "adam", "Update rule.", choices=("sgd", "rmsprop", "adam", "adamw")),
    Parameter("momentum", "float", 0.0, "Momentum of sgd and rmsprop.", low=0, below=1),
    Parameter("weight_decay", "float", 0.004, "Weight decay of adamw; multiplied by lr.", low=0),
)
"""Parameters of the steps."""
CHOICE = (
    Parameter(
        "patience",
        "int",
        0,
        "Stop after this many epochs without a lower valid loss; 0: never.",
        low=0,
        high=LARGEST_INT,
    ),
    Parameter(
        "keep",
        "choice",
        "last",
        "Keep the weights of the last epoch, or of the one with the lowest valid loss.",
        choices=("last", "best"),
    ),
)
"""Parameters of the choice of an epoch."""
LATER = (
    Parameter(
        "schedule",
        "choice",
        "constant",
        "Learning rate over all steps: constant; cosine falls to 0 along half a cosine; "
        "step is a tenth after a third of the steps, and a hundredth after two thirds.",
        choices=("constant", "cosine", "step"),
        later=True,
    ),
    Parameter(
        "precision",
        "choice",
        "float32",
        "float32, or mixed: half precision inside the network, with Keras alone.",
        choices=("float32", "mixed"),
        later=True,
    ),
)
"""Parameters that heads did not have at first."""

Weights: TypeAlias = Sequence[NDArray[Any]]


@dataclass(slots=True, kw_only=True, eq=False)
class EpochHead(Head):
    """Base class of heads that are trained in epochs.

    An epoch uses all training rows once, in an order drawn from the seed; see `heads.families.shuffling`. Features are
    never copied as a whole. After each epoch the monitor receives the mean cross-entropy and
    accuracy of the training rows, each measured before the step of its batch (as Keras's ``fit`` does, but without
    penalties), and those of the validation rows with the weights at the end of the epoch.
    """

    lr: float
    epochs: int
    batch_size: int
    optimizer: str
    momentum: float
    weight_decay: float
    standardize: bool
    class_weight: str
    patience: int
    keep: str
    schedule: str
    precision: str
    seed: int


class Batch(NamedTuple):
    """The rows of a step.

    Parameters
    ----------
    X
        Standardised features, shape (b, d), float32.
    targets
        Class positions, or numbers, shape (b,).
    weights
        Weights of the rows, shape (b,).
    masks
        Dropout masks, one of shape (b, units) for each hidden layer; empty for no dropout.
    """

    X: Float32s
    targets: Aims
    weights: Float32s
    masks: list[Float32s]


class EpochBatches:
    """The batches of the epochs of a training. Separate generators draw the order of the rows and the dropped units.

    Parameters
    ----------
    head
        The head; its ``classes_`` are set.
    X, scaling, targets
        The training rows (n, d), their standardisation, and the positions of their classes, or numbers, (n,).
    units, dropout
        Units of each hidden layer, and the share of them that is left out of each step.
    """

    def __init__(
        self,
        head: EpochHead,
        X: Features,
        scaling: Scaling,
        targets: Aims,
        *,
        units: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        self._head, self._X, self._targets, self.scaling = head, X, targets, scaling
        self._units, self._dropout = units, dropout
        self._weights = head._weights_of(targets, head.class_weight).astype(np.float32)
        self._order = np.random.default_rng([head.seed, 1])
        self._dropped = np.random.default_rng([head.seed, 2])
        self._size = min(head.batch_size, len(X))
        self.steps = -(-len(X) // self._size)
        """Steps of an epoch."""
        self.mean_weight = float(self._weights.mean(dtype=np.float64))
        """The mean of the weights of the rows."""

    def epoch(self, *, copied: bool = False) -> Iterator[Batch]:
        """Yield the batches of the next epoch; features are valid until the next batch, unless they are copied."""
        batches = Batches(self._X.shape[1], self.scaling, self._size)
        for window in shuffled(self._X, self._order, self._size):
            for batch in batches_of(len(window.rows), self._size):
                rows = window.rows[batch]
                X = batches.take(window.X, window.places[batch])
                yield Batch(X.copy() if copied else X, self._targets[rows], self._weights[rows], self._masks(len(rows)))

    def _masks(self, rows: int) -> list[Float32s]:
        """Draw the dropout mask of each hidden layer: factors 0, or 1 / (1 - rate), which keeps the mean."""
        rate = self._dropout
        if not rate:
            return []
        drawn = (self._dropped.random((rows, units), np.float32) for units in self._units)
        return [np.where(values >= rate, np.float32(1 / (1 - rate)), np.float32(0)) for values in drawn]


def rate_factor(schedule: str, step: int, steps: int) -> float:
    """Return what a schedule multiplies the learning rate by, in a step of a training of so many steps, from 0 on.

    ``cosine``: Loshchilov and Hutter 2017, without restarts; ``step``: a tenth after each third, as He et al. 2016. A
    training that stops early keeps the schedule of all its epochs.

    Examples
    --------
    >>> [rate_factor("cosine", step, 4) for step in (0, 2)]
    [1.0, 0.5]
    >>> [rate_factor("step", step, 6) for step in (1, 2)]
    [1.0, 0.1]
    """
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    return float(0.1 ** (3 * step // steps)) if schedule == "step" else 1.0


class Progress:
    """The progress of one head: records its epochs, keeps its best or last weights, and decides when it stops.

    Parameters
    ----------
    head, monitor
        The head, and what receives its epochs.
    model_of
        Called with the weights that are kept; returns the model, or raises `TrainingError`.

    Attributes
    ----------
    stopped : bool
        Whether no further epoch is wanted.
    """

    def __init__(self, head: EpochHead, monitor: Monitor, model_of: Callable[[Weights], FittedModel]) -> None:
        self._head, self._monitor, self._model_of = head, monitor, model_of
        self._best, self._stale = np.inf, 0
        self._weights: Weights = ()
        self._fault: TrainingError | None = None
        self.stopped = False

    def start(self, weights: Weights, valid_loss: float) -> None:
        """Count the weights that the training continues from as the best so far."""
        self._weights, self._best = weights, valid_loss

    def after_epoch(self, weights: Weights, loss: float, accuracy: float, valid: tuple[float, float] | None) -> None:
        """Record an epoch, and decide whether it was the last one."""
        if not (np.isfinite((loss, *(valid or ()))).all() and all(map(finite, weights))):
            self.stopped, self._fault = True, _diverged(len(self._monitor.epochs) + 1, self._head.lr)
            return
        kept = self._monitor.kept
        self._monitor.record(loss, accuracy, valid)
        better = valid is None or valid[0] < self._best
        self._best, self._stale = (valid[0], 0) if valid and better else (self._best, self._stale + 1)
        if better or self._head.keep == "last":
            self._weights = weights
        else:
            self._monitor.kept = kept
        self.stopped = 0 < self._head.patience <= self._stale

    def learned(self) -> Learned | TrainingError:
        """Return the model of the head, or the error that stopped its training."""
        return self._fault or (self._model_of(self._weights), ())


def valid_rows(
    head: EpochHead, monitor: Monitor, aims_of: Callable[[NDArray[Any]], Aims] | None = None
) -> tuple[Features, Aims] | None:
    """Return the validation rows and what they are to get, the positions of their classes if nothing else; or None."""
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
    return X, positions(head.classes_, y) if aims_of is None else aims_of(y)


def _diverged(epoch: int, lr: float) -> TrainingError:
    return TrainingError(
        f"the loss is no longer a finite number after epoch {epoch} with lr={lr:g}; "
        f"try a lower learning rate, such as lr={lr / 10:g}"
    )

"""Records of the epochs of a training, and the monitor that collects them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heads.rows import Features, Labels


@dataclass(frozen=True, slots=True)
class Epoch:
    """The record of one epoch: one pass over the training rows.

    Parameters
    ----------
    epoch
        Its number, from 1.
    loss, accuracy
        Mean cross-entropy in nats, without penalty, weighted by class if the head does so, and accuracy of the training
        rows. Each row is measured when its batch is used, so these are running means while the weights change.
    valid_loss, valid_accuracy
        Unweighted loss and accuracy of the validation rows with the weights at the end of the epoch. A row adds at most
        36.04 to the loss. None without validation rows.
    """

    epoch: int
    loss: float
    accuracy: float
    valid_loss: float | None
    valid_accuracy: float | None


class Monitor:
    """Collects the records of the epochs of a training, and passes them on.

    Parameters
    ----------
    X, y
        Validation rows, shapes (n, d) and (n,). A head does not learn from them, but may use them to choose an epoch.
        None for no validation rows.
    on_epoch
        Called with the record of each epoch.
    earlier, kept
        When a training continues another one: the records of that training, and the number of the epoch whose weights
        it ended with.
    tensorboard
        A folder for the event files of TensorBoard, written by heads that Keras trains; None for none.

    Attributes
    ----------
    epochs : list of Epoch
        All records, including the earlier ones.
    kept : int or None
        The number of the epoch whose weights the head has; None for heads without epochs.
    valid : tuple or None
        Features and labels of the validation rows.

    Examples
    --------
    >>> monitor = Monitor(on_epoch=lambda epoch: print(epoch.epoch, epoch.loss))
    >>> monitor.record(0.7, 0.5, None).epoch
    1 0.7
    1
    """

    def __init__(
        self,
        X: Features | None = None,
        y: Labels | None = None,
        on_epoch: Callable[[Epoch], object] | None = None,
        earlier: Sequence[Epoch] = (),
        kept: int | None = None,
        *,
        tensorboard: Path | None = None,
    ) -> None:
        self.tensorboard = tensorboard
        self.epochs = list(earlier)
        self.kept = kept
        self.valid = (X, y) if X is not None and y is not None and len(y) else None
        self._on_epoch = on_epoch

    def record(self, loss: float, accuracy: float, valid: tuple[float, float] | None) -> Epoch:
        """Add the record of an epoch: training loss and accuracy, and those of the validation rows or None."""
        valid_loss, valid_accuracy = valid or (None, None)
        epoch = Epoch(len(self.epochs) + 1, loss, accuracy, valid_loss, valid_accuracy)
        self.epochs.append(epoch)
        self.kept = epoch.epoch
        if self._on_epoch is not None:
            self._on_epoch(epoch)
        return epoch

"""The use case: train the upper layers of a network together with a head, on the images themselves."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurecache.ahead import ahead
from featurecache.backbones.catalog import HEAD_ALONE
from featurecache.backbones.runtime import find_device, load_keras, placed
from featurecache.decode import DecodeRules, Failure, read_file
from featurecache.errors import OptionError, UnknownNameError
from featurecache.foreign import require_new
from featurecache.manifest import read_manifest
from featurecache.names import listed
from heads.assembly import assemble, describe, layered, network_of, notes_of, save_model
from heads.errors import MismatchError, TrainingError
from heads.parameters import HeadSpec, Parameter, Value
from heads.splits import TRAIN, VALID, count_text
from heads.trainer import OPTIMIZERS, Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike

    from featurecache.manifest import ImageEntry, Manifest
    from heads.artifact import TrainedHead
    from heads.base import Epoch

FINE_TUNING = HeadSpec(
    name="finetune",
    summary="The layers from a stage on and the head, by gradient descent on the images.",
    parameters=(
        Parameter("lr", "float", 1e-5, "Learning rate: the optimizer's step.", above=0),
        Parameter("epochs", "int", 1, "Passes over the training images.", low=1),
        Parameter("batch_size", "int", 32, "Images of one step.", low=1),
        Parameter("optimizer", "choice", "adam", "Rule of the steps.", choices=tuple(OPTIMIZERS)),
    ),
    head="",
    predictor="",
)
"""What can be set, declared like the parameters of a head; there is no head of this name."""


@dataclass(frozen=True, slots=True, eq=False)
class FineTuning:
    """What a fine-tuning did.

    Parameters
    ----------
    path
        The Keras model that was made.
    unfreeze, params
        The stage that training began at, and its settings.
    seed
        What the order of the images followed from.
    trained_weights, weights
        How many weights were trained, and how many there are.
    n_train, n_valid
        Images that trained the model and that judged it.
    epochs
        One record per epoch; epoch 0 is the start, before any step.
    seconds
        Wall time of the epochs.
    warnings
        What the user must know, one line each.
    failures
        Path of every image that could not be used, to the reason.
    """

    path: Path
    unfreeze: str
    params: Mapping[str, Value]
    seed: int
    trained_weights: int
    weights: int
    n_train: int
    n_valid: int
    epochs: tuple[Epoch, ...]
    seconds: float
    warnings: tuple[str, ...]
    failures: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        failures = [{"path": path, "reason": reason} for path, reason in self.failures.items()]
        return {"model": str(self.path), **self.record(), "warnings": list(self.warnings), "failures": failures}

    def record(self) -> dict[str, Any]:
        """Return what is kept of it in the model's file."""
        names = ("unfreeze", "params", "seed", "trained_weights", "weights", "n_train", "n_valid", "seconds")
        return {name: getattr(self, name) for name in names} | {"epochs": [asdict(epoch) for epoch in self.epochs]}


def finetune(
    head: TrainedHead,
    images: str | PathLike[str],
    path: str | PathLike[str],
    *,
    unfreeze: str,
    params: Mapping[str, object] | None = None,
    seed: int = 0,
    weights: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    notify: Callable[[str], None] = lambda _: None,
) -> FineTuning:
    """Go on training, from a head and the network under it, and save both as one Keras model.

    What lies below the stage keeps its weights, and batch normalisation its statistics, gains and offsets; nothing is
    dropped out. The split ``train`` trains, or the images in no split if it is empty; ``valid`` judges, or else those
    training images that the rule of the head holds out by their content (`heads.splits.Holdout`). Images are read
    again in every epoch, in an order drawn from the seed. The same seed gives the same weights on the same machine,
    as far as Keras's backend does.

    Parameters
    ----------
    head
        A trained head that is made of dense layers.
    images
        A folder or table of labelled images, with the head's classes; see `featurecache.manifest.read_manifest`.
    path
        The ``.keras`` file to make.
    unfreeze
        Where training begins: a stage of the network, from the catalogue.
    params
        The settings of `FINE_TUNING`; those not given have its defaults.
    seed
        What the order of the images follows from.
    weights, workers, device
        As in `heads.prediction.predict`.
    on_epoch
        Called with the record of each epoch; first with epoch 0, the start.
    notify
        Is told in one line what a person might want to know.

    Raises
    ------
    UnknownNameError
        If there is no such stage, or the head takes a tap below it.
    ParameterError, OptionError, OutputError
        If a setting cannot take its value, or the file cannot be made.
    ManifestError, NoImagesError
        If there are no images, or none that can be used.
    MismatchError
        If the images' classes or the network's weights are not the head's.
    TrainingError
        If there is nothing to train on, or the training diverged; then nothing is saved.
    WeightsError, DeviceError
        If the network cannot be had.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise OptionError(f"{path} has the suffix {path.suffix!r}; expected .keras, for a Keras model")
    require_new(path)
    settings = FINE_TUNING.values(params or {})
    layered(head)
    row, found = network_of(head, weights, notify=notify)
    stages = row.stages_below(head.tap)
    if unfreeze not in stages:
        raise UnknownNameError(f"stage of {row.name} up to {head.tap}", unfreeze, stages)
    manifest = read_manifest(Path(images))
    train, valid = sides(manifest, head, workers=workers)
    for note in (*notes_of(head), f"building {row.name} with {found.source} weights"):
        notify(note)
    rules = DecodeRules(head.recipe.input_size, head.recipe.resize, head.recipe.filter)
    with placed(find_device(device)):
        model = assemble(head, row, found)
        _freeze(model.get_layer(row.name), row.stages[unfreeze])
        trainer = Trainer(model, manifest, rules, settings, workers)
        begun = time.perf_counter()
        epochs = trainer.train(train, valid, epochs=int(settings["epochs"]), seed=seed, on_epoch=on_epoch)
        done = FineTuning(
            path=path,
            unfreeze=unfreeze,
            params=settings,
            seed=seed,
            trained_weights=sum(math.prod(weight.shape) for weight in model.trainable_weights),
            weights=model.count_params(),
            n_train=sum(entry not in trainer.failures for entry in train),
            n_valid=sum(entry not in trainer.failures for entry in valid),
            epochs=tuple(epochs),
            seconds=time.perf_counter() - begun,
            warnings=tuple(_warnings(epochs)),
            failures={entry.path: reason for entry, reason in trainer.failures.items()},
        )
        save_model(model, path, describe(head, done.record()))
    return done


def sides(
    manifest: Manifest, head: TrainedHead, *, workers: int | None = None
) -> tuple[list[ImageEntry], list[ImageEntry]]:
    """Return the images that train and those that judge, by the rule that chooses a head's rows (`heads.splits`).

    Where there is no valid split, what the head held out is held out again; for that images are read, to be told apart
    by their content. If it held nothing out, any of them may have trained it, and none judges.

    Raises
    ------
    MismatchError
        If the images' classes are not the head's, or one that is to be trained was never seen by the head.
    TrainingError
        If there is nothing to train on.
    """
    if manifest.classes != head.classes:
        raise MismatchError(
            f"classes: the head knows {listed(head.classes)}, the images have {listed(manifest.classes) or 'none'}; "
            "name the class folders like the head's classes, or train a new head on these images"
        )
    labelled = [entry for entry in manifest.entries if entry.label >= 0]
    train = [entry for entry in labelled if entry.split == TRAIN] or [e for e in labelled if not e.split]
    valid = [entry for entry in labelled if entry.split == VALID]
    if not valid and head.training.holdout is not None:
        rule = head.training.holdout
        held_out = [rule.holds_out(sha256) for sha256 in _contents(manifest, train, workers)]
        train, valid = list(compress(train, [not each for each in held_out])), list(compress(train, held_out))
    if not train:
        raise TrainingError(
            f"there are no training images: the labelled ones are {count_text(entry.split for entry in labelled)}; "
            "put images into a train split"
        )
    unseen = {entry.label for entry in train} - {*head.trained_classes}
    if unseen:
        raise MismatchError(
            f"the head never saw the class {listed(head.classes[label] for label in unseen)}, of which there are "
            "images to train on; train a head on a cache with all of them first"
        )
    return train, valid


def _contents(manifest: Manifest, entries: Sequence[ImageEntry], workers: int | None) -> Iterator[str]:
    """Yield the SHA-256 of each image file; an empty text for one that cannot be read."""

    def look(entry: ImageEntry) -> str:
        read = read_file(manifest.file(entry), max_bytes=DecodeRules((1, 1)).max_bytes)
        return "" if isinstance(read, Failure) else read.sha256

    threads = workers or len(os.sched_getaffinity(0))
    return ahead(look, entries, workers=threads, window=2 * threads)


def _freeze(network: Any, first: str) -> None:  # noqa: ANN401 - a keras.Model
    """Let a network's layers be trained from the first on, or none of them, and batch normalisation never."""
    names = [layer.name for layer in network.layers]
    begin = len(names) if first == HEAD_ALONE else names.index(first)
    for place, layer in enumerate(network.layers):
        layer.trainable = place >= begin and not isinstance(layer, load_keras().layers.BatchNormalization)


def _warnings(epochs: Sequence[Epoch]) -> Iterator[str]:
    """Yield what the user must know of these epochs."""
    start, end = epochs[0].valid_loss, epochs[-1].valid_loss
    if start is None or end is None:
        yield "there are no valid images: nothing says how the model does on images that it has not seen"
    elif end > start:
        yield (
            f"the valid loss rose from {start:.4f} to {end:.4f}: the model was better before; "
            "choose a lower -p lr or fewer -p epochs"
        )

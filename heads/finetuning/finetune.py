"""The use case ``finetune``: trains a head together with the upper layers of its network, on images."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurecache.backbones.catalog import HEAD_ALONE
from featurecache.backbones.keras_runtime import find_device, fixed_settings, load_keras, placed
from featurecache.backbones.network import leaf_layers
from featurecache.errors import ManifestError, OptionError, UnknownNameError
from featurecache.images.classes import same_name
from featurecache.images.decode import DecodeRules, dark_images
from featurecache.images.failures import Failure
from featurecache.images.frames import read_image
from featurecache.images.image_source import threads_for
from featurecache.images.manifest import manifest_of
from featurecache.images.names import shown_names
from featurecache.options import RunOptions, check_without_words
from featurecache.prefetch import ahead
from featurecache.storage.external_writers import require_new
from featurecache.text import listed
from heads.errors import MismatchError, TrainingError
from heads.exporting.keras_model import (
    assemble,
    describe,
    for_any_size,
    layered,
    network_of,
    notes_of,
    save_model,
)
from heads.finetuning.trainer import OPTIMIZERS, Trainer
from heads.notices import Code, Notice, to_dicts
from heads.parameters import HeadSpec, Parameter, Value
from heads.splits import TRAIN, VALID, count_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike

    from featurecache.backbones.catalog import NetworkSpec
    from featurecache.images.manifest import ImageEntry, Images, Manifest
    from heads.artifact import TrainedHead
    from heads.epochs import Epoch

FINE_TUNING = HeadSpec(
    name="finetune",
    summary="Trains the head and the layers from a stage on, by gradient descent on the images.",
    parameters=(
        Parameter("lr", "float", 1e-5, "Learning rate: the optimizer's step.", above=0),
        Parameter("epochs", "int", 1, "Passes over the training images.", low=1),
        Parameter("batch_size", "int", 32, "Images per step.", low=1),
        Parameter("optimizer", "choice", "adam", "Optimization method.", choices=tuple(OPTIMIZERS)),
    ),
)
"""The settings of a fine-tuning, declared like the parameters of a head; there is no head of this name."""


@dataclass(frozen=True, slots=True, eq=False)
class FineTuning:
    """The result of a fine-tuning.

    Parameters
    ----------
    path
        The written Keras model.
    unfreeze, params
        The first trained stage, and the settings.
    seed
        The seed of the order of the images.
    trained_weights, weights
        Numbers of trained weights and of all weights.
    n_train, n_valid
        Numbers of train and valid images.
    epochs
        One record per epoch; epoch 0 is the state before the first step.
    seconds
        Wall time of the epochs.
    warnings
        Warnings for the user.
    failures
        Maps the path of each unusable image to its failure.
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
    warnings: tuple[Notice, ...]
    failures: Mapping[str, Failure]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        failures = [{"path": path} | failure.to_dict() for path, failure in self.failures.items()]
        return {"model": str(self.path), **self.record(), "warnings": to_dicts(self.warnings), "failures": failures}

    def record(self) -> dict[str, Any]:
        """Return the part that the model file records."""
        names = ("unfreeze", "params", "seed", "trained_weights", "weights", "n_train", "n_valid", "seconds")
        return {name: getattr(self, name) for name in names} | {"epochs": [asdict(epoch) for epoch in self.epochs]}


def finetune(
    head: TrainedHead,
    images: Images,
    path: str | PathLike[str],
    *,
    unfreeze: str,
    params: Mapping[str, object] | None = None,
    seed: int = 0,
    weights: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    max_pixels: int | None = None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    progress: Callable[[int, int], object] = lambda *_: None,
    notify: Callable[[str], None] = lambda _: None,
) -> FineTuning:
    """Continue training a head together with its network, and save both as one Keras model.

    Layers below the stage keep their weights; batch normalisation keeps its statistics, gains and offsets; there is no
    dropout. The model trains on the split ``train``, or if it is empty on the images in no split. It is measured on
    ``valid``, or else on the training images that the head's rule holds out by content (`heads.Holdout`). Every
    epoch reads the images again, in a random order. The same seed gives the same weights on the same machine, if
    Keras's backend is deterministic.

    Parameters
    ----------
    head
        A trained head that consists of dense layers.
    images
        A folder, archive or table of labelled images with the head's classes (see `featurecache.read_manifest`), or the
        manifest of another source (see `featurecache.from_source`).
    path
        The ``.keras`` file to create.
    unfreeze
        The first stage of the network to train, by its name in the catalogue.
    params
        The settings of `FINE_TUNING`; missing ones have their defaults.
    seed
        The seed of the order of the images.
    weights, workers, device, max_pixels
        As in `heads.predict`.
    on_epoch
        Called with the record of each epoch, beginning with epoch 0, the start.
    progress
        Called after every batch with the number of images that passed through the network, in all epochs, and of all.
    notify
        Called with one-line status messages for the user.

    Raises
    ------
    UnknownNameError
        If the stage does not exist, or the head uses a tap below it.
    ParameterError, OptionError, OutputError
        If a setting has an invalid value, or the file cannot be created.
    ManifestError, NoImagesError
        If there are no images, or none that can be used.
    MismatchError
        If the images' classes or the network's weights differ from the head's.
    TrainingError
        If there are no training images, or the training diverged; nothing is saved then.
    WeightsError, DeviceError
        If the network is not available.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise OptionError(f"{path} has the suffix {path.suffix!r}; expected .keras, for a Keras model")
    require_new(path)
    check_without_words(RunOptions, workers=workers, device=device)
    settings = FINE_TUNING.values(params or {})
    layered(head)
    row, found = network_of(head, weights, notify=notify)
    stages = row.stages_below(head.tap)
    if unfreeze not in stages:
        raise UnknownNameError(f"stage of {row.name} up to {head.tap}", unfreeze, stages)
    manifest = manifest_of(images, notify=notify)
    limit = head.max_pixels if max_pixels is None else max_pixels
    rules = DecodeRules(head.recipe.input_size, head.recipe.resize, head.recipe.filter, limit)
    train, valid = sides(manifest, head, max_bytes=rules.max_bytes, workers=workers)
    for note in (*notes_of(head), f"building {row.name} with {found.source} weights"):
        notify(note)
    with placed(find_device(device)), fixed_settings():
        model = assemble(head, row, found)
        network = model.get_layer(row.name)
        _require_part(network, row, unfreeze, stages)
        _freeze(network, row.stages[unfreeze])
        trainer = Trainer(model, manifest, rules, settings, workers)
        begun = time.perf_counter()
        epochs = trainer.train(
            train, valid, epochs=int(settings["epochs"]), seed=seed, on_epoch=on_epoch, progress=progress
        )
        done = FineTuning(
            path=path,
            unfreeze=unfreeze,
            params=settings,
            seed=seed,
            trained_weights=sum(math.prod(weight.shape) for weight in model.trainable_weights),
            weights=model.count_params(),
            n_train=sum(entry.path not in trainer.failures for entry in train),
            n_valid=sum(entry.path not in trainer.failures for entry in valid),
            epochs=tuple(epochs),
            seconds=time.perf_counter() - begun,
            warnings=(*_warnings(epochs), *dark_images(trainer.dark)),
            failures=dict(zip(shown_names([*trainer.failures]), trainer.failures.values(), strict=True)),
        )
        save_model(for_any_size(model, head.recipe), path, describe(head, done.record()))
    return done


def sides(
    manifest: Manifest, head: TrainedHead, *, max_bytes: int, workers: int | None = None
) -> tuple[list[ImageEntry], list[ImageEntry]]:
    """Return the train and the valid images, by the rule that chooses a head's rows (`heads.splits`).

    Their labels count the classes in the head's order. Without a valid split, the images that the head held out are
    held out again; this reads the images to hash their content. If the head held nothing out, all images may have
    trained it, so there are no valid images.

    Raises
    ------
    MismatchError
        If the images' classes differ from the head's, or training images have a class that the head was not trained on.
    TrainingError
        If there are no training images.
    ManifestError
        If the manifest has views.
    """
    if manifest.views:
        raise ManifestError(
            f"the manifest has views ({manifest.views}), which fine-tuning does not take; leave them out"
        )
    own = {same_name(name): name for name in head.classes}
    manifest = replace(manifest, classes=tuple(own.get(same_name(name), name) for name in manifest.classes))
    if {*manifest.classes} != {*head.classes}:
        raise MismatchError(
            f"classes: the head knows {listed(head.classes)}, the images have {listed(manifest.classes) or 'none'}; "
            "name the class folders like the head's classes, or train a new head on these images"
        )
    manifest = manifest.with_classes(head.classes)
    labelled = [entry for entry in manifest.entries if entry.label >= 0]
    train = [entry for entry in labelled if entry.split == TRAIN] or [e for e in labelled if not e.split]
    valid = [entry for entry in labelled if entry.split == VALID]
    if not valid and head.training.holdout is not None:
        rule = head.training.holdout
        held_out = [rule.holds_out(sha256) for sha256 in _contents(manifest, train, max_bytes, workers)]
        train, valid = list(compress(train, [not out for out in held_out])), list(compress(train, held_out))
    if not train:
        raise TrainingError(
            f"there are no training images: the labelled ones are {count_text(entry.split for entry in labelled)}; "
            "put images into a train split"
        )
    unseen = {entry.label for entry in train} - {*head.trained_classes}
    if unseen:
        raise MismatchError(
            f"the head was not trained on the class {listed(head.classes[label] for label in unseen)}, but there are "
            "training images of it; first train a head on a cache with all classes"
        )
    return train, valid


def _contents(manifest: Manifest, entries: Sequence[ImageEntry], max_bytes: int, workers: int | None) -> Iterator[str]:
    """Yield the SHA-256 of each image file; an empty text for an unreadable one."""

    def look(entry: ImageEntry) -> str:
        content = read_image(manifest.source, entry.path, max_bytes=max_bytes)
        return "" if isinstance(content, Failure) else content.sha256

    threads = threads_for(manifest.source, workers)
    return ahead(look, entries, workers=threads, window=2 * threads)


def _require_part(network: Any, row: NetworkSpec, unfreeze: str, stages: Sequence[str]) -> None:  # noqa: ANN401
    """Raise `UnknownNameError` if a stage begins at a layer that does not lead to the tap: a branch of a model file."""
    names = {HEAD_ALONE, *(layer.name for layer in network.layers)}
    if row.stages[unfreeze] not in names:
        leading = [stage for stage in stages if row.stages[stage] in names]
        raise UnknownNameError(f"stage of {row.name} that leads to the tap of the head", unfreeze, leading)


def _freeze(network: Any, first: str) -> None:  # noqa: ANN401 - a keras.Model
    """Make a network's layers trainable from ``first`` on, except batch normalisation; freeze all others."""
    names = [layer.name for layer in network.layers]
    begin = len(names) if first == HEAD_ALONE else names.index(first)
    for place, layer in enumerate(network.layers):
        layer.trainable = place >= begin
    for _, _, layer in leaf_layers(network.layers):
        if isinstance(layer, load_keras().layers.BatchNormalization):
            layer.trainable = False


def _warnings(epochs: Sequence[Epoch]) -> Iterator[Notice]:
    """Yield the warnings about these epochs."""
    start, end = epochs[0].valid_loss, epochs[-1].valid_loss
    if start is None or end is None:
        message = "there are no valid images: the accuracy on new images is unknown"
        yield Notice(Code.NO_VALID_ROWS, message)
    elif end > start:
        yield Notice(
            Code.VALID_LOSS_ROSE,
            f"the valid loss rose from {start:.4f} to {end:.4f}: the model was better before; "
            "choose a lower -p lr or fewer -p epochs",
        )

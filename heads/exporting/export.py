"""The use case ``export``: writes a head as a Keras model or scikit-learn object that does not need this project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featurecache.backbones.keras_runtime import placed
from featurecache.errors import OptionError
from featurecache.storage.external_writers import publish_written, require_new
from heads.exporting.keras_model import (
    assemble,
    describe,
    for_any_size,
    layered,
    network_of,
    notes_of,
    save_model,
)
from heads.exporting.sklearn_model import estimator_of, require_estimator

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from heads.artifact import TrainedHead


def export(
    head: TrainedHead,
    path: str | PathLike[str],
    *,
    weights: str | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write a head to a new file, whole or not at all; the suffix determines the format.

    ``.keras``: network and head as one Keras model of built-in layers, from images, shape (n, height, width, 3), uint8
    RGB of any size, to the probabilities of all classes. The model resizes images as the recipe of the head says.
    ``.joblib``: the head alone as a scikit-learn object that takes features.

    Parameters
    ----------
    head
        A trained head.
    path
        The file to create.
    weights
        For ``.keras``: the network's weights, if they have moved since the extraction.
    notify
        Called with one-line status messages for the user.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OptionError
        If the path has another suffix.
    OutputError
        If the name is taken, or the file cannot be written.
    HeadError
        If the head cannot be exported to this format.
    MismatchError
        If the network's weights differ from those of the head, or the head predicts no class.
    UnknownNameError, WeightsError
        If the network is not available.

    Examples
    --------
    >>> svm = heads.train(cache, "logreg", tap="features")
    >>> heads.export(svm, folder / "head.joblib").name
    'head.joblib'
    """
    head.require_target("class", "export")
    path = Path(path)
    kinds = {".keras": _export_model, ".joblib": _export_estimator}
    if path.suffix not in kinds:
        raise OptionError(
            f"{path} has the suffix {path.suffix!r}; expected .keras for the network and the head as one Keras model, "
            "or .joblib for the head as a scikit-learn object"
        )
    require_new(path)
    kinds[path.suffix](head, path, weights, notify)
    return path


def _export_model(head: TrainedHead, path: Path, weights: str | None, notify: Callable[[str], None]) -> None:
    layered(head)
    row, found = network_of(head, weights, notify=notify)
    for note in (*notes_of(head), f"building {row.name} with {found.source} weights"):
        notify(note)
    with placed("cpu"):
        save_model(for_any_size(assemble(head, row, found), head.recipe), path, describe(head))


def _export_estimator(head: TrainedHead, path: Path, weights: str | None, notify: Callable[[str], None]) -> None:
    if weights is not None:
        raise OptionError("a .joblib file has the head alone, without the network's weights; leave out --weights")
    require_estimator(head)
    import joblib

    estimator = estimator_of(head)
    size = sum(array.nbytes for array in head.model.arrays.values())
    publish_written(path, lambda place: joblib.dump(estimator, place), size=size)
    notify("a joblib file can run code when it is loaded: load only files that you trust")

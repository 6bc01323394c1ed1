"""The use case: from a trained head to a file that does without this project: a Keras model, a scikit-learn object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from featurecache.backbones.runtime import placed
from featurecache.errors import OptionError
from featurecache.foreign import publish_written, require_new
from heads.assembly import assemble, describe, layered, network_of, notes_of, save_model
from heads.estimators import estimator_of, require_estimator

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
    """Write a head to a new file, whole or not at all, of the kind that its suffix names.

    ``.keras``: the network and the head as one Keras model of built-in layers, from raw images, (n, height, width, 3)
    uint8 RGB of the network's input size, to the probabilities of all classes; see `heads.assembly`. ``.joblib``: the
    head alone as a scikit-learn object that takes features; see `heads.estimators`.

    Parameters
    ----------
    head
        A trained head.
    path
        The file to make.
    weights
        For ``.keras``: where the network's weights are, if they are no longer where the extraction found them.
    notify
        Is told in one line what a person should know.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OptionError
        If the suffix is another one.
    OutputError
        If something bears the name already, or it cannot be written.
    HeadError
        If the head cannot be exported to this kind.
    MismatchError
        If the network's weights are not those that the head was trained with.
    UnknownNameError, WeightsError
        If the network cannot be had.
    """
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
        save_model(assemble(head, row, found), path, describe(head))


def _export_estimator(head: TrainedHead, path: Path, weights: str | None, notify: Callable[[str], None]) -> None:
    if weights is not None:
        raise OptionError("weights are the network's, and a .joblib file holds the head alone; leave --weights out")
    require_estimator(head)
    import joblib

    estimator = estimator_of(head)
    size = sum(array.nbytes for array in head.predictor.arrays.values())
    publish_written(path, lambda place: joblib.dump(estimator, place), size=size)
    notify("a joblib file runs code when it is loaded: give it only to people who trust you")

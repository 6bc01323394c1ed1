"""The use case ``export``: writes a head, with or without its network, for programs that do not have this project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurecache.backbones.keras_runtime import placed
from featurecache.errors import EngineError, OptionError, UnknownNameError
from featurecache.storage.external_writers import publish_written, require_new
from heads.errors import HeadError, MismatchError
from heads.exporting.keras_model import (
    assemble,
    describe,
    for_any_size,
    layered,
    network_of,
    notes_of,
    save_model,
)
from heads.exporting.litert_model import require_litert, save_litert
from heads.exporting.onnx_graph import load_onnx
from heads.exporting.onnx_head import require_rule
from heads.exporting.onnx_model import head_alone, network_and_head, require_tf2onnx, save_onnx
from heads.exporting.openvino_model import (
    openvino_head,
    openvino_network_and_head,
    require_openvino,
    save_openvino,
    weights_beside,
)
from heads.exporting.sklearn_model import estimator_of, require_estimator

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from typing import TypeAlias

    from heads.artifact import TrainedHead

    Notify: TypeAlias = Callable[[str], None]


def export(
    head: TrainedHead,
    path: str | PathLike[str],
    *,
    weights: str | None = None,
    head_only: bool = False,
    notify: Notify = lambda _: None,
) -> Path:
    """Write a head to a new file, whole or not at all; the suffix determines the format.

    ``.keras``: network and head as one Keras model of built-in layers, from images, shape (n, height, width, 3), uint8
    RGB of any size, to the probabilities of all classes. The model resizes images as the recipe of the head says.
    ``.onnx``: network and head for ONNX Runtime and others, from images of the recipe's size to ``probabilities`` and
    ``class``, the index of the class; or to ``probabilities`` and ``labels``, whether it has each; or to ``number``.
    ``.xml``: the same for OpenVINO, with a file of weights beside it, ``.bin``.
    ``.tflite``: network and head for LiteRT, from one image of the recipe's size to the probabilities of all classes.
    ``.joblib``: the head alone as a scikit-learn object that takes features.

    Parameters
    ----------
    head
        A trained head: for ``.onnx`` and ``.xml`` one of any target, for the others one of classes.
    path
        The file to create.
    weights
        Where there is a network: its weights, if they have moved since the extraction.
    head_only
        Whether ``.onnx`` and ``.xml`` have the head alone, from features, shape (n, d), float32.
    notify
        Called with one-line status messages for the user.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OptionError
        If the path has another suffix, or an option does not fit to it.
    OutputError
        If the name is taken, or the file cannot be written.
    HeadError
        If the head or its network cannot be exported to this format, or what writes it is not installed.
    MismatchError
        If the network's weights differ from those of the head, or the format has no heads of its target.
    WeightsError
        If the network's weights are not available.

    Examples
    --------
    >>> logreg = heads.train(cache, "logreg", tap="features")
    >>> heads.export(logreg, folder / "head.joblib").name
    'head.joblib'
    >>> heads.export(logreg, folder / "head.onnx", head_only=True).name
    'head.onnx'
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        *first, last = [f"{suffix} for {form.what}" for suffix, form in _FORMATS.items()]
        raise OptionError(f"{path} has the suffix {path.suffix!r}; expected {', '.join(first)}, or {last}")
    form = _FORMATS[path.suffix]
    if head_only and not form.head:
        able = ", ".join(suffix for suffix, each in _FORMATS.items() if each.head)
        raise OptionError(f"a {path.suffix} file has network and head; the head alone can be written to {able}")
    if weights is not None and (head_only or not form.network):
        raise OptionError("a head alone is written without the network's weights; leave out --weights")
    if not form.all_targets:
        head.require_target("class", f"export to {path.suffix}")
    require_new(path)
    form.write(_Export(head, path, weights, head_only, notify))
    return path


@dataclass(frozen=True, slots=True)
class _Export:
    """What is written where, and how; see `export`."""

    head: TrainedHead
    path: Path
    weights: str | None
    head_only: bool
    notify: Notify

    def network(self, *, resizes: bool = False, rounds: bool = False) -> tuple[Any, Any]:
        """Return the network with its weights, and say what the user should know of a model of it."""
        try:
            row, found = network_of(self.head, self.weights, notify=self.notify)
        except MismatchError:
            raise
        except (UnknownNameError, EngineError, HeadError) as e:  # no weights of any place would help
            raise HeadError(f"{e}; --head-only writes the head alone to .onnx or .xml") from e
        for note in (
            *notes_of(self.head, resizes=resizes, rounds=rounds),
            f"building {row.name} with {found.source} weights",
        ):
            self.notify(note)
        return row, found


def _write_keras(of: _Export) -> None:
    layered(of.head)
    network = of.network(resizes=True)
    with placed("cpu"):
        save_model(for_any_size(assemble(of.head, *network), of.head.recipe), of.path, describe(of.head))


def _write_litert(of: _Export) -> None:
    layered(of.head)
    require_litert()
    network = of.network()
    with placed("cpu"):
        save_litert(assemble(of.head, *network), of.path, describe(of.head))


def _write_onnx(of: _Export) -> None:
    require_rule(of.head)
    load_onnx()
    if of.head_only:
        model = head_alone(of.head)
    else:
        require_tf2onnx()
        model = network_and_head(of.head, *of.network(rounds=True))
    save_onnx(model, of.path)


def _write_openvino(of: _Export) -> None:
    require_new(weights_beside(of.path))
    require_rule(of.head)
    load_onnx()
    require_openvino(of.head)
    model = openvino_head(of.head) if of.head_only else openvino_network_and_head(of.head, *of.network())
    save_openvino(model, of.path, of.head)


def _write_estimator(of: _Export) -> None:
    require_estimator(of.head)
    import joblib

    estimator = estimator_of(of.head)
    size = sum(array.nbytes for array in of.head.model.arrays.values())
    publish_written(of.path, lambda place: joblib.dump(estimator, place), size=size)
    of.notify("a joblib file can run code when it is loaded: load only files that you trust")


@dataclass(frozen=True, slots=True)
class _Format:
    """A format of files.

    Parameters
    ----------
    what
        What it is for, as words.
    write
        Writes a file.
    network, head
        Whether it can have network and head, and whether it can have the head alone.
    all_targets
        Whether it takes heads of several labels and of numbers.
    """

    what: str
    write: Callable[[_Export], None]
    network: bool = True
    head: bool = False
    all_targets: bool = False


_FORMATS = {
    ".keras": _Format("network and head as one Keras model", _write_keras),
    ".onnx": _Format("ONNX", _write_onnx, head=True, all_targets=True),
    ".xml": _Format("OpenVINO", _write_openvino, head=True, all_targets=True),
    ".tflite": _Format("LiteRT", _write_litert),
    ".joblib": _Format("the head as a scikit-learn object", _write_estimator, network=False, head=True),
}

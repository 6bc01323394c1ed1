"""Heads as ONNX and OpenVINO models, with their network, from images to the decision, or alone, from features.

Keras converts the network; the head follows as `onnx_head` computes it. OpenVINO reads the ONNX model. A model has the
text of ``featurecache.json`` in its metadata.
"""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.backbones.keras_runtime import fixed_settings, load_keras, placed, without_chatter
from featurecache.backbones.network import from_pixels
from featurecache.backbones.openvino_network import core, load_openvino
from featurecache.memory import free_memory
from featurecache.storage.external_writers import publish_written
from featurecache.text import in_short
from heads.each_label import learned_models
from heads.errors import HeadError, MismatchError
from heads.exporting.keras_model import DESCRIPTION, TOLERANCE, describe, drawn_rows, require_conversion
from heads.exporting.onnx_graph import OPSET, Graph, element_type, load_onnx, new_model
from heads.exporting.onnx_head import add_head
from heads.families.neighbors import NeighborsModel, NeighborsNumberModel

if TYPE_CHECKING:
    from featurecache.backbones.catalog import NetworkSpec
    from featurecache.backbones.weights import Weights
    from heads.artifact import TrainedHead

_SINCE = (3, 12)  # the version of Keras that lets one choose the version of ONNX's operators first
_ROWS = "n"  # the name of the first dimension of all inputs and outputs
_COPIES = 60  # of the weights, in memory while tf2onnx converts; 49 were measured
_LARGEST = 2_000_000_000  # bytes; a file of ONNX, a protocol buffer, has at most 2 GiB


def head_alone(head: TrainedHead) -> Any:  # noqa: ANN401 - onnx's types are not used
    """Return a head as an ONNX model from ``features``, shape (n, d), float32, to the outputs of `add_head`."""
    onnx = load_onnx()
    features = onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, [_ROWS, head.model.width])
    return _finished(new_model([features]), head, "features")


def network_and_head(head: TrainedHead, row: NetworkSpec, weights: Weights) -> Any:  # noqa: ANN401
    """Return a network and a head as an ONNX model from ``images`` to the outputs of `add_head`.

    Images have the size of the recipe: shape (n, height, width, 3), uint8 RGB.

    Raises
    ------
    HeadError
        If Keras cannot convert the network.
    """
    model = _network(row, weights, head.tap)
    (images,), (features,) = model.graph.input, model.graph.output
    for value in (images, *model.graph.value_info):
        if value.type.tensor_type.shape.dim and value.type.tensor_type.shape.dim[0].dim_param:
            value.type.tensor_type.shape.dim[0].dim_param = _ROWS
    name = features.name
    del model.graph.output[:]
    return _finished(model, head, name, rounded=head.recipe.stored_dtype(head.tap) == np.float16)


def require_openvino(head: TrainedHead) -> None:
    """Raise `HeadError` unless OpenVINO is installed and computes what a head computes."""
    if find_spec("openvino") is None:
        raise HeadError("OpenVINO is not installed: pip install 'featurecache[fast,onnx]'")
    if any(isinstance(each, NeighborsModel | NeighborsNumberModel) for each in learned_models(head.model)):
        raise HeadError(
            f"the head {head.name} compares distances in float64, and OpenVINO computes in float32; "
            "export it to a .onnx file"
        )
    _require_same(head)


def require_tf2onnx() -> None:
    """Raise `HeadError` unless Keras can convert networks to ONNX here."""
    if find_spec("tf2onnx") is None:
        raise HeadError(
            "tf2onnx, with which Keras converts networks to ONNX, is not installed: pip install 'featurecache[onnx]'"
        )
    require_conversion("ONNX", _SINCE)


def save_onnx(model: Any, path: Path) -> None:  # noqa: ANN401 - onnx's types are not used
    """Publish an ONNX model, whole or not at all; raise `OutputError` if it cannot be written."""
    publish_written(path, lambda place: load_onnx().save(model, place), size=model.ByteSize())


def weights_beside(path: Path) -> Path:
    """Return the file of weights beside an OpenVINO model, which OpenVINO looks for."""
    return path.with_suffix(".bin")


def save_openvino(model: Any, path: Path) -> None:  # noqa: ANN401 - onnx's types are not used
    """Publish an ONNX model as an OpenVINO model of two files, both or none; raise `OutputError` if they cannot be."""
    converted = _as_openvino(model)
    for entry in model.metadata_props:
        converted.set_rt_info(entry.value, [entry.key])
    beside, structure = weights_beside(path), b""

    def write(place: Path) -> None:
        nonlocal structure
        load_openvino().serialize(converted, str(place.with_suffix(".xml")), str(place))
        structure = place.with_suffix(".xml").read_bytes()

    publish_written(beside, write, size=model.ByteSize())
    try:
        publish_written(path, lambda place: place.write_bytes(structure), size=len(structure))
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _network(row: NetworkSpec, weights: Weights, tap: str) -> Any:  # noqa: ANN401 - onnx's types are not used
    """Return a network as an ONNX model from images to the activations of a tap."""
    with fixed_settings(), placed("cpu"), TemporaryDirectory() as folder, without_chatter():
        model = from_pixels(row, weights, tap)
        _require_room(row.name, 4 * model.count_params())
        images = load_keras().InputSpec(shape=model.input.shape, dtype="uint8", name="images")
        path = Path(folder, "network.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tf2onnx, about NumPy
            try:
                model.export(str(path), format="onnx", verbose=False, input_signature=[images], opset_version=OPSET)
            except (MemoryError, OSError):  # as of a full disk: not the network's fault
                raise
            except Exception as e:
                raise HeadError(f"Keras cannot convert {row.name} to ONNX ({in_short(e)})") from e
        return load_onnx().load(path)


def _require_room(name: str, size: int) -> None:
    """Raise `HeadError` unless a network with so many bytes of weights can be converted here."""
    if size > _LARGEST:
        raise _too_large(name, size)
    needed, free = _COPIES * size, free_memory()
    if needed > free:
        raise HeadError(
            f"tf2onnx takes about {needed / 1e9:.1f} GB of memory to convert {name}, and {free / 1e9:.1f} GB are free; "
            "export the head alone (--head-only), or the network elsewhere"
        )


def _too_large(name: str, size: int) -> HeadError:
    return HeadError(f"{name} takes {size / 1e9:.1f} GB, more than the 2 GB that a .onnx file can have")


def _finished(model: Any, head: TrainedHead, features: str, *, rounded: bool = False) -> Any:  # noqa: ANN401
    """Return a model with a head added that takes the value of this name, with outputs and metadata.

    Features may be rounded to float16 first, as a cache of this type has them.
    """
    onnx, graph = load_onnx(), Graph()
    if rounded:
        features = graph.cast(graph.cast(features, np.float16), np.float32)
    outputs = add_head(graph, head, features)
    size = model.ByteSize() + sum(len(each.raw_data) for each in graph.constants)
    if size > _LARGEST:
        raise _too_large(f"the model of the head {head.name}", size)
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend(graph.constants)
    for name, dtype in outputs.items():
        shape = [_ROWS] if name in {"class", "number"} else [_ROWS, len(head.classes)]
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, element_type(dtype), shape))
    model.graph.name, model.producer_name, model.producer_version = head.name, "featurecache", ""
    onnx.helper.set_model_props(model, {DESCRIPTION: json.dumps(describe(head))})
    return model


def _as_openvino(model: Any) -> Any:  # noqa: ANN401 - neither has types
    return core().read_model(model.SerializeToString(), b"")


def _require_same(head: TrainedHead) -> None:
    """Raise `MismatchError` unless OpenVINO computes what a head computes of random rows."""
    rows = drawn_rows(head.model)
    compiled = core().compile_model(_as_openvino(head_alone(head)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([rows])
    if head.target == "number":
        expected = head.predict_numbers(rows)
        range_of = np.ptp(expected) or np.abs(expected).max() or 1.0  # large numbers may differ by little
        error = np.abs(found["number"] - expected).max() / range_of
    else:
        error = np.abs(found["probabilities"] - head.predict_proba(rows)).max()
    if not error <= TOLERANCE:
        raise MismatchError(
            f"the {head.name} head is not precise enough in float32, in which OpenVINO computes: its results differ by "
            f"up to {error:.2g}; export it to a .onnx file"
        )

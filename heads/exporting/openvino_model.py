"""Heads as OpenVINO models, with their network, from images to the decision, or alone, from features.

OpenVINO converts the network from TensorFlow, as for extractions, and reads the head from its ONNX model. A model has
the text of ``featurecache.json`` in its runtime information.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.backbones.drawing import trial_images
from featurecache.backbones.keras_runtime import fixed_settings, load_keras, placed, require_tensorflow, traced
from featurecache.backbones.network import from_pixels
from featurecache.backbones.openvino_network import conversion_fault, core, from_tensorflow, load_openvino, require_same
from featurecache.backbones.protocol import EngineFault
from featurecache.storage.external_writers import publish_written
from heads.each_label import learned_models
from heads.errors import HeadError, MismatchError
from heads.exporting.keras_model import DESCRIPTION, TOLERANCE, describe, drawn_rows
from heads.exporting.onnx_model import head_alone
from heads.families.neighbors import NeighborsModel, NeighborsNumberModel

if TYPE_CHECKING:
    from pathlib import Path

    from featurecache.backbones.catalog import NetworkSpec
    from featurecache.backbones.weights import Weights
    from heads.artifact import TrainedHead

_TRIALS = 2  # images on which a converted network is compared with Keras


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


def openvino_head(head: TrainedHead) -> Any:  # noqa: ANN401 - OpenVINO's types are not used
    """Return a head as an OpenVINO model, with the inputs and outputs of `head_alone`."""
    return core().read_model(head_alone(head).SerializeToString(), b"")


def openvino_network_and_head(head: TrainedHead, row: NetworkSpec, weights: Weights) -> Any:  # noqa: ANN401
    """Return a network and a head as an OpenVINO model, with the inputs and outputs of `network_and_head`.

    Raises
    ------
    HeadError
        If OpenVINO cannot convert the network, or computes something else then.
    """
    try:
        require_tensorflow()
        network = _network(row, weights, head.tap)
    except EngineFault as e:
        raise HeadError(str(e)) from e
    decision = openvino_head(head)
    features = network.output(0).get_node().input_value(0)
    for taken in decision.input(0).get_target_inputs():
        taken.replace_source_output(features)
    return load_openvino().Model(decision.get_results(), network.get_parameters(), head.name)


def weights_beside(path: Path) -> Path:
    """Return the file of weights beside an OpenVINO model, which OpenVINO looks for."""
    return path.with_suffix(".bin")


def save_openvino(model: Any, path: Path, head: TrainedHead) -> None:  # noqa: ANN401 - OpenVINO's types are not used
    """Publish an OpenVINO model of two files, both or none; raise `OutputError` if they cannot be written."""
    model.set_rt_info(json.dumps(describe(head)), [DESCRIPTION])
    beside, structure = weights_beside(path), b""

    def write(place: Path) -> None:
        nonlocal structure
        load_openvino().serialize(model, str(place.with_suffix(".xml")), str(place))
        structure = place.with_suffix(".xml").read_bytes()

    size = sum(each.get_byte_size() for each in model.get_ops() if each.get_type_name() == "Constant")
    publish_written(beside, write, size=size)
    try:
        publish_written(path, lambda place: place.write_bytes(structure), size=len(structure))
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _network(row: NetworkSpec, weights: Weights, tap: str) -> Any:  # noqa: ANN401 - OpenVINO's types are not used
    """Return a network as an OpenVINO model from images to the activations of a tap."""
    with fixed_settings(), placed("cpu"):
        keras = from_pixels(row, weights, tap)
        graph = traced(keras, lambda images: images, lambda features: {tap: features}, keras.input.shape)
        try:
            model = from_tensorflow(graph)
            model.input(0).set_names({"images"})
        except (MemoryError, OSError):
            raise
        except Exception as e:
            raise conversion_fault(row.title, e) from e
        images = trial_images((_TRIALS, *row.input_size, 3))
        require_same(row.title, model, images, {tap: load_keras().ops.convert_to_numpy(keras(images, training=False))})
        return model


def _require_same(head: TrainedHead) -> None:
    """Raise `MismatchError` unless OpenVINO computes what a head computes of random rows."""
    rows = drawn_rows(head.model)
    compiled = core().compile_model(openvino_head(head), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
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

"""Heads as ONNX models, with their network, from images to the decision, or alone, from features.

Keras converts the network; the head follows as `onnx_head` computes it. A model has the text of ``featurecache.json``
in its metadata.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.backbones.keras_runtime import fixed_settings, load_keras, placed, without_chatter
from featurecache.backbones.network import from_pixels
from featurecache.memory import free_memory
from featurecache.storage.external_writers import publish_written
from featurecache.text import in_short
from heads.errors import HeadError
from heads.exporting.keras_model import DESCRIPTION, describe, require_conversion
from heads.exporting.onnx_graph import OPSET, Graph, element_type, load_onnx, new_model
from heads.exporting.onnx_head import add_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from featurecache.backbones.catalog import NetworkSpec
    from featurecache.backbones.weights import Weights
    from heads.artifact import TrainedHead

_SINCE = (3, 12)  # the version of Keras that lets one choose the version of ONNX's operators first
_ROWS = "n"  # the name of the first dimension of all inputs and outputs
_LARGE = 2**14  # values; tf2onnx holds some 50 copies of a weight, so that it gets none of so many
_WEIGHT = "weight_"  # and a number: the name of such a weight
_COPIES = 4  # of the weights, in memory beside the network itself; 3.4 were measured
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


def _network(row: NetworkSpec, weights: Weights, tap: str) -> Any:  # noqa: ANN401 - onnx's types are not used
    """Return a network as an ONNX model from images to the activations of a tap."""
    keras = load_keras()
    with fixed_settings(), placed("cpu"), TemporaryDirectory() as folder, without_chatter():
        model = from_pixels(row, weights, tap)
        _require_room(row.title, 4 * model.count_params())
        _store_as_arrays(model)
        large = [variable for variable in model.variables if math.prod(variable.shape) >= _LARGE]
        inputs = [
            keras.InputSpec(shape=model.input.shape, dtype="uint8", name="images"),
            *(
                keras.InputSpec(shape=variable.shape, dtype=variable.dtype, name=f"{_WEIGHT}{number}")
                for number, variable in enumerate(large)
            ),
        ]
        path = Path(folder, "network.onnx")
        with _quiet_tf2onnx():
            try:
                _taking(large, model, inputs).export(
                    str(path), format="onnx", verbose=False, input_signature=[inputs], opset_version=OPSET
                )
                load_onnx().checker.check_model(path)  # tf2onnx leaves operations of TensorFlow in it
            except (MemoryError, OSError):  # as of a full disk: not the network's fault
                raise
            except Exception as e:
                raise HeadError(f"Keras cannot convert {row.title} to ONNX ({in_short(e)})") from e
        converted = load_onnx().load(path)
        _fill(converted, {f"{_WEIGHT}{number}": variable for number, variable in enumerate(large)})
        return converted


@contextmanager
def _quiet_tf2onnx() -> Iterator[None]:
    """Leave out what tf2onnx warns of inside the block: NumPy, and operations, which an error names."""
    logger = logging.getLogger("tf2onnx")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _store_as_arrays(model: Any) -> None:  # noqa: ANN401 - a keras.Model
    """Make NumPy's arrays of the tensors that layers keep: Keras would make inputs of them."""
    keras = load_keras()
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = map(keras.ops.convert_to_numpy, (layer.mean, layer.variance))


def _taking(variables: Sequence[Any], model: Any, inputs: Sequence[Any]) -> Any:  # noqa: ANN401 - Keras has no types
    """Return a Keras model that takes images and the values of variables, in place of those that a model has."""
    keras = load_keras()

    class WithValues(keras.Layer):  # type: ignore[misc, name-defined]  # Keras has no types
        """The model, called with values of its variables."""

        def call(self, given: Sequence[Any]) -> Any:  # noqa: ANN401 - Keras has no types
            images, *values = given
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return model(images, training=False)

    taken = [keras.Input(batch_shape=each.shape, dtype=each.dtype, name=each.name) for each in inputs]
    return keras.Model(taken, WithValues()(taken))


def _fill(model: Any, weights: Mapping[str, Any]) -> None:  # noqa: ANN401 - onnx's types are not used
    """Make inputs of an ONNX model constants, as which they are transposed where a node does so."""
    graph = model.graph
    nodes, inputs = list(graph.node), [each for each in graph.input if each.name not in weights]
    used, kept = {name for node in nodes if node.op_type != "Transpose" for name in node.input}, []

    def add(name: str, array: NDArray[np.float32]) -> None:
        constant = graph.initializer.add(name=name, dims=array.shape, data_type=element_type(array.dtype.type))
        constant.raw_data = array.tobytes()  # `onnx.numpy_helper` would copy it three times

    for node in nodes:
        if node.op_type == "Transpose" and node.input[0] in weights:
            (axes,) = (list(each.ints) for each in node.attribute)
            add(node.output[0], load_keras().ops.convert_to_numpy(weights[node.input[0]]).transpose(axes))
        else:
            kept.append(node)
    for name, weight in weights.items():
        if name in used:
            add(name, load_keras().ops.convert_to_numpy(weight))
    del graph.node[:], graph.input[:]
    graph.node.extend(kept)
    graph.input.extend(inputs)


def _require_room(name: str, size: int) -> None:
    """Raise `HeadError` unless a network with so many bytes of weights can be exported here."""
    if size > _LARGEST:
        raise _too_large(name, size)
    needed, free = _COPIES * size, free_memory()
    if needed > free:
        raise HeadError(
            f"the export of {name} takes about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; "
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

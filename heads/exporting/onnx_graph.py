"""Builds ONNX graphs node by node; equal constants and equal computations are there once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from heads.errors import HeadError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

OPSET = 17
"""The version of ONNX's operators, of 2022: runtimes of the years since know it."""

_IR_VERSION = 8  # the version of the file's structure that came with it
_PREFIX = "head/"  # of names, so that they differ from those of a network


class Graph:
    """The nodes and constants of a graph under construction.

    Values are known by name. Wherever a value is expected, an array or a number is a constant; a Python float is one in
    float64.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[tuple[object, ...], tuple[str, ...]] = {}

    def add(self, operator: str, *inputs: ArrayLike, **attributes: object) -> str:
        """Add a node of one output, and return the name of the output."""
        return self.add_with_outputs(1, operator, *inputs, **attributes)[0]

    def add_with_outputs(
        self, outputs: int, operator: str, *inputs: ArrayLike, **attributes: object
    ) -> tuple[str, ...]:
        """Add a node, and return the names of its outputs."""
        names = [each if isinstance(each, str) else self._constant(np.asarray(each)) for each in inputs]
        key = (operator, *names, *sorted(attributes.items()))
        if key not in self._known:
            found = tuple(f"{_PREFIX}{operator}_{len(self.nodes)}_{number}" for number in range(outputs))
            self.nodes.append(load_onnx().helper.make_node(operator, names, found, name=found[0], **attributes))
            self._known[key] = found
        return self._known[key]

    def output(self, value: str, name: str) -> None:
        """Give a value the name of an output of the graph."""
        self.nodes.append(load_onnx().helper.make_node("Identity", [value], [name], name=f"{_PREFIX}{name}"))

    def cast(self, value: ArrayLike, dtype: type[np.generic]) -> str:
        """Return a value in another type."""
        return self.add("Cast", value, to=element_type(dtype))

    def _constant(self, array: np.ndarray[Any, Any]) -> str:
        array = np.ascontiguousarray(array).reshape(array.shape)  # the first makes one number a row
        key = ("constant", array.dtype.str, array.shape, hashlib.sha256(array.data).digest())
        if key not in self._known:
            name = f"{_PREFIX}constant_{len(self.constants)}"
            self.constants.append(load_onnx().numpy_helper.from_array(array, name))
            self._known[key] = (name,)
        return self._known[key][0]


def load_onnx() -> Any:  # noqa: ANN401 - onnx's types are not used
    """Import onnx; raise `HeadError` if it is not installed."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as e:
        raise HeadError("ONNX is not installed: pip install 'featurecache[onnx]'") from e
    return onnx


def element_type(dtype: type[np.generic]) -> int:
    """Return ONNX's number of a type."""
    return int(load_onnx().helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def new_model(values: Any) -> Any:  # noqa: ANN401 - onnx's types are not used
    """Return an ONNX model with these inputs and without nodes."""
    onnx = load_onnx()
    graph = onnx.helper.make_graph([], "head", values, [])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)

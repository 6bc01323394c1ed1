"""What model files and presets share: their classes are checked, and their weights must fit into their file."""

import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from featurecache.backbones.keras_runtime import fixed_settings, load_keras
from featurecache.errors import WeightsError
from featurecache.options import FILTERS, RESIZES

_RUN_CODE = {name: name for name in ("Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer")} | {
    "__lambda__": "Lambda"
}
_READ_FILES = frozenset(["StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization"])  # a vocabulary's
_MODULES = re.compile(
    r"keras|builtins|keras(\.src)?\.(activations|constraints|dtype_policies|initializers|layers|losses|metrics|models"
    r"|optimizers|regularizers)(\.\w+)*"
    r"|keras(\.src)?\.(ops|applications)(\.(?!core$)\w+)*"
)
"""Where classes and functions of a model may come from: what computes, but nothing that loads, saves or fetches."""

_MODELS = frozenset(["Sequential", "Model", "Functional", "DTypePolicy", "KerasTensor", "Variable"])
_OF_VALUES = re.compile("__(keras_tensor|tensor|numpy|slice|ellipsis|bytes|complex|typespec)__")
_OF_HUB = re.compile(r"keras_hub(\.src)?\.(models|layers)(\.\w+)*")
_WEIGHTS_IN_A_BYTE = 2  # at most, of models that are quantised to 4 bits

INPUT = "featurecache_pixels"
"""The name of the input of a model; no layer of a user's model has it."""


@dataclass(frozen=True, slots=True)
class TappedModel:
    """A model on an input of fixed size, and its layers as taps.

    Parameters
    ----------
    images
        The input, a Keras tensor (n, height, width, 3).
    taps
        The outputs of its layers by name, from the input on; those of a nested model are named ``model.layer``.
    layers
        The name of the layer that each tap reads, where it is a layer that can be trained from: no mere operation.
    default
        The default tap: what the last dense layer takes, or the last layer if that is none.
    prepares
        Whether it prepares pixels: a layer before the first one with a kernel rescales or normalises them, or a preset
        says how.
    parameters
        The number of its weights.
    resize, filter
        How a preset has images resized.
    """

    images: Any
    taps: Mapping[str, Any]
    layers: Mapping[str, str]
    default: str
    prepares: bool
    parameters: int
    resize: str = RESIZES[0]
    filter: str = FILTERS[0]


def require_built_in(path: Path, config: Any, others: Collection[str] = ()) -> None:  # noqa: ANN401 - JSON
    """Raise `WeightsError` if a configuration names a class that runs code, or is neither Keras's own nor allowed.

    Parameters
    ----------
    path
        The file, for messages.
    config
        The configuration, from JSON.
    others
        The classes of KerasHub that are allowed.
    """
    waiting = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            _require_class(path, item, others)
            _require_tensors(path, item)
            waiting += [value for name, value in item.items() if item is not config or name != "compile_config"]
        elif isinstance(item, list):
            waiting += item


def _require_class(path: Path, item: Mapping[str, Any], others: Collection[str]) -> None:
    name, module, registered = item.get("class_name"), item.get("module", "keras"), item.get("registered_name")
    if not isinstance(name, str) or "config" not in item:
        return
    bare = name.rpartition(".")[2]
    if bare in _RUN_CODE:
        raise WeightsError(
            f"the model {path} has a layer {_RUN_CODE[bare]}, which runs code; build the model from other layers"
        )
    is_of_hub = name in others and registered == f"keras_hub>{name}" and _OF_HUB.fullmatch(str(module))
    if _OF_VALUES.fullmatch(name) or is_of_hub:
        return
    asked = item["config"] if name == "function" else name  # Keras looks the name up in the module
    is_known = (
        isinstance(module, str)
        and _MODULES.fullmatch(module) is not None
        and isinstance(asked, str)
        and asked.isidentifier()
        and asked not in _READ_FILES
        and (module != "keras" or asked in _MODELS)
    )
    if not is_known or ">" in str(registered):
        raise WeightsError(
            f"the model {path} has the class {registered or name}, which is not of Keras, and its code is not in the "
            "file; build the model from Keras's layers, or write a package that runs it (docs/plugins.md)"
        )


def _require_tensors(path: Path, item: Mapping[str, Any]) -> None:
    """Raise `WeightsError` if a layer or operation is called with constants alone: Keras computes it while it loads."""
    nodes = item.get("inbound_nodes")
    for node in nodes if isinstance(nodes, list) else ():
        if isinstance(node, dict) and not _has_tensor(node):
            raise WeightsError(
                f"the model {path} calls {item.get('name') or item.get('class_name')} with constants alone, as Keras "
                "saves none; build the model from Keras's layers"
            )


def _has_tensor(node: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether a tensor of the model is in the arguments of a call."""
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if item.get("class_name") == "__keras_tensor__":
                return True
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return False


def loaded(path: Path, build: Callable[[], Any], weights: Path, *, dtype_policy: str = "float32") -> Any:  # noqa: ANN401 - a keras.Model
    """Return the model that a function builds, with the weights of a file; allocate none that the file does not hold.

    Parameters
    ----------
    path
        The model, for messages.
    build
        Returns the model, from a configuration that `require_built_in` has checked.
    weights
        The file of its weights.
    dtype_policy
        The precision of layers that do not say theirs, by Keras's name.
    """
    # Keras keeps for each thread what it has still to allocate, and here nothing of a model that is refused
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_loaded, path, build, weights, dtype_policy).result()


def _loaded(path: Path, build: Callable[[], Any], weights: Path, dtype_policy: str) -> Any:  # noqa: ANN401 - a keras.Model
    keras = load_keras()
    with fixed_settings(dtype_policy):
        with keras.StatelessScope(initialize_variables=False):
            model = build()
            if not isinstance(model, keras.Model):
                raise WeightsError(f"{path} holds a {type(model).__name__}, expected a model")
        count, size = sum(prod(variable.shape) for variable in model.variables), weights.stat().st_size
        if count > _WEIGHTS_IN_A_BYTE * size:
            raise WeightsError(
                f"the model {path} describes {count:,} weights, which its {size:,} bytes cannot hold; save it again"
            )
        with keras.StatelessScope():
            pass  # its end allocates the weights
        model.load_weights(weights)
    return model

"""Keras's weight files read without Keras: the layout of ``.weights.h5``, and that of older ``.h5`` files."""

from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import Application
from featurecache.backbones.weights import not_of_this_network

# what h5py raises at files that are damaged, or are something else
_READING_ERRORS = (ValueError, OSError, LookupError, TypeError, AttributeError, RuntimeError)

Shape = tuple[int, ...]


def read_weight_file(
    path: Path, application: Application, layers: Sequence[tuple[str, Shape]], needed: int
) -> Generator[tuple[NDArray[np.float32], NDArray[np.float32]], None, None]:
    """Yield kernel and bias of a network's first ``needed`` layers, float32.

    The suffix says which layout the file has, as it does for Keras. All layers are checked before the first is
    yielded, the further ones as well: each must be there with a kernel and a bias of its shape.

    Parameters
    ----------
    path
        The file. No other file is read, even if this one refers to it.
    application
        The network that it should be of.
    layers
        All layers that have weights, from the input on: Keras's name of their kind, and the shape of the kernel.

    Raises
    ------
    WeightsError
        If it is not a weight file of this network.
    """
    try:
        with h5py.File(path, "r") as file:
            find = _by_kind if path.name.endswith(".weights.h5") else _by_order
            found = find(file, [kind for kind, _ in layers])
            for pair, (_, kernel) in zip(found, layers, strict=True):
                for dataset, shape in zip(pair, (kernel, kernel[-1:]), strict=True):
                    _require(dataset, shape)
            for kernel_at, bias_at in found[:needed]:
                yield _read(kernel_at), _read(bias_at)
    except _READING_ERRORS as e:
        raise not_of_this_network(path, application, " ".join(str(e).split()) or type(e).__name__) from e


def _by_kind(file: h5py.File, kinds: Sequence[str]) -> list[list[Any]]:
    """Return the datasets of each layer, which Keras 3 calls by its kind and a number, as in conv2d_1."""
    # Keras 2.13 to 2.15 had another name for the same
    layers = _group(file, "layers" if "layers" in file else "_layer_checkpoint_dependencies")
    counted: Counter[str] = Counter()
    found = []
    for kind in kinds:
        name = f"{kind}_{counted[kind]}" if counted[kind] else kind
        counted[kind] += 1
        variables = _group(layers, f"{name}/vars")
        if len(variables) != 2:  # noqa: PLR2004 - kernel and bias
            raise ValueError(f"{variables.name} has {len(variables)} arrays, expected a kernel and a bias")
        found.append([_dataset(variables, number) for number in ("0", "1")])
    return found


def _by_order(file: h5py.File, kinds: Sequence[str]) -> list[list[Any]]:
    """Return the datasets of each layer, whatever its name, in the order in which the file lists its layers."""
    root = _group(file, "model_weights") if "layer_names" not in file.attrs and "model_weights" in file else file
    found = []
    for layer in map(_text, root.attrs["layer_names"]):
        group = _group(root, layer)
        names = [_text(name) for name in group.attrs["weight_names"]]
        if names:
            found.append([_dataset(group, name) for name in names])
    if len(found) != len(kinds):
        raise ValueError(f"it has {len(found)} layers with weights, expected {len(kinds)}")
    return found


def _text(name: Any) -> str:  # noqa: ANN401 - whatever a file's attribute holds
    return name.decode() if isinstance(name, bytes) else str(name)


def _group(parent: Any, path: str) -> Any:  # noqa: ANN401 - h5py has no types
    return _at(parent, path, h5py.Group)


def _dataset(parent: Any, path: str) -> Any:  # noqa: ANN401 - h5py has no types
    dataset = _at(parent, path, h5py.Dataset)
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{dataset.name} refers to another file")
    return dataset


def _at(parent: Any, path: str, kind: type) -> Any:  # noqa: ANN401 - h5py has no types
    """Return what lies at a path, no link on the way to it."""
    for name in path.split("/"):
        if not isinstance(parent, h5py.Group) or name not in parent:
            raise KeyError(f"there is no {path} in it")
        if parent.get(name, getclass=True, getlink=True) is not h5py.HardLink:
            raise ValueError(f"{path} is a link")
        parent = parent[name]
    if not isinstance(parent, kind):
        raise TypeError(f"{path} is no {kind.__name__.lower()}")
    return parent


def _require(dataset: Any, shape: Shape) -> None:  # noqa: ANN401 - h5py has no types
    if dataset.shape != shape or dataset.dtype.kind != "f":
        raise ValueError(f"{dataset.name} is {dataset.dtype} of shape {dataset.shape}, expected floats of {shape}")


def _read(dataset: Any) -> NDArray[np.float32]:  # noqa: ANN401 - h5py has no types
    values = np.empty(dataset.shape, np.float32)
    dataset.read_direct(values)
    return values

"""Reads Keras's weight files without Keras: the ``.weights.h5`` files of Keras 3, and the HDF5 files of older versions.

The content of a file decides its format; its name does not matter. HDF5's locks, which many network file systems lack,
are not used.
"""

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import NetworkSpec
from featurecache.backbones.weights import damaged, lacks_top, not_of_this_network, unreadable
from featurecache.errors import WeightsError
from featurecache.storage.files import open_regular
from featurecache.text import listed

# what h5py raises for damaged files
_READING_ERRORS = (ValueError, OSError, LookupError, TypeError, AttributeError, RuntimeError)
_CUT = re.compile(r"truncated file: eof = (\d+),.* stored_eof = (\d+)")

Shape = tuple[int, ...]
Floats = NDArray[np.float32]


class _Mismatch(Exception):  # noqa: N818 - only this module sees it
    """The file does not hold what the network needs."""


@dataclass(frozen=True, slots=True)
class WeightedLayer:
    """A layer of a network that has weights.

    Parameters
    ----------
    names
        Its name in files of Keras 3: its kind and a number, such as ``conv2d_1``. A network inside the network counts
        as one layer, and has the names of all its layers: ``sequential/layers/conv2d``, …
    shapes
        The shapes of its arrays, in Keras's order.
    is_top
        Whether it belongs to the top, the classifier, which Keras leaves out of its "no top" files.
    """

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    is_top: bool


def numbered(kinds: Iterable[str]) -> list[str]:
    """Return the names of layers of these kinds in files of Keras 3.

    Examples
    --------
    >>> numbered(["conv2d", "dense", "conv2d"])
    ['conv2d', 'dense', 'conv2d_1']
    """
    before = Counter[str]()
    names = []
    for kind in kinds:
        names.append(f"{kind}_{before[kind]}" if before[kind] else kind)
        before[kind] += 1
    return names


_Find = Callable[[int, WeightedLayer], list[Any]]  # from a layer and its position to its datasets


def read_weight_file(
    path: Path, network_spec: NetworkSpec, layers: Sequence[WeightedLayer], needed: int
) -> Generator[list[Floats], None, None]:
    """Yield the arrays of a network's first ``needed`` layers, float32, one layer at a time.

    All layers below the top are checked before the first layer is yielded; the top is checked if it is needed.

    Parameters
    ----------
    path
        The file. No other file is read, even if this one refers to it.
    network_spec
        The network that the weights should belong to.
    layers
        All layers that have weights, from the input on; those of the top are the last ones.

    Raises
    ------
    WeightsError
        If the file cannot be read, is damaged or incomplete, belongs to another network, or lacks a top that is needed.
    """
    body = sum(not layer.is_top for layer in layers)
    with _opened(path, network_spec) as file:
        find = _by_order(file, len(layers)) if _is_older(file) else _by_name(file)
        found = [_checked(find(number, layer), layer) for number, layer in enumerate(layers[:body])]
        if needed > body:
            try:
                found += [_checked(find(number, layer), layer) for number, layer in enumerate(layers[body:], body)]
            except _Mismatch as e:
                raise lacks_top(path, network_spec, str(e)) from e
        for datasets in found[:needed]:
            yield [_read(dataset) for dataset in datasets]


def require_own_numbers(path: Path, stream: IO[bytes] | RawIOBase) -> None:
    """Raise `WeightsError` if the weights of a model file, an HDF5 file, refer to another file."""
    with h5py.File(stream, "r") as file:
        waiting: list[h5py.Group] = [file]
        met = set()  # groups can be in each other
        while waiting:
            group = waiting.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in met:
                continue
            met.add(address)
            for name in group:
                if group.get(name, getclass=True, getlink=True) is not h5py.HardLink:
                    raise WeightsError(f"{name} in the weights of {path} is a link, expected numbers")
                item = group[name]
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                elif item.is_virtual or item.external:
                    raise WeightsError(f"{item.name} in the weights of {path} refers to another file, expected numbers")


@contextmanager
def _opened(path: Path, network_spec: NetworkSpec) -> Iterator[h5py.File]:
    """Open a file through a stream, which takes no locks; turn whatever goes wrong into `WeightsError`."""
    try:
        with open_regular(path) as stream, h5py.File(stream, "r") as file:
            yield file
    except WeightsError:
        raise
    except _Mismatch as e:
        raise not_of_this_network(path, network_spec, str(e)) from e
    except _READING_ERRORS as e:
        if isinstance(e, OSError) and e.strerror:
            raise unreadable(path, e) from e
        why = " ".join(str(e).split()) or type(e).__name__
        cut = _CUT.search(why)
        raise damaged(path, network_spec, f"it has {cut[1]} of {cut[2]} bytes" if cut else why) from e


def _is_older(file: h5py.File) -> bool:
    """Whether a file has the format of Keras 1 and 2, of weights or of a whole model."""
    return "model_weights" in file or any(name in file.attrs for name in ("layer_names", "layer_names0"))


def _by_name(file: h5py.File) -> _Find:
    """Return a function that finds layers by their names."""
    # the second name is that of Keras 2.13 to 2.15
    layers = _group(file, "layers" if "layers" in file else "_layer_checkpoint_dependencies")

    def find(_: int, layer: WeightedLayer) -> list[Any]:
        datasets = []
        for name in layer.names:
            if name.partition("/")[0] not in layers:
                raise _Mismatch(f"there is no {name} in it, only {listed(layers) or 'nothing'}")
            variables = _group(layers, f"{name}/vars")
            datasets += [_dataset(variables, str(number)) for number in range(len(variables))]
        return datasets

    return find


def _by_order(file: h5py.File, expected: int) -> _Find:
    """Return a function that finds layers by their position in the file's list of layers."""
    root = _group(file, "model_weights") if "model_weights" in file else file
    groups = [(_group(root, name), name) for name in _names(root, "layer_names")]
    weighted = [(group, names) for group, _ in groups if (names := _names(group, "weight_names"))]

    def find(position: int, layer: WeightedLayer) -> list[Any]:
        if position >= len(weighted) or (layer.is_top and len(weighted) != expected):
            raise _Mismatch(f"it has {len(weighted)} layers with weights, expected {expected}")
        group, names = weighted[position]
        return [_dataset(group, name) for name in names]

    return find


def _names(group: Any, attribute: str) -> list[str]:  # noqa: ANN401 - h5py has no types
    """Return a list of names; Keras divides one that is too long for HDF5 into numbered parts."""
    parts = [group.attrs[attribute]] if attribute in group.attrs else []
    while (part := f"{attribute}{len(parts)}") in group.attrs:
        parts.append(group.attrs[part])
    if not parts:
        raise _Mismatch(f"{group.name} has no {attribute}")
    return [name.decode() if isinstance(name, bytes) else str(name) for names in parts for name in names]


def _group(parent: Any, path: str) -> Any:  # noqa: ANN401 - h5py has no types
    return _at(parent, path, h5py.Group)


def _dataset(parent: Any, path: str) -> Any:  # noqa: ANN401 - h5py has no types
    dataset = _at(parent, path, h5py.Dataset)
    if dataset.is_virtual or dataset.external:
        raise _Mismatch(f"{dataset.name} refers to another file")
    return dataset


def _at(parent: Any, path: str, kind: type) -> Any:  # noqa: ANN401 - h5py has no types
    """Return the object at a path; refuse links on the way."""
    for name in path.split("/"):
        if not isinstance(parent, h5py.Group) or name not in parent:
            raise _Mismatch(f"there is no {path} in it")
        if parent.get(name, getclass=True, getlink=True) is not h5py.HardLink:
            raise _Mismatch(f"{path} is a link")
        parent = parent[name]
    if not isinstance(parent, kind):
        raise _Mismatch(f"{path} is no {kind.__name__.lower()}")
    return parent


def _checked(datasets: list[Any], layer: WeightedLayer) -> list[Any]:
    """Return the datasets of a layer; raise `_Mismatch` unless they have its shapes and hold numbers."""
    if len(datasets) != len(layer.shapes):
        where = datasets[0].parent.name if datasets else layer.names[0]
        raise _Mismatch(f"{where} has {len(datasets)} arrays, expected {len(layer.shapes)}")
    for dataset, shape in zip(datasets, layer.shapes, strict=True):
        kinds = "f" if shape else "fiu"  # a single number may count
        if dataset.shape != shape or not (dataset.dtype.kind in kinds or _is_bfloat16(dataset)):
            raise _Mismatch(f"{dataset.name} is {dataset.dtype} of shape {dataset.shape}, expected floats of {shape}")
    return datasets


def _is_bfloat16(dataset: Any) -> bool:  # noqa: ANN401 - h5py has no types
    """Whether Keras wrote these opaque values, which HDF5 has no type for."""
    return bool(dataset.attrs.get("dtype") == "bfloat16" and dataset.dtype == np.dtype("V2"))


def _read(dataset: Any) -> Floats:  # noqa: ANN401 - h5py has no types
    values: Floats = np.empty(dataset.shape, np.float32)
    if _is_bfloat16(dataset):  # the upper halves of float32 numbers
        values.view(np.uint32)[...] = dataset[()].view(np.uint16).astype(np.uint32) << 16
    else:
        dataset.read_direct(values)
    return values

"""Converts networks to OpenVINO and keeps them in the user's cache folder, so that later starts load no Keras.

Keras runs a network once as a function of TensorFlow, which OpenVINO reads. A converted network is one file: a line of
JSON, OpenVINO's description of the network, and its weights. Its name and the line follow from everything that it was
made of. A file that is damaged or of something else is made again.
"""

import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import NetworkSpec
from featurecache.backbones.drawing import trial_images
from featurecache.backbones.keras_runtime import require_tensorflow
from featurecache.backbones.protocol import EngineFault
from featurecache.backbones.weights import Weights
from featurecache.errors import OutputError, WeightsError
from featurecache.memory import free_memory
from featurecache.storage.files import cache_folder, open_regular
from featurecache.storage.output_errors import output_error
from featurecache.storage.publish import publishing, remove_files
from featurecache.text import in_short

CONVERTER = 2
"""Grows when this module converts differently."""

TOLERANCE = 1e-4
"""The largest difference between Keras's features and those of the converted network, relative to a row's largest."""

_KEPT_BYTES = 4_000_000_000  # of all converted networks together; those that were not used for longest go
_LINE_BYTES = 4_096  # a multiple of the alignment of weights
_LEFT_SECONDS = 86_400  # after which what a killed process has not given its name goes, too
_DAMAGES = (ValueError, LookupError, TypeError, RuntimeError)  # what a damaged file may raise
_COPIES = 5  # of the weights, in memory during a conversion: Keras's, OpenVINO's, those of the file, and compiled ones
_TRIALS = 4  # images on which a converted network is compared with Keras

_LACKING = re.compile(r"No conversion rule found for operations: (\w+(?:, \w+)*)")

# Imported by openvino itself. It tells OpenVINO's makers over the network that it was imported, and converts; what it
# converts with can be called without it.
_REPORTS = "openvino.tools.ovc"


@cache
def load_openvino() -> Any:  # noqa: ANN401 - OpenVINO's types are not used
    """Import OpenVINO, but not the part of it that reports its use over the network."""
    if "openvino" in sys.modules or _REPORTS in sys.modules:
        import openvino

        return openvino
    sys.modules[_REPORTS] = None  # type: ignore[assignment] # as Python's import system documents it
    try:
        import openvino
    finally:
        del sys.modules[_REPORTS]
    return openvino


@cache
def core() -> Any:  # noqa: ANN401 - OpenVINO's types are not used
    """Return what reads and compiles networks; one of them suffices for a process."""
    return load_openvino().Core()


class _LastingFault(EngineFault):
    """A fault that the same conversion would have again."""


def converted_network(
    network_spec: NetworkSpec, weights: Weights, taps: tuple[str, ...], notify: Callable[[str], None] = lambda _: None
) -> tuple[Any, NDArray[np.uint8]]:
    """Return a network as an OpenVINO model, and the memory of its weights, which must exist as long as the model.

    The model is from images, (n, height, width, 3) uint8, to the taps, (n, d) float32. Reshape it to a number of images
    before it is compiled: it is slower for any number, and rounds differently.

    Parameters
    ----------
    taps
        The taps, in ascending order.
    notify
        Called with a one-line message when the network must be converted.

    Raises
    ------
    WeightsError
        If the weights belong to another network.
    EngineFault
        If the network cannot be converted, or computes something else then. That is kept, too, and raised again.
    """
    several = _taps_at_once(network_spec, taps)
    for converted in dict.fromkeys((several, taps)):
        key = _key(network_spec, weights, converted)
        if (kept := _read(_path(network_spec, key), key)) is not None:
            if fault := _fault(kept):
                raise EngineFault(fault)
            with suppress(*_DAMAGES):
                return _model(kept, taps), kept
    notify(
        f"converting {network_spec.title} to OpenVINO, once for these weights; this takes longer than a start of Keras"
    )

    def convert(converted: tuple[str, ...]) -> tuple[Any, NDArray[np.uint8]]:
        key = _key(network_spec, weights, converted)
        path = _path(network_spec, key)
        try:
            kept = _converted(network_spec, weights, converted, key)
        except _LastingFault as e:
            _keep(path, _packed_fault(str(e), key), notify)
            raise
        _keep(path, kept, notify)
        _make_room(path)
        return _model(kept, taps), kept

    try:
        return convert(several)
    except WeightsError:  # a file without the top has some of the taps
        if several == taps:
            raise
        return convert(taps)


def _taps_at_once(network_spec: NetworkSpec, taps: tuple[str, ...]) -> tuple[str, ...]:
    """Return the taps to convert: all of a network whose taps lie at its end, so that heads of others find them.

    VGG's dense layers are 9 tenths of its weights, and a model of a user may have thousands of taps.
    """
    if network_spec.is_own_model or network_spec.blocks:
        return taps
    return tuple(sorted(network_spec.taps))


def _path(network_spec: NetworkSpec, key: str) -> Path:
    return kept_folder() / f"{network_spec.name}-{key[:32]}.openvino"


def kept_folder() -> Path:
    """Return where converted networks are kept."""
    return cache_folder() / "openvino"


def _key(network_spec: NetworkSpec, weights: Weights, taps: tuple[str, ...]) -> str:
    """Return a SHA-256 of everything that a converted network follows from."""
    packages = ("openvino", "keras", "tensorflow", *(["keras-hub"] if network_spec.is_own_model else []))
    versions = {package: _version(package) for package in packages}
    by_name = weights.source == "imagenet"  # see NetworkSpec.imagenet_by_name_only
    made_of = [CONVERTER, versions, repr(network_spec.spec(weights.identity, taps)), by_name]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _read(path: Path, key: str) -> NDArray[np.uint8] | None:
    """Return the bytes of a converted network, mapped; None if there is none, or a damaged or another one."""
    try:
        with open_regular(path) as stream:
            line = json.loads(stream.read(_LINE_BYTES))
            kept: NDArray[np.uint8] = np.asarray(np.memmap(stream, np.uint8, "c"))
        if line["key"] != key or line["sha256"] != _sha256(line["bytes"], kept):
            return None
        with suppress(OSError):
            os.utime(path)  # it is used now
    except (*_DAMAGES, OSError):
        return None
    return kept


def _sha256(sizes: Any, kept: NDArray[np.uint8]) -> str:  # noqa: ANN401 - whatever a damaged file says
    """Return the digest of a file: of the sizes in its line, and of everything after the line."""
    digest = hashlib.sha256(json.dumps(sizes).encode())
    digest.update(kept[_LINE_BYTES:].data)
    return digest.hexdigest()


def _keep(path: Path, kept: NDArray[np.uint8], notify: Callable[[str], None]) -> None:
    """Publish a converted network; say so if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with publishing(path, replace=True) as draft:
            draft.write(kept.data, 0)
    except (OSError, OutputError) as e:
        error = e if isinstance(e, OutputError) else output_error(path, e)
        notify(f"converting is needed at every start, since the result cannot be kept: {error}")


def _make_room(path: Path) -> None:
    """Remove the converted networks that were not used for longest, but not this one, if there are too many."""
    with suppress(OSError, OutputError):  # another process may do the same
        found = [(other.stat(), other) for other in path.parent.glob("*.openvino") if other != path]
        room, gone = _KEPT_BYTES - path.stat().st_size, []
        for status, other in sorted(found, key=lambda one: one[0].st_mtime, reverse=True):
            room -= status.st_size
            if room < 0:
                gone.append(other)
        drafts = [other for other in path.parent.glob(".*.tmp") if time.time() - other.stat().st_mtime > _LEFT_SECONDS]
        remove_files(gone + drafts)


def _packed(model: Any, key: str) -> NDArray[np.uint8]:  # noqa: ANN401 - an openvino.Model
    """Return the bytes of the file of a converted network."""
    with TemporaryDirectory() as folder:
        files = [Path(folder, "network.xml"), Path(folder, "network.bin")]
        load_openvino().serialize(model, *map(str, files))
        parts = [np.fromfile(file, np.uint8) for file in files]
    begin = _LINE_BYTES + -(-len(parts[0]) // _LINE_BYTES) * _LINE_BYTES  # of the weights
    kept = np.zeros(begin + len(parts[1]), np.uint8)
    kept[_LINE_BYTES:][: len(parts[0])] = parts[0]
    kept[begin:] = parts[1]
    _write_line(kept, key, [len(part) for part in parts])
    return kept


def _packed_fault(fault: str, key: str) -> NDArray[np.uint8]:
    """Return the bytes of a file that says why a network cannot be converted."""
    kept = np.frombuffer(bytearray(_LINE_BYTES) + fault.encode(), np.uint8)
    _write_line(kept, key, [])
    return kept


def _write_line(kept: NDArray[np.uint8], key: str, sizes: list[int]) -> None:
    """Write a file's line: its key, the sizes of its description and weights or none for a fault, and its digest."""
    line = json.dumps({"key": key, "bytes": sizes, "sha256": _sha256(sizes, kept)})
    kept[:_LINE_BYTES] = np.frombuffer(line.encode().ljust(_LINE_BYTES), np.uint8)


def _fault(kept: NDArray[np.uint8]) -> str:
    """Return why the network of a file cannot be converted; empty if there is one."""
    sizes = json.loads(kept[:_LINE_BYTES].tobytes())["bytes"]
    return kept[_LINE_BYTES:].tobytes().decode() if sizes == [] else ""


def _model(kept: NDArray[np.uint8], taps: Collection[str]) -> Any:  # noqa: ANN401 - an openvino.Model
    """Return the network in the bytes of a file, up to these taps; its weights stay in them."""
    structure, weights = json.loads(kept[:_LINE_BYTES].tobytes())["bytes"]
    description = kept[_LINE_BYTES:][:structure].tobytes()
    model = core().read_model(description, load_openvino().Tensor(kept[len(kept) - weights :], shared_memory=True))
    for result in model.get_results():
        if result.input_value(0).get_names().isdisjoint(taps):
            model.remove_result(result)
    return model


def _converted(network_spec: NetworkSpec, weights: Weights, taps: tuple[str, ...], key: str) -> NDArray[np.uint8]:
    """Return the bytes of a converted network that computes what Keras computes."""
    from featurecache.backbones.keras_engine import KerasBackbone

    require_tensorflow()
    needed, free = _COPIES * (4 * network_spec.parameters or weights.size), free_memory()
    if needed > free:
        raise EngineFault(
            f"converting {network_spec.title} takes about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            "free"
        )
    keras = KerasBackbone(network_spec, weights, taps=taps, batch_size=1, device="cpu")
    images = trial_images((_TRIALS, *keras.spec.input_size, 3))
    try:
        kept = _packed(from_tensorflow(keras.graph()), key)
        model = _model(kept, taps)
        model.reshape([1, *images.shape[1:]])
    except Exception as e:
        raise conversion_fault(network_spec.title, e) from e
    require_same(network_spec.title, model, images, keras.forward(images))
    return kept


def conversion_fault(name: str, error: Exception) -> EngineFault:
    """Return the fault for an exception of OpenVINO while it converted a network: which operations it lacks, or why."""
    lacking = _LACKING.search(str(error))
    if lacking:
        return _LastingFault(f"OpenVINO cannot convert {name} (it has no operation {lacking[1]})")
    return EngineFault(f"OpenVINO cannot convert {name} ({in_short(error)})")


def require_same(name: str, model: Any, images: NDArray[np.uint8], expected: Mapping[str, NDArray[np.float32]]) -> None:  # noqa: ANN401 - OpenVINO's types are not used
    """Raise `EngineFault` unless a converted network computes of images what Keras computes, which is ``expected``."""
    try:
        compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = [compiled([image[np.newaxis]]) for image in images]
    except Exception as e:
        raise conversion_fault(name, e) from e
    for tap, features in expected.items():
        values = np.concatenate([row[tap] for row in found])
        largest = np.maximum(np.abs(features).max(axis=1), np.finfo(np.float32).tiny)
        error = float((np.abs(values - features).max(axis=1) / largest).max())
        if not error <= TOLERANCE:
            fault = _LastingFault if math.isfinite(error) else EngineFault
            raise fault(f"OpenVINO computes {tap} of {name} otherwise than Keras, by {error:.0e}")


def from_tensorflow(graph: Any) -> Any:  # noqa: ANN401 - neither has types
    """Return a function of TensorFlow as an OpenVINO model, whose outputs have the names of the function's."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.tensorflow.utils import create_tf_graph_iterator

    frontend = FrontEndManager().load_by_framework("tf")
    iterator = create_tf_graph_iterator(graph, [], [], None, share_weights=True)
    return frontend.convert(frontend.load(iterator))

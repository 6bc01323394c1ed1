"""Whether the bytes of a row depend on its batch: on the other images, on the place, on the size, on the processors.

Each engine and network has two processes of its own, one on all processors and one on a single processor:
``python -m scripts.bench.bytes_ ENGINE NETWORK BATCH PROCESSORS SIZE…`` prints an object with the largest difference of
each comparison, relative to the row's largest value, and 0 only if all bytes are equal.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import NetworkSpec
from featurecache.backbones.engines import start_engine
from featurecache.backbones.weights import Weights, resolve_weights
from featurecache.named_backbone import find_network

_ALONE = ("numba", "openvino")  # engines without a backend of Keras
ENGINES = (*_ALONE, "tensorflow", "jax", "torch")
NETWORKS = ("vgg16", "vgg19", "mobilenet_v2", "mobilenet", "resnet50", "efficientnet_b0", "convnext_tiny")
BATCH = 32
SIZES = (1, 2, 8, 16, 64)
_SAME = "same"

Rows = Mapping[str, NDArray[np.float32]]


def run(
    engines: Sequence[str] = ENGINES,
    networks: Sequence[str] = NETWORKS,
    batch: int = BATCH,
    sizes: Sequence[int] = SIZES,
) -> dict[str, Any]:
    """Return one row for each engine that is installed and network that it runs."""
    missing = [engine for engine in engines if find_spec(engine) is None]
    rows = [
        {"engine": engine, "network": name} | _compared(engine, name, batch, sizes)
        for engine in engines
        if engine not in missing
        for name in networks
        if engine != "numba" or find_network(name).blocks
    ]
    return {"batch": batch, "not installed": ", ".join(missing) or "-", "rows": rows}


def _compared(engine: str, network: str, batch: int, sizes: Sequence[int]) -> dict[str, str]:
    """Return the comparisons of two processes, as text."""
    whole, single = (_child(engine, network, batch, processors, sizes) for processors in ("all", "one"))
    found = {name: _SAME if not value else f"{value:.0e}" for name, value in whole["differences"].items()}
    found["one processor"] = _SAME if whole["sha256"] == single["sha256"] else "other"
    return found | {"version": whole["version"]}


def _child(engine: str, network: str, batch: int, processors: str, sizes: Sequence[int]) -> dict[str, Any]:
    """Return what a process of its own finds."""
    backend = {} if engine in _ALONE else {"KERAS_BACKEND": engine}
    command = [sys.executable, "-m", "scripts.bench.bytes_", engine, network, str(batch), processors, *map(str, sizes)]
    environment = os.environ | backend
    made = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603
    found: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    return found


def measure(
    engine: str, network: str, batch: int, processors: str = "all", sizes: Sequence[int] = SIZES, device: str = "cpu"
) -> dict[str, Any]:
    """Return the hash of the rows of a batch and, with all processors, how rows differ from it in other batches.

    The network is one of the catalogue, with random weights, or the path of a model file or a preset. With one
    processor, this process keeps to its first one from now on.
    """
    if processors == "one":
        os.sched_setaffinity(0, {0})
    spec = find_network(network)
    backbone: Any = start_engine(
        engine if engine in _ALONE else "keras",
        spec,
        weights_of(spec),
        taps=spec.default_taps,
        batch_size=batch,
        precision="float32",
        device=device,
    )
    images = _images(batch, spec.input_size)
    base = backbone.forward(images)
    digest = hashlib.sha256(b"".join(base[tap].tobytes() for tap in sorted(base))).hexdigest()
    version = f"{engine} {backbone.provenance[engine]}" if engine in _ALONE else backbone.provenance["backend"]
    if processors == "one":
        return {"sha256": digest, "version": version}
    last = batch - 1
    copies = {place: backbone.forward(np.repeat(images[place : place + 1], batch, axis=0)) for place in (0, last)}
    differences = {
        "again": _difference(base, backbone.forward(images)),
        "company": max(_difference(_row(base, place), _row(rows, place)) for place, rows in copies.items()),
        "place": max(
            *(_difference(_row(rows, 0), _row(rows, place)) for rows in copies.values() for place in range(batch)),
            _difference({tap: values[::-1] for tap, values in base.items()}, backbone.forward(images[::-1])),
        ),
        "few images": _difference({tap: values[:3] for tap, values in base.items()}, backbone.forward(images[:3])),
    }
    for size in sizes:
        backbone.resize(size)
        differences[f"batch {size}"] = _difference(base, backbone.forward(images))
    return {"sha256": digest, "version": version, "differences": differences}


def weights_of(network: NetworkSpec) -> Weights:
    """Return random weights, or those of a model file or a preset."""
    return resolve_weights(network.weights_file if network.is_own_model else "random:0", network)


def _images(count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return different images, from noise to one colour."""
    noise = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return (noise // (1 + np.arange(count) * 255 // count)[:, None, None, None]).astype(np.uint8)


def _row(rows: Rows, place: int) -> Rows:
    return {tap: values[place : place + 1] for tap, values in rows.items()}


def _difference(expected: Rows, found: Rows) -> float:
    """Return the largest difference, relative to the largest value of its row; 0 only if the bytes are equal."""
    largest = 0.0
    for tap, values in expected.items():
        if values.tobytes() != found[tap].tobytes():
            difference = np.abs(values - found[tap]).max(axis=1) / np.abs(values).max(axis=1)
            largest = max(largest, float(difference.max()), float(np.finfo(np.float32).tiny))
    return largest


if __name__ == "__main__":
    _engine, _network, _batch, _processors, *_sizes = sys.argv[1:]
    print(json.dumps(measure(_engine, _network, int(_batch), _processors, [*map(int, _sizes)])))

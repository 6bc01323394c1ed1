"""Images per second of every network on a CPU, for the table of ``docs/backbones.md``.

Each network has a process of its own: ``python -m scripts.bench.networks_ NAME`` prints an object with the rate of its
forward passes for each precision that this processor computes fast, and the engine that computes float32.
``python -m scripts.bench networks --json > scripts/network_speeds.json`` keeps them for `scripts.network_table`.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from featurecache.backbones import openvino_network
from featurecache.backbones.catalog import NETWORKS
from featurecache.errors import EngineError
from featurecache.named_backbone import source_of
from featurecache.options import PRECISIONS

SECONDS = 2  # of passes that are measured, at least
IMAGES = {"numba": 64, "openvino": 16, "keras": 32}
"""Images of a pass, by engine: enough that more are not faster."""


def run(names: Sequence[str] = tuple(NETWORKS)) -> dict[str, Any]:
    """Return one row for each network: the engine that ``auto`` takes, and images per second by precision."""
    with tempfile.TemporaryDirectory() as folder:  # not the user's: see `measure`
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        return {"networks": [{"network": name} | _child(name, environment) for name in names]}


def _child(name: str, environment: dict[str, str]) -> dict[str, Any]:
    """Return what a process of its own measures, and print it as a line of progress."""
    command = [sys.executable, "-m", "scripts.bench.networks_", name]
    made = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603
    found: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    print(name, found, file=sys.stderr, flush=True)
    return found


def measure(name: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Return images per second of a network with random weights, by precision, and the engine of float32."""
    openvino_network.TOLERANCE = math.inf  # deep untrained networks amplify rounding, which does not change their speed
    found: dict[str, Any] = {}
    for precision in (PRECISIONS[0], "mixed"):
        try:
            source = source_of(name, "random:0", device="cpu", precision=precision, is_new=True)
        except EngineError:  # no instructions for bfloat16
            continue
        backbone = source.start(source.batch_size, source.batch_size)
        engine = str(backbone.provenance["engine"])
        shape = (IMAGES[engine], *backbone.spec.input_size, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        backbone.forward(images)  # reserves memory
        began, count = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < seconds:
            count += len(next(iter(backbone.forward(images).values())))
        found = {"engine": engine} | found | {precision: float(f"{count / took:.3g}")}
    return found


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))

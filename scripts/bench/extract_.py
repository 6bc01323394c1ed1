"""A network on photographs: this project on its engines and, for VGG16, Keras as in its documentation and others.

The others are PyTorch, ONNX Runtime and ncnn.
"""

import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import NetworkSpec, find_network
from featurecache.backbones.engines import choose_engine
from featurecache.errors import EngineError
from scripts.bench import peers
from scripts.bench.images import write_photographs
from scripts.bench.worker import Worker, held_back

IMAGES, ROUNDS = 192, 3
TOLERANCE = 1e-3
_REST_SECONDS = 0.3  # pause in which the previous contestant's threads stop spinning
_INSTALL = "not installed: pip install 'featurecache[bench]'"


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something whose images per second are measured.

    Parameters
    ----------
    kind, way
        Which worker does it, in which of its ways.
    needs
        The packages that it does not go without.
    """

    kind: str
    way: str
    needs: tuple[str, ...] = ()


CONTESTANTS: Mapping[str, Contestant] = {
    "ours end to end": Contestant("ours", "end_to_end"),
    "ours forward": Contestant("ours", "forward"),
    "ours in bfloat16 end to end": Contestant("ours_bfloat16", "end_to_end", ("openvino",)),
    "ours in bfloat16 forward": Contestant("ours_bfloat16", "forward", ("openvino",)),
    "ours on keras end to end": Contestant("ours_keras", "end_to_end"),
    "ours on keras forward": Contestant("ours_keras", "forward"),
    "keras documentation": Contestant("keras", "two_passes"),
    "keras single pass": Contestant("keras", "one_pass"),
    "pytorch forward": Contestant("pytorch", "forward", ("torch",)),
    "onnxruntime forward": Contestant("onnxruntime", "forward", ("onnxruntime", "onnx")),
    "ncnn by hand forward": Contestant("ncnn", "forward", ("ncnn",)),
}
_BEST_OF = ("pytorch forward", "onnxruntime forward")
_BARS = {"mobilenet_v2": 1.25, "resnet50": 1.2, "efficientnet_b0": 2.5}
"""Networks, and how much faster than on Keras a whole extraction should be."""
_BFLOAT16_BARS = {"vgg16": 2, "mobilenet_v2": 2, "resnet50": 3, "efficientnet_b0": 3}
"""The same in bfloat16 on a processor with AMX; VGG16 is compared with the fastest engine in float32."""


def run(images: int = IMAGES, rounds: int = ROUNDS, backbone: str = peers.NETWORK) -> dict[str, Any]:
    """Return the median images per second of every contestant over rounds, and their ratios.

    For networks other than VGG16 the contestants are the fastest engine of this project and its Keras engine.

    A ratio is the median of the rounds' ratios, so that a load that comes and goes weighs on both. Start-up is not in
    it; ``forward`` begins with decoded pixels, everything else with files. Seconds of processors, of all threads
    together, tell a busy machine from a slow contestant, but threads that wait by spinning count as well.
    """
    row = find_network(backbone)
    asked = {name: one for name, one in CONTESTANTS.items() if backbone == peers.NETWORK or name.startswith("ours")}
    missing = {name: why for name, contestant in asked.items() if (why := _obstacle(contestant, row))}
    taking_part = {name: contestant for name, contestant in asked.items() if name not in missing}
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        folder = Path(text)
        write_photographs(folder / "images", images)
        workers: dict[str, Worker] = {}
        for contestant in taking_part.values():
            if contestant.kind not in workers:
                _tell(f"starting {contestant.kind}")
                workers[contestant.kind] = stack.enter_context(Worker(contestant.kind, folder, backbone))
        errors = {kind: _difference(worker, workers["ours"], kind) for kind, worker in workers.items()}
        seconds, processors = _in_turns(taking_part, workers, rounds)
        rows = [
            {"contestant": name}
            | _rates(images, seconds[name], processors[name])
            | _library(workers[contestant.kind], errors[contestant.kind])
            if name in seconds
            else {"contestant": name, "library": missing[name]}
            for name, contestant in asked.items()
        ]
    return {
        "network": f"{backbone} with random weights, taps {' and '.join(row.default_taps)}, float32",
        "images": images,
        "rounds": rounds,
        "variables_held_back": ", ".join(held_back()) or "none",
        "load_average": round(os.getloadavg()[1], 1),
        "contestants": rows,
        **(ratios(seconds) if backbone == peers.NETWORK else ratios_to_keras(seconds, processors)),
        **({"bar_end_to_end_over_keras": _BARS[backbone]} if backbone in _BARS else {}),
        **({} if "ours in bfloat16 forward" in missing else ratios_in_bfloat16(backbone, seconds, processors)),
    }


def _obstacle(contestant: Contestant, row: NetworkSpec) -> str:
    """Return why a contestant cannot take part; empty if it can."""
    if not all(map(find_spec, contestant.needs)):
        return _INSTALL
    if contestant.kind == "ours_bfloat16":
        try:
            choose_engine("openvino", row, device="cpu", precision="mixed")
        except EngineError as e:
            return str(e)
    return ""


def ratios_in_bfloat16(
    backbone: str, seconds: Mapping[str, list[float]], processors: Mapping[str, list[float]]
) -> dict[str, Any]:
    """Return the speed in bfloat16 relative to Keras, or for VGG16 to the engine numba, both in float32."""
    other, name = ("ours", "ours") if backbone == peers.NETWORK else ("ours on keras", "keras")
    found: dict[str, Any] = {}
    for way in ("end to end", "forward"):
        for unit, took in (("", seconds), ("_in_processor_time", processors)):
            ratio = _median(np.array(took[f"{other} {way}"]) / np.array(took[f"ours in bfloat16 {way}"]))
            found[f"{way.replace(' ', '_')}_in_bfloat16_over_{name}{unit}"] = ratio
    bar = {f"bar_end_to_end_in_bfloat16_over_{name}": _BFLOAT16_BARS[backbone]} if backbone in _BFLOAT16_BARS else {}
    return found | bar


def ratios_to_keras(seconds: Mapping[str, list[float]], processors: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return the speed of this project's fastest engine relative to its Keras engine, by wall and processor time."""
    found: dict[str, Any] = {}
    for way in ("end to end", "forward"):
        for unit, took in (("", seconds), ("_in_processor_time", processors)):
            ratio = _median(np.array(took[f"ours on keras {way}"]) / np.array(took[f"ours {way}"]))
            found[f"{way.replace(' ', '_')}_over_keras{unit}"] = ratio
    found["end_to_end_over_forward"] = _median(np.array(seconds["ours forward"]) / np.array(seconds["ours end to end"]))
    return found


def ratios(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return the speed of this project relative to others and to its network alone, with the bars."""
    ours, forward = np.array(seconds["ours end to end"]), np.array(seconds["ours forward"])
    found: dict[str, Any] = {
        "ours_over_keras_documentation": _median(np.array(seconds["keras documentation"]) / ours),
        "bar_ours_over_keras_documentation": 5,
    }
    others = [np.array(seconds[name]) for name in _BEST_OF if name in seconds]
    if others:
        best = np.min(others, axis=0)
        found |= {
            "forward_over_best_of_pytorch_and_onnxruntime": _median(best / forward),
            "bar_forward_over_best_of_pytorch_and_onnxruntime": 1.8,
            "end_to_end_over_best_forward_of_the_two": _median(best / ours),
        }
    else:
        found["forward_over_best_of_pytorch_and_onnxruntime"] = _INSTALL
    kept = np.array(seconds["ours on keras forward"]) / np.array(seconds["ours on keras end to end"])
    return found | {
        "end_to_end_over_forward": _median(forward / ours),
        "end_to_end_over_forward_on_keras": _median(kept),
        "bar_end_to_end_over_forward": 0.95,
    }


def _median(values: NDArray[np.float64]) -> float:
    return round(float(np.median(values)), 3)


def _in_turns(
    contestants: Mapping[str, Contestant], workers: Mapping[str, Worker], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Run each contestant once per round; return wall seconds and processor seconds of each.

    Every second round goes backwards, so that none always profits from, or suffers by, the same one before it.
    """
    clock: dict[str, list[float]] = {name: [] for name in contestants}
    processors: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, contestant in list(contestants.items())[:: -1 if number % 2 else 1]:
            time.sleep(_REST_SECONDS)
            _tell(f"round {number + 1} of {rounds}: {name}")
            passed, worked = workers[contestant.kind].seconds(contestant.way)
            clock[name].append(passed)
            processors[name].append(worked)
    return clock, processors


def _tell(text: str) -> None:
    """Print a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def _rates(images: int, seconds: list[float], processors: list[float]) -> dict[str, Any]:
    return {
        "images_per_second": round(images / statistics.median(seconds), 2),
        "lowest": round(images / max(seconds), 2),
        "highest": round(images / min(seconds), 2),
        "processor_s_an_image": round(statistics.median(processors) / images, 3),
    }


def _library(worker: Worker, error: float) -> dict[str, Any]:
    start_up, difference = round(worker.start_up, 1), float(f"{error:.1e}")
    return {"start_up_s": start_up, "differs_from_ours": difference, "library": worker.version}


def _difference(worker: Worker, ours: Worker, kind: str) -> float:
    """Return the largest difference of features, relative to the differences between images.

    Raises
    ------
    RuntimeError
        If that is more than rounding: something else would be compared. Not in bfloat16, which random weights amplify.
    """
    expected, found = ours.features, worker.features
    spread = {tap: np.abs(values - values.mean(axis=0)).max() for tap, values in expected.items()}
    error = max(float(np.abs(found[tap] - values).max() / spread[tap]) for tap, values in expected.items())
    if not error <= (math.inf if kind == "ours_bfloat16" else TOLERANCE):
        raise RuntimeError(f"{worker.version} computes something else: features differ by {error:.1e}")
    return error

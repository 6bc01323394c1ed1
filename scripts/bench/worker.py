"""A contestant in a separate process, which stays alive and works on request.

The child is ``python -m scripts.bench.worker KIND FOLDER NETWORK``: it starts its network, says so in one line of JSON,
and for each name of a way to work that it reads, works, and says how many seconds that took.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import find_network
from featurecache.extraction import extract
from featurecache.images.batches import image_batches
from featurecache.images.decode import DecodeRules
from featurecache.images.manifest import from_files
from featurecache.named_backbone import source_of
from scripts.bench import peers

CHECKED = 8
_FEATURES = "{}.features.npz"
_FROM_THE_END = -2_000  # the end of a failed worker's output


def held_back() -> list[str]:
    """Return the environment variables that override OpenBLAS's choice of code; contestants do not get them."""
    return sorted(name for name in os.environ if name in {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"})


class Worker(AbstractContextManager["Worker"]):
    """The parent's side of a contestant.

    Parameters
    ----------
    kind
        A key of `KINDS`.
    folder
        Where its photographs are, in the folder ``images``, and where it may write.
    network
        The network's name; VGG16 for contestants that are not this project.

    Raises
    ------
    RuntimeError
        From here and from all methods, if the child ends.
    """

    def __init__(self, kind: str, folder: Path, network: str = peers.NETWORK) -> None:
        self._kind, self._folder = kind, folder
        self._chatter = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed at the exit
        began = time.perf_counter()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "scripts.bench.worker", kind, str(folder), network],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._chatter,
            text=True,
            env={name: value for name, value in os.environ.items() if name not in held_back()}
            | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        said = self._answer()
        self.start_up = time.perf_counter() - began
        """Seconds until the first batch was done: imports, weights, compiling, and decoding all photographs."""
        self.version = str(said["version"])

    def seconds(self, way: str) -> tuple[float, float]:
        """Work once in one of the contestant's ways; return wall seconds and processor seconds."""
        assert self._process.stdin  # noqa: S101 - opened with a pipe
        self._process.stdin.write(f"{way}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return float(answer["seconds"]), float(answer["processor_seconds"])

    @property
    def features(self) -> dict[str, NDArray[np.float32]]:
        """The contestant's features of the first images."""
        with np.load(self._folder / _FEATURES.format(self._kind), allow_pickle=False) as arrays:
            return dict(arrays)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout  # noqa: S101 - opened with a pipe
        line = self._process.stdout.readline()
        if not line:
            self._chatter.seek(0)
            raise RuntimeError(
                f"{self._kind} ended with {self._process.wait()}: {self._chatter.read()[_FROM_THE_END:]}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the child."""
        self._process.communicate()  # it ends when there is nothing more to read
        self._chatter.close()


class Ours:
    """Featurecache: an extraction from files to a finished cache, and the network alone."""

    def __init__(self, engine: str, network: str, images: int, precision: str = "float32") -> None:
        source = source_of(network, peers.WEIGHTS, engine=engine, device="cpu", precision=precision)
        self._backbone = source.start(min(source.batch_size, images), 0)
        made_by = self._backbone.provenance
        self.version = ", ".join(
            f"{key} {made_by[key]}" for key in ("numba", "blas", "openvino", "keras", "backend") if key in made_by
        )
        self._made = 0

    def forward(self, pixels: peers.Pixels) -> peers.Features:
        """Return both taps."""
        return self._backbone.forward(pixels)

    def end_to_end(self, folder: Path) -> None:
        """Extract the photographs to a new cache."""
        self._made += 1
        cache = folder / f"{os.getpid()}-{self._made}.h5"
        extract(folder / "images", cache, backbone=self._backbone)


KINDS: dict[str, Callable[[str, int], Any]] = {
    "ours": lambda network, images: Ours("numba" if network == peers.NETWORK else "openvino", network, images),
    "ours_bfloat16": lambda network, images: Ours("openvino", network, images, "mixed"),
    "ours_keras": lambda network, images: Ours("keras", network, images),
    "keras": lambda *_: peers.KerasByHand(),
    "pytorch": lambda *_: peers.PyTorch(),
    "onnxruntime": lambda *_: peers.OnnxRuntime(),
    "ncnn": lambda *_: peers.NcnnByHand(),
}
"""Starts each contestant, for a number of photographs."""


def _ways(contestant: Any, folder: Path, pixels: peers.Pixels) -> dict[str, Callable[[], object]]:  # noqa: ANN401
    """Return the tasks that a contestant can run."""
    files = sorted((folder / "images").rglob("*.jpg"))
    ways: dict[str, Callable[[], object]] = {
        "forward": lambda: [contestant.forward(batch) for batch in peers.in_batches(pixels)]
    }
    if isinstance(contestant, Ours):
        ways["forward"] = lambda: contestant.forward(pixels)  # in batches of its own size
        ways["end_to_end"] = lambda: contestant.end_to_end(folder)
    if isinstance(contestant, peers.KerasByHand):
        ways["two_passes"] = lambda: contestant.two_passes(files)
        ways["one_pass"] = lambda: contestant.one_pass(files)
    return ways


def _decoded(folder: Path, size: tuple[int, int]) -> peers.Pixels:
    """Return all photographs, decoded by this project's rules."""
    manifest = from_files(sorted((folder / "images").rglob("*.jpg")))
    rules = DecodeRules(size)
    batches = image_batches(manifest.entries, manifest.source, rules, batch_size=peers.BATCH, failures={})
    return np.concatenate([batch.pixels for batch in batches])


def serve(kind: str, folder: Path, network: str) -> None:
    """Serve requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to standard error
    pixels = _decoded(folder, find_network(network).input_size)
    contestant = KINDS[kind](network, len(pixels))
    found = contestant.forward(pixels[: peers.BATCH])
    np.savez(folder / _FEATURES.format(kind), **{tap: values[:CHECKED] for tap, values in found.items()})
    print(json.dumps({"version": contestant.version}), file=answers, flush=True)
    ways = _ways(contestant, folder, pixels)
    for line in sys.stdin:
        began, processors = time.perf_counter(), time.process_time()
        ways[line.strip()]()
        took = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - processors}
        print(json.dumps(took), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3])

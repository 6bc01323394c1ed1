"""Runs networks on a CPU with OpenVINO: each processor takes a few images at a time, always the same number.

That number is one, or up to four where that is faster: in bfloat16, and where a network has large weights. It is tried
that an image gets the same bits in every place. So features depend neither on the batch nor on the number of
processors. Networks come from `featurecache.backbones.openvino_network`.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import NetworkSpec
from featurecache.backbones.drawing import trial_images
from featurecache.backbones.openvino_network import converted_network, core, load_openvino
from featurecache.backbones.protocol import EngineFault, require_images
from featurecache.backbones.weights import Weights
from featurecache.prefetch import ahead
from featurecache.processors import processor_count
from featurecache.provenance import environment_settings
from featurecache.text import in_short

PRECISIONS = {"float32": "f32", "tf32": "f32", "mixed": "bf16"}
"""OpenVINO's names of the precisions in which it computes."""

_GROUP = 4  # the most images that a processor takes at a time
_GROUP_PIXELS = 4 * 256 * 256  # of them all, which bounds the memory of their activations
_LARGE_BYTES = 40_000_000  # of weights; smaller ones stay in a processor's cache from one image to the next

load_openvino()  # so that a missing or damaged installation is found when this module is imported


class OpenVinoBackbone:
    """A network with its weights and preprocessing, run on the processors that this process may use.

    Parameters
    ----------
    network_spec
        The network, from the catalogue.
    weights
        Weights for it, from `featurecache.backbones.weights.resolve_weights`.
    taps
        The layers to return; the network's default ones if not given. Layers after the last of them are not computed.
    batch_size
        Images that a run passes at a time. Features do not depend on it.
    precision
        ``"float32"``, or ``"mixed"`` for bfloat16 with float32 results; ``"tf32"`` is float32 on a CPU.
    notify
        Called with a one-line message when the network must be converted.

    Raises
    ------
    UnknownNameError
        If a tap or the precision does not exist.
    WeightsError
        If the weights belong to another network.
    EngineFault
        If OpenVINO cannot convert the network, or not compute it in this precision.
    """

    def __init__(
        self,
        network_spec: NetworkSpec,
        weights: Weights,
        *,
        taps: tuple[str, ...] | None = None,
        batch_size: int = 32,
        precision: str = "float32",
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.spec = network_spec.spec(weights.identity, taps, precision)
        self._network, self._weights = converted_network(network_spec, weights, tuple(self.spec.taps), notify)
        self._title, self._threads, self._precision = network_spec.title, processor_count(), PRECISIONS[precision]
        self.resize(batch_size)
        together = _images_together(self.spec.input_size, self._weights.nbytes, self._precision)
        self._groups = {together: self._compiled(together)}
        if together > 1 and not self._is_place_free():
            self._groups = {1: self._compiled(1)}

    def _compiled(self, images: int) -> "_Compiled":
        """Compile the network for a number of images."""
        try:
            self._network.reshape([images, *self.spec.input_size, 3])
            compiled = _Compiled(self._network, self._precision, self._threads)
        except RuntimeError as e:
            raise EngineFault(f"OpenVINO cannot compute {self._title} here ({in_short(e)})") from e
        if compiled.precision != self._precision:
            raise EngineFault(f"OpenVINO computes in {compiled.precision} on this processor, not in {self._precision}")
        return compiled

    def _is_place_free(self) -> bool:
        """Return whether an image gets the same bits in every place of a group."""
        image = trial_images((1, *self.spec.input_size, 3))
        rows = self.forward(image.repeat(max(self._groups), axis=0))
        return all(bool((values == values[0]).all()) for values in rows.values())

    def resize(self, batch_size: int) -> None:
        """Set the batch size."""
        self.batch_size = batch_size

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The numbers of images that are computed without padding; see `SmallBatches`."""
        step = min(self._groups)
        return tuple(range(step, max(step, self.batch_size) + 1, step))

    def prepare_small_batches(self) -> None:
        """Compile the network for single images as well, if they get the same bits; see `SmallBatches`."""
        if 1 in self._groups:
            return
        images = trial_images((max(self._groups), *self.spec.input_size, 3))
        expected, single = self.forward(images), self._compiled(1)
        found = {tap: np.empty_like(values) for tap, values in expected.items()}
        for place in range(len(images)):
            rows = slice(place, place + 1)
            single.compute(images[rows], {tap: values[rows] for tap, values in found.items()})
        if all(np.array_equal(found[tap], values) for tap, values in expected.items()):
            self._groups = {1: single} | self._groups

    @property
    def passes_at_once(self) -> int:
        """So many that every processor has images while one pass ends; two with few processors."""
        return 1 + math.ceil(self._threads * max(self._groups) / self.batch_size)

    @property
    def provenance(self) -> Mapping[str, str]:
        """The engine, its versions, the device, the number of threads, the batch size, and the settings."""
        return {
            "engine": "openvino",
            "openvino": load_openvino().__version__,
            "computes_in": self._precision,
            "device": "cpu",
            "threads": str(self._threads),
            "batch_size": str(self.batch_size),
            **environment_settings(),
        }

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every tap's activations in one pass; see `Backbone.forward`."""
        require_images(images, self.spec.input_size)
        out = {tap: np.empty((len(images), width), np.float32) for tap, width in self.spec.taps.items()}

        def compute(rows: slice) -> None:
            group = self._groups[max(size for size in self._groups if size <= rows.stop - rows.start)]
            group.compute(images[rows], {tap: values[rows] for tap, values in out.items()})

        parts = self._parts(len(images))
        with closing(ahead(compute, parts, workers=self._threads, window=len(parts) + 1)) as done:
            deque(done, maxlen=0)
        return out

    def _parts(self, count: int) -> list[slice]:
        """Divide images among the processors: whole groups, but single images where groups would leave some idle."""
        size, step = max(self._groups), min(self._groups)
        at_once = size * (self._threads if step == 1 else 1)
        grouped = count // at_once * at_once
        starts = [(start, size) for start in range(0, grouped, size)]
        starts += [(start, step) for start in range(grouped, count, step)]
        return [slice(start, start + length) for start, length in starts]


class _Compiled:
    """A network that is compiled for a number of images, with a request for each thread.

    Raises
    ------
    RuntimeError
        If OpenVINO cannot compile it.
    """

    def __init__(self, network: Any, precision: str, threads: int) -> None:  # noqa: ANN401 - OpenVINO's types are not used
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        self._network = core().compile_model(network, "CPU", settings)
        self.images = int(self._network.input(0).shape[0])
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(threads):
            self._requests.put(self._network.create_infer_request())

    @property
    def precision(self) -> str:
        """OpenVINO's name of the precision in which it computes."""
        return str(self._network.get_property("INFERENCE_PRECISION_HINT").to_string())

    def compute(self, images: NDArray[np.uint8], out: Mapping[str, NDArray[np.float32]]) -> None:
        """Write the taps' activations of at most its number of images into ``out``, in the caller's thread."""
        count = len(images)
        if count < self.images:
            images = np.concatenate([images, np.zeros((self.images - count, *images.shape[1:]), np.uint8)])
        request = self._requests.get()
        try:
            found = request.infer([np.ascontiguousarray(images)], share_outputs=True)
            for tap, values in out.items():
                values[:] = found[self._network.output(tap)][:count]
        finally:
            self._requests.put(request)


def _images_together(input_size: tuple[int, int], weight_bytes: int, precision: str) -> int:
    """Return how many images a processor computes together: several where weights are large, or in bfloat16."""
    if weight_bytes < _LARGE_BYTES and precision == PRECISIONS["float32"]:
        return 1
    return max(1, min(_GROUP, _GROUP_PIXELS // math.prod(input_size)))

"""Runs networks on a CPU with OpenVINO: each processor takes whole images, one at a time.

So no image shares a computation with another one, and its features depend neither on its batch nor on the number of
processors. Networks come from `featurecache.backbones.openvino_network`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import NetworkSpec
from featurecache.backbones.openvino_network import converted_network, core, load_openvino
from featurecache.backbones.protocol import EngineFault, require_images
from featurecache.backbones.weights import Weights
from featurecache.prefetch import ahead
from featurecache.processors import processor_count
from featurecache.provenance import environment_settings
from featurecache.text import in_short

PRECISIONS = {"float32": "f32", "mixed": "bf16"}
"""OpenVINO's names of the precisions in which it computes."""

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
        ``"float32"``, or ``"mixed"`` for bfloat16 with float32 results.
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
        network, self._weights = converted_network(network_spec, weights, tuple(self.spec.taps), notify)
        self._threads = processor_count()
        self._requests: SimpleQueue[Any] = SimpleQueue()
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "NUM_STREAMS": self._threads,
            "INFERENCE_NUM_THREADS": self._threads,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            compiled = core().compile_model(network, "CPU", settings)
        except RuntimeError as e:
            raise EngineFault(f"OpenVINO cannot compute {network_spec.name} here ({in_short(e)})") from e
        self._computes_in = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        if self._computes_in != PRECISIONS[precision]:
            raise EngineFault(
                f"OpenVINO computes in {self._computes_in} on this processor, not in {PRECISIONS[precision]}"
            )
        self._ports = {tap: compiled.output(tap) for tap in self.spec.taps}
        for _ in range(self._threads):
            self._requests.put(compiled.create_infer_request())
        self.resize(batch_size)

    def resize(self, batch_size: int) -> None:
        """Set the batch size."""
        self.batch_size = batch_size

    @property
    def passes_at_once(self) -> int:
        """Two: the images of the second one are computed where the first one leaves processors idle."""
        return 2

    @property
    def provenance(self) -> Mapping[str, str]:
        """The engine, its versions, the device, the number of threads, the batch size, and the settings."""
        return {
            "engine": "openvino",
            "openvino": load_openvino().__version__,
            "computes_in": self._computes_in,
            "device": "cpu",
            "threads": str(self._threads),
            "batch_size": str(self.batch_size),
            **environment_settings(),
        }

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every tap's activations in one pass; see `Backbone.forward`."""
        require_images(images, self.spec.input_size)
        out = {tap: np.empty((len(images), width), np.float32) for tap, width in self.spec.taps.items()}

        def compute(number: int) -> None:
            request = self._requests.get()
            try:
                found = request.infer([np.ascontiguousarray(images[number : number + 1])], share_outputs=True)
                for tap, values in out.items():
                    values[number] = found[self._ports[tap]]
            finally:
                self._requests.put(request)

        with closing(ahead(compute, range(len(images)), workers=self._threads, window=len(images) + 1)) as done:
            deque(done, maxlen=0)
        return out

"""Runs the catalogue's networks with Keras, on any of its backends: a backbone, compiled for one batch shape."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Condition, Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import NetworkSpec
from featurecache.backbones.drawing import trial_images
from featurecache.backbones.keras_runtime import (
    compiled,
    find_device,
    fixed_settings,
    is_out_of_memory,
    load_keras,
    placed,
    rows_of_pass,
    threads_that_matter,
    traced,
    versions,
)
from featurecache.backbones.network import require_preprocessing, tapped
from featurecache.backbones.protocol import require_images
from featurecache.backbones.weights import Weights
from featurecache.errors import DeviceError
from featurecache.provenance import environment_settings

_COMPILING = Lock()  # passes of several devices may be compiled again at the same time; Keras's settings are one
_TRIALS = 4  # images at least on which a smaller batch is tried


class _DeviceMemory:
    """Admits passes to the device's memory: several at once, but only one at a time after one ran out of memory."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._users, self._scarce = 0, False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Admit a pass beside others, as long as no pass has run out of memory."""
        with self._changed:
            self._changed.wait_for(lambda: self._users == 0 or not self._scarce)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other pass runs, and admit one at a time from now on."""
        with self._changed:
            self._scarce = True
        with self.shared():
            yield


class KerasBackbone:
    """A network of `keras.applications` with its weights and preprocessing, compiled once for one batch shape.

    Parameters
    ----------
    network_spec
        The network, from the catalogue.
    weights
        Weights for it, from `featurecache.backbones.weights.resolve_weights`.
    taps
        The layers to return; the network's default ones if not given.
    batch_size
        Images in a forward pass; a smaller batch is padded. It is halved when the device runs out of memory.
    precision
        ``"float32"``, ``"tf32"`` for products of a GPU's matrix units, or ``"mixed"`` for float16 with float32 results.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"gpu"``, or one by number, as ``"gpu:1"``.
    notify
        Called with a one-line message when the precision is slow on this device, and when the device runs out of memory
        and batches become smaller.

    Raises
    ------
    UnknownNameError
        If a tap, the precision or the device does not exist.
    WeightsError
        If the weights belong to another network.
    DeviceError
        If a GPU is requested and there is none.
    """

    def __init__(
        self,
        network_spec: NetworkSpec,
        weights: Weights,
        *,
        taps: tuple[str, ...] | None = None,
        batch_size: int = 32,
        precision: str = "float32",
        device: str = "auto",
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.spec = network_spec.spec(weights.identity, taps, precision)
        self._device, self._notify = find_device(device), notify
        self._kind = self._device.partition(":")[0]
        if precision == "mixed" and self._kind == "cpu":
            notify("computing in float16 on a CPU, which is slower than float32")
        policy = "mixed_float16" if precision == "mixed" else "float32"
        with placed(self._device), fixed_settings(policy):
            model = load_keras().Model(*tapped(network_spec, weights, self.spec.taps, dtype_policy=policy))
        without_softmax = {"predictions"} if not network_spec.is_own_model else set[str]()
        finish = partial(_finished, without_softmax)
        self._steps = (model, _preprocessing(network_spec), finish)
        self.resize(batch_size)

    def resize(self, batch_size: int) -> None:
        """Set the batch size."""
        self._memory = _DeviceMemory()
        self._compile(batch_size)

    def _compile(self, batch_size: int) -> None:
        with _COMPILING, placed(self._device), fixed_settings():
            rows = rows_of_pass(batch_size) if self._kind == "cpu" else batch_size
            self._passes = {batch_size: self._pass(rows)}

    def _pass(self, rows: int) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
        """Compile a pass of so many rows; return a function of at most as many images."""
        shape = (rows, *self.spec.input_size, 3)
        forward = compiled(*self._steps, shape, self.spec.precision)

        def padded(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
            n = len(images)
            if n < rows:
                given, images = images, np.zeros(shape, np.uint8)
                images[:n] = given
            with placed(self._device):
                return {tap: output[:n] for tap, output in forward(images).items()}

        return padded

    def graph(self) -> Any:  # noqa: ANN401 - TensorFlow has no types
        """Return a pass of any number of images as a function of TensorFlow, from pixels to taps; see `traced`."""
        with placed(self._device), fixed_settings():
            return traced(*self._steps, (None, *self.spec.input_size, 3))

    @property
    def batch_size(self) -> int:
        """Images of a pass."""
        return max(self._passes)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The sizes that are compiled; see `SmallBatches`."""
        return tuple(sorted(self._passes))

    def prepare_small_batches(self) -> None:
        """Compile the sizes 1, 2, 4, … as well; see `SmallBatches`.

        Libraries choose their code by the shape of a batch. So a size is tried on images first.
        """
        images = trial_images((self.batch_size, *self.spec.input_size, 3))
        expected = self.forward(images)
        small = 1
        while small < self.batch_size:
            with placed(self._device), fixed_settings():
                forward = self._pass(small)
                found = [forward(images[start : start + small]) for start in range(0, max(small, _TRIALS), small)]
            rows = small * len(found)
            if all(
                np.concatenate([batch[tap] for batch in found]).tobytes() == values[:rows].tobytes()
                for tap, values in expected.items()
            ):
                self._passes = self._passes | {small: forward}
            small *= 2

    @property
    def passes_at_once(self) -> int:
        """Two on a GPU, to copy data of one pass while another is computed; one with PyTorch, which queues passes."""
        return 2 if self._kind == "gpu" and load_keras().backend.backend() != "torch" else 1

    @property
    def provenance(self) -> Mapping[str, str]:
        """The engine, its versions, the device, the batch size that the device's memory allowed, and the settings."""
        return {
            "engine": "keras",
            **versions(),
            **threads_that_matter(),
            "device": self._kind,
            "batch_size": str(self.batch_size),
            **environment_settings(),
        }

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every tap's activations in one pass; see `Backbone.forward`."""
        require_images(images, self.spec.input_size)
        if len(images) == 0:
            return {tap: np.empty((0, width), np.float32) for tap, width in self.spec.taps.items()}
        batches, start = [], 0
        while start < len(images):
            batch = self._forward_some(images[start:])
            batches.append(batch)
            start += len(next(iter(batch.values())))
        return {tap: np.concatenate([batch[tap] for batch in batches]) for tap in self.spec.taps}

    def _forward_some(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the activations of the first batch of images; halve the batch size if memory runs out."""
        try:
            with self._memory.shared():
                return self._forward_batch(images)
        except Exception as e:
            if not is_out_of_memory(e):
                raise
        with self._memory.alone():
            while True:
                try:
                    return self._forward_batch(images)
                except Exception as e:
                    if not is_out_of_memory(e):
                        raise
                    self._halve(e)

    def _halve(self, error: Exception) -> None:
        """Halve the batch size; raise `DeviceError` if it is 1 already."""
        size = self.batch_size
        if size == 1:
            raise DeviceError(
                f"the {self._device}'s memory does not suffice for one image: end other programs that use it, or pass "
                "--device cpu"
            ) from error
        self._notify(f"the {self._device}'s memory does not suffice for {size} images: continuing with {size // 2}")
        self._compile(size // 2)

    def _forward_batch(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        passes = self._passes
        images = images[: max(passes)]
        return passes[min(size for size in passes if size >= len(images))](images)


def _finished(without_softmax: Collection[str], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the activations of every tap from the outputs of its layer: float32, shape (batch, d).

    The taps ``without_softmax`` are probabilities, and their layers do not have it.

    This is not part of the Keras model, where its operations would become layers with names of their own.
    """
    ops = load_keras().ops
    finished = {}
    for tap, output in outputs.items():
        activations = ops.reshape(ops.cast(output, "float32"), (-1, math.prod(output.shape[1:])))
        finished[tap] = ops.softmax(activations) if tap in without_softmax else activations
    return finished


def _preprocessing(network_spec: NetworkSpec) -> Callable[[Any], Any]:
    """Return Keras's own preprocessing of this network, from uint8 pixels to the input of the network."""
    keras = load_keras()
    mode = require_preprocessing(network_spec)
    if mode == "unit":
        return lambda images: keras.ops.cast(images, "float32") / 255
    if mode in {"none", "inside"}:
        return lambda images: keras.ops.cast(images, "float32")
    preprocess = partial(keras.applications.imagenet_utils.preprocess_input, data_format="channels_last", mode=mode)
    return lambda images: preprocess(keras.ops.cast(images, "float32"))

"""Runs the catalogue's networks with Keras, on any of its backends: a backbone, compiled for one batch shape."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import Application
from featurecache.backbones.network import build, layer_of
from featurecache.backbones.protocol import require_images
from featurecache.backbones.runtime import (
    compiled,
    dtype_policy,
    find_device,
    is_out_of_memory,
    load_keras,
    placed,
    versions,
)
from featurecache.backbones.weights import Weights
from featurecache.errors import DeviceError


class _DeviceMemory:
    """Who may use the device's memory: several passes, or, once one did not fit beside others, one at a time."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._users, self._scarce = 0, False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Use it beside other passes, as long as it has sufficed for all."""
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
        """Use it when no other pass does; from now on there is one at a time."""
        with self._changed:
            self._scarce = True
        with self.shared():
            yield


class KerasBackbone:
    """A network of `keras.applications` with its weights and preprocessing, compiled once for one batch shape.

    Parameters
    ----------
    application
        The catalogue's row.
    weights
        Weights for it, from `featurecache.backbones.weights.resolve_weights`.
    taps
        The layers to return; the network's default ones if not given.
    batch_size
        Images in a forward pass; fewer are padded, so that there is one shape. It is halved where the device's memory
        does not suffice.
    precision
        ``"float32"``, or ``"mixed"`` for half precision with float32 results.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"`` or ``"gpu"``.
    notify
        Is told, in one line, when the device's memory does not suffice and batches become smaller.

    Raises
    ------
    UnknownNameError
        If a tap, the precision or the device does not exist.
    WeightsError
        If the weights are another network's.
    DeviceError
        If a GPU was asked for and there is none.
    """

    def __init__(
        self,
        application: Application,
        weights: Weights,
        *,
        taps: tuple[str, ...] | None = None,
        batch_size: int = 32,
        precision: str = "float32",
        device: str = "auto",
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.spec = application.spec(weights.identity, taps, precision)
        self._device, self._notify = find_device(device), notify
        with placed(self._device), dtype_policy("mixed_float16" if precision == "mixed" else "float32"):
            network = build(application, weights)
            outputs = {tap: layer_of(network, tap).output for tap in self.spec.taps}
            model = load_keras().Model(network.inputs, outputs)
        self._compiled = partial(compiled, model, _preprocessing(application), _finished)
        self.resize(batch_size)

    def resize(self, batch_size: int) -> None:
        """Take batches of another size from now on."""
        self._memory = _DeviceMemory()
        self._compile(batch_size)

    def _compile(self, batch_size: int) -> None:
        with placed(self._device):
            self._pass = batch_size, self._compiled((batch_size, *self.spec.input_size, 3))

    @property
    def batch_size(self) -> int:
        """Images of a pass."""
        return self._pass[0]

    @property
    def passes_at_once(self) -> int:
        """Two on a GPU, so that copies of one pass can go on while another is computed; PyTorch would queue them."""
        return 2 if self._device == "gpu" and load_keras().backend.backend() != "torch" else 1

    @property
    def provenance(self) -> Mapping[str, str]:
        """What runs it; the batch size is the one that the device's memory allowed."""
        return {"engine": "keras", **versions(), "device": self._device, "batch_size": str(self.batch_size)}

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
        """Return what becomes of the first images, as many as the device's memory suffices for."""
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
        """Go on with batches of half the size; raise `DeviceError` if a batch is a single image already."""
        size = self.batch_size
        if size == 1:
            raise DeviceError(
                f"the {self._device}'s memory does not suffice for one image: end other programs that use it, or pass "
                "--device cpu"
            ) from error
        self._notify(f"the {self._device}'s memory does not suffice for {size} images: going on with {size // 2}")
        self._compile(size // 2)

    def _forward_batch(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        size, forward = self._pass
        padded = images = images[:size]
        if len(images) < size:
            padded = np.zeros((size, *images.shape[1:]), np.uint8)
            padded[: len(images)] = images
        with placed(self._device):
            return {tap: output[: len(images)] for tap, output in forward(padded).items()}


def _finished(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every tap's activations as float32 of shape (batch, d), from what its layer puts out.

    It runs beside the Keras model, not in it: there its operations would need names that no layer has.
    """
    ops = load_keras().ops
    finished = {}
    for tap, output in outputs.items():
        activations = ops.reshape(ops.cast(output, "float32"), (-1, math.prod(output.shape[1:])))
        finished[tap] = ops.softmax(activations) if tap == "predictions" else activations
    return finished


def _preprocessing(application: Application) -> Callable[[Any], Any]:
    """Return Keras's own preprocessing of this network, from uint8 to what the network takes."""
    keras = load_keras()
    preprocess = getattr(keras.applications, application.module).preprocess_input
    return lambda images: preprocess(keras.ops.cast(images, "float32"), data_format="channels_last")

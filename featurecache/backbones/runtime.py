"""Keras and its backends: started, placed and compiled here; the only module that imports them."""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import DEVICES
from featurecache.errors import DeviceError, UnknownNameError

# what TensorFlow says while it starts, and that there is no driver (303) where there is no GPU
_START_UP_CHATTER = re.compile(rb"WARNING: All log messages before absl::|[IW]\d{4} |E\d{4} .*cuInit: .*\(303\)")


@cache
def load_keras() -> Any:  # noqa: ANN401 - Keras has no types
    """Import Keras and its backend, without the lines that TensorFlow prints while it starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with without_chatter():
        import keras

        _has_gpu(keras.backend.backend())
    return keras


def find_device(asked: str) -> str:
    """Return ``"gpu"`` or ``"cpu"``: what was asked for, if it is there.

    Raises
    ------
    UnknownNameError
        If there is no such device.
    DeviceError
        If a GPU was asked for and there is none.
    """
    if asked not in DEVICES:
        raise UnknownNameError("device", asked, DEVICES)
    if asked == "cpu":
        return "cpu"
    backend = load_keras().backend.backend()
    if _has_gpu(backend):
        return "gpu"
    if asked == "gpu":
        raise DeviceError(f"{backend} finds no GPU; install its GPU build and driver, or pass --device cpu")
    return "cpu"


def placed(device: str) -> Any:  # noqa: ANN401 - Keras has no types
    """Return a context in which Keras works on this device, ``"gpu"`` or ``"cpu"``."""
    return nullcontext() if device == "gpu" else load_keras().device("cpu")


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Let layers that are made in the block have this dtype policy."""
    config = load_keras().config
    before = config.dtype_policy()
    config.set_dtype_policy(name)
    try:
        yield
    finally:
        config.set_dtype_policy(before)


@contextmanager
def channels_last() -> Iterator[None]:
    """Let images be (height, width, channels) in the block, whatever the user's `keras.json` says."""
    config = load_keras().config
    before = config.image_data_format()
    config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        config.set_image_data_format(before)


def versions() -> dict[str, str]:
    """Return which Keras runs on which backend, and their versions."""
    keras = load_keras()
    backend = keras.backend.backend()
    return {"keras": keras.__version__, "backend": f"{backend} {import_module(backend).__version__}"}


def compiled(
    model: Any,  # noqa: ANN401 - Keras has no types
    before: Callable[[Any], Any],
    after: Callable[[Any], Mapping[str, Any]],
    shape: tuple[int, ...],
) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """Return a model between two other functions as one function of images, compiled by the backend for one shape."""
    backend = load_keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow

        traced = tensorflow.function(lambda images: after(model(before(images), training=False)))
        concrete = traced.get_concrete_function(tensorflow.TensorSpec(shape, tensorflow.uint8))

        def run(images: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - Keras has no types
            return concrete(tensorflow.constant(images))
    elif backend == "jax":
        import jax

        state = (
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
        )
        jitted = jax.jit(lambda state, images: after(model.stateless_call(*state, before(images), training=False)[0]))

        def run(images: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - Keras has no types
            return jitted(state, images)
    else:
        import torch

        def run(images: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - Keras has no types
            with torch.no_grad():
                return after(model(before(images), training=False))

    to_numpy = load_keras().ops.convert_to_numpy
    return lambda images: {tap: to_numpy(output) for tap, output in run(images).items()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a backend says that its device's memory does not suffice: TensorFlow's, JAX's or PyTorch's error."""
    kinds = {each.__name__ for each in type(error).__mro__}
    return bool(kinds & {"ResourceExhaustedError", "OutOfMemoryError"}) or "RESOURCE_EXHAUSTED" in str(error)


@contextmanager
def without_chatter() -> Iterator[None]:
    """Hold back what native code writes to standard error in the block, and let through all but start-up chatter."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            stream.seek(0)
            for line in stream:
                if not _START_UP_CHATTER.match(line):
                    os.write(2, line)


def _has_gpu(backend: str) -> bool:
    if backend == "tensorflow":
        return bool(import_module("tensorflow").config.list_physical_devices("GPU"))
    if backend == "jax":
        return any(device.platform == "gpu" for device in import_module("jax").devices())
    return bool(import_module("torch").cuda.is_available())

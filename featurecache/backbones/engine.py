"""Runs the catalogue's networks with Keras, on any of its backends; the only module here that imports Keras."""

import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import DEVICES, Application
from featurecache.backbones.protocol import require_images
from featurecache.backbones.weights import Weights
from featurecache.errors import DeviceError, UnknownNameError, WeightsError

# what TensorFlow says while it starts, and that there is no driver (303) where there is no GPU
_START_UP_CHATTER = re.compile(rb"WARNING: All log messages before absl::|[IW]\d{4} |E\d{4} .*cuInit: .*\(303\)")
# files that older versions of Keras wrote: the layers are there, a second listing of the same layers is not
_HARMLESS_WARNING = r"Skipping nested container at '_operations_by_depth"

# what Keras and h5py raise at files that are damaged, or are something else
_LOADING_ERRORS = (ValueError, OSError, LookupError, TypeError, AttributeError, RuntimeError)

# what goes into a sigmoid that is to be close to 1
_OPEN = 8.0


@cache
def load_keras() -> Any:  # noqa: ANN401 - Keras has no types
    """Import Keras and its backend, without the lines that TensorFlow prints while it starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _without_chatter():
        import keras

        _has_gpu(keras.backend.backend())
    return keras


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
        Images in a forward pass; fewer are padded, so that there is one shape.
    precision
        ``"float32"``, or ``"mixed"`` for half precision with float32 results.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"`` or ``"gpu"``.

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
    ) -> None:
        self.spec = application.spec(weights.identity, taps, precision)
        keras = load_keras()
        self._batch_shape = (batch_size, *application.input_size, 3)
        self._device = _device(device)
        with self._placed(), _dtype_policy("mixed_float16" if precision == "mixed" else "float32"):
            network = build(application, weights)
            outputs = {tap: layer_of(network, tap).output for tap in self.spec.taps}
            model = keras.Model(network.inputs, outputs)
            self._forward = _compile(model, _preprocessing(application), self._batch_shape)
        self.provenance: Mapping[str, str] = {
            "engine": "keras",
            "keras": keras.__version__,
            "backend": f"{keras.backend.backend()} {_backend_version()}",
            "device": self._device,
            "batch_size": str(batch_size),
        }

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every tap's activations in one pass; see `Backbone.forward`."""
        require_images(images, self.spec.input_size)
        if len(images) == 0:
            return {tap: np.empty((0, width), np.float32) for tap, width in self.spec.taps.items()}
        size = self._batch_shape[0]
        batches = [self._forward_batch(images[start : start + size]) for start in range(0, len(images), size)]
        return {tap: np.concatenate([batch[tap] for batch in batches]) for tap in self.spec.taps}

    def _forward_batch(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        padded = images
        if len(images) < self._batch_shape[0]:
            padded = np.zeros(self._batch_shape, np.uint8)
            padded[: len(images)] = images
        with self._placed():
            return {tap: output[: len(images)] for tap, output in self._forward(padded).items()}

    def _placed(self) -> Any:  # noqa: ANN401 - Keras has no types
        return nullcontext() if self._device == "gpu" else load_keras().device("cpu")


def build(application: Application, weights: Weights | None = None) -> Any:  # noqa: ANN401 - a keras.Model
    """Return the network as a Keras model from preprocessed images to logits (its last layer without softmax).

    Parameters
    ----------
    weights
        None leaves the weights as Keras initialises them.
    """
    if weights is not None and weights.path is not None:
        return _load(application, weights)
    network = _construct(application, weights=None)
    if weights is not None and weights.seed is not None:
        _randomise(network, weights.seed)
    return network


def _construct(application: Application, weights: str | None, activation: str | None = None) -> Any:  # noqa: ANN401
    """Let Keras build a network, images being (height, width, 3) whatever the user's `keras.json` says."""
    keras = load_keras()
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        return getattr(keras.applications, application.constructor)(weights=weights, classifier_activation=activation)
    finally:
        keras.config.set_image_data_format(before)


def _load(application: Application, weights: Weights) -> Any:  # noqa: ANN401 - a keras.Model
    """Return the network with the weights of a file, every one of its layers, or raise `WeightsError`."""
    by_name = application.imagenet_by_name_only and weights.source == "imagenet"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _HARMLESS_WARNING)
            network = _construct(application, "imagenet" if by_name else str(weights.path))
    except _LOADING_ERRORS as e:
        raise WeightsError(
            f"{weights.path} is not a weight file of {application.name} ({_first_sentence(e)}); "
            "pass that network's file, or the --backbone that this file belongs to"
        ) from e
    if application.imagenet_by_name_only and not by_name and _is_normalised(network):
        raise WeightsError(
            f"{weights.path} was made from Keras's ImageNet weights, and Keras builds {application.name} differently "
            "for these; pass --weights imagenet"
        )
    return network


def _is_normalised(network: Any) -> bool:  # noqa: ANN401 - a keras.Model
    """Whether a layer subtracts a mean that was learnt from images, as Keras's ImageNet weights do."""
    keras = load_keras()
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.Normalization)]
    return any(bool(keras.ops.any(layer.weights[0])) for layer in layers)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a network.

    Parameters
    ----------
    name, kind
        Its name and its Keras class.
    output_shape
        Shape of its output for one image.
    parameters
        Number of its weights.
    activation
        The name of its activation function; empty if it has none.
    tap
        The tap that reads it; empty if there is none.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    activation: str
    tap: str


def describe(application: Application) -> list[Layer]:
    """Return a network's layers from the input on, as Keras builds it with its softmax."""
    network = _construct(application, weights=None, activation="softmax")
    taps = {layer_of(network, tap).name: tap for tap in application.taps if tap != "logits"}
    return [
        Layer(
            name=layer.name,
            kind=type(layer).__name__,
            output_shape=tuple(layer.output.shape[1:]),
            parameters=layer.count_params(),
            activation=getattr(getattr(layer, "activation", None), "__name__", ""),
            tap=taps.get(layer.name, ""),
        )
        for layer in network.layers
    ]


def layer_of(network: Any, tap: str) -> Any:  # noqa: ANN401 - Keras has no types
    """Return the layer that a tap reads: by Keras's name, or the pooling layer, or the classifier."""
    if tap in {"logits", "predictions"}:
        return network.layers[-1]
    if tap == "avg_pool":
        pooling = load_keras().layers.GlobalAveragePooling2D
        return next(layer for layer in reversed(network.layers) if isinstance(layer, pooling))
    return network.get_layer(tap)


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


def _compile(
    model: Any,  # noqa: ANN401 - Keras has no types
    preprocess: Callable[[Any], Any],
    shape: tuple[int, ...],
) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """Return model after preprocessing as one function, compiled by the backend that Keras runs on."""
    backend = load_keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow

        traced = tensorflow.function(lambda images: _finished(model(preprocess(images), training=False)))
        compiled = traced.get_concrete_function(tensorflow.TensorSpec(shape, tensorflow.uint8))

        def run(images: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - Keras has no types
            return compiled(tensorflow.constant(images))
    elif backend == "jax":
        import jax

        state = (
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
        )
        jitted = jax.jit(
            lambda state, images: _finished(model.stateless_call(*state, preprocess(images), training=False)[0])
        )

        def run(images: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - Keras has no types
            return jitted(state, images)
    else:
        import torch

        def run(images: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - Keras has no types
            with torch.no_grad():
                return _finished(model(preprocess(images), training=False))

    to_numpy = load_keras().ops.convert_to_numpy
    return lambda images: {tap: to_numpy(output) for tap, output in run(images).items()}


def _randomise(network: Any, seed: int) -> None:  # noqa: ANN401 - Keras has no types
    """Draw the weights of a network with NumPy, so that every backend gets the same ones.

    Kernels are Glorot-uniform (Glorot and Bengio 2010), which is Keras's default; those without a bias, which in
    these networks stand before a batch normalisation that has not learnt to rescale, are He-uniform (He et al. 2015),
    so that the signal does not die out. A depthwise unit sees one channel. All other weights leave a signal as it is:
    gains 1, offsets 0, batch statistics of mean 0 and variance 1, and gates (sigmoids that multiply channels) open.
    """
    depthwise = load_keras().layers.DepthwiseConv2D
    generator = np.random.default_rng(seed)
    for layer in network.layers:
        values = []
        for variable in layer.weights:
            if "kernel" in variable.name:
                *field, inputs, units = variable.shape
                fan_in = math.prod(field) * (1 if isinstance(layer, depthwise) else inputs)
                fan_out = math.prod(field) * units if layer.use_bias else 0
                limit = np.float32(math.sqrt(6 / (fan_in + fan_out)))
                values.append((generator.random(variable.shape, np.float32) * 2 - 1) * limit)
            else:
                gate = variable.name == "bias" and layer.activation.__name__ == "sigmoid"
                one = variable.name in {"gamma", "moving_variance", "variance"}
                values.append(np.full(variable.shape, _OPEN if gate else float(one)).astype(variable.dtype))
        if values:
            layer.set_weights(values)


def _device(asked: str) -> str:
    """Return ``"gpu"`` or ``"cpu"``: what was asked for, if it is there."""
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


def _has_gpu(backend: str) -> bool:
    if backend == "tensorflow":
        return bool(import_module("tensorflow").config.list_physical_devices("GPU"))
    if backend == "jax":
        return any(device.platform == "gpu" for device in import_module("jax").devices())
    return bool(import_module("torch").cuda.is_available())


def _backend_version() -> str:
    return str(import_module(load_keras().backend.backend()).__version__)


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """Let layers that are made in the block have this dtype policy."""
    config = load_keras().config
    before = config.dtype_policy()
    config.set_dtype_policy(name)
    try:
        yield
    finally:
        config.set_dtype_policy(before)


@contextmanager
def _without_chatter() -> Iterator[None]:
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


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")

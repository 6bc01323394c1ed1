"""The catalogue's networks as Keras models: built with their weights, described layer by layer, fed with pixels."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurecache.backbones.catalog import BGR_MEAN, Application
from featurecache.backbones.drawing import draw_kernel
from featurecache.backbones.runtime import channels_last, dtype_policy, load_keras
from featurecache.backbones.weights import Weights, not_of_this_network
from featurecache.errors import WeightsError

# files that older versions of Keras wrote: the layers are there, a second listing of the same layers is not
_HARMLESS_WARNING = r"Skipping nested container at '_operations_by_depth"

# what Keras and h5py raise at files that are damaged, or are something else
_LOADING_ERRORS = (ValueError, OSError, LookupError, TypeError, AttributeError, RuntimeError)

# what goes into a sigmoid that is to be close to 1
_OPEN = 8.0


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


def from_pixels(application: Application, weights: Weights, tap: str) -> Any:  # noqa: ANN401 - a keras.Model
    """Return a Keras model from raw images, (n, height, width, 3) uint8 RGB, to a tap's activations, (n, d) float32.

    It is made of Keras's own layers alone, and computes in float32, so that a saved one loads and gives the same
    wherever Keras is. The network up to the tap is one layer of it, that bears the network's name. Its batch
    normalisation is frozen and nothing of it is dropped out, so that it is in training what it is in inference.
    """
    keras = load_keras()
    with dtype_policy("float32"), channels_last():
        network = build(application, weights)
        _still(network)
        part = keras.Model(network.inputs, layer_of(network, tap).output, name=application.name)
        images = keras.Input((*application.input_size, 3), dtype="uint8", name="images")
        activations = part(_preprocessed(application, images))
        if len(activations.shape) > 2:  # noqa: PLR2004 - (n, d)
            activations = keras.layers.Flatten(name="features")(activations)
        if tap == "predictions":
            activations = keras.layers.Softmax(name="imagenet_probabilities")(activations)
        return keras.Model(images, activations)


def _still(network: Any) -> None:  # noqa: ANN401 - a keras.Model
    """Let a network be in training what it is in inference."""
    layers = load_keras().layers
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
        elif isinstance(layer, layers.Dropout):
            layer.rate = 0.0


def _preprocessed(application: Application, images: Any) -> Any:  # noqa: ANN401 - Keras tensors
    """Return what the network takes, of uint8 images, by built-in layers that do what the row's preprocessing says."""
    layers = load_keras().layers
    if application.preprocessing == "tf":
        return layers.Rescaling(1 / 127.5, -1.0, name="preprocessing")(images)
    numbers = layers.Rescaling(1.0, name="numbers")(images)  # uint8 to float
    if application.preprocessing == "none":
        return numbers
    layer = layers.Conv2D(3, 1, kernel_initializer="zeros", trainable=False, name="preprocessing")
    preprocessed = layer(numbers)
    layer.set_weights([np.eye(3)[::-1].reshape(1, 1, 3, 3), -np.array(BGR_MEAN)])
    return preprocessed


def layer_of(network: Any, tap: str) -> Any:  # noqa: ANN401 - Keras has no types
    """Return the layer that a tap reads: by Keras's name, or the pooling layer, or the classifier."""
    if tap in {"logits", "predictions"}:
        return network.layers[-1]
    if tap == "avg_pool":
        pooling = load_keras().layers.GlobalAveragePooling2D
        return next(layer for layer in reversed(network.layers) if isinstance(layer, pooling))
    return network.get_layer(tap)


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


def _construct(application: Application, weights: str | None, activation: str | None = None) -> Any:  # noqa: ANN401
    """Let Keras build a network."""
    keras = load_keras()
    with channels_last():
        return getattr(keras.applications, application.constructor)(weights=weights, classifier_activation=activation)


def _load(application: Application, weights: Weights) -> Any:  # noqa: ANN401 - a keras.Model
    """Return the network with the weights of a file, every one of its layers, or raise `WeightsError`."""
    by_name = application.imagenet_by_name_only and weights.source == "imagenet"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _HARMLESS_WARNING)
            network = _construct(application, "imagenet" if by_name else str(weights.path))
    except _LOADING_ERRORS as e:
        raise not_of_this_network(weights.path, application, _first_sentence(e)) from e
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


def _randomise(network: Any, seed: int) -> None:  # noqa: ANN401 - Keras has no types
    """Draw the weights of a network with NumPy, so that every backend gets the same ones.

    Kernels are those of `draw_kernel`. All other weights leave a signal as it is: gains 1, offsets 0, batch
    statistics of mean 0 and variance 1, and gates (sigmoids that multiply channels) open.
    """
    depthwise = load_keras().layers.DepthwiseConv2D
    generator = np.random.default_rng(seed)
    for layer in network.layers:
        values = []
        for variable in layer.weights:
            if "kernel" in variable.name:
                is_depthwise = isinstance(layer, depthwise)
                values.append(draw_kernel(generator, variable.shape, depthwise=is_depthwise, biased=layer.use_bias))
            else:
                gate = variable.name == "bias" and layer.activation.__name__ == "sigmoid"
                one = variable.name in {"gamma", "moving_variance", "variance"}
                values.append(np.full(variable.shape, _OPEN if gate else float(one)).astype(variable.dtype))
        if values:
            layer.set_weights(values)


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")

"""Builds the catalogue's networks as Keras models, and describes their layers."""

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurecache.backbones.catalog import BGR_MEAN, RGB_DEVIATION, RGB_MEAN, NetworkSpec
from featurecache.backbones.drawing import draw_kernel
from featurecache.backbones.keras_runtime import fixed_settings, load_keras
from featurecache.backbones.model_file import tapped_model
from featurecache.backbones.weights import Weights
from featurecache.errors import EngineError, WeightsError
from featurecache.options import PREPROCESSING

# a sigmoid of this is close to 1, and a hard sigmoid is 1
_OPEN = 8.0
_HARD_GATE = "squeeze_excite_conv_1"  # of MobileNetV3, whose hard sigmoid is made of other layers


def build(
    network_spec: NetworkSpec, weights: Weights, taps: Iterable[str] | None = None, *, dtype_policy: str = "float32"
) -> Any:  # noqa: ANN401 - a keras.Model
    """Return the network as a Keras model from preprocessed images to logits (its last layer without softmax).

    Parameters
    ----------
    taps
        The taps that will be used, of all if None. Layers above them may lack their weights, and are zeros then.
    dtype_policy
        Keras's name of the precision of the layers.

    Raises
    ------
    WeightsError
        If a weight file is not one of this network; see `read_weight_file`.
    """
    with fixed_settings(dtype_policy):
        network = _construct(network_spec)
        if weights.path is not None:
            by_name = network_spec.imagenet_by_name_only and weights.source == "imagenet"
            network = _scaled_for_imagenet(network) if by_name else network
            _load(network, network_spec, weights.path, taps)
            if network_spec.imagenet_by_name_only and not by_name and _is_normalised(network):
                raise WeightsError(
                    f"{weights.path} was made from Keras's ImageNet weights, and Keras builds {network_spec.name} "
                    "differently for these; pass --weights imagenet"
                )
        elif weights.seed is not None:
            _randomise(network, weights.seed)
    return network


def from_pixels(network_spec: NetworkSpec, weights: Weights, tap: str) -> Any:  # noqa: ANN401 - a keras.Model
    """Return a Keras model from raw images, (n, height, width, 3) uint8 RGB, to a tap's activations, (n, d) float32.

    The model consists of Keras's own layers and computes in float32, so that a saved model loads in every installation
    of Keras. The network up to the tap is one of its layers and has the network's name. Batch normalisation is frozen
    and dropout is off, so that the network computes the same in training as in inference.
    """
    keras = load_keras()
    with fixed_settings():
        inputs, outputs = tapped(network_spec, weights, (tap,))
        part = keras.Model(inputs, outputs[tap], name=network_spec.name)
        _freeze(part)
        images = keras.Input((*network_spec.input_size, 3), dtype="uint8", name="images")
        activations = part(_preprocessed(network_spec, images))
        if len(activations.shape) > 2:  # noqa: PLR2004 - (n, d)
            activations = keras.layers.Flatten(name="features")(activations)
        if tap == "predictions" and not network_spec.is_own_model:
            activations = keras.layers.Softmax(name="imagenet_probabilities")(activations)
        return keras.Model(images, activations)


def tapped(
    network_spec: NetworkSpec, weights: Weights, taps: Iterable[str], *, dtype_policy: str = "float32"
) -> tuple[Any, dict[str, Any]]:
    """Return the input of a network, a Keras tensor, and the outputs of the layers that its taps read.

    Those of `keras.applications` end without a softmax; see `build`.

    Raises
    ------
    WeightsError
        As `build`.
    EngineError
        If another precision is asked for than float32, and the network is a model file, whose layers have their own.
    """
    taps = tuple(taps)
    if network_spec.is_own_model and weights.path is not None:
        model = tapped_model(weights.path, network_spec.input_size, dtype_policy=dtype_policy)
        return model.images, {tap: model.taps[tap] for tap in taps}
    network = build(network_spec, weights, taps, dtype_policy=dtype_policy)
    return network.inputs, {tap: layer_of(network, tap).output for tap in taps}


def _freeze(network: Any) -> None:  # noqa: ANN401 - a keras.Model
    """Freeze batch normalisation and switch off dropout, so that training computes the same as inference."""
    layers = load_keras().layers
    for layer in network._flatten_layers(include_self=False):  # also those in a layer of attention
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
        elif isinstance(layer, layers.Dropout | layers.GaussianDropout | layers.AlphaDropout):
            layer.rate = 0.0
        elif isinstance(layer, layers.GaussianNoise):
            layer.stddev = 0.0


def _preprocessed(network_spec: NetworkSpec, images: Any) -> Any:  # noqa: ANN401 - Keras tensors
    """Return the input of the network from uint8 images, computed by built-in layers."""
    layers, mode = load_keras().layers, require_preprocessing(network_spec)
    if mode == "unit":
        return layers.Rescaling(1 / 255, name="preprocessing")(images)
    if mode == "tf":
        return layers.Rescaling(1 / 127.5, -1.0, name="preprocessing")(images)
    if mode == "torch":
        mean, deviation = np.array(RGB_MEAN), np.array(RGB_DEVIATION)
        scale, offset = 1 / (255 * deviation), -mean / deviation
        return layers.Rescaling(scale.tolist(), offset.tolist(), name="preprocessing")(images)
    numbers = layers.Rescaling(1.0, name="numbers")(images)  # uint8 to float
    if mode in {"none", "inside"}:
        return numbers
    layer = layers.Conv2D(3, 1, kernel_initializer="zeros", trainable=False, name="preprocessing")
    preprocessed = layer(numbers)
    layer.set_weights([np.eye(3)[::-1].reshape(1, 1, 3, 3), -np.array(BGR_MEAN)])
    return preprocessed


def require_preprocessing(network_spec: NetworkSpec) -> str:
    """Return the mode of preprocessing of a network; raise `EngineError` if there is no such mode."""
    if network_spec.preprocessing not in PREPROCESSING:
        modes = ", ".join(PREPROCESSING)
        raise EngineError(
            f"{network_spec.name} has the preprocessing {network_spec.preprocessing!r}; known are {modes}"
        )
    return network_spec.preprocessing


def layer_of(network: Any, tap: str) -> Any:  # noqa: ANN401 - Keras has no types
    """Return the layer that a tap reads: the layer of this name, the last pooling layer, or the classifier."""
    if tap in {"logits", "predictions"}:
        return network.layers[-1]
    if tap == "avg_pool":
        pooling = load_keras().layers.GlobalAveragePooling2D
        return next(layer for layer in reversed(network.layers) if isinstance(layer, pooling))
    return network.get_layer(tap)


def leaf_layers(layers: Iterable[Any], folder: str = "") -> Iterator[tuple[int, str, Any]]:
    """Yield layers in order, and the layers of a nested network in its place.

    Parameters
    ----------
    layers
        The layers of a network.
    folder
        What the names begin with.

    Yields
    ------
    tuple
        The position of the layer, or of the network around it, in ``layers``; its name in the weight files of Keras 3,
        such as ``conv2d_1`` or ``sequential/layers/conv2d``; and the layer.
    """
    from featurecache.backbones.weight_file import numbered

    layers = list(layers)
    names = numbered(_snake_case(type(layer).__name__) for layer in layers)
    for place, (name, layer) in enumerate(zip(names, layers, strict=True)):
        if isinstance(layer, load_keras().Model):
            for _, inner, leaf in leaf_layers(layer.layers, f"{folder}{name}/layers/"):
                yield place, inner, leaf
        else:
            yield place, f"{folder}{name}", layer


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One layer of a network.

    Parameters
    ----------
    name, kind
        Its name and its Keras class.
    output_shape
        Shape of its output for one image.
    parameters
        The number of its weights.
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


def describe_network(network_spec: NetworkSpec) -> list[LayerSummary]:
    """Return the layers of a network from the input on; those of `keras.applications` with the classifier's softmax."""
    if network_spec.is_own_model:
        found = tapped_model(Path(network_spec.weights_file), network_spec.input_size)
        layers = load_keras().Model(found.images, list(found.taps.values())).operations
        outputs = {output._keras_history.operation.name: output for output in found.taps.values()}
        taps = {output._keras_history.operation.name: tap for tap, output in reversed([*found.taps.items()])}
    else:
        with fixed_settings(), load_keras().StatelessScope(initialize_variables=False):  # allocates no weights
            network = _construct(network_spec, activation="softmax")
        layers, outputs = network.layers, {}
        taps = {layer_of(network, tap).name: tap for tap in network_spec.taps if tap != "logits"}
    return [
        LayerSummary(
            name=layer.name,
            kind=type(layer).__name__,
            output_shape=tuple(getattr(outputs.get(layer.name, layer.output), "shape", ())[1:]),
            parameters=layer.count_params() if isinstance(layer, load_keras().Layer) else 0,
            activation=getattr(getattr(layer, "activation", None), "__name__", ""),
            tap=taps.get(layer.name, ""),
        )
        for layer in layers
    ]


def _construct(network_spec: NetworkSpec, activation: str | None = None) -> Any:  # noqa: ANN401 - a keras.Model
    """Return a network as Keras builds it, with kernels of zeros: the caller replaces or ignores them.

    Keras draws kernels by default, which takes seconds and 800 MB of temporary memory for VGG16.
    """
    keras = load_keras()
    with keras.utils.custom_object_scope(zero_kernels()):
        return getattr(keras.applications, network_spec.constructor)(
            weights=None, input_shape=(*network_spec.input_size, 3), classifier_activation=activation
        )


def zero_kernels() -> dict[str, Any]:
    """Return zeros in place of the initializers that the layers of `keras.applications` name."""
    zeros = load_keras().initializers.Zeros

    class Zeros(zeros):  # type: ignore[misc, valid-type]  # Keras has no types
        """Zeros, whatever parameters the initializer has that they replace."""

        def __init__(self, **_: Any) -> None:
            super().__init__()

    return dict.fromkeys(("glorot_uniform", "he_normal", "VarianceScaling"), Zeros)


def _scaled_for_imagenet(network: Any) -> Any:  # noqa: ANN401 - a keras.Model
    """Return an EfficientNet as Keras builds it for ImageNet weights: normalised images are scaled once more."""
    keras = load_keras()

    def call(layer: Any, *inputs: Any, **options: Any) -> Any:  # noqa: ANN401 - Keras has no types
        outputs = layer(*inputs, **options)
        if isinstance(layer, keras.layers.Normalization):
            return keras.layers.Rescaling([deviation**-0.5 for deviation in RGB_DEVIATION])(outputs)
        return outputs

    with keras.utils.custom_object_scope(zero_kernels()):
        return keras.models.clone_model(network, call_function=call)


def _load(network: Any, network_spec: NetworkSpec, path: Path, taps: Iterable[str] | None) -> None:  # noqa: ANN401
    """Load the weights of the layers that the taps need; raise `WeightsError` if the file is not of this network."""
    from featurecache.backbones.weight_file import WeightedLayer, read_weight_file

    layers = network.layers
    below_top = _end_of_body(layers)
    leaves: dict[int, list[tuple[str, Any]]] = {}  # of each layer with weights: itself, or those nested in it
    for place, name, leaf in leaf_layers(layers):
        if leaf.weights:
            leaves.setdefault(place, []).append((name, leaf))
    stored = [
        WeightedLayer(
            tuple(name for name, _ in nested),
            tuple(tuple(array.shape) for _, leaf in nested for array in leaf.weights),
            place > below_top,
        )
        for place, nested in leaves.items()
    ]
    used = layers if taps is None else [layer_of(network, tap) for tap in taps]
    last = max(map(layers.index, used))
    needed = sum(place <= last for place in leaves)
    with closing(read_weight_file(path, network_spec, stored, needed)) as loaded:
        for nested, arrays in zip(leaves.values(), loaded, strict=False):
            values = iter(arrays)
            for _, leaf in nested:
                leaf.load_own_variables({str(number): next(values) for number in range(len(leaf.weights))})


def _end_of_body(layers: list[Any]) -> int:
    """Return the position of the layer above which the top begins: the last global pooling, else the last flattening.

    Without either, all layers belong to the body.
    """
    keras_layers = load_keras().layers
    for kinds in ((keras_layers.GlobalAveragePooling2D, keras_layers.GlobalMaxPooling2D), (keras_layers.Flatten,)):
        places = [place for place, layer in enumerate(layers) if isinstance(layer, kinds)]
        if places:
            return places[-1]
    return len(layers)


def _snake_case(name: str) -> str:
    """Return the name of a class as Keras writes it in weight files: ``depthwise_conv2d``."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _is_normalised(network: Any) -> bool:  # noqa: ANN401 - a keras.Model
    """Whether a layer subtracts a learned mean, as in the networks that Keras builds for its ImageNet weights."""
    keras = load_keras()
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.Normalization)]
    return any(bool(keras.ops.any(layer.weights[0])) for layer in layers)


def _randomise(network: Any, seed: int) -> None:  # noqa: ANN401 - Keras has no types
    """Draw the weights of a network with NumPy, so that they are the same on every backend.

    Kernels are those of `draw_kernel`. All other weights do not change a signal: gains are 1, offsets 0, batch
    statistics have mean 0 and variance 1, and gates (sigmoids that multiply channels) are close to 1.
    """
    depthwise = load_keras().layers.DepthwiseConv2D
    generator = np.random.default_rng(seed)
    for _, _, layer in leaf_layers(network.layers):
        values = []
        for variable in layer.weights:
            if "kernel" in variable.name:
                first = variable.name == "depthwise_kernel"  # of two products before one activation
                is_depthwise = first or isinstance(layer, depthwise)
                kernel = draw_kernel(generator, variable.shape, depthwise=is_depthwise, biased=layer.use_bias)
                values.append(kernel * np.float32(0.5**0.5) if first else kernel)
            else:
                gate = variable.name == "bias" and (
                    layer.activation.__name__ == "sigmoid" or layer.name.endswith(_HARD_GATE)
                )
                one = variable.name in {"gamma", "moving_variance", "variance"}
                values.append(np.full(variable.shape, _OPEN if gate else float(one)).astype(variable.dtype))
        if values:
            layer.set_weights(values)

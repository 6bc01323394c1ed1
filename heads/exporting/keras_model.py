"""Joins backbone and head to one Keras model of built-in layers, from images to the probabilities of all classes.

Keras loads it in its safe mode, without this project. A saved model contains ``featurecache.json``, which describes its
parts and names the classes of its outputs. The standard library reads it:
``json.loads(zipfile.ZipFile("model.keras").read("featurecache.json"))``.
"""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from featurecache.backbones.catalog import OWN_MODEL, find_network
from featurecache.backbones.keras_runtime import fixed_settings, load_keras, placed
from featurecache.backbones.model_file import read_network
from featurecache.backbones.network import from_pixels
from featurecache.backbones.weights import resolve_weights
from featurecache.images.decode import DecodeRules
from featurecache.named_backbone import own_network, recipe_of
from featurecache.storage.external_writers import publish_written
from heads.calibration import Temperature
from heads.catalog import HEADS, model_class
from heads.each_label import learned_models
from heads.errors import HeadError, MismatchError
from heads.families.affine import AffineModel, OneVsRestModel
from heads.families.discriminant import GaussianModel
from heads.families.keras_head import keras_layers
from heads.families.keras_layers import LayerStack, StoredLayer
from heads.families.layers import Layer, LayersModel
from heads.families.trees import BoostedTreesModel, ForestModel, NumberTreesModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from featurecache.backbones.catalog import NetworkSpec
    from featurecache.backbones.weights import Weights
    from featurecache.recipe import Recipe
    from heads.artifact import TrainedHead
    from heads.fitted_model import FittedModel
    from heads.rows import Floats, Scaling

DESCRIPTION = "featurecache.json"
FORMAT, FORMAT_VERSION = "featurecache-model", 1

Layered: TypeAlias = AffineModel | OneVsRestModel | LayersModel | LayerStack
_LAYERED = (AffineModel, OneVsRestModel, LayersModel, LayerStack)
_INTERPOLATIONS = {"bilinear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "lanczos": "lanczos3"}
_NEVER = -1e9  # the score of a class without training rows: its probability is exactly 0
_SMALLEST_DEVIATION = 1e-6  # Keras's Normalization accepts none below its epsilon, 1e-7
_CHECKED_ROWS = 16
_HALVINGS = 30  # of the way between rows of two classes: more than float32 tells apart
TOLERANCE = 1e-3
"""Of probabilities in float32: a larger difference is not rounding."""


def layered(head: TrainedHead) -> Layered:
    """Return the fitted model of a head if it consists of dense layers; otherwise raise `HeadError`."""
    if not isinstance(head.model, _LAYERED):
        names = [name for name in HEADS if issubclass(model_class(name), _LAYERED)]
        raise HeadError(
            f"the head {head.name} does not consist of dense layers, so it cannot be part of a Keras model; "
            f"heads that can: {', '.join(names)}"
        )
    if head.calibration and not isinstance(head.calibration.map, Temperature):
        raise HeadError(
            f"the head is calibrated by {head.calibration.method} curves, which cannot be part of a Keras model; "
            "train it with --calibrate temperature or none to export it"
        )
    return head.model


def network_of(
    head: TrainedHead, weights: str | None = None, *, notify: Callable[[str], None] = lambda _: None
) -> tuple[NetworkSpec, Weights]:
    """Find the network of a head's recipe, with its weights.

    Parameters
    ----------
    weights
        The network's weights, if they have moved since the extraction.
    notify
        Called with one line when weights are downloaded.

    Raises
    ------
    UnknownNameError
        If the network is not in the catalogue.
    WeightsError
        If the weights are not available.
    MismatchError
        If the weights differ from those of the head.
    HeadError
        If the network is a preset of KerasHub.
    """
    recipe = head.recipe
    path = weights or head.weights_source
    row = own_network(recipe) if recipe.backbone == OWN_MODEL else find_network(recipe.backbone)
    found = resolve_weights(path, row, notify=notify)
    rules = DecodeRules(recipe.input_size, recipe.resize, recipe.filter)
    spec = row.spec(found.identity, (head.tap,), recipe.precision)
    head.check_recipe(recipe_of(spec, rules, recipe.dtype), head.tap)
    if found.path is not None and found.path.is_dir():
        raise HeadError(
            f"the network is the preset {found.path}, which has layers of KerasHub, and exported models have Keras's "
            "own alone; predict and serve with the head instead"
        )
    if found.path is not None and row.is_own_model:  # its file tells the stages
        row = read_network(
            found.path, preprocessing=recipe.preprocessing, input_size=recipe.input_size, taps=(head.tap,)
        )
    return row, found


def assemble(head: TrainedHead, row: NetworkSpec, weights: Weights) -> Any:  # noqa: ANN401 - a keras.Model
    """Return the model, from images (n, height, width, 3), uint8 RGB, to probabilities (n, k), float32.

    The k classes are all classes of the head, in order; a class without training rows has probability 0. The layer
    ``probabilities`` is a softmax; its inputs are scores for further training. The model computes in float32,
    independent of the precision and data type of the features.

    Raises
    ------
    HeadError
        If the head does not consist of dense layers.
    MismatchError
        If the head's probabilities differ in float32.
    """
    fitted = layered(head)
    keras = load_keras()
    with fixed_settings():
        pixels = from_pixels(row, weights, head.tap)
        layers = _layers(fitted, head)
        _require_same(fitted, head, layers)
        outputs = pixels.output
        for layer in layers:
            outputs = layer(outputs)
        return keras.Model(pixels.input, outputs, name=f"{row.name}_{head.name}")


def for_any_size(model: Any, recipe: Recipe) -> Any:  # noqa: ANN401 - a keras.Model
    """Return a model with the same layers that takes images of any size, and resizes them as the recipe says.

    Keras resizes as Pillow does, which decodes the images of a cache, up to rounding of pixels. It cuts out the centre
    at whole pixels, however, where Pillow cuts between them.

    Parameters
    ----------
    model
        A model from `assemble`, whose layers follow each other.
    recipe
        The recipe of the head.
    """
    keras = load_keras()
    height, width = recipe.input_size
    with fixed_settings():
        images = keras.Input((None, None, 3), dtype="uint8", name="images")
        outputs = keras.layers.Resizing(
            height,
            width,
            _INTERPOLATIONS[recipe.filter],
            crop_to_aspect_ratio=recipe.resize == "crop",
            antialias=recipe.filter != "nearest",
            dtype="uint8",  # rounds pixels, as Pillow does
            name="resizing",
        )(images)
        for layer in model.layers[1:]:
            outputs = layer(outputs)
        model = keras.Model(images, outputs, name=model.name)
        model.compile("sgd", jit_compile=False)  # XLA cannot resize; a bare optimizer needs no memory
        return model


def require_conversion(form: str, since: tuple[int, int]) -> None:
    """Raise `HeadError` unless Keras converts networks to another form here.

    Parameters
    ----------
    form
        The name of the form.
    since
        The version of Keras that can first do so, as two numbers.
    """
    keras = load_keras()
    if tuple(map(int, keras.__version__.split(".")[:2])) < since:
        least = ".".join(map(str, since))
        raise HeadError(f"the export to {form} needs Keras {least}, found {keras.__version__}: pip install -U keras")
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise HeadError(f"Keras converts networks to {form} on TensorFlow, and runs on {backend}; unset KERAS_BACKEND")


def notes_of(head: TrainedHead, *, resizes: bool = True, rounds: bool = False) -> list[str]:
    """Return notes for the user about a head's model, one line each.

    Parameters
    ----------
    resizes
        Whether the model takes images of any size, as `for_any_size` makes it.
    rounds
        Whether the model rounds features as the cache does.
    """
    recipe = head.recipe
    size = " x ".join(map(str, recipe.input_size))
    how = recipe.filter if recipe.filter == "nearest" else f"{recipe.filter}, antialiased"
    how += ", the centre to half a pixel" if recipe.resize == "crop" else ""
    takes = f"images of any size, and resizes them to {size}" if resizes else f"images of {size}: resize them"
    notes = [
        f"the model takes {takes} as the cache did ({recipe.resize}, {how}); "
        "resized in another way, as by Keras's load_img, they get other probabilities"
    ]
    is_rounded = recipe.dtype == "float16" and not rounds
    halves = {f"{recipe.precision} precision": recipe.precision != "float32", "float16 features": is_rounded}
    found = " and ".join(name for name, holds in halves.items() if holds)
    if found:
        notes.append(
            f"the head was trained with {found}; the model computes in float32, so its probabilities "
            "differ from the head's by rounding"
        )
    return notes


def describe(head: TrainedHead, fine_tuning: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the content of ``featurecache.json``: the parts of a model, and its fine-tuning."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "target": head.target,
        "classes": list(head.classes),
        "trained_classes": [head.classes[index] for index in head.trained_classes],
        "thresholds": list(head.thresholds),
        "tap": head.tap,
        "head": head.name,
        "params": dict(head.params),
        "head_sha256": head.identity,
        "recipe": head.recipe.to_dict(),
        "fingerprint": head.recipe.fingerprint,
        "fine_tuning": None if fine_tuning is None else dict(fine_tuning),
    }


def save_model(model: Any, path: Path, description: Mapping[str, Any]) -> None:  # noqa: ANN401 - a keras.Model
    """Publish a Keras model with its description, whole or not at all; raise `OutputError` if it cannot be written."""

    def write(place: Path) -> None:
        model.save(place)
        with zipfile.ZipFile(place, "a") as archive:
            archive.writestr(DESCRIPTION, json.dumps(description, indent=2, allow_nan=False) + "\n")

    publish_written(path, write, size=4 * model.count_params())


def drawn_rows(fitted: FittedModel) -> NDArray[np.float32]:
    """Return random rows where a head has learned to decide, on which an exported one is compared, shape (n, d)."""
    model, generator = learned_models(fitted)[0], np.random.default_rng(0)
    drawn = generator.standard_normal((_CHECKED_ROWS, model.width))
    if isinstance(model, GaussianModel):
        return _rows_of_classes(model, drawn)
    if isinstance(model, ForestModel | BoostedTreesModel | NumberTreesModel):
        return _rows_of_thresholds(model, drawn, generator)
    scaling: Scaling | None = getattr(model, "scaling", None)
    return (np.abs(drawn) if scaling is None else scaling.mean + scaling.scale * drawn).astype(np.float32)


def _rows_of_classes(model: GaussianModel, drawn: Floats) -> NDArray[np.float32]:
    """Return rows of the classes in turn, and as many between two of them, where neither is more probable."""
    own = np.arange(len(drawn)) % len(model.means)
    other, numbers = (own + 1) % len(model.means), np.arange(len(drawn))
    start, end = (model.means[each] + np.sqrt(model.variances[each]) * drawn for each in (own, other))
    low, high = np.zeros((len(drawn), 1)), np.ones((len(drawn), 1))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = model.predict_proba((start + middle * (end - start)).astype(np.float32))
        nearer = (found[numbers, own] > found[numbers, other])[:, np.newaxis]
        low, high = np.where(nearer, middle, low), np.where(nearer, high, middle)
    return np.concatenate([start, start + low * (end - start)]).astype(np.float32)


def _rows_of_thresholds(
    model: ForestModel | BoostedTreesModel | NumberTreesModel, drawn: Floats, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Return rows of thresholds, and of the next numbers above them."""
    rows = drawn.astype(np.float32)
    for feature in np.unique(model.feature):
        thresholds = generator.choice(model.threshold[model.feature == feature], len(rows))
        above = np.nextafter(thresholds, np.float32(np.inf))
        rows[:, feature] = np.where(generator.integers(2, size=len(rows)), above, thresholds)
    return rows


def _layers(fitted: Layered, head: TrainedHead) -> list[Any]:
    """Return the head as a sequence of Keras layers with its weights."""
    kinds = load_keras().layers
    layers = _stack_layers(fitted, head) if isinstance(fitted, LayerStack) else _dense_layers(fitted, head)
    if isinstance(fitted, OneVsRestModel):  # sigmoids divided by their sum are the softmax of their logarithms
        layers.append(kinds.Activation("log_sigmoid", name="log_sigmoid"))
    if head.calibration and isinstance(head.calibration.map, Temperature):
        layers.append(kinds.Rescaling(1 / head.calibration.map.temperature, name="temperature"))
    return [*layers, kinds.Softmax(name="probabilities")]


def _dense_layers(fitted: AffineModel | OneVsRestModel | LayersModel, head: TrainedHead) -> list[Any]:
    """Return the layers that give the scores of dense layers."""
    if isinstance(fitted, LayersModel):
        dense, activation = list(fitted.layers), fitted.activation
    else:
        dense, activation = [Layer(fitted.coef.T, fitted.intercept)], "linear"
    dense[-1] = _for_all_classes(dense[-1], head)
    layers = []
    if fitted.scaling.mean.any() or (fitted.scaling.scale != 1).any():
        layer, dense[0] = _standardizing(fitted.scaling, dense[0])
        layers.append(layer)
    layers += [_dense(hidden, activation, f"hidden_{number}") for number, hidden in enumerate(dense[:-1], start=1)]
    layers.append(_dense(dense[-1], "linear", "scores"))
    return layers


def _stack_layers(stack: LayerStack, head: TrainedHead) -> list[Any]:
    """Return the layers of a Keras head of one's own, with a score for every class."""
    *hidden, last = stack.layers
    scores = _for_all_classes(Layer(last.arrays["kernel"], last.arrays["bias"]), head)
    last = StoredLayer(last.kind, last.settings, {"kernel": scores.kernel, "bias": scores.bias})
    standardizing = load_keras().layers.Normalization(
        mean=stack.scaling.mean, variance=np.square(stack.scaling.scale), name="standardize"
    )
    return [standardizing, *keras_layers(LayerStack((*hidden, last), stack.scaling))]


def _dense(layer: Layer, activation: str, name: str) -> Any:  # noqa: ANN401 - a Keras layer
    dense = load_keras().layers.Dense(len(layer.bias), activation, kernel_initializer="zeros", name=name)
    dense.build((None, len(layer.kernel)))
    dense.set_weights([layer.kernel, layer.bias])
    return dense


def _for_all_classes(layer: Layer, head: TrainedHead) -> Layer:
    """Return the last layer with a unit for every class, including classes without training rows."""
    kernel = np.zeros((len(layer.kernel), len(head.classes)))
    bias = np.full(len(head.classes), _NEVER)
    kernel[:, list(head.trained_classes)], bias[list(head.trained_classes)] = layer.kernel, layer.bias
    return Layer(kernel, bias)


def _standardizing(scaling: Scaling, first: Layer) -> tuple[Any, Layer]:
    """Return a layer that standardises, and the adapted first dense layer.

    The dense layer corrects what float32 cannot represent: deviations below Keras's epsilon, and the rounded mean.
    """
    mean, deviation = scaling.mean.astype(np.float32), np.maximum(scaling.scale, _SMALLEST_DEVIATION)
    layer = load_keras().layers.Normalization(name="standardize")
    layer.build((None, len(mean)))
    layer.set_weights([mean, np.square(deviation), np.int64(0)])
    layer.finalize_state()
    bias = first.bias + ((mean - scaling.mean) / scaling.scale) @ first.kernel
    return layer, Layer(first.kernel * (deviation / scaling.scale)[:, np.newaxis], bias)


def _require_same(fitted: Layered, head: TrainedHead, layers: list[Any]) -> None:
    """Raise `MismatchError` unless the layers give the head's probabilities for random rows."""
    rows = drawn_rows(fitted)
    found: Any = rows
    with placed("cpu"):  # GPUs may multiply in less than float32
        for layer in layers:
            found = layer(found)
    error = np.abs(load_keras().ops.convert_to_numpy(found) - head.predict_proba(rows)).max()
    if not error <= TOLERANCE:
        raise MismatchError(
            f"the {head.name} head is not precise enough in float32: probabilities differ by up to {error:.2g}; "
            "train one on features that vary more, or with a stronger penalty"
        )

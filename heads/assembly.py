"""Backbone and head as one Keras model of built-in layers, from raw images to the probabilities of all classes.

Keras loads it, in its safe mode, wherever Keras is: nothing of this project is needed. A saved model says in
``featurecache.json``, a member of its zip archive, what it is made of and which classes its outputs are; the standard
library reads that: ``json.loads(zipfile.ZipFile("model.keras").read("featurecache.json"))``.
"""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from featurecache.backbones.catalog import application
from featurecache.backbones.network import from_pixels
from featurecache.backbones.runtime import dtype_policy, load_keras, placed
from featurecache.backbones.weights import resolve_weights
from featurecache.decode import DecodeRules
from featurecache.foreign import publish_written
from featurecache.source import recipe_of
from heads.affine import AffinePredictor, OneVsRestPredictor
from heads.catalog import HEADS, predictor_class
from heads.errors import HeadError, MismatchError
from heads.layers import Layer, LayersPredictor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from featurecache.backbones.catalog import Application
    from featurecache.backbones.weights import Weights
    from heads.artifact import TrainedHead
    from heads.rows import Scaling

DESCRIPTION = "featurecache.json"
FORMAT, FORMAT_VERSION = "featurecache-model", 1

Layered: TypeAlias = AffinePredictor | OneVsRestPredictor | LayersPredictor
_LAYERED = (AffinePredictor, OneVsRestPredictor, LayersPredictor)
_NEVER = -1e9  # the score of a class that was never trained: its probability is 0, exactly
_SMALLEST_DEVIATION = 1e-6  # Keras's Normalization takes none below its epsilon, 1e-7
_CHECKED_ROWS = 16
_TOLERANCE = 1e-3  # of probabilities in float32; what is beyond it is no rounding


def layered(head: TrainedHead) -> Layered:
    """Return what a head has learned if it is made of dense layers, as a Keras model can be, or raise `HeadError`."""
    if not isinstance(head.predictor, _LAYERED):
        names = [name for name in HEADS if issubclass(predictor_class(name), _LAYERED)]
        raise HeadError(
            f"the head {head.name} is not made of dense layers, so that it cannot be part of a Keras model; "
            f"heads that can: {', '.join(names)}"
        )
    return head.predictor


def network_of(
    head: TrainedHead, weights: str | None = None, *, notify: Callable[[str], None] = lambda _: None
) -> tuple[Application, Weights]:
    """Find the network that a head was trained on the features of, with its weights.

    Parameters
    ----------
    weights
        Where the weights are, if they are no longer where the extraction found them.
    notify
        Is told in one line when they are downloaded.

    Raises
    ------
    UnknownNameError
        If the network is none of the catalogue.
    WeightsError
        If the weights cannot be had.
    MismatchError
        If they are not those that the head was trained with.
    """
    recipe = head.recipe
    row = application(recipe.backbone)
    found = resolve_weights(weights or head.weights_source, row, notify=notify)
    rules = DecodeRules(recipe.input_size, recipe.resize, recipe.filter)
    spec = row.spec(found.identity, (head.tap,), recipe.precision)
    head.check_recipe(recipe_of(spec, rules, recipe.dtype), head.tap)
    return row, found


def assemble(head: TrainedHead, row: Application, weights: Weights) -> Any:  # noqa: ANN401 - a keras.Model
    """Return the model, from images (n, height, width, 3), uint8 RGB, to probabilities (n, k), float32.

    The k classes are all of the head's, in order; one that did not occur in training has the probability 0. The layer
    ``probabilities`` is a softmax, so that its inputs are scores that a training can take. All is computed in float32,
    whatever precision and type the features had.

    Raises
    ------
    HeadError
        If the head is not made of dense layers.
    MismatchError
        If the head's numbers do not survive in float32.
    """
    predictor = layered(head)
    keras = load_keras()
    with dtype_policy("float32"):
        pixels = from_pixels(row, weights, head.tap)
        layers = _layers(predictor, head)
        _require_same(predictor, head, layers)
        outputs = pixels.output
        for layer in layers:
            outputs = layer(outputs)
        return keras.Model(pixels.input, outputs, name=f"{row.name}_{head.name}")


def notes_of(head: TrainedHead) -> list[str]:
    """Return what a person should know of a head's model, one line each."""
    recipe = head.recipe
    halves = {"mixed precision": recipe.precision == "mixed", "float16 features": recipe.dtype == "float16"}
    found = " and ".join(name for name, holds in halves.items() if holds)
    if not found:
        return []
    return [
        f"the head was trained with {found}; the model computes in float32 throughout, so that its probabilities "
        "differ from the head's by that rounding"
    ]


def describe(head: TrainedHead, fine_tuning: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what ``featurecache.json`` says of a model, and of how it was trained further."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "classes": list(head.classes),
        "trained_classes": [head.classes[index] for index in head.trained_classes],
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


def _layers(predictor: Layered, head: TrainedHead) -> list[Any]:
    """Return the head as Keras layers that hold its weights, to be applied one after the other."""
    keras_layers = load_keras().layers
    if isinstance(predictor, LayersPredictor):
        dense, activation = list(predictor.layers), predictor.activation
    else:
        dense, activation = [Layer(predictor.coef.T, predictor.intercept)], "linear"
    dense[-1] = _for_all_classes(dense[-1], head)
    layers = []
    if predictor.scaling.mean.any() or (predictor.scaling.scale != 1).any():
        layer, dense[0] = _standardizing(predictor.scaling, dense[0])
        layers.append(layer)
    layers += [_dense(each, activation, f"hidden_{number}") for number, each in enumerate(dense[:-1], start=1)]
    layers.append(_dense(dense[-1], "linear", "scores"))
    if isinstance(predictor, OneVsRestPredictor):  # sigmoids divided by their sum are the softmax of their logarithms
        layers.append(keras_layers.Activation("log_sigmoid", name="log_sigmoid"))
    return [*layers, keras_layers.Softmax(name="probabilities")]


def _dense(layer: Layer, activation: str, name: str) -> Any:  # noqa: ANN401 - a Keras layer
    dense = load_keras().layers.Dense(len(layer.bias), activation, kernel_initializer="zeros", name=name)
    dense.build((None, len(layer.kernel)))
    dense.set_weights([layer.kernel, layer.bias])
    return dense


def _for_all_classes(layer: Layer, head: TrainedHead) -> Layer:
    """Return the last layer with a unit for every class, those that were never trained included."""
    kernel = np.zeros((len(layer.kernel), len(head.classes)))
    bias = np.full(len(head.classes), _NEVER)
    kernel[:, list(head.trained_classes)], bias[list(head.trained_classes)] = layer.kernel, layer.bias
    return Layer(kernel, bias)


def _standardizing(scaling: Scaling, first: Layer) -> tuple[Any, Layer]:
    """Return a layer that standardises, and the first dense layer as it must be after it.

    What the one cannot do in float32 the other makes good: deviations below Keras's epsilon, and the rounded mean.
    """
    mean, deviation = scaling.mean.astype(np.float32), np.maximum(scaling.scale, _SMALLEST_DEVIATION)
    layer = load_keras().layers.Normalization(name="standardize")
    layer.build((None, len(mean)))
    layer.set_weights([mean, np.square(deviation), np.int64(0)])
    layer.finalize_state()
    bias = first.bias + ((mean - scaling.mean) / scaling.scale) @ first.kernel
    return layer, Layer(first.kernel * (deviation / scaling.scale)[:, np.newaxis], bias)


def _require_same(predictor: Layered, head: TrainedHead, layers: list[Any]) -> None:
    """Raise `MismatchError` unless layers say of some rows what the head says of them."""
    drawn = np.random.default_rng(0).standard_normal((_CHECKED_ROWS, predictor.width))
    rows = (predictor.scaling.mean + predictor.scaling.scale * drawn).astype(np.float32)
    found: Any = rows
    with placed("cpu"):  # GPUs may multiply in less than float32
        for layer in layers:
            found = layer(found)
    error = np.abs(load_keras().ops.convert_to_numpy(found) - head.predict_proba(rows)).max()
    if not error <= _TOLERANCE:
        raise MismatchError(
            f"the {head.name} head loses its meaning in float32: probabilities differ by up to {error:.2g}; "
            "train one on features that vary more, or with a stronger penalty"
        )

"""Keras heads of one's own: ``keras:MODULE:FUNCTION``, where a function of the user's builds the layers.

The module is imported when its name is given to train a head, never because a file of a head has it.
"""

import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np

from featurecache.backbones.keras_runtime import load_keras
from heads.base import Learned
from heads.epochs import Monitor
from heads.errors import HeadError, ParameterError, TrainingError
from heads.families.epoch_head import CHOICE, LATER, STEPS, EpochBatches, EpochHead, Progress, Weights
from heads.families.keras_layers import ACTIVATIONS, KINDS, LayerStack, StoredLayer
from heads.families.keras_training import train_with_keras
from heads.families.shared_parameters import CLASS_WEIGHT, STANDARDIZE
from heads.fitted_model import FittedModel
from heads.parameters import HeadSpec, Parameter, Value
from heads.rows import Features, Scaling, Targets

PREFIX = "keras:"
"""What the names of these heads begin with."""

_FORM = f"{PREFIX}MODULE:FUNCTION"
_TRAINING = (*STEPS, STANDARDIZE, CLASS_WEIGHT, *CHOICE, *LATER)
_KINDS = {bool: "bool", int: "int", float: "float", str: "literal"}
_SPECIAL = {"ReLU": {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}, "Softmax": {}}


class KerasHead(EpochHead):
    """Layers that a function builds, and softmax; see `keras_head`.

    Parameters
    ----------
    seed
        Draws the initial weights, the order of rows, and what layers such as Dropout draw.
    **values
        The value of each parameter of the training, and of each parameter of the function.
    """

    spec: ClassVar[HeadSpec]
    model_class: ClassVar[type[FittedModel]] = LayerStack
    function: ClassVar[Callable[..., Any] | None] = None
    """Builds the layers; None for a stored head."""

    def __init__(self, *, seed: int = 0, **values: Value) -> None:
        own = {parameter.name for parameter in _TRAINING}
        for name in own:
            setattr(self, name, values[name])
        self.seed = seed
        self.params = {name: value for name, value in values.items() if name not in own}

    @property
    def keras_can_train(self) -> bool:
        """Nothing else can."""
        return True

    def _continue_from(
        self, start: FittedModel, X: Features, targets: Targets, monitor: Monitor
    ) -> Learned | TrainingError:
        stack = cast(LayerStack, start)
        return self._trained(lambda: keras_layers(stack), stack.scaling, X, targets, monitor, going_on=True)

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        results: list[Learned | TrainingError] = []
        for head, monitor in zip(heads, monitors, strict=True):
            try:
                width, k = X.shape[1], len(head.classes_)
                scaling = Scaling.from_rows(X, standardize=head.standardize, weights=head.weights_)
                results.append(
                    head._trained(lambda: head._built(width, k), scaling, X, targets, monitor)  # noqa: B023
                )
            except TrainingError as e:
                results.append(e)
        return results

    def _built(self, width: int, k: int) -> list[Any]:
        """Call the function; return the layers that it builds, without a softmax at the end."""
        name = self.spec.name
        if self.function is None:
            raise TrainingError(f"a stored head names {name}, which is not imported; train one with --head {name}")
        try:
            built = type(self).function(width, k, **self.params)  # type: ignore[misc]
        except Exception as e:
            raise TrainingError(f"{name} failed: {_line(e)}") from e
        layers = getattr(built, "layers", built) if type(built).__name__ == "Sequential" else built
        if not isinstance(layers, list | tuple) or not layers:
            raise TrainingError(f"{name} gave {built!r:.60}, expected a list of Keras layers or a keras.Sequential")
        return _with_scores(name, layers)

    def _trained(
        self,
        layers_of: Callable[[], list[Any]],
        scaling: Scaling,
        X: Features,
        targets: Targets,
        monitor: Monitor,
        *,
        going_on: bool = False,
    ) -> Learned | TrainingError:
        made: list[Any] = []
        k = len(self.classes_)

        def network() -> tuple[Any, Any]:
            with _seeded(self.seed):
                layers = layers_of()
            model = _model(self.spec.name, layers, X.shape[1], k)
            made[:] = [model, layers]
            return model, model

        def learned(weights: Weights) -> FittedModel:
            model, layers = made
            model.set_weights(weights)
            return LayerStack.learned([_stored(self.spec.name, layer) for layer in layers], scaling)

        batches = EpochBatches(self, X, scaling, targets)
        return train_with_keras(self, network, batches, monitor, Progress(self, monitor, learned), going_on=going_on)


def is_keras_head(name: str) -> bool:
    """Whether a name stands for a Keras head of one's own."""
    return name.startswith(PREFIX)


@cache
def keras_head(name: str) -> type[KerasHead]:
    """Return the class of the head of this name; imports the module, from the current folder or Python's path.

    Raises
    ------
    HeadError
        If the name has another form, there is no such module or function, or its parameters cannot be set.
    """
    module, colon, function_name = name.removeprefix(PREFIX).partition(":")
    if not (module and colon and function_name):
        raise HeadError(f"the head is {name!r}, expected {_FORM}, such as {PREFIX}my_head:build for my_head.py")
    function = getattr(_imported(name, module), function_name, None)
    if not callable(function):
        raise HeadError(f"{name}: the module {module!r} has no function {function_name!r}")
    parameters = [_parameter(name, each) for each in _keywords(name, function)]
    return _class(name, parameters, function)


def stored_keras_head(name: str, params: Mapping[str, object]) -> type[KerasHead]:
    """Return the class of a stored head with these parameters; imports nothing. It can go on, and not begin.

    Raises
    ------
    ParameterError
        If a parameter is neither number, truth value nor text.
    """
    names = {parameter.name for parameter in _TRAINING}
    own = {key: value for key, value in params.items() if key not in names}
    for key, value in own.items():
        if type(value) not in _KINDS:
            raise ParameterError(f"head {name!r}: {key} is {value!r}, expected a number, a truth value or a text")
    return _class(name, [_declared(key, value, "the function") for key, value in own.items()], None)


def keras_layers(stack: LayerStack) -> list[Any]:
    """Return stored layers as Keras layers with their weights."""
    keras = load_keras()
    layers, units = [], stack.width
    for stored in stack.layers:
        arguments: dict[str, Any] = dict(stored.settings)
        if stored.kind == "Dense":
            arguments["units"] = len(stored.arrays["bias"])
        layer = getattr(keras.layers, stored.kind)(**arguments)
        layer.build((None, units))
        layer.set_weights([stored.arrays[name] for name in KINDS[stored.kind].arrays])
        units = arguments.get("units", units)
        layers.append(layer)
    return layers


# The function


def _imported(name: str, module: str) -> Any:  # noqa: ANN401 - a module
    load_keras()  # with our settings, before the module does
    folder = str(Path.cwd())
    invalidate_caches()
    sys.path.insert(0, folder)
    try:
        return import_module(module)
    except ModuleNotFoundError as e:
        if e.name and (module == e.name or module.startswith(f"{e.name}.")):
            raise HeadError(f"{name}: there is no module {module!r} in the current folder or Python's path") from e
        raise HeadError(f"{name}: the module {module!r} cannot be imported: {_line(e)}") from e
    except (Exception, SystemExit) as e:  # code of the user's may raise anything
        raise HeadError(f"{name}: the module {module!r} cannot be imported: {_line(e)}") from e
    finally:
        sys.path.remove(folder)


def _keywords(name: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function after the number of features and that of classes."""
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = list(inspect.signature(function).parameters.values())
    if [each.kind in by_position for each in found[:2]] != [True, True] or any(
        each.kind in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY} for each in found[2:]
    ):
        raise HeadError(
            f"{name}: the function has the parameters {inspect.signature(function)}, expected (width, classes) and "
            "any with defaults"
        )
    return [each for each in found[2:] if each.kind is not inspect.Parameter.VAR_KEYWORD]


def _parameter(name: str, declared: inspect.Parameter) -> Parameter:
    """Return the declaration of a parameter of a function: type and default are those of its default."""
    if type(declared.default) not in _KINDS:
        found = "no default" if declared.default is inspect.Parameter.empty else f"the default {declared.default!r:.40}"
        raise HeadError(
            f"{name}: the parameter {declared.name} has {found}, expected a number, true or false, or a text"
        )
    if declared.name == "seed" or hasattr(KerasHead, declared.name) or declared.name in {p.name for p in _TRAINING}:
        raise HeadError(f"{name}: the parameter {declared.name} has the name of one of the training; name it otherwise")
    return _declared(declared.name, declared.default, name.rpartition(":")[2])


def _declared(name: str, default: Any, function: str) -> Parameter:  # noqa: ANN401 - a key of _KINDS
    """Declare a parameter of a function: its type is that of its default."""
    kind: Any = _KINDS[type(default)]
    is_text = (lambda value: isinstance(value, str),) if kind == "literal" else ()
    return Parameter(name, kind, default, f"A parameter of {function}.", accepts=is_text, wanted="a text")


def _class(name: str, parameters: Sequence[Parameter], function: Callable[..., Any] | None) -> type[KerasHead]:
    spec = HeadSpec(
        name=name,
        summary="Layers that a function of your own builds, trained by Keras.",
        parameters=(*parameters, *_TRAINING),
        fixed=("standardize", *(parameter.name for parameter in parameters)),
        grid={"lr": (0.0001, 0.001, 0.01)},
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: 300 * n * d * 256,
    )
    namespace = {"spec": spec, "function": None if function is None else staticmethod(function)}
    return cast(type[KerasHead], type("OwnKerasHead", (KerasHead,), namespace))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what Keras and the function may draw from inside the block."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - what set_random_seed sets
    try:
        load_keras().utils.set_random_seed(seed)
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


# Its layers


def _with_scores(name: str, layers: Sequence[Any]) -> list[Any]:
    """Return layers without the softmax at their end: losses and probabilities follow from scores."""
    keras, layers = load_keras(), list(layers)
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise TrainingError(f"{name} gave {layer!r:.60} among its layers, expected Keras layers")
        if sum(layer is other for other in layers) > 1:
            raise TrainingError(f"{name} gave the layer {layer.name!r} twice; make a layer for each place")
    last = layers[-1]
    if type(last) is keras.layers.Softmax or (type(last) is keras.layers.Activation and _activation(last) == "softmax"):
        layers.pop()
    elif type(last) is keras.layers.Dense and _activation(last) == "softmax":
        last.activation = keras.activations.linear
    elif type(last) is not keras.layers.Dense or _activation(last) != "linear":
        raise TrainingError(
            f"{name}: the last layer is {_described(last)}, expected Dense with softmax, or with no activation"
        )
    return layers


def _model(name: str, layers: Sequence[Any], width: int, k: int) -> Any:  # noqa: ANN401 - a keras.Model
    """Return the layers as a model from features to scores, after a check that they can be stored."""
    keras = load_keras()
    features = outputs = keras.Input((width,), name="features")
    for layer in layers:
        try:
            outputs = layer(outputs)
        except Exception as e:
            raise TrainingError(f"{name}: the layer {layer.name!r} does not fit: {_line(e)}") from e
        if len(outputs.shape) != 2:  # noqa: PLR2004
            raise TrainingError(
                f"{name}: the layer {layer.name!r} gives the shape {outputs.shape}, expected (n, units)"
            )
        _stored(name, layer)
    if outputs.shape[1] != k:
        raise TrainingError(f"{name}: the layers give {outputs.shape[1]} scores, expected {k}, one for each class")
    return keras.Model(features, keras.layers.Activation("linear", dtype="float32")(outputs))


def _stored(name: str, layer: Any) -> StoredLayer:  # noqa: ANN401 - a Keras layer
    """Return a layer as it is stored; raise `TrainingError` if it cannot be."""
    kind = type(layer).__name__
    if type(layer) is getattr(load_keras().layers, kind, None):
        if kind in _SPECIAL and all(getattr(layer, key) == value for key, value in _SPECIAL[kind].items()):
            return StoredLayer("Activation", {"activation": {"ReLU": "relu", "Softmax": "softmax"}[kind]}, {})
        if kind in KINDS and (not KINDS[kind].activation or _activation(layer) in ACTIVATIONS):
            config = layer.get_config()
            if _is_plain(config):
                settings: dict[str, Any] = {key: float(config[key]) for key in KINDS[kind].numbers}
                if KINDS[kind].activation:
                    settings["activation"] = _activation(layer)
                return StoredLayer(kind, settings, _arrays(layer, kind))
    known = ", ".join((*KINDS, *_SPECIAL))
    raise TrainingError(
        f"{name}: the layer {_described(layer)} cannot be stored; known are {known}, with the activations "
        f"{', '.join(ACTIVATIONS)}"
    )


def _is_plain(config: Mapping[str, Any]) -> bool:
    """Whether the settings of a layer of a known kind are those that NumPy computes."""
    special = ("rms_scaling", "noise_shape", "lora_rank", "quantization_config")
    return config.get("axis", -1) in (-1, 1, [-1], [1]) and not any(config.get(name) for name in special)


def _arrays(layer: Any, kind: str) -> dict[str, Any]:  # noqa: ANN401 - a Keras layer
    """Return the arrays of a built layer, float64; those that it does without are 0 and 1."""
    present = {variable.name: variable.numpy().astype(np.float64) for variable in layer.weights}
    units = next(iter(present.values())).shape[-1] if present else layer.input.shape[-1]
    neutral = {"bias": 0.0, "beta": 0.0, "gamma": 1.0}
    return {name: present.get(name, np.full(units, neutral.get(name, 0.0))) for name in KINDS[kind].arrays}


def _activation(layer: Any) -> str:  # noqa: ANN401 - a Keras layer
    """Return the name of a layer's activation among Keras's own; "" for any other."""
    activations = load_keras().activations
    name = getattr(layer.activation, "__name__", "")
    return name if getattr(activations, name, None) is layer.activation else ""


def _described(layer: Any) -> str:  # noqa: ANN401 - a Keras layer
    activation = getattr(layer, "activation", None)
    with_it = f" with the activation {getattr(activation, '__name__', activation)!r}" if activation is not None else ""
    return f"{type(layer).__name__} {layer.name!r}{with_it}"

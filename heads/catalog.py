"""The catalogue of heads: name -> declared parameters and where the code lives, imported on use.

A row is data. This module imports no library that learns, so that listing heads and checking parameters is instant.
"""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np

from featurecache.errors import UnknownNameError
from heads.base import Head, Predictor
from heads.errors import ParameterError

Value: TypeAlias = bool | int | float | str

_SEEDS = 2**32  # what scikit-learn takes
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One declared parameter of a head.

    Parameters
    ----------
    name
        What it is called, in Python and on the command line.
    kind
        What its values are.
    default
        Its value if none is given.
    help
        What it does, in one line.
    low, high
        The smallest and the largest number allowed; None for no bound.
    above
        A number that values must exceed; None for no such bound.
    choices
        The words allowed, for the kind ``"choice"``.

    Examples
    --------
    >>> lr = Parameter("lr", "float", 0.001, "Step of the optimizer.", above=0)
    >>> lr.parse("0.1")
    0.1
    >>> lr.parse("fast")
    Traceback (most recent call last):
    heads.errors.ParameterError: lr is 'fast', expected a number above 0
    """

    name: str
    kind: Literal["int", "float", "bool", "choice"]
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.check(self.default)

    @property
    def expected(self) -> str:
        """What its values are, in words."""
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        if self.kind == "bool":
            return "true or false"
        bounds = (("above", self.above), ("of at least", self.low), ("of at most", self.high))
        limits = " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)
        return " ".join(filter(None, ("a whole number" if self.kind == "int" else "a number", limits)))

    def check(self, value: object) -> Value:
        """Return a Python value as this parameter's own type; raise `ParameterError` if it cannot take it."""
        checked = self._converted(value)
        if checked is None:
            raise ParameterError(f"{self.name} is {value!r}, expected {self.expected}")
        return checked

    def parse(self, text: str) -> Value:
        """Return the value that a text stands for; raise `ParameterError` if it stands for none."""
        value: object = text
        try:
            if self.kind == "bool":
                value = _TRUTHS.get(text.lower(), text)
            elif self.kind != "choice":
                value = int(text) if self.kind == "int" else float(text)
        except ValueError as e:
            raise ParameterError(f"{self.name} is {text!r}, expected {self.expected}") from e
        return self.check(value)

    def to_dict(self) -> dict[str, object]:
        """Return what a catalogue shows of it, ready for JSON."""
        return {"default": self.default, "type": self.kind, "expected": self.expected, "help": self.help}

    def _converted(self, value: object) -> Value | None:
        if isinstance(value, np.generic):
            value = value.item()
        if self.kind == "choice":
            return value if isinstance(value, str) and value in self.choices else None
        if self.kind == "bool" or isinstance(value, bool):
            return value if isinstance(value, bool) and self.kind == "bool" else None
        if not isinstance(value, int if self.kind == "int" else (int, float)) or not self._within(value):
            return None
        return float(value) if self.kind == "float" else value

    def _within(self, number: float) -> bool:
        return (
            abs(number) < float("inf")
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
        )


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """One row of the catalogue of heads.

    Parameters
    ----------
    name
        What the head is called.
    summary
        What it is, in one line.
    parameters
        What can be set.
    head, predictor
        Where its class and the class of its predictor live, as ``"module:Class"``; imported on use.
    libraries
        The distributions that it learns with.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    head: str
    predictor: str
    libraries: tuple[str, ...]

    def parameter(self, name: str) -> Parameter:
        """Return the parameter of this name; raise `ParameterError` if there is none."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        names = [parameter.name for parameter in self.parameters]
        close = get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ParameterError(f"unknown parameter {name!r}{hint} (parameters: {', '.join(names)})")

    def values(self, params: Mapping[str, object]) -> dict[str, Value]:
        """Return the value of every parameter, checked: those given, and the defaults of the others.

        Raises
        ------
        ParameterError
            If a parameter does not exist or cannot take its value; all faults at once.
        """
        values = {parameter.name: parameter.default for parameter in self.parameters}
        faults = []
        for name, value in params.items():
            try:
                values[name] = self.parameter(name).check(value)
            except ParameterError as e:
                faults.append(str(e))
        if faults:
            raise ParameterError(f"head {self.name!r}: {'; '.join(faults)}")
        return values

    def to_dict(self) -> dict[str, object]:
        """Return what a catalogue shows of it, ready for JSON."""
        return {"summary": self.summary, "params": {each.name: each.to_dict() for each in self.parameters}}


_STANDARDIZE = Parameter(
    "standardize", "bool", default=True, help="Scale every feature to mean 0 and deviation 1, as measured in train."
)

_SPECS = (
    HeadSpec(
        name="softmax",
        summary="One dense layer with softmax, trained by gradient descent in Keras, epoch by epoch.",
        parameters=(
            Parameter("lr", "float", 0.001, "Learning rate: the optimizer's step.", above=0),
            Parameter("epochs", "int", 10, "Passes over the training rows.", low=1),
            Parameter("batch_size", "int", 64, "Rows of one step.", low=1),
            Parameter("optimizer", "choice", "adam", "Rule of the steps.", choices=("sgd", "rmsprop", "adam", "adamw")),
            Parameter(
                "init",
                "choice",
                "glorot_uniform",
                "What the weights start from; normal:S is a normal distribution of deviation S.",
                choices=(
                    "glorot_uniform",
                    "glorot_normal",
                    "he_normal",
                    "lecun_normal",
                    "zeros",
                    "normal:0.01",
                    "normal:1",
                ),
            ),
            _STANDARDIZE,
            Parameter("l2", "float", 0.0, "Penalty on the sum of the squared weights.", low=0),
        ),
        head="heads.softmax:SoftmaxHead",
        predictor="heads.base:AffinePredictor",
        libraries=("keras",),
    ),
    HeadSpec(
        name="logreg",
        summary="Logistic regression, solved to convergence by scikit-learn (lbfgs).",
        parameters=(
            Parameter("C", "float", 1.0, "Inverse of the strength of the l2 penalty.", above=0),
            Parameter("max_iter", "int", 1000, "Most iterations of the solver.", low=1),
            Parameter("tol", "float", 1e-4, "Gradient at which the solver stops.", above=0),
            Parameter(
                "class_weight", "choice", "none", "balanced: rare classes weigh more.", choices=("none", "balanced")
            ),
            _STANDARDIZE,
        ),
        head="heads.linear:LogisticHead",
        predictor="heads.base:AffinePredictor",
        libraries=("scikit-learn",),
    ),
)

HEADS: Mapping[str, HeadSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})


def head_spec(name: str) -> HeadSpec:
    """Return the catalogue's row of this name.

    Raises
    ------
    UnknownNameError
        If there is no such head.
    """
    if name not in HEADS:
        raise UnknownNameError("head", name, HEADS)
    return HEADS[name]


def make_head(name: str, *, seed: int = 0, **params: object) -> Head:
    """Make an untrained head.

    Parameters
    ----------
    name
        Its name in the catalogue, `HEADS`.
    seed
        What its random choices follow from.
    **params
        Its parameters; those not given have the catalogue's defaults.

    Raises
    ------
    UnknownNameError
        If there is no such head.
    ParameterError
        If it has no such parameter, or the parameter cannot take its value.

    Examples
    --------
    >>> make_head("logreg", C=0.1)
    LogisticHead(C=0.1, max_iter=1000, tol=0.0001, class_weight='none', standardize=True, seed=0)
    """
    spec = head_spec(name)
    if not 0 <= seed < _SEEDS:
        raise ParameterError(f"the seed is {seed}, expected a whole number from 0 to {_SEEDS - 1}")
    head: Head = _imported(spec.head)(seed=seed, **spec.values(params))
    return head


def predictor_class(name: str) -> type[Predictor]:
    """Return the class that rebuilds what a head of this name has learned, without the library that learned it."""
    predictor: type[Predictor] = _imported(head_spec(name).predictor)
    return predictor


def parse_parameters(spec: HeadSpec, texts: Iterable[str]) -> dict[str, Value]:
    """Read parameters that were given as ``key=value``.

    Raises
    ------
    ParameterError
        If a text has no ``=``, a parameter does not exist, is given twice, or cannot take its value; all at once.

    Examples
    --------
    >>> parse_parameters(HEADS["softmax"], ["lr=0.1", "standardize=false"])
    {'lr': 0.1, 'standardize': False}
    """
    values: dict[str, Value] = {}
    faults = []
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            parameter = spec.parameter(name)
            if name in values:
                faults.append(f"{name} is given twice")
            elif not equals:
                faults.append(f"{name} has no value, expected {name}=VALUE with {parameter.expected}")
            else:
                values[name] = parameter.parse(value)
        except ParameterError as e:
            faults.append(str(e))
    if faults:
        raise ParameterError(f"head {spec.name!r}: {'; '.join(faults)}")
    return values


def _imported(place: str) -> Any:  # noqa: ANN401 - whatever lives there
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)

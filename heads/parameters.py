"""Declarations of heads: parameters with types, bounds and defaults, checked before anything is computed."""

import ast
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from featurecache.text import did_you_mean
from heads.errors import ParameterError

Value: TypeAlias = bool | int | float | str

_SIZES = 100  # more layers than anyone trains on features
_DIGITS = 9  # more than any layer has units
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Parameter:
    """The declaration of a parameter of a head.

    Parameters
    ----------
    name
        Its name, in Python and on the command line.
    kind
        The type of its values; ``"sizes"`` are whole numbers separated by commas, a ``"literal"`` is what Python reads
        from its text, or a word.
    default
        Its default.
    help
        What it does, one sentence.
    low, high
        The smallest and the largest allowed number; None for no bound.
    above, below
        Exclusive bounds; None for no bound.
    choices
        The allowed words: the only values of the kind ``"choice"``, further values of other kinds.
    later
        Whether heads of this name were stored before it was there. Files of heads leave it out where it has its
        default, so that old ones stay as they are.
    accepts, wanted
        For a ``"literal"``: what tells whether an object is allowed, at least one of them; any if there are none. And
        the description of these objects.

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
    kind: Literal["int", "float", "bool", "choice", "sizes", "literal"]
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    later: bool = False
    accepts: tuple[Callable[[object], bool], ...] = ()
    wanted: str = ""

    def __post_init__(self) -> None:
        self.check(self.default)

    @property
    def expected(self) -> str:
        """A description of the allowed values."""
        if self.kind == "literal":
            return self.wanted
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        if self.kind == "bool":
            return "true or false"
        if self.kind == "sizes":
            return "whole numbers of at least 1, separated by commas"
        bounds = (("above", self.above), ("of at least", self.low), ("of at most", self.high), ("below", self.below))
        limits = " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)
        number = " ".join(filter(None, ("a whole number" if self.kind == "int" else "a number", limits)))
        return " or ".join((*self.choices, number))

    def check(self, value: object) -> Value:
        """Return a value converted to the type of this parameter; raise `ParameterError` if it is not allowed."""
        plain = value.item() if isinstance(value, np.generic) else value
        checked = self._literal(plain) if self.kind == "literal" else self._converted(plain)
        if checked is None:
            shown = as_object(value) if self.kind == "literal" else value
            raise ParameterError(f"{self.name} is {shown!r}, expected {self.expected}")
        return checked

    def parse(self, text: str) -> Value:
        """Return the value that a text represents; raise `ParameterError` if there is none."""
        value: object = text
        try:
            if self.kind == "bool":
                value = _TRUTHS.get(text.lower(), text)
            elif self.kind in {"int", "float"} and text not in self.choices:
                value = int(text) if self.kind == "int" else float(text)
        except ValueError as e:
            raise ParameterError(f"{self.name} is {text!r}, expected {self.expected}") from e
        return self.check(value)

    def to_dict(self) -> dict[str, object]:
        """Return what ``featurecache heads`` shows, ready for JSON."""
        return {"default": self.default, "type": self.kind, "expected": self.expected, "help": self.help}

    def _converted(self, value: object) -> Value | None:
        if self.kind == "choice" or isinstance(value, str):
            if self.kind == "sizes":
                return _sizes(str(value).split(","))
            return value if isinstance(value, str) and value in self.choices else None
        if self.kind == "sizes":
            return _sizes(value if isinstance(value, list | tuple) else [value])
        if self.kind == "bool" or isinstance(value, bool):
            return value if isinstance(value, bool) and self.kind == "bool" else None
        if not isinstance(value, int if self.kind == "int" else (int, float)) or not self._within(value):
            return None
        return float(value) if self.kind == "float" else value

    def _literal(self, value: object) -> Value | None:
        literal = as_literal(value)
        if literal is None or not (any(accept(as_object(literal)) for accept in self.accepts) or not self.accepts):
            return None
        return literal

    def _within(self, number: float) -> bool:
        return (
            abs(number) < float("inf")
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def as_literal(value: object) -> Value | None:
    """Return an object as a number, a truth value, a word or the text of a Python literal; None if it is none of them.

    Examples
    --------
    >>> as_literal("0.5"), as_literal("sqrt"), as_literal((64, 32)), as_literal(None)
    (0.5, 'sqrt', '(64, 32)', 'None')
    """
    value = as_object(value) if isinstance(value, str) else value
    if isinstance(value, bool | int | str) or (isinstance(value, float) and abs(value) < float("inf")):
        return value
    text = repr(value)
    return text if value is None or (isinstance(value, tuple | list | dict) and as_object(text) == value) else None


def as_object(value: object) -> object:
    """Return the object that a text stands for, if it is a Python literal; else the value itself.

    Examples
    --------
    >>> as_object("(64, 32)"), as_object("sqrt"), as_object("None")
    ((64, 32), 'sqrt', None)
    """
    if not isinstance(value, str):
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of texts that look like numbers
            return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _sizes(numbers: Iterable[object]) -> str | None:
    """Return whole numbers of at least 1 as a text, separated by commas; None for anything else."""
    texts = [str(number).strip() for number in numbers]
    if not 0 < len(texts) <= _SIZES or not all(
        text.isdecimal() and text.isascii() and len(text) <= _DIGITS and int(text) >= 1 for text in texts
    ):
        return None
    return ",".join(str(int(text)) for text in texts)


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """The declaration of a head; the class attribute ``spec`` of its class.

    Parameters
    ----------
    name
        Its name.
    summary
        What it is, one sentence.
    parameters
        Its parameters.
    libraries
        The installed packages that train it; their versions are recorded.
    shared
        Parameters in which heads that are trained together may differ.
    fixed
        Parameters that a training from a head's weights cannot change. Empty for heads that learn from all rows.
    grid
        The default grid of a sweep: values of parameters; the others have their defaults.
    number_defaults
        Defaults of parameters that are others where the head learns numbers.
    withheld
        Names that are no parameters, although one would expect them, with the reason.
    taps
        The taps that it can be trained on; empty for any.
    measured_rows
        Largest number of training rows that its train accuracy is measured on; None for all.
    by_blocks
        Whether it reads features by blocks of rows, so that they may be larger than memory. It may get
        `featurecache.Rows`; other heads get an array.
    weighted
        Whether rows may have weights in training; see `heads.Head.fit`.
    cost
        About how many products one training takes, given the numbers of rows, features and classes. The order of the
        trainings of a sweep follows from it.
    together
        How many heads, which differ in shared parameters alone, it pays to train together, given the same numbers. A
        sweep trains no more of them in one task, so that its processes have equal shares.

    Examples
    --------
    >>> heads.head_spec("logreg").values({"C": 10})["C"]
    10.0
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    libraries: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    grid: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    number_defaults: Mapping[str, Value] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)
    taps: tuple[str, ...] = ()
    measured_rows: int | None = None
    by_blocks: bool = False
    weighted: bool = False
    cost: Callable[[int, int, int], float] = lambda n, d, k: 100 * n * d * k
    together: Callable[[int, int, int], float] = lambda n, d, k: float("inf")

    def parameter(self, name: str) -> Parameter:
        """Return the parameter of this name; raise `ParameterError` if there is none."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        if name in self.withheld:
            raise ParameterError(f"{name} cannot be set: {self.withheld[name]}")
        names = [parameter.name for parameter in self.parameters]
        if not names:
            raise ParameterError(f"unknown parameter {name!r}: {self.name} has none")
        raise ParameterError(f"unknown parameter {name!r}{did_you_mean(name, names)} (parameters: {', '.join(names)})")

    def values(self, params: Mapping[str, object]) -> dict[str, Value]:
        """Return the checked value of every parameter: the given one, or the default.

        Raises
        ------
        ParameterError
            If a parameter does not exist or cannot have its value; the message names all faults.
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

    def stored(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the values that a file of the head has: all but the defaults of parameters that came later."""
        defaults = {parameter.name: parameter.default for parameter in self.parameters if parameter.later}
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    def to_dict(self) -> dict[str, object]:
        """Return what ``featurecache heads`` shows, ready for JSON."""
        return {
            "summary": self.summary,
            "params": {parameter.name: parameter.to_dict() for parameter in self.parameters},
            "number_defaults": dict(self.number_defaults),
        }


def format_parameters(params: Mapping[str, object]) -> str:
    """Return parameters and their values as one text.

    Examples
    --------
    >>> heads.format_parameters({"C": 1.0, "standardize": True})
    'C=1, standardize=True'
    """
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in params.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items()) or "no parameters"

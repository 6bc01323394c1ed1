"""What can be set of a head: declared parameters, checked before anything is computed.

This module imports no library that learns, so that listing heads and checking parameters is instant.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal, TypeAlias

import numpy as np

from heads.errors import ParameterError

Value: TypeAlias = bool | int | float | str

_SIZES = 100  # more layers than anyone trains on features
_DIGITS = 9  # more than any layer has units
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
    above, below
        Numbers that values must exceed, or stay under; None for no such bound.
    choices
        The words allowed: all there is to the kind ``"choice"``, and besides numbers for the others.

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
    kind: Literal["int", "float", "bool", "choice", "sizes"]
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
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
        if self.kind == "sizes":
            return "whole numbers of at least 1, separated by commas"
        bounds = (("above", self.above), ("of at least", self.low), ("of at most", self.high), ("below", self.below))
        limits = " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)
        number = " ".join(filter(None, ("a whole number" if self.kind == "int" else "a number", limits)))
        return " or ".join((*self.choices, number))

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
            elif self.kind in {"int", "float"} and text not in self.choices:
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

    def _within(self, number: float) -> bool:
        return (
            abs(number) < float("inf")
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def _sizes(numbers: Iterable[object]) -> str | None:
    """Return whole numbers of at least 1 as a text, separated by commas; None if they are something else."""
    texts = [str(number).strip() for number in numbers]
    if not 0 < len(texts) <= _SIZES or not all(
        text.isdecimal() and text.isascii() and len(text) <= _DIGITS and int(text) >= 1 for text in texts
    ):
        return None
    return ",".join(str(int(text)) for text in texts)


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
    shared
        Parameters in which heads may differ that are fitted together; see `heads.base.fit_together`.
    fixed
        Parameters that cannot be changed when going on with a trained head.
    grid
        What a sweep tries if it is told nothing else: parameter to values; all others have their defaults.
    taps
        The taps that it can take; empty if it can take any.
    measured_rows
        Most training rows that its accuracy in training is measured on; None for all.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    head: str
    predictor: str
    libraries: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    grid: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    taps: tuple[str, ...] = ()
    measured_rows: int | None = None

    def parameter(self, name: str) -> Parameter:
        """Return the parameter of this name; raise `ParameterError` if there is none."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        names = [parameter.name for parameter in self.parameters]
        if not names:
            raise ParameterError(f"unknown parameter {name!r}: {self.name} has none")
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

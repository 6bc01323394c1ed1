"""The candidates of a sweep: heads, taps and all combinations of parameter values, in plan order."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from featurecache.errors import UnknownNameError
from featurecache.text import did_you_mean
from heads.catalog import HEADS, head_spec
from heads.errors import ParameterError
from heads.parameters import HeadSpec, Parameter, Value
from heads.training import require_weighted

BASELINE = "majority"
"""The head that every sweep includes; it is the majority baseline."""

_BETWEEN = {"sizes": ";", "literal": r",(?![^(\[{]*[)\]}])"}  # what separates values, where these have commas

Grids: TypeAlias = Mapping[str, Mapping[str, Sequence[object]]]
"""Head to parameter to the values that are tried."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One head on one tap with one value of each of its parameters.

    Examples
    --------
    >>> heads.Candidate("centroid", "fc2", {"standardize": True}).to_dict()
    {'head': 'centroid', 'tap': 'fc2', 'params': {'standardize': True}}
    """

    head: str
    tap: str
    params: Mapping[str, Value]

    @property
    def standardize(self) -> bool:
        """Whether it takes standardised features."""
        return bool(self.params.get("standardize", False))

    @property
    def family(self) -> tuple[str, str, tuple[tuple[str, Value], ...]]:
        """What candidates have in common that are fitted together: all but their shared parameters."""
        shared = head_spec(self.head).shared
        return self.head, self.tap, tuple(item for item in self.params.items() if item[0] not in shared)

    def to_dict(self) -> dict[str, object]:
        """Return the candidate as leaderboards show it, ready for JSON."""
        return {"head": self.head, "tap": self.tap, "params": dict(self.params)}


def candidates_of(
    heads: Sequence[str], taps: Sequence[str], grids: Grids, *, weighted: bool = False
) -> tuple[Candidate, ...]:
    """Return every candidate: by head, then by tap, then by the values in the order given, the last one fastest.

    Parameters
    ----------
    heads
        Names in the catalogue; empty for all of them. `BASELINE` is tried in any case, once, on the first tap.
    taps
        The taps of the features.
    grids
        Values that replace those of the catalogue's grid, by head and parameter; a parameter in neither has its
        default.
    weighted
        Whether rows have weights: only heads that take them are tried.

    Raises
    ------
    UnknownNameError
        If there is no such head.
    ParameterError
        If a head that was named takes no weights of rows that have some, or can take none of the taps, or a parameter
        does not exist or cannot take a value.
    """
    chosen = tuple(dict.fromkeys(heads or (name for name in HEADS if head_spec(name).weighted or not weighted)))
    specs = [head_spec(head) for head in dict.fromkeys((*chosen, BASELINE))]
    strangers = [head for head in grids if head not in chosen]
    if strangers:
        raise ParameterError(f"there is a grid for {strangers[0]!r}, which is not tried (heads: {', '.join(chosen)})")
    found: list[Candidate] = []
    for spec in specs:
        if weighted:
            require_weighted(spec)
        head = spec.name
        usable = taps[:1] if head == BASELINE else [tap for tap in taps if tap in (spec.taps or taps)]
        if not usable and heads:
            raise ParameterError(
                f"{head} takes the tap {', '.join(spec.taps)} alone, not {', '.join(taps)}; leave it out"
            )
        settings = _settings(spec, grids.get(head, {}))
        found += [Candidate(head, tap, params) for tap in usable for params in settings]
    return tuple(found)


def _settings(spec: HeadSpec, grid: Mapping[str, Sequence[object]]) -> list[dict[str, Value]]:
    """Return the parameters of every candidate of a head, each once."""
    values = {**spec.grid, **grid}
    empty = [name for name, tried in values.items() if not len(tried)]
    if empty:
        raise ParameterError(f"head {spec.name!r}: there is no value to try for {', '.join(empty)}; give some")
    settings = (spec.values(dict(zip(values, combination, strict=True))) for combination in product(*values.values()))
    return list({tuple(params.items()): params for params in settings}.values())


def parse_grids(texts: Iterable[str], heads: Sequence[str]) -> dict[str, dict[str, tuple[Value, ...]]]:
    """Read values to try that were given as ``key=v1,v2`` or ``head.key=v1,v2``.

    Values are separated by commas; where a value has commas itself, as ``hidden`` has, by semicolons. Commas in the
    brackets of a Python literal are its own. A key without a
    head stands for every head that has such a parameter; one with its head takes precedence. A key that is given twice
    has the values of both.

    Parameters
    ----------
    texts
        What was given.
    heads
        The heads that are tried; empty for all of the catalogue.

    Raises
    ------
    UnknownNameError
        If there is no such head.
    ParameterError
        If a text has no ``=``, no head has the parameter, or it cannot take a value; all at once.

    Examples
    --------
    >>> parse_grids(["C=0.1,1", "svm.C=10", "hidden=64;64,32"], ["logreg", "svm", "mlp"])
    {'logreg': {'C': (0.1, 1.0)}, 'svm': {'C': (10.0,)}, 'mlp': {'hidden': ('64', '64,32')}}
    """
    specs = [head_spec(head) for head in heads or HEADS]
    for_all: dict[str, dict[str, tuple[Value, ...]]] = {spec.name: {} for spec in specs}
    for_one: dict[str, dict[str, tuple[Value, ...]]] = {spec.name: {} for spec in specs}
    faults: list[str] = []
    for text in texts:
        key, equals, values = text.partition("=")
        head, dot, name = key.rpartition(".")
        if not equals:
            faults.append(f"{text} has no values, expected {text}=VALUE,VALUE")
            continue
        try:
            for spec, parameter in _owners(specs, head, name):
                grids = for_one if dot else for_all
                grids[spec.name][name] = (*grids[spec.name].get(name, ()), *_values(spec, parameter, values))
        except (ParameterError, UnknownNameError) as e:
            faults.append(str(e))
    if faults:
        raise ParameterError("; ".join(faults))
    merged = {spec.name: for_all[spec.name] | for_one[spec.name] for spec in specs}
    return {head: grid for head, grid in merged.items() if grid}


def _owners(specs: Sequence[HeadSpec], head: str, name: str) -> list[tuple[HeadSpec, Parameter]]:
    """Return the heads that a key stands for, with the parameter."""
    if head:
        named = [spec for spec in specs if spec.name == head]
        if not named:
            raise UnknownNameError("head in a parameter", head, [spec.name for spec in specs])
        return [(named[0], named[0].parameter(name))]
    found = [(spec, each) for spec in specs for each in spec.parameters if each.name == name]
    if not found:
        there = {spec.name: [each.name for each in spec.parameters] for spec in specs}
        hint = did_you_mean(name, [each for names in there.values() for each in names])
        known = "; ".join(f"{head}: {', '.join(names)}" for head, names in there.items() if names)
        raise ParameterError(f"no head that is tried has a parameter {name!r}{hint} ({known})")
    return found


def _values(spec: HeadSpec, parameter: Parameter, text: str) -> list[Value]:
    """Return the values of a parameter that a text lists."""
    try:
        return [parameter.parse(value.strip()) for value in re.split(_BETWEEN.get(parameter.kind, ","), text)]
    except ParameterError as e:
        raise ParameterError(f"head {spec.name!r}: {e}") from e

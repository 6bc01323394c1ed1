"""Which candidates a sweep tries next: a coarse grid, then finer ones; costly heads on a sample of the rows first."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.catalog import head_spec
from heads.evaluation.intervals import mcnemar
from heads.parameters import HeadSpec, Value
from heads.search.grid import BASELINE, Candidate, Grids
from heads.search.ranking import NOISE, CandidateResult

Results: TypeAlias = Mapping[int, CandidateResult]
"""What came of candidates on all parts, by number."""

Pair: TypeAlias = tuple[str, str]
"""A head and a tap."""

_LONG = 8  # values of a parameter that are not all tried
_COARSE = 4  # at least so many of them are tried first
_ON_ALL = 2  # candidates of a costly head without long parameters that are tried on all rows
_COSTLY = 1e11  # products; more than 5 to 10 seconds


def long_parameters(spec: HeadSpec, given: Mapping[str, Sequence[object]]) -> list[str]:
    """Return the parameters of a head that are refined: those with at least 8 numbers in the catalogue's grid.

    Parameters
    ----------
    spec
        The head.
    given
        Its values that were asked for. All of them are tried.

    Examples
    --------
    >>> long_parameters(heads.head_spec("softmax"), {}), long_parameters(heads.head_spec("logreg"), {"C": [1, 2]})
    (['lr'], [])
    """
    return [
        name
        for name, values in spec.grid.items()
        if name not in given and len(values) >= _LONG and not any(isinstance(value, str | bool) for value in values)
    ]


@dataclass(frozen=True, slots=True)
class _Grid:
    """The candidates of one head and tap.

    Parameters
    ----------
    numbers
        Place to number: the values of the parameters that are not refined, and the position of each other value.
    places
        Number to place.
    strides
        The first stride of each refined parameter.
    """

    numbers: Mapping[tuple[tuple[Value, ...], tuple[int, ...]], int]
    places: Mapping[int, tuple[tuple[Value, ...], tuple[int, ...]]]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, candidates: Mapping[int, Candidate], long: Sequence[str]) -> "_Grid":
        """Place candidates, by number; ``long`` are the parameters that are refined."""
        values = {name: sorted({each.params[name] for each in candidates.values()}) for name in long}
        places = {
            number: (
                tuple(value for name, value in each.params.items() if name not in values),
                tuple(tried.index(each.params[name]) for name, tried in values.items()),
            )
            for number, each in candidates.items()
        }
        strides = tuple(2 ** int(np.log2(len(tried) / _COARSE)) for tried in values.values())
        return cls({place: number for number, place in places.items()}, places, strides)

    def coarse(self) -> list[int]:
        """Return the candidates at the first stride."""
        return [
            number
            for number, (_, at) in self.places.items()
            if all(index % stride == stride // 2 for index, stride in zip(at, self.strides, strict=True))
        ]

    def around(self, number: int, stride: int) -> list[int]:
        """Return the candidates that lie at most one stride from another on one axis."""
        others, at = self.places[number]
        steps = [
            (*at[:axis], at[axis] + sign * min(stride, first), *at[axis + 1 :])
            for axis, first in enumerate(self.strides)
            for sign in (-1, 1)
        ]
        return [self.numbers[others, step] for step in steps if (others, step) in self.numbers]


class Refinement:
    """The order in which the candidates of a sweep are tried; it follows from results alone.

    Of long parameters every 8th value is tried (every second one of 8 to 15 values), then the neighbours of the best
    one at half of this stride, until none is better, and so on down to a stride of 1.

    Costly heads are tried on a sample of the training rows first. Successive halving (Jamieson and Talwalkar 2016)
    stops the worse half of them after the coarse grid, but none that is within noise of the best of them. The others
    are refined on the sample, to a quarter of the first stride; then the best candidate and its neighbours are tried on
    all rows.

    Parameters
    ----------
    candidates
        All of them, in plan order.
    grids
        The values that were asked for, by head and parameter.
    costs
        About how many products one training of each head and tap takes, on all rows.
    sampled
        Whether there is a sample.
    stops
        Whether heads may be stopped.
    groups
        The group of each validation row, shape (m,), part by part; None without groups.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        grids: Grids,
        costs: Mapping[Pair, float],
        *,
        sampled: bool,
        stops: bool,
        groups: NDArray[np.object_] | None = None,
    ) -> None:
        members: dict[Pair, dict[int, Candidate]] = {}
        for number, candidate in enumerate(candidates):
            members.setdefault((candidate.head, candidate.tap), {})[number] = candidate
        self._grids = {
            pair: _Grid.of(found, long_parameters(head_spec(pair[0]), grids.get(pair[0], {})))
            for pair, found in members.items()
        }
        self._costly = [
            pair
            for pair, grid in self._grids.items()
            if sampled and pair[0] != BASELINE and costs[pair] * len(grid.coarse()) > _COSTLY
        ]
        self._stops, self._groups = stops, groups

    def stopped(self, on_sample: Results) -> list[Pair]:
        """Return the heads and taps that are not tried on all rows; none as long as the coarse grid is not done."""
        firsts = {pair: self._grids[pair].coarse() for pair in self._costly}
        if not self._stops or any(number not in on_sample for numbers in firsts.values() for number in numbers):
            return []
        ranked = sorted(firsts, key=lambda pair: _key(on_sample, _best(on_sample, firsts[pair])))
        results = [on_sample[_best(on_sample, firsts[pair])] for pair in ranked]
        kept = -(-len(ranked) // 2)
        return [
            pair
            for place, (pair, result) in enumerate(zip(ranked, results, strict=True))
            if result.error or (place >= kept and mcnemar(results[0].correct, result.correct, self._groups) <= NOISE)
        ]

    def after(self, on_sample: Results, on_all: Results) -> tuple[list[int], list[int]]:
        """Return the candidates to try next, on the sample and on all rows, ascending; none if nothing is left."""
        coarse = {pair: self._missing(self._grids[pair].coarse(), on_sample) for pair in self._costly}
        next_on_sample = [number for numbers in coarse.values() for number in numbers]
        next_on_all: list[int] = []
        waiting = bool(next_on_sample)
        stopped = self.stopped(on_sample)
        for pair, grid in self._grids.items():
            if pair not in self._costly:
                next_on_all += self._refined(grid, grid.coarse(), on_all, 1)
            elif not waiting and pair not in stopped:
                last = max(1, max(grid.strides, default=1) // 4)
                more = self._refined(grid, grid.coarse(), on_sample, last)
                next_on_sample += more
                if not more:
                    next_on_all += self._on_all(grid, on_sample, on_all, last)
        return sorted(next_on_sample), sorted(next_on_all)

    def _on_all(self, grid: _Grid, on_sample: Results, on_all: Results, stride: int) -> list[int]:
        """Return what to try next on all rows of a head that was tried on the sample."""
        ranked = sorted(
            (number for number in grid.places if number in on_sample), key=lambda each: _key(on_sample, each)
        )
        first = [ranked[0], *grid.around(ranked[0], stride)] if grid.strides else ranked[:_ON_ALL]
        return self._refined(grid, first, on_all, stride, first_stride=stride)

    @staticmethod
    def _refined(
        grid: _Grid, first: Sequence[int], results: Results, last: int, *, first_stride: int | None = None
    ) -> list[int]:
        """Return what to try next of a head: the first candidates, then neighbours of the best, far ones first."""
        missing = Refinement._missing(first, results)
        if missing or not grid.strides:
            return missing
        known, stride = list(first), first_stride or max(grid.strides) // 2
        while stride >= last:
            best = _best(results, known)
            near = grid.around(best, stride)
            if missing := Refinement._missing(near, results):
                return missing
            known += near
            if _best(results, known) == best:
                stride //= 2
        return []

    @staticmethod
    def _missing(numbers: Collection[int], results: Results) -> list[int]:
        return [number for number in numbers if number not in results]


def _best(results: Results, numbers: Collection[int]) -> int:
    return min(numbers, key=lambda number: _key(results, number))


def _key(results: Results, number: int) -> tuple[bool, int, float, int]:
    """Return what ranks a candidate, the best one lowest; see `heads.search.ranking.ranked`."""
    return (*results[number].order, number)

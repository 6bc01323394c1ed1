"""What the evaluations of all targets share: scores with intervals, as tables, JSON and notebooks show them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from featurecache.text import counted, number
from heads.evaluation.intervals import OF_GROUPS, WILSON, Interval
from heads.notices import Notice, to_dicts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heads.report.model import Table
    from heads.rows import Floats

_SHOWN = 20  # classes or labels that a notebook shows


@dataclass(frozen=True, slots=True)
class Score:
    """One number of an evaluation, as tables show it.

    Parameters
    ----------
    key
        Its name in `Evaluation.to_dict` and `Evaluation.intervals`; averages over classes begin with ``macro_`` or
        ``weighted_``.
    label
        Its name for readers.
    value
        The number; None if it is undefined.
    interval
        Its 95 % interval; None if there is none.
    method
        How the interval was computed: ``"Wilson"``, ``"bootstrap"``, or ``"bootstrap of groups"``; empty if there
        is none.
    """

    key: str
    label: str
    value: float | None
    interval: Interval | None
    method: str


class Predictions(Protocol):
    """A table of predictions, of any target."""

    @property
    def groups(self) -> NDArray[np.object_] | None:
        """The group of each row, shape (n,); None if every row is its own."""
        ...

    def __len__(self) -> int: ...


P = TypeVar("P", bound=Predictions)


@dataclass(frozen=True, eq=False, kw_only=True)  # no slots: a cached property keeps its value in the dictionary
class BaseEvaluation(ABC, Generic[P]):
    """The evaluation of a head on labelled rows, of any target; the subclasses describe the fields."""

    table: P
    split: str | None
    warnings: tuple[Notice, ...]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def n_groups(self) -> int | None:
        """The number of groups of the rows; None if every row is its own."""
        return None if self.table.groups is None else len(set(self.table.groups))

    @cached_property
    def intervals(self) -> Mapping[str, Interval | None]:
        """The 95 % bootstrap intervals of all scores that are not proportions, by key.

        They are computed on first access. None where the score is undefined or has no interval.
        """
        return self._bootstrap()

    @abstractmethod
    def scores(self) -> tuple[Score, ...]:
        """Return every score with its interval, in the order in which tables show them.

        The notebook, the report and the command line show the same rows.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return all scores and their intervals, ready for JSON; undefined ones are None."""
        return {
            "n": len(self),
            "groups": self.n_groups,
            "split": self.split,
            **self._values(),
            "intervals": {
                name: each and {"low": each.low, "high": each.high} for name, each in sorted(self.intervals.items())
            },
            "warnings": to_dicts(self.warnings),
        }

    @abstractmethod
    def _bootstrap(self) -> Mapping[str, Interval | None]:
        """Compute `intervals`."""

    @abstractmethod
    def _values(self) -> dict[str, Any]:
        """Return the scores of the target for `to_dict`."""

    def _tables(self) -> tuple[Table, ...]:
        """Return what a notebook shows after the scores."""
        return ()

    def _proportion(self, key: str, label: str, interval: Interval) -> Score:
        """Return a score with the interval of `heads.evaluation.intervals.proportion`."""
        return Score(key, label, interval.value, interval, WILSON if self.n_groups is None else OF_GROUPS)

    def _bootstrapped(self, values: Mapping[str, float | None]) -> tuple[Score, ...]:
        """Return scores with the intervals of `intervals`."""
        method = "bootstrap" if self.n_groups is None else OF_GROUPS
        return tuple(
            Score(key, _label(key), value, self.intervals[key], method if self.intervals[key] else "")
            for key, value in values.items()
        )

    def _repr_html_(self) -> str:
        from heads.report.html import fragment
        from heads.report.model import Table

        scores = tuple(
            (score.label, number(score.value), score.interval.range_text() if score.interval else "")
            for score in self.scores()
        )
        table = Table(("score", "value", "95 % interval"), scores, caption=counted(len(self), "row"))
        return fragment([*map(str, self.warnings), table, *self._tables()])


def first_rows(header: Sequence[str], rows: Sequence[tuple[str, ...]], what: str) -> Table:
    """Return a table with as many rows as a notebook shows; the caption counts all: what they are."""
    from heads.report.model import Table

    more = f", of which the first {_SHOWN} are shown" if len(rows) > _SHOWN else ""
    return Table(tuple(header), tuple(rows[:_SHOWN]), caption=f"{len(rows):,} {what}{more}")


def unweighted(scores: Callable[[Floats], Mapping[str, Floats]], n: int) -> dict[str, float | None]:
    """Return scores of n rows that all weigh 1, None where undefined.

    Parameters
    ----------
    scores
        Returns each score, shape (r,), nan where undefined, for weights of rows, shape (n, r).
    n
        Number of rows.
    """
    return {name: None if np.isnan(value[0]) else float(value[0]) for name, value in scores(np.ones((n, 1))).items()}


def _label(key: str) -> str:
    """Return the name of a score for readers.

    Examples
    --------
    >>> _label("roc_auc"), _label("macro_f1"), _label("r2")
    ('ROC AUC', 'macro F1', 'R2')
    """
    return key.replace("_", " ").replace("roc auc", "ROC AUC").replace("f1", "F1").replace("r2", "R2")

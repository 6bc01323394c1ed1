"""Comparison of several heads on the same rows: differences with tests, and rows on which the heads disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.text import counted, number
from heads.errors import MismatchError
from heads.evaluation.evaluate import Evaluation
from heads.evaluation.intervals import Interval, holm, mcnemar, paired_bootstrap
from heads.notices import Notice, to_dicts

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHOWN = 20  # pairs that a notebook shows


@dataclass(frozen=True, slots=True)
class Pair:
    """The difference between two heads.

    Parameters
    ----------
    a, b
        Their names.
    only_a, only_b
        Number of rows that only this head classifies correctly.
    p_value
        Two-sided p-value of McNemar's exact test that both are equally accurate, or of its form for rows in groups.
    p_adjusted
        The same, adjusted by Holm's method for all pairs of the comparison.
    difference
        The accuracy of ``a`` minus that of ``b``, with its 95 % paired bootstrap interval.
    """

    a: str
    b: str
    only_a: int
    only_b: int
    p_value: float
    p_adjusted: float
    difference: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Several heads evaluated on the same rows.

    Parameters
    ----------
    evaluations
        By name, in the order given; all of the same rows, in the same order.
    pairs
        One for every two heads.

    Examples
    --------
    >>> other = heads.train(cache, "majority", tap="features")
    >>> rows = cache.features("features", "valid")
    >>> comparison = heads.compare({"centroid": evaluation, "majority": heads.evaluate(other, rows)})
    >>> len(comparison.disagreements())
    8
    """

    evaluations: Mapping[str, Evaluation]
    pairs: tuple[Pair, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The heads, in the order given."""
        return tuple(self.evaluations)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes: those of the first head in its order, then those that only others have."""
        return tuple(dict.fromkeys(name for each in self.evaluations.values() for name in each.classes))

    def __len__(self) -> int:
        return len(next(iter(self.evaluations.values())))

    def disagreements(self) -> NDArray[np.intp]:
        """Return the rows for which the heads predict different classes, the largest disagreement first.

        Rows are sorted by the number of heads that agree, ascending; then by the mean of the heads' highest
        probabilities, descending; then by their place in the table.
        """
        tables = [each.table for each in self.evaluations.values()]
        place = {name: place for place, name in enumerate(self.classes)}
        predicted = np.stack([np.array([place[name] for name in table.classes])[table.predicted] for table in tables])
        agreeing = np.max([np.count_nonzero(predicted == each, axis=0) for each in predicted], axis=0)
        sureness = np.mean([table.probabilities.max(axis=1) for table in tables], axis=0)
        disputed = np.flatnonzero(agreeing < len(tables))
        return disputed[np.lexsort((disputed, -sureness[disputed], agreeing[disputed]))]

    @property
    def n_groups(self) -> int | None:
        """The number of groups of the rows; None if every row is its own."""
        return next(iter(self.evaluations.values())).n_groups

    def to_dict(self) -> dict[str, Any]:
        """Return all scores, ready for JSON; undefined ones are None."""
        heads = [{"head_dir": name} | each.to_dict() for name, each in self.evaluations.items()]
        return {
            "n": len(self),
            "groups": self.n_groups,
            "classes": list(self.classes),
            "heads": heads,
            "pairs": [asdict(pair) for pair in self.pairs],
            "disagreements": len(self.disagreements()),
            "warnings": to_dicts(self.warnings),
        }

    @property
    def warnings(self) -> list[Notice]:
        """What is undefined or was left out; with the head's name, unless it holds for all heads."""
        of_heads = {name: each.warnings for name, each in self.evaluations.items()}
        first = next(iter(of_heads.values()))
        common = [notice for notice in first if all(notice in notices for notices in of_heads.values())]
        return common + [
            notice.about(name) for name, notices in of_heads.items() for notice in notices if notice not in common
        ]

    def _repr_html_(self) -> str:
        from heads.report.html import fragment
        from heads.report.model import Table

        heads = tuple(
            (name, number(evaluation.accuracy.value), evaluation.accuracy.range_text())
            for name, evaluation in self.evaluations.items()
        )
        pairs = tuple(
            (pair.a, pair.b, number(pair.difference.value), pair.difference.range_text(), number(pair.p_adjusted))
            for pair in self.pairs
        )
        more = f", of which the first {_SHOWN} are shown" if len(pairs) > _SHOWN else ""
        return fragment(
            [
                *map(str, self.warnings),
                Table(("head", "accuracy", "95 % interval"), heads, caption=counted(len(self), "row")),
                Table(
                    ("head", "and head", "difference", "95 % interval", "p (McNemar, Holm)"),
                    pairs[:_SHOWN],
                    caption=counted(len(pairs), "pair") + more,
                    left={0, 1},
                ),
            ]
        )


def compare(evaluations: Mapping[str, Evaluation], *, seed: int = 0) -> Comparison:
    """Compare every two of several heads that were evaluated on the same rows.

    Parameters
    ----------
    evaluations
        At least two, by name.
    seed
        Seed of the bootstrap.

    Raises
    ------
    MismatchError
        If there are fewer than two evaluations, or two of them differ in rows or in a row's label.

    Examples
    --------
    >>> other = heads.train(cache, "majority", tap="features")
    >>> rows = cache.features("features", "valid")
    >>> comparison = heads.compare({"centroid": heads.evaluate(head, rows), "majority": heads.evaluate(other, rows)})
    >>> comparison.pairs[0].difference.value
    0.5
    """
    if len(evaluations) < 2:  # noqa: PLR2004
        raise MismatchError(f"{len(evaluations)} head to compare, expected at least two of them")
    (first, reference), *others = evaluations.items()
    for name, evaluation in others:
        difference = _difference(reference, evaluation)
        if difference:
            raise MismatchError(f"{first} and {name} cannot be compared: {difference}")
    right = {name: each.table.correct for name, each in evaluations.items()}
    couples = list(combinations(right, 2))
    groups = reference.table.groups
    p_values = [mcnemar(right[a], right[b], groups) for a, b in couples]
    pairs = tuple(
        Pair(
            a,
            b,
            int(np.count_nonzero(right[a] & ~right[b])),
            int(np.count_nonzero(right[b] & ~right[a])),
            p_value,
            p_adjusted,
            paired_bootstrap(right[a], right[b], groups, seed=seed),
        )
        for (a, b), p_value, p_adjusted in zip(couples, p_values, holm(p_values), strict=True)
    )
    return Comparison(MappingProxyType(dict(evaluations)), pairs)


def _difference(ours: Evaluation, theirs: Evaluation) -> str:
    """Return how the rows of two evaluations or their labels differ; an empty text if they do not."""
    a, b = ours.table, theirs.table
    remedy = (
        "evaluate both on one split of one cache, or on all rows; without a valid split train them with the same "
        "--holdout, --seed and --group"
    )
    if len(a) != len(b):
        return f"they were evaluated on {len(a):,} and {len(b):,} rows; {remedy}"
    for row in np.flatnonzero((a.paths != b.paths) | (a.splits != b.splits))[:1]:
        return f"one was evaluated on {a.paths[row]!r}, the other on {b.paths[row]!r} in its place; {remedy}"
    if (a.groups is None) != (b.groups is None) or (a.groups is not None and (a.groups != b.groups).any()):
        return "their rows are in different groups; evaluate both with the same --group"
    labels_a, labels_b = (np.array(table.classes, dtype=object)[table.true] for table in (a, b))
    for row in np.flatnonzero(labels_a != labels_b)[:1]:
        labels = f"{labels_a[row]!r} and {labels_b[row]!r}"
        return f"{a.paths[row]!r} is labelled {labels}; evaluate both on the same cache"
    return ""

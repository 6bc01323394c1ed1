"""Several heads on the same rows: which is better, how sure one is of that, and where they disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from heads.errors import MismatchError
from heads.evaluation import Evaluation
from heads.intervals import Interval, holm, mcnemar, paired_bootstrap

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHOWN = 20  # pairs that a notebook shows


@dataclass(frozen=True, slots=True)
class Pair:
    """How two heads differ.

    Parameters
    ----------
    a, b
        Their names.
    only_a, only_b
        Number of rows that one of them alone has right.
    p_value
        Of McNemar's exact test that they are right equally often.
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
    """Several heads judged on the same rows.

    Parameters
    ----------
    evaluations
        By name, in the order given; all of the same rows, in the same order.
    pairs
        Every two of them.
    """

    evaluations: Mapping[str, Evaluation]
    pairs: tuple[Pair, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The heads, in the order given."""
        return tuple(self.evaluations)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return next(iter(self.evaluations.values())).classes

    def __len__(self) -> int:
        return len(next(iter(self.evaluations.values())))

    def disagreements(self) -> NDArray[np.intp]:
        """Return the rows for which heads predict different classes, the most disputed first.

        Those come first where the fewest heads agree; of these, those where the heads are surest of what they predict,
        by the mean of their highest probabilities; then in the order of the table.
        """
        tables = [each.table for each in self.evaluations.values()]
        predicted = np.stack([table.predicted for table in tables])
        agreeing = np.max([np.count_nonzero(predicted == each, axis=0) for each in predicted], axis=0)
        sureness = np.mean([table.probabilities.max(axis=1) for table in tables], axis=0)
        disputed = np.flatnonzero(agreeing < len(tables))
        return disputed[np.lexsort((disputed, -sureness[disputed], agreeing[disputed]))]

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, ready for JSON; what is undefined is None."""
        heads = [{"head_dir": name} | each.to_dict() for name, each in self.evaluations.items()]
        return {
            "n": len(self),
            "classes": list(self.classes),
            "heads": heads,
            "pairs": [asdict(pair) for pair in self.pairs],
            "disagreements": len(self.disagreements()),
            "warnings": self.warnings,
        }

    @property
    def warnings(self) -> list[str]:
        """What is undefined or was left out, one line each; with the head's name, unless it holds for all heads."""
        of_heads = {name: each.warnings for name, each in self.evaluations.items()}
        common = [line for line in next(iter(of_heads.values())) if all(line in lines for lines in of_heads.values())]
        return common + [f"{name}: {line}" for name, lines in of_heads.items() for line in lines if line not in common]

    def _repr_html_(self) -> str:
        from heads.report.html import fragment
        from heads.report.model import Table

        heads = tuple((name, *_texts(each.accuracy)) for name, each in self.evaluations.items())
        pairs = tuple((pair.a, pair.b, *_texts(pair.difference), f"{pair.p_adjusted:.4f}") for pair in self.pairs)
        more = f", of which the first {_SHOWN} are shown" if len(pairs) > _SHOWN else ""
        return fragment(
            [
                *self.warnings,
                Table(("head", "accuracy", "95 % interval"), heads, caption=f"{len(self):,} rows"),
                Table(
                    ("head", "and head", "difference", "95 % interval", "p (McNemar, Holm)"),
                    pairs[:_SHOWN],
                    caption=f"{len(pairs):,} pairs{more}",
                    left={0, 1},
                ),
            ]
        )


def compare(evaluations: Mapping[str, Evaluation], *, seed: int = 0) -> Comparison:
    """Compare heads that were judged on the same rows, every two of them.

    Parameters
    ----------
    evaluations
        At least two, by name.
    seed
        What the resamples of the bootstrap follow from.

    Raises
    ------
    MismatchError
        If there is one alone, or they are not of the same rows and classes; names the first two that differ.
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
    p_values = [mcnemar(right[a], right[b]) for a, b in couples]
    pairs = tuple(
        Pair(
            a,
            b,
            int(np.count_nonzero(right[a] & ~right[b])),
            int(np.count_nonzero(right[b] & ~right[a])),
            p_value,
            p_adjusted,
            paired_bootstrap(right[a], right[b], seed=seed),
        )
        for (a, b), p_value, p_adjusted in zip(couples, p_values, holm(p_values), strict=True)
    )
    return Comparison(MappingProxyType(dict(evaluations)), pairs)


def _difference(ours: Evaluation, theirs: Evaluation) -> str:
    """Return why two evaluations are not of the same rows and classes; nothing if they are."""
    if ours.classes != theirs.classes:
        return f"their classes are {_listed(ours.classes)} and {_listed(theirs.classes)}; train both on the same labels"
    a, b = ours.table, theirs.table
    remedy = "judge both on one split of one cache; without a valid split train them with the same --holdout and --seed"
    if len(a) != len(b):
        return f"they were judged on {len(a):,} and {len(b):,} rows; {remedy}"
    for row in np.flatnonzero((a.paths != b.paths) | (a.splits != b.splits))[:1]:
        return f"one was judged on {a.paths[row]!r}, the other on {b.paths[row]!r} in its place; {remedy}"
    for row in np.flatnonzero(a.true != b.true)[:1]:
        labels = f"{a.classes[a.true[row]]!r} and {a.classes[b.true[row]]!r}"
        return f"{a.paths[row]!r} is labelled {labels}; judge both on the same cache"
    return ""


def _listed(classes: tuple[str, ...]) -> str:
    return ", ".join(map(repr, classes[:5])) + (f" (and {len(classes) - 5} more)" if len(classes) > 5 else "")  # noqa: PLR2004


def _texts(interval: Interval) -> tuple[str, str]:
    return f"{interval.value:.4f}", f"{interval.low:.4f} to {interval.high:.4f}"

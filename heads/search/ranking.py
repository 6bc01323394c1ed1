"""From outcomes to a leaderboard: accuracy of each candidate, and which ones are within noise of the best."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.evaluation.intervals import Interval, mcnemar, proportions
from heads.notices import Notice, to_dicts
from heads.search.grid import Candidate
from heads.search.tasks import Outcome

NOISE = 0.05
"""A p-value above it is no evidence that two candidates differ."""

_NUMBERS = ("valid_accuracy", "low", "high", "valid_loss", "seconds", "p_value", "n_train", "n_valid")


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One candidate on the leaderboard.

    Parameters
    ----------
    rank
        Its place, from 1.
    candidate
        What it is.
    accuracy
        Of all validation rows, with its 95 % interval; None if the candidate failed.
    loss
        Mean cross-entropy of these rows, in nats; None if the candidate failed.
    seconds
        Time of its trainings, all parts together.
    p_value
        Of the exact McNemar test against the best candidate, on the same rows; None if the candidate failed.
    warnings
        The warnings of its trainings, without repetition.
    error
        Why it failed; empty if it did not.
    n_train, n_valid
        The number of rows that it was trained on, with folds that of the largest training, and of the rows that it was
        validated on.
    """

    rank: int
    candidate: Candidate
    accuracy: Interval | None
    loss: float | None
    seconds: float
    p_value: float | None
    warnings: tuple[Notice, ...]
    error: str
    n_train: int = 0
    n_valid: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        accuracy = self.accuracy
        return {
            "rank": self.rank,
            **self.candidate.to_dict(),
            "valid_accuracy": accuracy and accuracy.value,
            "low": accuracy and accuracy.low,
            "high": accuracy and accuracy.high,
            "valid_loss": self.loss,
            "seconds": self.seconds,
            "p_value": self.p_value,
            "n_train": self.n_train,
            "n_valid": self.n_valid,
            "warnings": to_dicts(self.warnings),
            "error": self.error or None,
        }


@dataclass(frozen=True, slots=True, eq=False)
class CandidateResult:
    """What came of one candidate on all parts; ``n_train`` is the number of rows of its largest training."""

    correct: NDArray[np.bool_]
    loss: float
    seconds: float
    warnings: tuple[Notice, ...]
    error: str
    n_train: int

    @property
    def order(self) -> tuple[bool, int, float]:
        """What ranks candidates, the best one lowest: errors last, then by correct rows, then by cross-entropy."""
        return bool(self.error), -int(np.count_nonzero(self.correct)), self.loss

    @classmethod
    def from_outcomes(cls, outcomes: Sequence[Outcome]) -> "CandidateResult":
        """Join the outcomes of all parts, in their order."""
        errors = [
            f"fold {part} of {len(outcomes)}: {outcome.error}" if len(outcomes) > 1 else outcome.error
            for part, outcome in enumerate(outcomes, start=1)
            if outcome.error
        ]
        rows = sum(len(outcome.correct) for outcome in outcomes)
        return cls(
            np.concatenate([outcome.correct for outcome in outcomes]),
            sum(outcome.loss * len(outcome.correct) for outcome in outcomes) / max(1, rows),
            sum(outcome.seconds for outcome in outcomes),
            tuple(dict.fromkeys(notice for outcome in outcomes for notice in outcome.warnings)),
            errors[0] if errors else "",
            max(outcome.n_train for outcome in outcomes),
        )


def ranked(
    candidates: Sequence[Candidate],
    outcomes: Sequence[Sequence[Outcome]],
    groups: NDArray[np.object_] | None = None,
) -> tuple[Entry, ...]:
    """Return the leaderboard: by accuracy, then by cross-entropy, then as planned; candidates that failed come last.

    Parameters
    ----------
    candidates
        In plan order.
    outcomes
        Of each candidate the outcomes of all parts, in order.
    groups
        The group of each validation row, shape (m,), part by part; None without groups.
    """
    joined = [CandidateResult.from_outcomes(parts) for parts in outcomes]
    order = sorted(range(len(joined)), key=lambda number: (*joined[number].order, number))
    best, sound = joined[order[0]].correct, [number for number in order if not joined[number].error]
    right = np.array([joined[number].correct for number in sound])
    accuracies = dict(zip(sound, proportions(right, groups) if sound else (), strict=True))
    return tuple(
        Entry(
            rank=rank,
            candidate=candidates[number],
            accuracy=accuracies.get(number),
            loss=None if result.error else result.loss,
            seconds=result.seconds,
            p_value=None if result.error else mcnemar(best, result.correct, groups),
            warnings=result.warnings,
            error=result.error,
            n_train=result.n_train,
            n_valid=len(result.correct),
        )
        for rank, number in enumerate(order, start=1)
        for result in [joined[number]]
    )


def best_of_each(leaderboard: Sequence[Entry]) -> list[Entry]:
    """Return the best candidate of each head and tap, best first."""
    first: dict[tuple[str, str], Entry] = {}
    for entry in leaderboard:
        first.setdefault((entry.candidate.head, entry.candidate.tap), entry)
    return list(first.values())


def to_csv(leaderboard: Sequence[Entry]) -> str:
    """Return a leaderboard as CSV text (RFC 4180): a header, then one line per candidate.

    Parameters stand in one column each, empty for heads without them, and together as JSON in the column ``params``.
    Numbers read back as exactly what they are.
    """
    names = list(dict.fromkeys(name for entry in leaderboard for name in entry.candidate.params))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["rank", "head", "tap", "params", *names, *_NUMBERS, "warnings", "error"])
    for entry in leaderboard:
        data = entry.to_dict()
        params = dict.fromkeys(names, "") | dict(entry.candidate.params)
        writer.writerow(
            [entry.rank, entry.candidate.head, entry.candidate.tap, json.dumps(data["params"])]
            + [value if isinstance(value, str) else json.dumps(value) for value in params.values()]
            + [data[name] for name in _NUMBERS]
            + ["; ".join(map(str, entry.warnings)), entry.error]
        )
    return stream.getvalue()

"""What a worker does: fit candidates that belong together, judge them, and publish what came of it."""

import base64
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.publish import publish
from heads.artifact.description import checksum
from heads.base import Head, Monitor, fit_together
from heads.catalog import make_head
from heads.errors import EvaluationError, TrainingError
from heads.rows import Features, Labels, loss_and_accuracy
from heads.search.grid import Candidate
from heads.search.prepared import Kind, Prepared

_DONE_ALREADY = "set standardize=true, "  # advice of heads that meet standardised features as if they were not


@dataclass(frozen=True, slots=True)
class Task:
    """Candidates that are fitted together, and the part of the rows that judges them.

    Parameters
    ----------
    name
        Of the file that keeps what comes of it.
    part
        See `heads.search.judging`.
    numbers, candidates
        The candidates, all of one family, with their places in the plan.
    """

    name: str
    part: int
    numbers: tuple[int, ...]
    candidates: tuple[Candidate, ...]

    @property
    def kind(self) -> Kind:
        """The rows that all of them take."""
        return Kind(self.part, self.candidates[0].tap, self.candidates[0].standardize)


def tasks_of(candidates: Sequence[Candidate], parts: Iterable[int]) -> list[Task]:
    """Return the tasks that are all candidates on all parts: one for each family and part, in plan order."""
    families: dict[object, list[int]] = {}
    for number, candidate in enumerate(candidates):
        families.setdefault(candidate.family, []).append(number)
    return [
        Task(f"{part}-{numbers[0]}.json", part, tuple(numbers), tuple(candidates[number] for number in numbers))
        for part in parts
        for numbers in families.values()
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of one candidate on one part.

    Parameters
    ----------
    correct
        Whether the class of each row that judges was found, shape (m,); empty if the candidate failed.
    loss
        Mean cross-entropy of these rows, in nats.
    seconds
        Its share of the time that all that were fitted together took, and the time to judge it.
    warnings
        What its training warned of.
    error
        Why it failed; empty if it did not.
    """

    correct: NDArray[np.bool_]
    loss: float
    seconds: float
    warnings: tuple[str, ...] = ()
    error: str = ""


def run_task(task: Task, rows: Prepared) -> list[Outcome]:
    """Fit the candidates of a task together and judge each; a candidate that fails does not stop the others.

    Parameters
    ----------
    task
        What to do.
    rows
        The rows that its candidates take; standardised already if they take standardised features.
    """
    began = time.perf_counter()
    X, X_judged = rows.features()
    y, y_judged = rows.labels()
    judging = rows.source.judging
    as_they_are = {"standardize": False} if task.kind.standardize else {}  # they must not be standardised once more
    heads = [make_head(each.head, seed=judging.seed, **{**each.params, **as_they_are}) for each in task.candidates]
    # without folds these rows may choose epochs, as they do in `heads.training.train`; with folds nothing may
    monitors = [Monitor() if judging.folds else Monitor(X_judged, y_judged) for _ in heads]
    faults: Sequence[Exception | None]
    try:
        faults = fit_together(heads, X, y, names=rows.source.classes, monitors=monitors)
    except (TrainingError, EvaluationError) as e:
        faults = [e] * len(heads)
    share = (time.perf_counter() - began) / len(heads)
    outcomes = [
        _failed(fault, share) if fault else _judge(head, X_judged, y_judged, share)
        for head, fault in zip(heads, faults, strict=True)
    ]
    return [_without_advice(each) for each in outcomes] if task.kind.standardize else outcomes


def _judge(head: Head, X: Features, y: Labels, share: float) -> Outcome:
    began = time.perf_counter()
    try:
        probabilities = head.predict_proba(X)
    except EvaluationError as e:
        return _failed(e, share)
    loss, _ = loss_and_accuracy(probabilities, head.classes_, y)
    correct = head.classes_[np.argmax(probabilities, axis=1)] == y
    return Outcome(correct, loss, share + time.perf_counter() - began, head.warnings_)


def _failed(fault: Exception, seconds: float) -> Outcome:
    return Outcome(np.empty(0, np.bool_), 0.0, seconds, error=str(fault))


def _without_advice(outcome: Outcome) -> Outcome:
    return replace(outcome, warnings=tuple(text.replace(_DONE_ALREADY, "") for text in outcome.warnings))


def publish_task(task: Task, rows: Prepared, file: Path, plan: str) -> list[Outcome]:
    """Do as `run_task`, and keep what came of it as a file that belongs to the plan of this SHA-256."""
    outcomes = run_task(task, rows)
    publish(file, encode(outcomes, plan), replace=True)
    return outcomes


def encode(outcomes: Iterable[Outcome], plan: str) -> bytes:
    """Return the content of a file of outcomes."""
    data: dict[str, Any] = {
        "plan": plan,
        "outcomes": [
            {
                "correct": base64.b64encode(np.packbits(each.correct).tobytes()).decode("ascii"),
                "rows": len(each.correct),
                "loss": each.loss,
                "seconds": each.seconds,
                "warnings": list(each.warnings),
                "error": each.error,
            }
            for each in outcomes
        ],
    }
    return json.dumps(data | {"sha256": checksum(data)}, allow_nan=False).encode("ascii")


def decode(content: bytes, plan: str) -> list[Outcome] | None:
    """Return the outcomes that a file of this plan holds; None if it is damaged or belongs to another plan."""
    try:
        data = json.loads(content)
        if data["sha256"] != checksum(data) or data["plan"] != plan:
            return None
        return [
            Outcome(
                _bits(each["correct"], each["rows"]),
                float(each["loss"]),
                float(each["seconds"]),
                tuple(map(str, each["warnings"])),
                str(each["error"]),
            )
            for each in data["outcomes"]
        ]
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return None


def _bits(text: str, count: int) -> NDArray[np.bool_]:
    packed = np.frombuffer(base64.b64decode(text), np.uint8)
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes for {count} rows")
    return np.unpackbits(packed, count=count).astype(np.bool_)

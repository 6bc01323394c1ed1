"""The tasks of a sweep's workers: fit candidates together, validate them, and save their outcomes."""

import base64
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.storage.publish import publish
from heads.artifact.description import checksum
from heads.base import Head, fit_together
from heads.catalog import make_head
from heads.epochs import Monitor
from heads.errors import EvaluationError, TrainingError
from heads.notices import Notice, to_dicts
from heads.rows import Features, Labels, loss_and_accuracy
from heads.search.grid import Candidate
from heads.search.prepared import Kind, Prepared
from heads.training import require_memory


@dataclass(frozen=True, slots=True)
class Task:
    """Candidates that are fitted together, and the part of the rows that validates them.

    Parameters
    ----------
    name
        Of the file that keeps what comes of it.
    part
        See `heads.search.validation_plan`.
    numbers, candidates
        The candidates, all of one family, with their places in the plan.
    sampled
        Whether they are trained on the sample of the training rows.
    """

    name: str
    part: int
    numbers: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    sampled: bool = False

    @property
    def kind(self) -> Kind:
        """The rows that all of them take."""
        return Kind(self.part, self.candidates[0].tap, self.candidates[0].standardize, self.sampled)


def tasks_of(
    candidates: Sequence[Candidate],
    parts: Iterable[int],
    chosen: Iterable[int] | None = None,
    *,
    sampled: bool = False,
    together: Mapping[tuple[str, str], float] = MappingProxyType({}),
) -> list[Task]:
    """Return the tasks that are candidates on all parts: one for each family and part, or a few, in plan order.

    Parameters
    ----------
    candidates, parts
        All of them.
    chosen
        The numbers of the candidates to take; None for all.
    sampled
        Whether they are trained on the sample of the training rows.
    together
        How many candidates of a head and tap it pays to fit together, at least one; without an entry, all.
    """
    families: dict[object, list[list[int]]] = {}
    for number in range(len(candidates)) if chosen is None else chosen:
        candidate = candidates[number]
        tasks = families.setdefault(candidate.family, [[]])
        if len(tasks[-1]) + 1 > max(1, together.get((candidate.head, candidate.tap), math.inf)):
            tasks.append([])
        tasks[-1].append(number)
    return [
        Task(
            f"{part}-{numbers[0]}{'-sample' if sampled else ''}.json",
            part,
            tuple(numbers),
            tuple(candidates[number] for number in numbers),
            sampled,
        )
        for part in parts
        for tasks in families.values()
        for numbers in tasks
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The outcome of one candidate on one part.

    Parameters
    ----------
    correct
        Whether each validation row was classified correctly, shape (m,); empty if the candidate failed.
    loss
        Mean cross-entropy of these rows, in nats.
    seconds
        Its share of the fitting time of its task, and the time to validate it.
    warnings
        The warnings of its training.
    error
        Why it failed; empty if it did not.
    n_train
        The number of rows that it was trained on.
    """

    correct: NDArray[np.bool_]
    loss: float
    seconds: float
    warnings: tuple[Notice, ...] = ()
    error: str = ""
    n_train: int = 0


def run_task(task: Task, rows: Prepared) -> list[Outcome]:
    """Fit the candidates of a task together and validate each; a candidate that fails does not stop the others.

    Parameters
    ----------
    task
        The task.
    rows
        The rows that its candidates take; standardised already if they take standardised features.
    """
    began = time.perf_counter()
    X, X_valid = rows.features()
    y, y_valid = rows.labels()
    validation = rows.cache_rows.validation
    as_they_are = {"standardize": False} if task.kind.standardize else {}  # they must not be standardised once more
    heads = [
        make_head(candidate.head, seed=validation.seed, **{**candidate.params, **as_they_are})
        for candidate in task.candidates
    ]
    # without folds these rows may choose epochs, as they do in `heads.training.train`; with folds nothing may
    monitors = [Monitor() if validation.folds else Monitor(X_valid, y_valid) for _ in heads]
    faults: Sequence[Exception | None]
    try:
        require_memory(heads[0].spec, X)
        faults = fit_together(
            heads,
            X,
            y,
            sample_weight=rows.weights(),
            together=rows.together(),
            names=rows.cache_rows.classes,
            monitors=monitors,
        )
    except (TrainingError, EvaluationError) as e:
        faults = [e] * len(heads)
    share = (time.perf_counter() - began) / len(heads)
    outcomes = [
        _failed(fault, share) if fault else _validated(head, X_valid, y_valid, share)
        for head, fault in zip(heads, faults, strict=True)
    ]
    outcomes = [replace(outcome, n_train=len(y)) for outcome in outcomes]
    return [_without_advice(outcome) for outcome in outcomes] if task.kind.standardize else outcomes


def _validated(head: Head, X: Features, y: Labels, share: float) -> Outcome:
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
    """Return an outcome without the advice to standardise, which a head gives that meets standardised features."""
    return replace(outcome, warnings=tuple(notice.without("standardize") for notice in outcome.warnings))


def publish_task(task: Task, rows: Prepared, file: Path, plan: str) -> list[Outcome]:
    """Run a task and save its outcomes as a file that names the plan by its SHA-256."""
    outcomes = run_task(task, rows)
    publish(file, encode(outcomes, plan), replace=True)
    return outcomes


def encode(outcomes: Iterable[Outcome], plan: str) -> bytes:
    """Return the content of a file of outcomes."""
    data: dict[str, Any] = {
        "plan": plan,
        "outcomes": [
            {
                "correct": base64.b64encode(np.packbits(outcome.correct).tobytes()).decode("ascii"),
                "rows": len(outcome.correct),
                "loss": outcome.loss,
                "seconds": outcome.seconds,
                "warnings": to_dicts(outcome.warnings),
                "error": outcome.error,
                "n_train": outcome.n_train,
            }
            for outcome in outcomes
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
                _bits(stored["correct"], stored["rows"]),
                float(stored["loss"]),
                float(stored["seconds"]),
                tuple(map(Notice.from_dict, stored["warnings"])),
                str(stored["error"]),
                int(stored["n_train"]),
            )
            for stored in data["outcomes"]
        ]
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return None


def _bits(text: str, count: int) -> NDArray[np.bool_]:
    packed = np.frombuffer(base64.b64decode(text), np.uint8)
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes for {count} rows")
    return np.unpackbits(packed, count=count).astype(np.bool_)

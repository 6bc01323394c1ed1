"""Selection of the rows that galleries show.

Ties are broken by path, and random selections depend on the seed and the paths only. So the selection does not
depend on the order of the rows.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.errors import ParameterError
from heads.evaluation.predictions import PredictionsTable

DEFAULT_COUNT = 12
DEFAULT_LIMIT = 120
_FEWEST_OF_A_CLASS = 4  # with many classes, rather fewer classes than fewer rows of each
_DRAWN = 3  # choices that are not about a class: correct, incorrect, most uncertain

_Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The rows of one gallery, in the order in which they are shown.

    Parameters
    ----------
    name
        ``correct``, ``incorrect``, ``most_correct``, ``most_incorrect`` or ``most_uncertain``.
    title, text
        What the rows have in common, and how they were chosen from how many.
    rows
        Their numbers in the table.
    class_index
        The class that the choice is about; None if it is about all.
    """

    name: str
    title: str
    text: str
    rows: tuple[int, ...]
    class_index: int | None = None


def choose(
    table: PredictionsTable, *, count: int = DEFAULT_COUNT, limit: int = DEFAULT_LIMIT, seed: int = 0
) -> tuple[Choice, ...]:
    """Return all choices: correct, incorrect, most correct and most incorrect of each class, most uncertain.

    With many classes there are fewer rows of each class, and then only some classes: those with the most errors, then
    those with the most rows, then the first ones. The same classes are shown right and wrong. A class without rows has
    no choices.

    Parameters
    ----------
    table
        The predictions; rows without a label are chosen as uncertain ones only.
    count
        The most rows of one choice.
    limit
        The most rows of all choices together.
    seed
        What random choices follow from.

    Raises
    ------
    ParameterError
        If ``count`` is below 1 or ``limit`` below 0.
    """
    if count < 1 or limit < 0:
        raise ParameterError(f"count is {count} and limit {limit}, expected at least 1 and at least 0")
    classes = _by_errors(table)
    drawn = min(count, limit // (2 * _DRAWN))
    each, shown = _shares(limit - _DRAWN * drawn, count, len(classes))
    note = "" if shown >= len(classes) else f" Shown are {shown} of {len(classes)} classes, those with the most errors."
    chosen = sorted(classes[:shown])
    return (
        correct(table, count=drawn, seed=seed),
        incorrect(table, count=drawn, seed=seed),
        *(_with_note(most_incorrect(table, index, count=each), note) for index in chosen),
        *(_with_note(most_correct(table, index, count=each), note) for index in chosen),
        most_uncertain(table, count=drawn),
    )


def correct(table: PredictionsTable, *, count: int = DEFAULT_COUNT, seed: int = 0) -> Choice:
    """Return correct rows, drawn at random: those with the lowest SHA-256 of ``SEED:PATH``."""
    return _at_random(table, "correct", table.predicted == table.true, count, seed)


def incorrect(table: PredictionsTable, *, count: int = DEFAULT_COUNT, seed: int = 0) -> Choice:
    """Return incorrect rows, drawn at random: those with the lowest SHA-256 of ``SEED:PATH``."""
    wrong = (table.predicted != table.true) & (table.true >= 0)
    return _at_random(table, "incorrect", wrong, count, seed)


def most_correct(table: PredictionsTable, class_index: int, *, count: int = DEFAULT_COUNT) -> Choice:
    """Return the correct rows of a class that got the highest probability of it."""
    among = np.flatnonzero((table.true == class_index) & (table.predicted == class_index))
    rows = _lowest(table, among, -table.probabilities[:, class_index], count)
    name = table.classes[class_index]
    text = f"{len(rows)} of {len(among):,} correct rows of this class: those it was given with the highest probability."
    return Choice("most_correct", f"Most correct: {name}", text, rows, class_index)


def most_incorrect(table: PredictionsTable, class_index: int, *, count: int = DEFAULT_COUNT) -> Choice:
    """Return the incorrect rows of a class whose wrongly predicted class got the highest probability."""
    among = np.flatnonzero((table.true == class_index) & (table.predicted != class_index))
    rows = _lowest(table, among, -table.probabilities.max(axis=1), count)
    name = table.classes[class_index]
    text = (
        f"{len(rows)} of {len(among):,} incorrect rows of this class: those that another class was given with the "
        "highest probability."
    )
    return Choice("most_incorrect", f"Most incorrect: {name}", text, rows, class_index)


def most_uncertain(table: PredictionsTable, *, count: int = DEFAULT_COUNT) -> Choice:
    """Return the rows with the smallest margin between their two highest probabilities; none if there is one class.

    Rows without a label are among them: they are what to label next.
    """
    among = np.arange(len(table) if len(table.classes) > 1 else 0)
    rows = _lowest(table, among, table.margin, count)
    text = f"{len(rows)} of {len(table):,} rows: those with the smallest margin between the two most probable classes."
    return Choice("most_uncertain", "Most uncertain", text, rows)


def _at_random(table: PredictionsTable, name: str, wanted: NDArray[np.bool_], count: int, seed: int) -> Choice:
    def draw(row: int) -> _Row:
        return (hashlib.sha256(f"{seed}:{table.paths[row]}".encode("utf-8", "surrogatepass")).digest(),)

    among = np.flatnonzero(wanted)
    rows = _first(table, among, draw, count)
    text = f"{len(rows)} of {len(among):,} {name} rows, drawn at random (seed {seed})."
    return Choice(name, name.capitalize(), text, rows)


def _lowest(
    table: PredictionsTable, among: NDArray[np.intp], scores: NDArray[np.float64], count: int
) -> tuple[int, ...]:
    return _first(table, among, lambda row: (scores[row],), count)


def _first(table: PredictionsTable, among: Iterable[int], key: Callable[[int], _Row], count: int) -> tuple[int, ...]:
    """Return the first rows by a key, then by path, then by split."""
    first = heapq.nsmallest(count, among, key=lambda row: (*key(row), table.paths[row], table.splits[row]))
    return tuple(int(row) for row in first)


def _by_errors(table: PredictionsTable) -> list[int]:
    """Return the classes that have rows: those with the most errors first, then those with the most rows."""
    k, labelled = len(table.classes), table.true >= 0
    rows = np.bincount(table.true[labelled], minlength=k)
    errors = np.bincount(table.true[labelled & (table.predicted != table.true)], minlength=k)
    order = np.lexsort((np.arange(k), -rows, -errors))
    return [int(index) for index in order if rows[index]]


def _shares(limit: int, count: int, classes: int) -> tuple[int, int]:
    """Return how many rows of a class are shown, right and wrong ones each, and of how many classes."""
    if not classes:
        return 0, 0
    each = max(min(count, limit // (2 * classes)), min(count, _FEWEST_OF_A_CLASS, limit // 2))
    return each, min(classes, limit // (2 * each)) if each else 0


def _with_note(choice: Choice, note: str) -> Choice:
    return Choice(choice.name, choice.title, choice.text + note, choice.rows, choice.class_index)

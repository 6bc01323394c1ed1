"""Rows whose label is likely wrong: out-of-fold heads find another class more probable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from heads.evaluation.predictions import PredictionsTable


@dataclass(frozen=True, slots=True)
class LabelError:
    """A row whose label is likely wrong.

    Parameters
    ----------
    path, split
        The image.
    given, suggested
        The name of the class that it is labelled as, and of the one that is most probable.
    score
        How much more probable that one is, above 0 and at most 1.
    row
        Its number in the table of predictions.
    """

    path: str
    split: str
    given: str
    suggested: str
    score: float
    row: int


def label_errors(table: PredictionsTable) -> tuple[LabelError, ...]:
    """Return the rows for which another class is more probable than the given one, the largest difference first.

    The score is the probability of the most probable class less that of the given one; equal ones are ordered by path.
    This is the ranking by normalised margin of confident learning (C. G. Northcutt, L. Jiang, I. L. Chuang, "Confident
    learning: estimating uncertainty in dataset labels", Journal of Artificial Intelligence Research 70 (2021),
    1373-1411), without its thresholds for each class, which say how many errors there are.

    Parameters
    ----------
    table
        Out-of-fold probabilities of labelled rows. A row with one that is not a number is passed over.
    """
    if not len(table):
        return ()
    suggested = table.predicted
    numbers = np.arange(len(table))
    scores = table.probabilities[numbers, suggested] - table.probabilities[numbers, table.true]
    found = np.flatnonzero(scores > 0)
    return tuple(
        LabelError(
            path=table.paths[row],
            split=table.splits[row],
            given=table.classes[table.true[row]],
            suggested=table.classes[suggested[row]],
            score=float(scores[row]),
            row=row,
        )
        for row in sorted(found.tolist(), key=lambda row: (-scores[row], table.paths[row]))
    )

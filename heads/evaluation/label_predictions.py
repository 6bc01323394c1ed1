"""The predictions table of a head of several labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featurecache.images.flags import SEPARATOR
from featurecache.text import counted
from heads.evaluation.table_files import csv_text, group_column, group_of, is_table, json_lines

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heads.rows import Floats

_TEXTS = ("path", "split", "true_labels", "predicted_labels")


@dataclass(frozen=True, slots=True, eq=False)
class LabelPredictionsTable:
    """What a head says about each of n rows, and k labels that do not exclude each other.

    Parameters
    ----------
    paths, splits
        Relative path and split of each image, shape (n,), `str` objects.
    true
        1 for a label that an image has, 0 for one that it has not, -1 throughout for images without a label; shape
        (n, k), int8.
    probabilities
        Shape (n, k), float64.
    thresholds
        The probability from which on an image gets each label, shape (k,), float64.
    labels
        The names of the k labels, in the order of the columns.
    groups
        The group of each row, shape (n,); None if every row is its own.
    """

    paths: NDArray[np.object_]
    splits: NDArray[np.object_]
    true: NDArray[np.int8]
    probabilities: Floats
    thresholds: Floats
    labels: tuple[str, ...]
    groups: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.true)

    def __repr__(self) -> str:
        return f"<LabelPredictionsTable: {counted(len(self), 'row')}, {counted(len(self.labels), 'label')}>"

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Which labels each image gets, shape (n, k)."""
        return np.asarray(self.probabilities >= self.thresholds)

    def names(self, row: int, *, true: bool = False) -> tuple[str, ...]:
        """Return the labels that an image gets, or truly has."""
        has = self.true[row] == 1 if true else self.predicted[row]
        return tuple(name for name, each in zip(self.labels, has, strict=True) if each)

    def to_csv(self) -> str:
        """Return the table as CSV text (RFC 4180): a header, then one line per row.

        The columns are ``path, split, true_labels, predicted_labels``, ``probability_LABEL`` for each label, and
        ``group``, if the rows have groups. Labels
        have ``|`` between them; ``|`` alone is an image without any of them, and the true labels of an image without a
        label are empty.
        """
        header = (*_TEXTS, *(f"probability_{name}" for name in self.labels), *group_column(self.groups))
        places = zip(self.paths, self.splits, self.probabilities, strict=True)
        return csv_text(
            header,
            (
                (
                    (path, split, self._text(row, true=True), self._text(row, true=False)),
                    (*probabilities.tolist(), *group_of(self.groups, row)),
                )
                for row, (path, split, probabilities) in enumerate(places)
            ),
        )

    def to_jsonl(self) -> str:
        """Return the table as JSON lines, one object per row: lists of labels, and the probability of each label."""
        return json_lines(
            {
                "path": self.paths[row],
                "split": self.splits[row],
                "true_labels": list(self.names(row, true=True)) if (self.true[row] >= 0).all() else None,
                "predicted_labels": list(self.names(row)),
                "probabilities": dict(zip(self.labels, probabilities.tolist(), strict=True)),
            }
            | dict(zip(group_column(self.groups), group_of(self.groups, row), strict=True))
            for row, probabilities in enumerate(self.probabilities)
        )

    @staticmethod
    def is_beginning(data: bytes) -> bool:
        """Return whether these bytes are the beginning of a file that `to_csv` or `to_jsonl` gives."""
        return is_table(data, _TEXTS)

    def _text(self, row: int, *, true: bool) -> str:
        if true and (self.true[row] < 0).any():
            return ""
        return SEPARATOR.join(self.names(row, true=true)) or SEPARATOR

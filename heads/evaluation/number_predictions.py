"""The predictions table of a head of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.text import counted
from heads.evaluation.table_files import csv_text, group_column, is_table, json_lines

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heads.rows import Floats

_COLUMNS = ("path", "split", "true_number", "predicted_number")


@dataclass(frozen=True, slots=True, eq=False)
class NumberPredictionsTable:
    """The number that a head predicts for each of n rows.

    Parameters
    ----------
    paths, splits
        Relative path and split of each image, shape (n,), `str` objects.
    true
        Shape (n,), float64; NaN for images without a label.
    predicted
        Shape (n,), float64.
    groups
        The group of each row, shape (n,); None if every row is its own.
    """

    paths: NDArray[np.object_]
    splits: NDArray[np.object_]
    true: Floats
    predicted: Floats
    groups: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.true)

    def __repr__(self) -> str:
        return f"<NumberPredictionsTable: {counted(len(self), 'row')}>"

    @property
    def errors(self) -> Floats:
        """The predicted number minus the true one, shape (n,); NaN for images without a label."""
        return self.predicted - self.true

    def to_csv(self) -> str:
        """Return the table as CSV text: ``path, split, true_number, predicted_number``; numbers read back exactly.

        A column ``group`` follows, if the rows have groups.
        """
        return csv_text(self._columns, (((path, split), others) for path, split, *others in self._rows()))

    def to_jsonl(self) -> str:
        """Return the table as JSON lines, one object per row, with the keys of `to_csv`; null is no number."""
        return json_lines(dict(zip(self._columns, row, strict=True)) for row in self._rows())

    @staticmethod
    def is_beginning(data: bytes) -> bool:
        """Return whether these bytes are the beginning of a file that `to_csv` or `to_jsonl` gives."""
        return is_table(data, _COLUMNS)

    @property
    def _columns(self) -> tuple[str, ...]:
        return (*_COLUMNS, *group_column(self.groups))

    def _rows(self) -> list[tuple[Any, ...]]:
        true = [None if np.isnan(each) else each for each in self.true.tolist()]
        groups = () if self.groups is None else (self.groups.tolist(),)
        columns = (self.paths.tolist(), self.splits.tolist(), true, self.predicted.tolist(), *groups)
        return list(zip(*columns, strict=True))

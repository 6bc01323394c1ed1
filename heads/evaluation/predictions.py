"""The predictions table: what a head says about each row, from which everything that is reported comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featurecache.images.splits import SPLITS
from featurecache.text import counted
from heads.evaluation.imagenet import TOP, ImageNetTop3
from heads.evaluation.table_files import csv_text, group_column, group_of, is_table, json_lines

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ORDER = {split: place for place, split in enumerate(SPLITS)}
_TEXTS: dict[str, Callable[[PredictionsTable], Sequence[str | None]]] = {
    "path": lambda table: table.paths.tolist(),
    "split": lambda table: table.splits.tolist(),
    "true_class": lambda table: table._names(table.true),
    "predicted_class": lambda table: table._names(table.predicted),
}
"""The text columns of a file, before the probabilities: name to values, None where there is none."""

_NUMBERS: dict[str, Callable[[PredictionsTable], list[float]]] = {
    "margin": lambda table: table.margin.tolist(),
    "entropy": lambda table: table.entropy.tolist(),
}
"""The number columns of a file, after the probabilities."""

_SHOWN = 10  # rows that a notebook shows


@dataclass(frozen=True, slots=True, eq=False)
class PredictionsTable:
    """What a head says about each of n rows, among k classes.

    Parameters
    ----------
    paths, splits
        Relative path and split of each image, shape (n,), `str` objects.
    true
        Class indices, shape (n,), int64; -1 for images without a label.
    probabilities
        Shape (n, k), float64; rows sum to 1.
    classes
        The names of the k classes, in the order of the columns.
    imagenet_top3
        What the pretrained network itself saw in the images, n rows; None if that is not known.
    groups
        The group of each row, shape (n,), `str` objects; None if every row is its own.

    Examples
    --------
    >>> table = evaluation.table
    >>> table
    <PredictionsTable: 16 rows, 2 classes>
    >>> table.classes
    ('dark', 'light')
    >>> print(table.to_csv().splitlines()[0][:43])
    path,split,true_class,predicted_class,proba
    """

    paths: NDArray[np.object_]
    splits: NDArray[np.object_]
    true: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    classes: tuple[str, ...]
    imagenet_top3: ImageNetTop3 | None = None
    groups: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.true)

    def __repr__(self) -> str:
        return f"<PredictionsTable: {counted(len(self), 'row')}, {len(self.classes):,} classes>"

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The index of the most probable class, shape (n,); of the first of them if several are."""
        return np.asarray(np.argmax(self.probabilities, axis=1), dtype=np.int64)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the true one, shape (n,); False for images without a label."""
        return np.asarray(self.predicted == self.true)

    @property
    def margin(self) -> NDArray[np.float64]:
        """By how much the highest probability is above the second, shape (n,); 1 if there is one class."""
        if len(self.classes) == 1:
            return np.ones(len(self))
        highest = np.partition(self.probabilities, -2, axis=1)
        return np.asarray(highest[:, -1] - highest[:, -2])

    @property
    def entropy(self) -> NDArray[np.float64]:
        """How undecided the probabilities are, in nats, shape (n,): 0 if one is 1, log k if all are equal."""
        positive = np.where(self.probabilities > 0, self.probabilities, 1.0)
        return np.asarray(np.maximum(-(positive * np.log(positive)).sum(axis=1), 0.0))  # 0, where rounding makes less

    def take(self, rows: slice | NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Self:
        """Return some rows, in the order given."""
        return type(self)(
            self.paths[rows],
            self.splits[rows],
            self.true[rows],
            self.probabilities[rows],
            self.classes,
            None if self.imagenet_top3 is None else self.imagenet_top3.take(rows),
            None if self.groups is None else self.groups[rows],
        )

    def sorted(self) -> Self:
        """Return the rows in the order of a cache: by split (train, valid, test, none), and then by path.

        Rows of the same split and path, if there are any, are ordered by what else is known of them: whatever the
        order of the rows was, the result is the same.
        """
        keys: list[tuple[Any, ...]] = [
            (_ORDER.get(split, len(_ORDER)), split, path) for split, path in zip(self.splits, self.paths, strict=True)
        ]
        if len(set(keys)) < len(keys):
            keys = [(*key, self.true[row], *self.probabilities[row]) for row, key in enumerate(keys)]
        return self.take(np.array(sorted(range(len(self)), key=keys.__getitem__), dtype=np.intp))

    def to_csv(self) -> str:
        r"""Return the table as CSV text (RFC 4180): a header, then one line per row.

        The columns are ``path, split, true_class, predicted_class``, ``probability_CLASS`` for each class, ``margin``
        and ``entropy``, and if it is known what the network saw, ``imagenet_1, imagenet_1_probability`` to
        ``imagenet_3_probability``, and last ``group``, if the rows have groups. The true class of an image without a
        label is empty. Numbers read back as exactly what they are. A lone surrogate in a name, which no file can hold,
        is written as ``\udcXX``.
        """
        top3 = self.imagenet_top3
        header = [*_TEXTS, *(f"probability_{name}" for name in self.classes), *_NUMBERS]
        if top3 is not None:
            header += [f"imagenet_{place}{what}" for place in range(1, TOP + 1) for what in ("", "_probability")]
        header += group_column(self.groups)

        def seen(row: int) -> Iterator[float | str]:
            return chain(*(() if top3 is None else top3.texts(row)))

        rows = enumerate(self._rows())
        return csv_text(
            header,
            (
                (texts, (*probabilities, *numbers, *seen(row), *group_of(self.groups, row)))
                for row, (texts, probabilities, numbers) in rows
            ),
        )

    def to_jsonl(self) -> str:
        """Return the table as JSON lines: one object per row, in ASCII; numbers and names read back exactly.

        The keys are ``path, split, true_class`` (null without a label), ``predicted_class, probabilities`` (of each
        class), ``margin, entropy``, and if it is known what the network saw, ``imagenet``: a list of ``class`` and
        ``probability``, the likeliest first; and ``group``, if the rows have groups.
        """
        return json_lines(self._objects())

    @staticmethod
    def is_beginning(data: bytes) -> bool:
        """Return whether these bytes are the beginning of a file that `to_csv` or `to_jsonl` gives."""
        return is_table(data, _TEXTS)

    def _objects(self) -> Iterator[dict[str, Any]]:
        """Yield each row as `to_jsonl` writes it."""
        for row, (texts, probabilities, numbers) in enumerate(self._rows()):
            line: dict[str, Any] = dict(zip(_TEXTS, texts, strict=True))
            line["probabilities"] = dict(zip(self.classes, probabilities, strict=True))
            line |= zip(_NUMBERS, numbers, strict=True)
            if self.imagenet_top3 is not None:
                line["imagenet"] = [{"class": name, "probability": p} for name, p in self.imagenet_top3.texts(row)]
            yield line | dict(zip(group_column(self.groups), group_of(self.groups, row), strict=True))

    def _rows(self) -> Iterator[tuple[Sequence[str | None], list[float], Sequence[float]]]:
        """Yield the texts, the probabilities and the numbers of each row.

        Probabilities become Python's floats one row at a time: with a thousand classes they take four times the memory.
        """
        texts = zip(*(values(self) for values in _TEXTS.values()), strict=True)
        numbers = zip(*(values(self) for values in _NUMBERS.values()), strict=True)
        return zip(texts, (row.tolist() for row in self.probabilities), numbers, strict=True)

    def _names(self, indices: NDArray[np.int64]) -> list[str | None]:
        names = (*self.classes, None)  # index -1 is no label
        return [names[index] for index in indices]

    def _repr_html_(self) -> str:
        from heads.report.html import fragment
        from heads.report.model import Table

        more = len(self) - _SHOWN
        caption = counted(len(self), "row") + (f", of which the first {_SHOWN} are shown" if more > 0 else "")
        return fragment([Table(*self._shown(), caption=caption, left={0, 1, 2, 3, 7})])

    def _shown(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Return header and first rows as texts."""
        header: tuple[str, ...] = ("path", "split", "true class", "predicted class", "probability", "margin", "entropy")
        first = self.take(slice(0, _SHOWN))
        names = (*self.classes, "")
        columns: list[Sequence[str]] = [
            first.paths.tolist(),
            first.splits.tolist(),
            [names[each] for each in first.true],
            [names[each] for each in first.predicted],
            *([f"{each:.4f}" for each in numbers] for numbers in (first._highest(), first.margin, first.entropy)),
        ]
        if first.imagenet_top3 is not None:
            header = (*header, "the network saw")
            likeliest = (first.imagenet_top3.texts(row)[0] for row in range(len(first)))
            columns.append([f"{name} {probability:.2f}" for name, probability in likeliest])
        return header, tuple(zip(*columns, strict=True))

    def _highest(self) -> NDArray[np.float64]:
        return np.asarray(self.probabilities.max(axis=1))

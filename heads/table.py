"""The predictions table: what a head says about each row, from which everything that is reported comes."""

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    """

    paths: NDArray[np.object_]
    splits: NDArray[np.object_]
    true: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.true)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The index of the most probable class, shape (n,); of the first of them if several are."""
        return np.asarray(np.argmax(self.probabilities, axis=1), dtype=np.int64)

    def to_csv(self) -> str:
        """Return the table as CSV text (RFC 4180): a header, then one line per row.

        The columns are ``path, split, true_class, predicted_class`` and ``probability_CLASS`` for each class. The
        true class of an image without a label is empty. Numbers read back as exactly what they are.
        """
        names = (*self.classes, "")  # index -1 is no label
        stream = io.StringIO(newline="")
        writer = csv.writer(stream)
        writer.writerow(["path", "split", "true_class", "predicted_class", *(f"probability_{c}" for c in self.classes)])
        columns = (self.paths, self.splits, self.true, self.predicted, self.probabilities.tolist())
        for path, split, true, predicted, probabilities in zip(*columns, strict=True):
            writer.writerow([path, split, names[true], names[predicted], *probabilities])
        return stream.getvalue()

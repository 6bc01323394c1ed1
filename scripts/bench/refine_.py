"""What a sweep finds by trying few values of long grids, compared with the same heads on all values of them."""

import math
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from featurecache import FeatureCache
from heads import head_spec, sweep
from heads.search import refinement
from heads.search.refinement import long_parameters
from scripts.bench.wide import features_of, write_split

HEADS = ("logreg", "ridge", "softmax", "sgd", "naive_bayes", "svm")
_VALID = 0.3


def run(features: str | None = None) -> dict[str, Any]:
    """Return, for each data set and head: accuracies with few and with all values, tries, seconds.

    Of given features, an ``.npz`` file of ``X`` and ``y``, for these alone.
    """
    given = data_sets() if features is None else {Path(features).stem: features_of(features)}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (X, y) in given.items():
            cache = Path(folder) / f"{name}.h5"
            write_split(cache, X, y, valid_share=_VALID)
            rows += [{"data": name} | row for row in compared(FeatureCache.open(cache), Path(folder))]
    return {"heads": rows}


def data_sets() -> dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Return features and labels: scikit-learn's, and overlapping clusters of several widths and numbers of classes."""
    from sklearn.datasets import load_breast_cancer, load_digits, load_wine

    loaded = {"digits": load_digits, "breast_cancer": load_breast_cancer, "wine": load_wine}
    given = {name: load(return_X_y=True) for name, load in loaded.items()}
    drawn = {"clusters_1000x64_12": clusters(1000, 64, 12), "clusters_800x300_3": clusters(800, 300, 3)}
    return {name: (X.astype(np.float32), y.astype(np.int64)) for name, (X, y) in (given | drawn).items()}


def compared(cache: FeatureCache, folder: Path) -> list[dict[str, Any]]:
    """Sweep with few values, and with all of them on all rows; return both for each head, and for the best of all."""
    given = {
        name: {each: head_spec(name).grid[each] for each in long_parameters(head_spec(name), {})} for name in HEADS
    }
    found = [sweep(cache, folder / f"{cache.path.stem}-few", heads=HEADS, jobs=1)]
    with patch.object(refinement, "_COSTLY", math.inf):  # no head is tried on a sample
        found.append(sweep(cache, folder / f"{cache.path.stem}-all", heads=HEADS, grids=given, jobs=1))
    rows = []
    for name in (*HEADS, "best"):
        boards = [[each for each in one.leaderboard if name in {each.candidate.head, "best"}] for one in found]
        row: dict[str, Any] = {"head": name, "rows": boards[0][0].n_valid}
        for kind, board, one in zip(("few", "all"), boards, found, strict=True):
            accuracy = board[0].accuracy
            seconds = sum(one.seconds["heads"].values()) if name == "best" else one.seconds["heads"][name]
            row |= {
                f"{kind}_accuracy": accuracy and round(accuracy.value, 4),
                f"{kind}_tries": len(board),
                f"{kind}_s": round(seconds, 1),
            }
        rows.append(row)
    return rows


def clusters(n: int, d: int, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return rows (n, d) around k centres in a space of 16 dimensions, seen through noise and a ReLU, and classes."""
    generator = np.random.default_rng(d)
    mixing = generator.standard_normal((16, d)) / 4
    y = generator.integers(0, k, n)
    rows = generator.standard_normal((k, 16))[y] + 0.8 * generator.standard_normal((n, 16))
    return np.maximum(rows @ mixing + 0.3 * generator.standard_normal((n, d)), 0), y

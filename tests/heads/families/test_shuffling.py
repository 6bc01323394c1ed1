"""The order in which rows are read: a permutation, or strips of consecutive rows of large features."""

import numpy as np
import pytest

from featurecache.rows import ArraySource, Rows
from heads import rows
from heads.families import shuffling
from heads.families.shuffling import shuffled

N, D = 1037, 8


@pytest.fixture(name="X")
def features():
    return np.arange(N * D, dtype=np.float32).reshape(N, D)


@pytest.fixture
def small_strips(monkeypatch):
    """Let these features be large, with strips of 16 rows, 10 of them in a window."""
    monkeypatch.setattr(rows, "LARGE_BYTES", N * D * 4 - 1)
    monkeypatch.setattr(shuffling, "STRIP_BYTES", 16 * D * 4)
    monkeypatch.setattr(shuffling, "STRIPS_OF_A_WINDOW", 10)


def generator(seed=0):
    return np.random.default_rng(seed)


def test_features_of_the_usual_size_are_permuted_and_not_copied(X):
    [window] = shuffled(X, generator())
    order = generator().permutation(N)
    assert window.X is X
    np.testing.assert_array_equal(window.rows, order)
    np.testing.assert_array_equal(window.places, order)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 5000])
@pytest.mark.parametrize("lazily", [False, True])
def test_large_features_are_read_once_in_strips(X, small_strips, batch_size, lazily):
    source = Rows(ArraySource(X), X.dtype, np.arange(N)) if lazily else X
    windows = list(shuffled(source, generator(), batch_size))
    np.testing.assert_array_equal(np.sort(np.concatenate([window.rows for window in windows])), np.arange(N))
    for window in windows:
        np.testing.assert_array_equal(window.X[window.places], X[window.rows])
        assert len(np.unique(window.rows // 16)) <= len(window.rows) / 16 + 2
    most = min(N, max(batch_size, 160 // batch_size * batch_size))
    assert [len(window.rows) for window in windows[:-1]] == [most] * (len(windows) - 1)


def test_rows_near_each_other_are_apart_in_the_order(X, small_strips):
    order = np.concatenate([window.rows for window in shuffled(X, generator())])
    assert np.mean(np.abs(np.diff(order)) > 16) > 0.8
    other, again = (np.concatenate([window.rows for window in shuffled(X, generator(seed))]) for seed in (1, 0))
    np.testing.assert_array_equal(again, order)
    assert not np.array_equal(other, order)
    shares = [np.mean(window.rows < N / 2) for window in shuffled(X, generator())]
    assert all(0.2 < share < 0.8 for share in shares[:-1])  # rows sorted by class: a window has both halves

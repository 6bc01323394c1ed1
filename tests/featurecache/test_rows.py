"""Rows in parts or of an array: whatever indexes an array gives what the array gives."""

import copy
import ctypes
import mmap
import multiprocessing
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import featurecache.rows
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.format.feature_file import FeatureFile
from featurecache.format.mapped_file import mapping_of
from featurecache.rows import ArraySource, Rows, as_float32, read_ahead, selected
from tests.featurecache.conftest import write_image

COUNT = 23
TAPS = {"features": 16, "wide": 20_000, "predictions": 4}


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Return two caches of the same images: one file, and parts of five rows."""
    folder = tmp_path_factory.mktemp("rows")
    for number in range(COUNT):
        write_image(folder / "images" / "ab"[number % 2] / f"{number:02}.png", number)
    plain = extract(folder / "images", folder / "plain.h5", backbone=FakeBackbone(TAPS))
    return plain, extract(folder / "images", folder / "parts.h5", backbone=FakeBackbone(TAPS), part_rows=5)


@pytest.fixture(scope="module", params=["features", "wide", "of an array"])
def both(request, caches):
    if request.param == "of an array":
        plain = caches[0].features("features").X
        return plain, Rows(ArraySource(plain[::-1]), np.float32, np.arange(COUNT)[::-1])
    return tuple(cache.features(request.param).X for cache in caches)


NUMBERS = st.integers(-COUNT, COUNT - 1)
BOUND = st.none() | st.integers(-COUNT - 2, COUNT + 2)
ROWS = st.one_of(
    NUMBERS,
    st.lists(NUMBERS, max_size=40).map(lambda numbers: np.array(numbers, dtype=np.intp)),
    st.lists(st.booleans(), min_size=COUNT, max_size=COUNT).map(np.array),
    st.builds(slice, BOUND, BOUND, st.none() | st.integers(1, 4) | st.integers(-4, -1)),
)
COLUMNS = st.none() | st.integers(0, 15) | st.just(slice(3, 9)) | st.just([4, 1, 1])


@given(rows=ROWS, columns=COLUMNS)
def test_every_index_gives_what_the_array_gives(both, rows, columns):
    plain, parted = both
    key = rows if columns is None else (rows, columns)
    if isinstance(rows, np.ndarray) and isinstance(columns, list):
        with pytest.raises(IndexError, match="one a slice or a number"):
            parted[key]
        return
    expected, found = plain[key], parted[key]
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert not found.ndim or found.flags.writeable


@given(first=ROWS.filter(lambda rows: not isinstance(rows, int)), data=st.data())
def test_a_choice_of_rows_is_read_later(both, first, data):
    plain, parted = both[0][first], both[1].select(first)
    assert isinstance(parted, Rows)
    assert (parted.shape, len(parted), parted.size, parted.nbytes) == (
        plain.shape,
        len(plain),
        plain.size,
        plain.nbytes,
    )
    second = data.draw(st.builds(slice, BOUND, BOUND, st.none() | st.integers(1, 3)))
    np.testing.assert_array_equal(parted[second], plain[second])


def test_rows_are_taken_into_an_array(both):
    plain, parted = both
    numbers = np.array([22, 0, 7, 7, 3])
    np.testing.assert_array_equal(np.take(parted, numbers, axis=0), plain[numbers])
    out = np.empty((5, plain.shape[1]), np.float32)
    np.take(parted, numbers, axis=0, out=out, mode="clip")
    np.testing.assert_array_equal(out, plain[numbers])
    with pytest.raises(IndexError, match="along axis 0"):
        np.take(parted, numbers, axis=1)


@pytest.mark.parametrize("key", [COUNT, -COUNT - 1, np.array([0, 99]), np.ones(5, bool), (1, 2, 3), "a", 1.5, None])
def test_what_is_no_index_of_an_array_is_none_of_rows(both, key):
    with pytest.raises(IndexError):
        both[0][key[:0] if isinstance(key, str) else key] if key is not None else both[0]["a"]
    with pytest.raises(IndexError):
        both[1][key]


def test_numpy_and_scikit_learn_take_them(caches):
    plain, parted = (cache.features("features") for cache in caches)
    assert np.asarray(parted.X, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.array(parted.X), plain.X)
    np.testing.assert_array_equal(np.concatenate([parted.X, plain.X]), np.concatenate([plain.X, plain.X]))
    ours, theirs = (LogisticRegression().fit(rows.X, rows.y).coef_ for rows in (parted, plain))
    np.testing.assert_array_equal(ours, theirs)
    assert repr(parted.X) == f"<Rows: {COUNT} x 16 float32>"
    with pytest.raises(ValueError, match="no array without a copy"):
        parted.X.__array__(copy=False)


def test_half_precision_is_converted_when_it_is_read(caches, tmp_path):
    folder = caches[0].path.parent / "images"
    plain = extract(folder, tmp_path / "plain.h5", backbone=FakeBackbone(TAPS), dtype="float16")
    parted = extract(folder, tmp_path / "parts.h5", backbone=FakeBackbone(TAPS), dtype="float16", part_rows=6)
    assert (parted.mapped("wide").dtype, parted.features("wide").X.dtype) == (np.float16, np.float32)
    for rows in (slice(None), slice(3, 20), np.array([20, 3, 4, 5])):
        np.testing.assert_array_equal(parted.features("wide").X[rows], plain.features("wide").X[rows])
        np.testing.assert_array_equal(parted.mapped("wide")[rows], plain.mapped("wide")[rows])


def test_a_feature_set_takes_rows_without_reading(caches, monkeypatch):
    plain, parted = (cache.features("wide") for cache in caches)
    monkeypatch.setattr(Rows, "_read", None)
    taken = parted.take(parted.y == 1).take(slice(2, 9))
    monkeypatch.undo()
    np.testing.assert_array_equal(np.asarray(taken.X), plain.take(plain.y == 1).take(slice(2, 9)).X)
    np.testing.assert_array_equal(taken.paths, plain.take(plain.y == 1).take(slice(2, 9)).paths)


def test_a_feature_set_is_a_sequence_of_rows_that_may_be_written(caches):
    for cache in caches:
        rows = cache.features("wide")
        pairs = list(rows)  # ends, as a dataset of PyTorch must
        np.testing.assert_array_equal(np.stack([x for x, _ in pairs]), rows.X)
        assert [int(y) for _, y in pairs] == rows.y.tolist()
        x, _ = rows[-1]
        x[:] = 0
        np.testing.assert_array_equal(rows[len(rows) - 1][0], pairs[-1][0])
        with pytest.raises(IndexError):
            rows[len(rows)]


@pytest.mark.parametrize("gap", [0, 1_000_000_000])
@pytest.mark.parametrize("piece", [1, 100_000])
def test_how_much_is_read_at_a_time_makes_no_difference(gap, piece, both, monkeypatch):
    monkeypatch.setattr(featurecache.rows, "_GAP_BYTES", gap)
    monkeypatch.setattr(featurecache.rows, "_PIECE_BYTES", piece)
    plain, parted = both
    for rows in (slice(None), slice(None, None, 2), np.array([3, 3, 5, 22, 1]), np.arange(COUNT)[::-1]):
        np.testing.assert_array_equal(parted[rows], plain[rows])


def test_files_are_read_in_their_order(caches, monkeypatch):
    reads = []
    real = FeatureFile.read_into

    def reading(file, tap, start, out):
        reads.append((file.path.name, start, len(out) // (4 * TAPS["wide"])))
        real(file, tap, start, out)

    monkeypatch.setattr(FeatureFile, "read_into", reading)
    X = caches[1].features("wide").X
    X[np.array([22, 4, 11, 3, 0, 12])]
    assert reads == [("000001.h5", 0, 1), ("000001.h5", 3, 2), ("000003.h5", 1, 2), ("000005.h5", 2, 1)]
    reads.clear()
    X[:]
    assert [name for name, _, _ in reads] == sorted(name for name, _, _ in reads)
    assert sum(count for _, _, count in reads) == COUNT


def total(features):
    return float(np.asarray(features.X).sum()), features.paths.tolist()


def test_a_pickled_feature_set_names_the_files(caches):
    features = caches[1].features("wide")
    assert len(pickle.dumps(features.X)) < 3000 < features.X.nbytes
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(total, (features,)) == total(features)
        assert pool.apply(len, (caches[1],)) == COUNT
    chosen = features.take(features.y == 0)
    for again in (pickle.loads(pickle.dumps(chosen)), copy.copy(chosen), copy.deepcopy(chosen)):  # noqa: S301 - our own
        np.testing.assert_array_equal(np.asarray(again.X), np.asarray(chosen.X))


def test_threads_share_them(both, monkeypatch):
    monkeypatch.setattr(featurecache.rows, "_OPEN_PARTS", 1)
    plain, parted = both
    with ThreadPoolExecutor(4) as threads:
        for number, row in enumerate(threads.map(lambda number: parted[number % COUNT], range(400))):
            np.testing.assert_array_equal(row, plain[number % COUNT])


# Rows of an array

X = np.arange(60, dtype=np.float32).reshape(20, 3)


def test_a_selection_of_an_array_is_copied_only_if_it_is_small(monkeypatch):
    rows = np.array([7, 1, 5])
    assert isinstance(selected(X, rows), np.ndarray)
    monkeypatch.setattr(featurecache.rows, "_COPIED_BYTES", 35)
    for chosen in (rows, X[:, 0] > 9):
        lazily = selected(X, chosen)
        assert isinstance(lazily, Rows)
        np.testing.assert_array_equal(lazily[:], X[chosen], strict=True)
        assert isinstance(selected(lazily, slice(1, 2)), Rows)
    assert isinstance(selected(X, rows[:2]), np.ndarray)
    assert np.shares_memory(selected(X, slice(3, 20)), X)


def test_much_half_precision_is_converted_when_it_is_read(monkeypatch):
    half = X.astype(np.float16)
    assert isinstance(as_float32(half), np.ndarray)
    monkeypatch.setattr(featurecache.rows, "_COPIED_BYTES", X.nbytes - 1)
    lazily = as_float32(half)
    assert isinstance(lazily, Rows)
    np.testing.assert_array_equal(lazily[4:9], X[4:9], strict=True)
    assert as_float32(X) is X


def test_a_large_selection_of_a_cache_is_not_copied_and_pickled_as_a_place(caches, monkeypatch):
    monkeypatch.setattr(featurecache.rows, "_COPIED_BYTES", 1)
    features = caches[0].features("wide")
    chosen = features.take(np.array([0, 2, 5]))
    data = pickle.dumps(chosen)
    assert len(data) < 8000
    again = pickle.loads(data)  # noqa: S301 - our own
    assert isinstance(mapping_of(again.X._source.array), mmap.mmap)
    np.testing.assert_array_equal(again.X[:], features.X[[0, 2, 5]])


def resident(mapped):
    """Return how many pages of a mapped array the page cache holds."""
    pages = -(-mapped.nbytes // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    address = ctypes.c_void_p(mapped.ctypes.data - mapped.ctypes.data % mmap.PAGESIZE)
    assert ctypes.CDLL(None, use_errno=True).mincore(address, ctypes.c_size_t(mapped.nbytes), found) == 0
    return sum(page & 1 for page in found)


@pytest.mark.parametrize(
    "rows", [lambda array: array, lambda array: array[::-1], lambda array: Rows(ArraySource(array), "f4", EVEN)]
)
def test_pages_of_a_file_are_read_ahead_before_they_are_used(rows, tmp_path):
    np.save(tmp_path / "X.npy", np.ones((1024, 1024), np.float32))
    with (tmp_path / "X.npy").open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    read_ahead(rows(mapped), slice(0, 2000))
    deadline = time.monotonic() + 60
    while resident(mapped) < 1024 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert resident(mapped) == 1024


EVEN = np.arange(0, 1024, 2)


def test_reading_ahead_leaves_other_rows_alone(both):
    for rows in (X, X[:0], Rows(ArraySource(X), X.dtype, np.arange(0)), both[1]):
        read_ahead(rows, slice(5, 9))

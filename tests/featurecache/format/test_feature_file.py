"""The features of one cache file of three blocks of rows, read in every way."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache import FeatureCache
from featurecache.errors import CacheFormatError
from featurecache.format import feature_file
from featurecache.format.feature_file import FeatureFile, RowPlaces, pieces
from featurecache.format.layout import read_cache
from featurecache.packing import pack
from tests.featurecache.format.test_layout import index_of

ROWS = 2500
WIDTHS = {"features": 5, "predictions": 3}


class Recording:
    """Rows whose values are the number of the source and that of the row; it keeps what was read."""

    def __init__(self, number, calls):
        self.number, self.calls = number, calls

    def read(self, tap, start, count):
        self.calls.append((self.number, start, count))
        return np.array([[self.number, start + row] for row in range(count)], np.float32).reshape(count, 2)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), max_size=12))
def test_consecutive_rows_of_a_source_are_read_together(rows):
    calls, runs = [], []
    for number, row in rows:
        if runs and (number, row) == (runs[-1][0], sum(runs[-1][1:])):
            runs[-1] = (number, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((number, row, 1))
    sources = (Recording(0, calls), Recording(1, calls))
    places = RowPlaces(sources, np.array([n for n, _ in rows], np.int32), np.array([row for _, row in rows], np.int64))
    assert places.read("tap", 2, np.dtype("f4")).tolist() == [[*row] for row in rows]
    assert calls == runs


class Numbers:
    """Rows of consecutive numbers."""

    def read(self, tap, start, count):
        return expected(tap)[start : start + count]


def expected(tap):
    return np.arange(ROWS * WIDTHS[tap], dtype=np.float32).reshape(ROWS, WIDTHS[tap])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the path of a cache; it is only to be read."""
    path = tmp_path_factory.mktemp("whole") / "c.h5"
    done = []
    places = RowPlaces.in_one(Numbers(), 0, ROWS)
    pack(
        path,
        index_of(ROWS, taps=WIDTHS),
        places,
        replace=False,
        scratch=None,
        progress=lambda *numbers: done.append(numbers),
    )
    assert done == [(number, 6) for number in range(1, 7)]
    return path


@pytest.fixture
def path(whole, tmp_path):
    """Return the path of a cache of one's own."""
    return Path(shutil.copy(whole, tmp_path))


def opened(path):
    with path.open("rb") as stream:
        _, blocks = read_cache(stream)
        return FeatureFile(path, blocks, os.dup(stream.fileno()), "put it back")


def damage(path, tap, row):
    """Change one byte of a row."""
    block = opened(path).blocks[tap]
    with path.open("r+b") as stream:
        stream.seek(block.offset + row * block.row_bytes)
        stream.write(b"\xff")


RANGES = [(0, 1), (0, ROWS), (1023, 2), (1024, 1024), (1000, 1100), (2047, 2), (2499, 1), (7, 0), (2048, 452)]


@pytest.mark.parametrize(("start", "count"), RANGES)
@pytest.mark.parametrize("tap", WIDTHS)
def test_any_rows_are_read(whole, tap, start, count):
    file, rows = opened(whole), expected(tap)[start : start + count]
    np.testing.assert_array_equal(file.read(tap, start, count), rows)
    np.testing.assert_array_equal(file.places(start, count).read(tap, WIDTHS[tap], np.dtype("f4")), rows)
    np.testing.assert_array_equal(file.view(tap, slice(start, start + count), np.dtype("f4")), rows)
    half = file.view(tap, slice(start, start + count), np.dtype("f8"))
    np.testing.assert_array_equal(half, rows.astype("f8"))
    assert half.dtype == np.float64


@pytest.mark.parametrize(("start", "count"), RANGES)
@pytest.mark.parametrize("at_a_time", [1, 7, 1 << 20])
def test_bytes_of_rows_fill_a_buffer(whole, monkeypatch, start, count, at_a_time):
    rows = expected("features")[start : start + count][:400]
    monkeypatch.setattr(feature_file, "_READ_BYTES", at_a_time)
    out = bytearray(rows.nbytes)
    opened(whole).read_into("features", start, memoryview(out))
    assert out == rows.tobytes()


def test_a_file_that_ends_within_its_features_is_named(path):
    file = opened(path)
    block = file.blocks["predictions"]
    with path.open("r+b") as stream:
        stream.truncate(block.offset + 100 * block.row_bytes - 1)
    out = bytearray(2 * block.row_bytes)
    file.read_into("predictions", 97, memoryview(out))
    assert out == expected("predictions")[97:99].tobytes()
    with pytest.raises(CacheFormatError, match=r"c\.h5 ends within its features; put it back$"):
        file.read_into("predictions", 98, memoryview(out))
    with pytest.raises(CacheFormatError, match=r"the file ends within its features, at row 99$"):
        block.read(file._descriptor, 98, 2)


@pytest.mark.parametrize(
    ("row", "span"), [(0, (0, 1023)), (1023, (0, 1023)), (1024, (1024, 2047)), (2499, (2048, 2499))]
)
def test_damage_is_named_by_its_block_and_spoils_no_other(path, row, span):
    damage(path, "predictions", row)
    file = opened(path)
    first, last = span
    words = f"features/predictions: rows {first} to {last} are damaged; put it back"
    done = []
    assert file.problems(lambda *numbers: done.append(numbers)) == [words]
    assert done == [(number, 6) for number in range(1, 7)]
    for start, count in ((first, 1), (last, 1), (0, ROWS), (max(first - 1, 0), 2)):
        with pytest.raises(CacheFormatError, match=rf"c\.h5 is damaged: {words}$"):
            file.read("predictions", start, count)
    for start, end in ((0, first), (last + 1, ROWS)):
        if start < end:
            np.testing.assert_array_equal(
                file.read("predictions", start, end - start), expected("predictions")[start:end]
            )
    np.testing.assert_array_equal(file.read("features", 0, ROWS), expected("features"))


def test_a_block_that_was_sound_is_not_compared_again(path):
    file = opened(path)
    file.read("features", 1024, 1)
    for row in (2000, 2100):
        damage(path, "features", row)
    assert file.read("features", 1030, 1)[0, 0] == 5 * 1030
    with pytest.raises(CacheFormatError, match="rows 2048 to 2499 are damaged"):
        file.read("features", 1030, 1020)
    assert len(file.problems()) == 2


def test_a_part_is_described_by_what_determines_its_bytes(whole):
    file = opened(whole)
    part = file.as_part("000001.h5")
    digest = hashlib.sha256(whole.read_bytes()[:16_384])
    for tap in ("features", "predictions"):
        for start in (0, 1024, 2048):
            block = expected(tap)[start : start + 1024].tobytes()
            digest.update(hashlib.sha256(block).hexdigest().encode())
    assert (part.file, part.rows, part.size, part.sha256) == (
        "000001.h5",
        ROWS,
        whole.stat().st_size,
        digest.hexdigest(),
    )
    assert (file.taps, part.blocks) == (["features", "predictions"], file.blocks)
    again = FeatureFile.open_part(whole, part, "put it back")
    np.testing.assert_array_equal(again.read("features", 0, ROWS), expected("features"))


def test_pages_of_rows_are_asked_for(whole, monkeypatch):
    asked = []
    monkeypatch.setattr(feature_file, "read_ahead", lambda _, offset, count: asked.append((offset, count)))
    file = opened(whole)
    file.read_ahead("features", 300, 50)
    assert asked == [(file.blocks["features"].offset + 300 * 20, 50 * 20)]


def test_a_closed_file_reads_no_other_file(whole, tmp_path):
    file, kept = opened(whole), opened(whole)
    view = kept.view("features", slice(1, 3), np.dtype("f4"))
    assert len(file.map) == whole.stat().st_size
    for each in (file, kept, opened(whole)):
        each.close()
        with (tmp_path / "other").open("w+b") as other:  # may get the number of the closed file
            other.write(whole.read_bytes())
            other.flush()
            with pytest.raises(OSError, match="Bad file descriptor"):
                each.read("features", 0, 1)
            with pytest.raises(CacheFormatError, match="cannot be read: bad file descriptor"):
                each.read_into("features", 0, memoryview(bytearray(20)))
    assert file.map.closed
    np.testing.assert_array_equal(view, expected("features")[1:3])


@pytest.mark.parametrize(
    ("bytes_at_a_time", "found"),
    [(1, [(5, 1), (6, 1), (7, 1)]), (40, [(5, 2), (7, 1)]), (59, [(5, 2), (7, 1)]), (60, [(5, 3)]), (99, [(5, 3)])],
)
def test_pieces_of_rows_fit_in_memory(whole, monkeypatch, bytes_at_a_time, found):
    monkeypatch.setattr(feature_file, "_PIECE_BYTES", bytes_at_a_time)
    file = opened(whole)
    assert list(pieces(5, 8, file.blocks["features"])) == found
    assert list(pieces(5, 5, file.blocks["features"])) == []
    assert file.problems() == []


def test_an_open_cache_reads_as_its_file_does(whole):
    cache = FeatureCache.open(whole)
    np.testing.assert_array_equal(cache.features("features", "valid").X, expected("features")[1250:])
    assert cache.problems() == []

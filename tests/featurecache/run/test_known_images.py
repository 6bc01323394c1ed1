"""Places of contents, compared with a dictionary."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.format.feature_file import RowPlaces
from featurecache.run.known_images import ContentPlaces


class Numbers:
    """Rows of one feature: a hundred times the number of the source, and the number of the row."""

    def __init__(self, number):
        self.number = number

    def read(self, tap, start, count):
        return np.arange(start, start + count, dtype=np.float32)[:, None] + 100 * self.number


def content(number):
    # some digests end with zeros, which NumPy's text does not keep
    return hashlib.sha256(str(number).encode()).hexdigest() if number % 3 else f"{number:062x}00"


@given(sources=st.lists(st.lists(st.integers(0, 20), max_size=12), max_size=5), asked_between=st.booleans())
def test_the_first_place_of_a_content_holds(sources, asked_between):
    places, expected = ContentPlaces(), {}
    for number, contents in enumerate(sources):
        places.add(map(content, contents), RowPlaces.in_one(Numbers(number), 0, len(contents)))
        for row, each in enumerate(contents):
            expected.setdefault(content(each), (number, row))
        if asked_between:
            assert len(places) == len(expected)
    wanted = sorted(expected) * 2
    rows = places.of(wanted).read("tap", 1, np.dtype("float32"))[:, 0]
    assert rows.tolist() == [100 * expected[each][0] + expected[each][1] for each in wanted]
    assert set(places) == set(expected)
    for each in map(content, range(21)):
        assert (each in places) == (each in expected)
        assert places.source(each) == (expected[each][0] if each in expected else None)


def test_a_content_without_a_place_is_an_error():
    places = ContentPlaces()
    assert len(places.of([])) == 0
    with pytest.raises(KeyError, match=content(1)):
        places.of([content(1)])
    places.add([content(1), content(2)], RowPlaces.in_one(Numbers(0), 5, 2))
    assert places.of([content(2), content(1)]).rows.tolist() == [6, 5]
    with pytest.raises(KeyError, match=content(4)):
        places.of([content(2), content(4), content(1)])
    places.clear()
    assert content(1) not in places


def test_rows_of_several_sources_are_read_in_runs():
    places = RowPlaces.joined([RowPlaces.in_one(Numbers(0), 3, 2), RowPlaces.in_one(Numbers(1), 0, 3)])
    chosen = places[np.array([0, 1, 4, 3, 2, 0])]
    assert chosen.read("tap", 1, np.dtype("float32"))[:, 0].tolist() == [3, 4, 102, 101, 100, 3]
    assert places[1:3].read("tap", 1, np.dtype("float32"))[:, 0].tolist() == [4, 100]
    assert RowPlaces.joined([]).read("tap", 1, np.dtype("float32")).shape == (0, 1)

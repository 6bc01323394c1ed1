"""File records in columns, compared with a list of them."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featurecache.format.file_records import (
    FileRecord,
    FileRecordColumns,
    failure_columns,
    file_records_from_columns,
    image_columns,
)
from featurecache.format.layout import FAILURE_COLUMNS, IMAGE_COLUMNS
from featurecache.images.manifest import ImageEntry

DIGESTS = ["", *(f"{number:062x}00" for number in (1, 2)), "00" * 31 + "01", "f0" * 32]
SIZES = st.integers(-(2**63), 2**63 - 1)
RECORDS = st.lists(
    st.builds(
        FileRecord, st.just("x"), SIZES, SIZES, st.sampled_from(DIGESTS), st.sampled_from(["", "broken", "gone"])
    ),
    max_size=8,
)


def listed(records):
    return [replace(record, path=f"{number}.png") for number, record in enumerate(records)]


@given(RECORDS, st.data())
def test_columns_hold_what_a_list_holds(records, data):
    records = listed(records)
    numbers = np.array(data.draw(st.lists(st.sampled_from(range(len(records))))) if records else [], dtype=np.intp)
    found = FileRecordColumns(records[:2])
    for record in records[2:]:
        found.append(record)
    for number in set(numbers.tolist()):
        records[number] = replace(records[number], sha256=DIGESTS[-1], reason="later")
        found.fail(number, DIGESTS[-1], "later")
    assert len(found) == len(records)
    assert [found.record(number, record.path) for number, record in enumerate(records)] == records
    assert [found.sha256(number) for number in range(len(records))] == [record.sha256 for record in records]
    assert found.reasons == {number: record.reason for number, record in enumerate(records) if record.reason}
    for contents in (DIGESTS[1:], DIGESTS[2:3], []):
        expected = [number for number, record in enumerate(records) if record.sha256 in contents]
        assert found.numbers_of(contents) == expected

    entries = [ImageEntry(record.path, number % 3 - 1, "train") for number, record in enumerate(records)]
    failures = failure_columns(entries, found, numbers)
    assert {name: column.dtype for name, column in failures.items()} == {
        name: np.dtype(dtype) for name, dtype in FAILURE_COLUMNS.items()
    }
    assert list(file_records_from_columns(failures)) == [records[number] for number in numbers]
    images = image_columns(entries, found, numbers)
    assert {name: column.dtype for name, column in images.items()} == IMAGE_COLUMNS
    assert images["label"].tolist() == [number % 3 - 1 for number in numbers]
    assert list(file_records_from_columns(images)) == [replace(records[number], reason="") for number in numbers]

"""The file in memory that HDF5 writes to, compared with one of the standard library."""

import io
import os

from hypothesis import given
from hypothesis import strategies as st

from featurecache.format import memory_file
from featurecache.format.memory_file import MemoryFile
from featurecache.storage.publish import publishing

PAGE = memory_file._PAGE
POSITIONS = st.one_of(st.integers(0, 3 * PAGE), st.sampled_from([0, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE]))
STEPS = st.one_of(
    st.tuples(st.just("write"), POSITIONS, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("write"), POSITIONS, st.sampled_from([PAGE - 1, PAGE, 2 * PAGE + 5]).map(lambda n: b"\7" * n)),
    st.tuples(st.just("read"), POSITIONS, st.sampled_from([1, 7, PAGE, 2 * PAGE])),
)


@given(st.lists(STEPS, max_size=8))
def test_it_reads_and_writes_as_a_plain_file_does(steps):
    file, expected = MemoryFile(), io.BytesIO()
    for step, position, argument in steps:
        assert file.seek(position) == expected.seek(position) == file.tell()
        if step == "write":
            assert file.write(argument) == expected.write(argument)
        else:
            found = bytearray(b"\1" * argument)
            assert file.readinto(found) == argument
            assert found == expected.read(argument).ljust(argument, b"\0")
            continue
        assert file.tell() == expected.tell()
        assert file.size == len(expected.getvalue())
    for back in (min(3, file.size), 0):
        assert file.seek(-back, os.SEEK_END) == expected.seek(-back, os.SEEK_END) == file.tell()
    found = bytearray(file.size)
    file.seek(0)
    file.readinto(found)
    assert found == expected.getvalue()


def test_what_was_written_lies_in_the_draft_at_its_place(tmp_path):
    file = MemoryFile()
    for position, text in ((5, b"first"), (PAGE - 2, b"over the edge"), (3 * PAGE + 1, b"last")):
        file.seek(position)
        file.write(text)
    with publishing(tmp_path / "file") as draft:
        file.write_to(draft)
    data = (tmp_path / "file").read_bytes()
    assert len(data) == file.size == 3 * PAGE + 5
    assert data.strip(b"\0").replace(b"\0", b"") == b"firstover the edgelast"
    assert data.index(b"over the edge") == PAGE - 2


def test_a_file_can_be_cut_where_it_stands_or_at_a_size(tmp_path):
    file = MemoryFile()
    file.write(b"123456")
    file.seek(4)
    assert file.truncate() == file.size == 4
    assert file.truncate(2) == file.size == 2
    with publishing(tmp_path / "file") as draft:
        file.write_to(draft)
    assert (tmp_path / "file").read_bytes() == b"12"

"""Places of contents, compared with a dictionary; and what a run knows of images before it starts."""

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache import FolderSource, extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import CacheFormatError
from featurecache.format.feature_file import RowPlaces
from featurecache.format.file_records import FileRecord
from featurecache.options import ImagePart
from featurecache.run.commit_records import CommitRecord
from featurecache.run.known_images import ContentPlaces, KnownImages


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


NO_RECORD = CommitRecord(1, "gone", "", 0, 0, {}, ())


class CountingSource(FolderSource):
    """A folder that counts how many files are read."""

    reads = 0

    def read(self, path, *, max_bytes):
        type(self).reads += 1
        return super().read(path, max_bytes=max_bytes)


@pytest.fixture
def folder(photos, monkeypatch):
    """Return the source of `photos`, with an image that cannot be decoded."""
    (photos / "train" / "cats" / "bad.png").write_bytes(b"no image")
    monkeypatch.setattr(CountingSource, "reads", 0)
    return CountingSource(photos)


@pytest.fixture
def known(folder, tmp_path):
    """Return what is known with a cache of `folder`."""
    known = KnownImages()
    known.add_cache(extract(folder.root, tmp_path / "photos.h5", backbone=FakeBackbone()))
    return known


def inspected(known, folder, path, **options):
    """Return the file record, what was read, and how many files were read."""
    before = folder.reads
    file_record, read = known.inspect(path, folder, max_bytes=100_000, **options)
    return file_record, read, folder.reads - before


def test_contents_of_the_cache_are_told_from_those_of_the_unfinished_run(known):
    good, bad = (known.file_records[f"train/cats/{name}.png"].sha256 for name in ("0", "bad"))
    committed, failed, new = (content(number) for number in range(1, 4))
    known.places.add([committed, good], RowPlaces.in_one(Numbers(0), 0, 2))
    known.add_file_record(FileRecord("other.png", 1, 1, failed, "broken"))
    assert [known.is_cached(each) for each in (good, bad, committed, failed, new)] == [True, True, False, False, False]
    assert [known.is_committed(each) for each in (good, bad, committed, failed, new)] == [
        False,
        False,
        True,
        True,
        False,
    ]
    known.forget_failures()
    assert [known.is_cached(each) for each in (good, bad)] == [True, False]
    assert [known.is_committed(each) for each in (good, bad, failed)] == [False, False, False]


def test_an_unchanged_file_is_not_read_again(known, folder):
    for name in ("0", "bad"):
        path = f"train/cats/{name}.png"
        assert inspected(known, folder, path) == (known.file_records[path], None, 0)
        assert inspected(known, folder, path, rehash=True) == (known.file_records[path], None, 1)


def test_a_file_with_another_time_is_read_and_known_by_its_content(known, folder):
    for name in ("0", "bad"):
        path = f"train/cats/{name}.png"
        before = known.file_records[path]
        os.utime(folder.root / path, ns=(5, 5))
        assert inspected(known, folder, path) == (replace(before, mtime_ns=5), None, 1)


def test_a_new_content_is_returned(known, folder):
    path = "train/cats/0.png"
    (folder.root / path).write_bytes(b"other bytes")
    file_record, read, reads = inspected(known, folder, path)
    assert (read.data, file_record.sha256, file_record.reason, reads) == (b"other bytes", read.sha256, "", 1)


def test_a_file_that_cannot_be_read_has_a_reason_and_is_tried_again(known, folder):
    file_record, read, _ = inspected(known, folder, "gone.png")
    assert (file_record.sha256, read) == ("", None)
    assert "no such file" in file_record.reason
    known.add_file_record(file_record)
    assert not known.has_path("gone.png")
    assert inspected(known, folder, "gone.png")[2] == 1


def test_a_failure_that_is_forgotten_is_decoded_again(known, folder):
    known.forget_failures()
    assert not known.has_path("train/cats/bad.png")
    _, read, _ = inspected(known, folder, "train/cats/bad.png")
    assert read.data == b"no image"


def test_a_content_that_is_now_decoded_has_no_reason(known, folder):
    record = known.file_records["train/cats/bad.png"]
    known.add_file_record(replace(record, reason=""))
    assert known.reasons == {}


def test_images_of_another_part_are_settled(known, folder):
    path = "new.png"
    (folder.root / path).write_bytes(b"other bytes")
    digest = hashlib.sha256(b"other bytes").hexdigest()
    for part in (ImagePart(1, 2), ImagePart(2, 2)):
        known.part = part
        assert known.is_elsewhere(digest) != part.holds(digest)
        file_record, read, _ = inspected(known, folder, path)
        assert (read is None) != part.holds(digest)
        known.file_records[path] = file_record
        assert known.has_path(path) != part.holds(digest)
        assert not known.is_elsewhere("")


def test_rows_of_a_part_that_no_cache_uses_have_places(folder, tmp_path):
    cache = extract(folder.root, tmp_path / "part.h5", backbone=FakeBackbone())
    known = KnownImages()
    known.add_rows(cache, Numbers(0))
    digest = known.file_records["train/cats/0.png"].sha256
    assert known.places.source(digest) == 0
    assert known.has_path("train/cats/0.png")
    assert not known.is_cached(digest)


def test_a_shard_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(CacheFormatError, match="gone cannot be read: no such file or directory"):
        KnownImages().add_shard(tmp_path / "gone", NO_RECORD, None)

"""Sizes and times that a file system, a source or an older run gives, and that a column of 64 bits may not hold."""

import json
import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache import FolderSource, ImageSource, extract, from_source, read_manifest, why
from featurecache.backbones.fake import FakeBackbone
from featurecache.format.file_records import (
    UNKNOWN,
    FileRecord,
    FileRecordColumns,
    failure_columns,
    file_records_from_columns,
    image_columns,
)
from featurecache.images.failures import Failure
from featurecache.images.files import FileContent, Stat
from featurecache.images.manifest import ImageEntry
from featurecache.provenance import Environment
from featurecache.run.commit_records import CommitRecord, record_name
from featurecache.storage import output_errors
from featurecache.storage.output_errors import require_space

YEAR_2445 = 15_000_000_000 * 10**9
HASH = "0f" * 32


def columns_of(record, reason=""):
    """Return a record after it was written to columns and read again: those of a run, of images, and of failures."""
    entries, found, all_of_them = [ImageEntry(record.path, 0, "train")], FileRecordColumns([record]), np.arange(1)
    in_run = found.record(0, record.path)
    image = next(file_records_from_columns(image_columns(entries, found, all_of_them)))
    found.fail(0, record.sha256, reason)
    return in_run, image, next(file_records_from_columns(failure_columns(entries, found, all_of_them)))


@given(size=st.integers(), mtime_ns=st.integers())
def test_every_file_record_can_be_written_and_read(size, mtime_ns):
    record = FileRecord("a.png", size, mtime_ns, HASH)
    commit = CommitRecord(1, None, HASH, 0, 0, Environment(), (record,))
    assert columns_of(record) == (record, record, record)
    assert CommitRecord.from_json(commit.to_json()) == commit
    for found, given_value in ((record.size, size), (record.mtime_ns, mtime_ns)):
        assert found == (given_value if -(2**63) <= given_value < 2**63 else UNKNOWN)


@pytest.mark.parametrize("value", [None, 1.5e18, float("nan"), np.float64(3), "1"])
def test_a_value_that_is_no_whole_number_is_unknown(value):
    record = FileRecord("a.png", 1, value, HASH)
    assert record.mtime_ns == UNKNOWN
    assert columns_of(record) == (record, record, record)
    assert not record.still_holds(Stat(1, value))


def test_an_unknown_value_never_holds():
    assert FileRecord("a.png", 1, 2, HASH).still_holds(Stat(1, 2))
    assert not FileRecord("a.png", 1, 2**63, HASH).still_holds(Stat(1, 2**63))
    assert not FileRecord("a.png", 1, UNKNOWN, HASH).still_holds(Stat(1, UNKNOWN))
    assert not FileRecord("a.png", UNKNOWN, 2, HASH).still_holds(Stat(UNKNOWN, 2))


def test_a_reason_of_any_characters_can_be_written():
    record = FileRecord("a.png", 1, 2, HASH, "a\0b\n\udcff")
    assert record.reason == "a\\x00b\\n\\udcff"
    in_run, _, failure = columns_of(record, record.reason)
    assert in_run == failure == record


@pytest.mark.parametrize(
    "mtime_ns",
    [YEAR_2445, 2**63 - 1, 2**63, -1, -(10**9), -2_000_000_000 * 10**9, 0],
    ids=["2445", "last", "one-later", "before-1970", "1969", "1906", "1970"],
)
def test_a_file_of_any_date_is_extracted_and_its_changes_are_seen(photos, tmp_path, make_backbone, mtime_ns):
    odd = photos / "train" / "cats" / "0.png"
    broken = photos / "train" / "cats" / "broken.png"
    broken.write_bytes(b"no image")
    for path in (odd, broken):
        os.utime(path, ns=(mtime_ns, mtime_ns))
    fits = -1 != odd.stat().st_mtime_ns < 2**63
    cache = extract(photos, tmp_path / "c.h5", backbone=make_backbone())
    row = cache.index.images["path"].tolist().index("train/cats/0.png")
    assert cache.index.images["mtime_ns"][row] == (odd.stat().st_mtime_ns if fits else UNKNOWN)
    assert (len(cache), list(cache.failures)) == (20, ["train/cats/broken.png"])
    file = cache.path.stat()
    again = make_backbone()
    extract(photos, cache.path, backbone=again)
    assert again.seen == 0
    assert os.path.samestat(cache.path.stat(), file)  # nothing was written

    shutil.copyfile(photos / "train" / "cats" / "1.png", odd)
    os.utime(odd, ns=(mtime_ns + 1, mtime_ns + 1))
    plan = why(photos, cache.path, backbone=FakeBackbone()).reasons
    assert "train/cats/0.png" in plan["moved"]
    changed = extract(photos, cache.path, backbone=make_backbone())
    assert changed.index.images["sha256"][row] == changed.index.images["sha256"][row + 1]


def test_a_file_of_an_unknown_time_is_read_again_whenever_it_is_looked_at(photos, tmp_path):
    odd = photos / "train" / "cats" / "0.png"
    os.utime(odd, ns=(YEAR_2445, YEAR_2445))
    path = tmp_path / "c.h5"
    size = odd.stat().st_size
    extract(photos, path, backbone=FakeBackbone())
    odd.write_bytes(odd.read_bytes()[:-1] + b"\0")  # another content of the same size and time
    os.utime(odd, ns=(YEAR_2445, YEAR_2445))
    assert odd.stat().st_size == size
    plan = why(photos, path, backbone=FakeBackbone())
    assert plan.reasons["changed"] == ["train/cats/0.png"]


def test_an_unfinished_run_that_recorded_such_a_time_is_finished(photos, tmp_path, make_backbone):
    odd = photos / "train" / "cats" / "0.png"
    os.utime(odd, ns=(YEAR_2445, YEAR_2445))
    path = tmp_path / "c.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, backbone=make_backbone(stop_after=9), batch_size=3)
    (commit,) = (tmp_path / "c.h5.work" / "commits").iterdir()
    members = json.loads(commit.read_bytes())
    (recorded,) = (found for found in members["sightings"] if found["path"] == "train/cats/0.png")
    assert recorded["mtime_ns"] == UNKNOWN
    recorded["mtime_ns"] = YEAR_2445  # as older versions recorded it, in records without unit and checksum
    del members["unit"], members["record_sha256"]
    text = json.dumps(members, sort_keys=True).encode("ascii")
    commit.unlink()
    commit.with_name(record_name(text)).write_bytes(text)
    backbone = make_backbone()
    cache = extract(photos, path, backbone=backbone, batch_size=3)
    assert (len(cache), backbone.seen) == (20, 11)


class OddSource(ImageSource):
    """A folder whose times are those of another service: a fraction of seconds, or nothing at all."""

    name = "odd"

    def __init__(self, root, mtime_ns):
        self._folder = FolderSource(root)
        self._mtime_ns = mtime_ns

    def stat(self, path):
        return Stat(self._folder.stat(path).size, self._mtime_ns)

    def read(self, path, *, max_bytes):
        if path.endswith("3.png"):
            return Failure("unreadable", "the service said:\n\0")
        content = self._folder.read(path, max_bytes=max_bytes)
        return FileContent(content.data, content.sha256, content.size, self._mtime_ns)


@pytest.mark.parametrize("mtime_ns", [1.7e18, None, 10**30, np.int64(5)])
def test_a_source_may_give_any_time(photos, tmp_path, make_backbone, mtime_ns):
    rows = [(entry.path, None, entry.split) for entry in read_manifest(photos).entries]
    manifest = from_source(OddSource(photos, mtime_ns), rows)
    with pytest.raises(KeyboardInterrupt):
        extract(manifest, tmp_path / "c.h5", backbone=make_backbone(stop_after=6), batch_size=3)
    again = make_backbone()
    cache = extract(manifest, tmp_path / "c.h5", backbone=again, batch_size=3)
    assert (len(cache), again.seen) == (16, 10)
    assert set(cache.index.images["mtime_ns"].tolist()) == {UNKNOWN}
    assert set(cache.failures.values()) == {"the service said:\\n\\x00"}


def test_a_file_system_that_does_not_report_its_size_has_room(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(output_errors.shutil, "disk_usage", lambda _: usage(0, 0, 0))
    require_space(tmp_path, 10**15, "for a test")

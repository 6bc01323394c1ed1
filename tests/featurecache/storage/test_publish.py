import errno
import os
import re

import pytest

from featurecache.errors import OutputError
from featurecache.storage.output_errors import require_place
from featurecache.storage.publish import publish, publish_directory, publishing


def test_the_order_of_steps_is_the_promise(tmp_path, use_file_system):
    fs = use_file_system()
    publish(tmp_path / "x", b"data")
    assert fs.calls == ["create", "write", "fsync", "close", "link", "unlink", "fsync_directory"]
    fs = use_file_system()
    publish(tmp_path / "x", b"more", replace=True)
    assert fs.calls == ["create", "write", "fsync", "close", "replace", "fsync_directory"]
    assert (tmp_path / "x").read_bytes() == b"more"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_nothing_can_be_reserved_a_file_has_its_size(code, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refused)
    with publishing(tmp_path / "x") as draft:
        draft.reserve(5)
        draft.write(b"ab", 0)
    assert (tmp_path / "x").read_bytes() == b"ab\0\0\0"


def test_where_there_is_no_room_nothing_is_reserved(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="no space left"), publishing(tmp_path / "x") as draft:
        draft.reserve(5)
    assert os.listdir(tmp_path) == []


def test_a_scratch_file_does_not_wait_for_the_disk(tmp_path, use_file_system):
    fs = use_file_system()
    with publishing(tmp_path / "x", durable=False) as draft:
        draft.write(b"data", 0)
    assert fs.calls == ["create", "write", "close", "link", "unlink"]
    assert (tmp_path / "x").read_bytes() == b"data"


def test_a_draft_is_mapped_while_it_is_written_and_afterwards(tmp_path):
    with publishing(tmp_path / "x") as draft:
        draft.write(b"first", 0)
        content = draft.map()
        draft.write(b"F", 0)
        assert content[:] == b"First"
    (tmp_path / "x").unlink()
    assert content[:] == b"First"
    with pytest.raises(TypeError, match=r"read-only|modify"):
        content[0] = 0


def test_a_taken_name_is_kept(tmp_path):
    (tmp_path / "x").write_bytes(b"first")
    with pytest.raises(FileExistsError):
        publish(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x"]


def test_where_there_are_no_links_the_name_is_still_put_if_absent(tmp_path, use_file_system):
    use_file_system("link", errno.EPERM)
    publish(tmp_path / "x", b"first")
    assert (tmp_path / "x").read_bytes() == b"first"
    with pytest.raises(FileExistsError):
        publish(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("step", ["create", "write", "fsync", "link"])
@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "make room"), (errno.EACCES, "may write"), (errno.EROFS, "can be written"), (errno.EIO, "error")],
)
def test_a_step_that_fails_leaves_nothing_and_one_clear_line(tmp_path, use_file_system, step, number, remedy):
    use_file_system(step, number)
    with pytest.raises(OutputError, match=remedy) as caught:
        publish(tmp_path / "x", b"data")
    assert caught.value.errno == number
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_writer_leaves_nothing(tmp_path):
    with pytest.raises(TypeError), publishing(tmp_path / "x") as draft:
        draft.write("not bytes", 0)
    assert os.listdir(tmp_path) == []


def test_a_reservation_that_the_disk_cannot_take_is_an_error(tmp_path):
    with pytest.raises(OutputError) as caught, publishing(tmp_path / "x") as draft:
        draft.reserve(1 << 60)
    assert caught.value.errno in {errno.ENOSPC, errno.EFBIG}
    assert os.listdir(tmp_path) == []


def test_the_longest_file_name_can_be_published(tmp_path):
    publish(tmp_path / ("n" * 255), b"data")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_a_directory_is_published_whole_or_not_at_all(tmp_path, use_file_system):
    publish_directory(tmp_path / "d", {"a": b"1", "b": b"2"})
    assert sorted(os.listdir(tmp_path / "d")) == ["a", "b"]
    with pytest.raises(FileExistsError):
        publish_directory(tmp_path / "d", {"a": b"3"})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        publish_directory(tmp_path / "file", {"a": b"3"})
    use_file_system("fsync", errno.ENOSPC)
    with pytest.raises(OutputError, match=rf"^cannot write {re.escape(str(tmp_path))}/e/a: no space left on device"):
        publish_directory(tmp_path / "e", {"a": b"3"})
    assert sorted(os.listdir(tmp_path)) == ["d", "file"]
    assert (tmp_path / "d" / "a").read_bytes() == b"1"


def test_a_place_is_checked_before_work_is_spent(tmp_path):
    require_place(tmp_path / "x")
    with pytest.raises(OutputError, match="does not exist"):
        require_place(tmp_path / "no" / "x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="not a folder"):
        require_place(tmp_path / "file" / "x")

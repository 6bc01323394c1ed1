"""Reading image files: regular ones only, whole, within the limit, and failures with a code."""

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import featurecache.images.files as module
from featurecache.images.failures import Failure
from featurecache.images.files import content_of, read_file, stat_file

LIMIT = 1 << 20


def failure_of(path: object) -> Failure:
    result = read_file(path, max_bytes=LIMIT)
    assert isinstance(result, Failure), result
    return result


def test_a_file_is_read_with_its_identity(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))

    for name in (path, str(path), os.fsencode(path)):
        file = read_file(name, max_bytes=7)
        assert (file.data, file.size, file.mtime_ns) == (b"content", 7, 1_234_567_890_123_456_789)
        assert file.sha256 == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"


def test_a_large_file_is_read_whole(tmp_path):
    data = np.random.default_rng(0).bytes(3_000_000)
    (tmp_path / "a").write_bytes(data)

    assert read_file(tmp_path / "a", max_bytes=3_000_000).data == data
    assert read_file(tmp_path / "a", max_bytes=2_999_999) == Failure(
        "too_many_bytes", "3,000,000 bytes are more than the limit of 2,999,999; --max-pixels raises it, too"
    )


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 40)

    assert failure_of(tmp_path / "sparse.jpg") == Failure(
        "too_many_bytes", "1,099,511,627,776 bytes are more than the limit of 1,048,576; --max-pixels raises it, too"
    )


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.jpg").touch()

    assert failure_of(tmp_path / "empty.jpg") == Failure("empty", "an empty file (0 bytes)")


def test_a_directory(tmp_path):
    assert failure_of(tmp_path) == Failure("not_a_file", "a directory, not a regular file")


@pytest.mark.timeout(10)
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")

    assert failure_of(tmp_path / "x.jpg") == Failure("not_a_file", "a named pipe, not a regular file")


@pytest.mark.timeout(10)
def test_a_file_that_turns_into_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    regular = (tmp_path / "a").stat() if (tmp_path / "a").write_bytes(b"a") else None
    os.mkfifo(tmp_path / "x.jpg")
    monkeypatch.setattr(os, "stat", lambda path: regular)

    assert failure_of(os.fspath(tmp_path / "x.jpg")) == Failure("not_a_file", "a named pipe, not a regular file")


def test_a_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("x.jpg")
        assert failure_of("x.jpg") == Failure("not_a_file", "a socket, not a regular file")


def test_a_device():
    assert failure_of("/dev/null") == Failure("not_a_file", "a device, not a regular file")


def test_links(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "good").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")

    assert read_file(tmp_path / "good", max_bytes=LIMIT).data == b"content"
    assert failure_of(tmp_path / "dangling") == Failure("broken_link", "a symbolic link to nothing")
    assert failure_of(tmp_path / "loop") == Failure("broken_link", "a loop of symbolic links")


def test_names(tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff\xfe\n.jpg"
    longest = tmp_path / ("x" * 251 + ".jpg")
    for name in (odd, os.fsencode(longest)):
        Path(os.fsdecode(name)).write_bytes(b"content")
        assert read_file(name, max_bytes=LIMIT).data == b"content"
    assert failure_of(tmp_path / ("x" * 300)) == Failure("bad_name", "the file name is too long")
    assert failure_of("a\0b") == Failure("bad_name", "the file name has characters that no file name can have")
    assert failure_of("a\ud800b") == Failure("bad_name", "the file name has characters that no file name can have")


def test_a_file_that_is_gone(tmp_path):
    (tmp_path / "file").touch()

    assert failure_of(tmp_path / "gone.jpg") == Failure("not_found", "no such file")
    assert failure_of(tmp_path / "file" / "below.jpg") == Failure("not_found", "no such file")


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read anything; be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "x.jpg").write_bytes(b"content")
        (folder / "x.jpg").chmod(0)
        with without_privileges():
            assert failure_of(folder / "x.jpg") == Failure("no_permission", "no permission to read the file")


@pytest.mark.parametrize("call", ["open", "fstat", "read"])
@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        (errno.EIO, "unreadable", "the disk or network reports a read error"),
        (errno.EACCES, "no_permission", "no permission to read the file"),
        (errno.ESTALE, "unreadable", os.strerror(errno.ESTALE).lower()),
    ],
)
def test_errors_of_the_file_system(call, number, code, reason, tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(b"content")

    def fail(*args, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(module.os, call, fail)
        result = read_file(tmp_path / "x.jpg", max_bytes=LIMIT)
    assert result == Failure(code, reason)


@pytest.mark.parametrize("change", [b"longer than before", b"short", b"CONTENT"])
def test_a_file_that_changes_meanwhile_is_not_taken_for_one_or_the_other(change, tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"content")
    os.utime(path, ns=(0, 0))
    read = os.read

    def read_and_change(descriptor, count):
        data = read(descriptor, count)
        path.write_bytes(change)
        return data

    monkeypatch.setattr(module.os, "read", read_and_change)
    assert failure_of(path) == Failure("changed", "the file changed while it was being read")


def test_a_file_that_ends_early_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(b"content")
    parts = [b"con", b""]
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "read", lambda descriptor, count: parts.pop(0))
        result = read_file(tmp_path / "x.jpg", max_bytes=LIMIT)

    assert result == Failure("changed", "the file changed while it was being read")


def test_a_file_that_comes_in_parts_is_read_whole(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(b"content")
    parts = [b"con", b"tent", b""]
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "read", lambda descriptor, count: parts.pop(0))
        result = read_file(tmp_path / "x.jpg", max_bytes=LIMIT)

    assert result.data == b"content"


def test_reading_leaves_no_descriptor_open(tmp_path):
    (tmp_path / "good").write_bytes(b"content")
    (tmp_path / "empty").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        for name in ("good", "empty", "gone", "."):
            read_file(tmp_path / name, max_bytes=LIMIT)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_without_memory_to_read_it(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(b"content")

    def fail(descriptor, count):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "read", fail)
        failure = read_file(tmp_path / "x.jpg", max_bytes=LIMIT)
    assert failure == Failure("out_of_memory", "not enough memory to read the file")


def test_what_shows_a_change_is_what_reading_finds(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    (tmp_path / "link").symlink_to("a.png")

    content = read_file(path, max_bytes=LIMIT)
    for name in (path, os.fsencode(path), tmp_path / "link"):
        found = stat_file(name)
        assert (found.size, found.mtime_ns) == (content.size, content.mtime_ns) == (7, 1_234_567_890_123_456_789)


@pytest.mark.parametrize("name", ["gone.jpg", "a\0b", "a\ud800b", "x" * 300])
def test_a_file_that_cannot_be_looked_at_shows_nothing(name, tmp_path):
    assert stat_file(f"{tmp_path}/{name}") is None


def test_bytes_in_memory_are_content_within_the_limit():
    content = content_of(b"content", max_bytes=7, mtime_ns=5)
    assert (content.data, content.size, content.mtime_ns) == (b"content", 7, 5)
    assert content.sha256 == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert content_of(b"content", max_bytes=7).mtime_ns == 0
    assert content_of(b"content", max_bytes=6) == Failure(
        "too_many_bytes", "7 bytes are more than the limit of 6; --max-pixels raises it, too"
    )
    assert content_of(b"", max_bytes=6) == Failure("empty", "an empty file (0 bytes)")

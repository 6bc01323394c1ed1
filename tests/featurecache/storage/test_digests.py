import hashlib
import json
import os
from pathlib import Path

import pytest

from featurecache.storage import digests as module
from featurecache.storage.digests import digests, memory_file


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "a.weights.h5"
    path.write_bytes(b"weights")
    return path


def test_digests_are_those_of_the_bytes(weights):
    found = digests(weights)
    assert found.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert found.md5 == hashlib.md5(b"weights", usedforsecurity=False).hexdigest()


def test_an_unchanged_file_is_not_hashed_again(weights, monkeypatch):
    first = digests(weights)
    monkeypatch.setattr(module.hashlib, "sha256", None)
    assert digests(weights) == first
    with pytest.raises(TypeError):
        digests(weights, rehash=True)


def test_a_changed_file_is_hashed_again(weights):
    digests(weights)
    weights.write_bytes(b"others!")
    os.utime(weights, ns=(1, 1))
    assert digests(weights).sha256 == hashlib.sha256(b"others!").hexdigest()


def test_another_file_of_the_same_size_and_time_is_hashed(weights, tmp_path):
    digests(weights)
    status, other = weights.stat(), tmp_path / "other"
    other.write_bytes(b"WEIGHTS")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(weights)
    assert digests(weights).sha256 == hashlib.sha256(b"WEIGHTS").hexdigest()


def test_rehash_sees_what_size_and_time_hide(weights):
    before, status = digests(weights), weights.stat()
    weights.write_bytes(b"WEIGHTS")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digests(weights) == before
    assert digests(weights, rehash=True).sha256 == hashlib.sha256(b"WEIGHTS").hexdigest()
    assert digests(weights).sha256 == hashlib.sha256(b"WEIGHTS").hexdigest()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1}', '{"a": {"sha256": 1}}'])
def test_a_damaged_memory_is_forgotten(weights, text):
    memory_file().parent.mkdir(parents=True)
    memory_file().write_text(text)
    assert digests(weights).sha256 == hashlib.sha256(b"weights").hexdigest()
    assert "weights.h5" in memory_file().read_text()


def test_the_latest_files_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    for name in "abcdb":
        (tmp_path / name).write_text(name)
        digests(tmp_path / name, rehash=True)
    assert [Path(key.split(":")[0]).name for key in json.loads(memory_file().read_text())] == ["b", "d", "c"]


def test_a_file_larger_than_what_is_read_at_once_is_read_whole(weights):
    data = os.urandom((1 << 20) + 7)
    weights.write_bytes(data)
    assert digests(weights).sha256 == hashlib.sha256(data).hexdigest()


def test_a_memory_that_cannot_be_written_is_done_without(weights, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert digests(weights).sha256 == hashlib.sha256(b"weights").hexdigest()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(OSError, match="not a regular file"):
        digests(tmp_path / "pipe.h5")

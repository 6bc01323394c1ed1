"""Locks of directories: who is kept out, who waits, and what is found once the wait is over."""

import errno
import fcntl
import threading

import pytest

from featurecache.errors import OutputError
from featurecache.storage.directory_lock import lock_directory, turn_in


def test_a_directory_has_one_lock_until_it_is_closed(tmp_path):
    held = lock_directory(tmp_path)
    with pytest.raises(OutputError, match=r"another run is at work in .*; wait until it has ended"):
        lock_directory(tmp_path)
    held.close()
    lock_directory(tmp_path).close()


def test_what_cannot_be_opened_as_a_directory_is_refused_by_name(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "absent"):
        with pytest.raises(OutputError, match=name):
            lock_directory(tmp_path / name)


def test_a_directory_that_another_run_removed_meanwhile_is_not_locked(tmp_path, monkeypatch):
    path, moved, flock = tmp_path / "x.work", tmp_path / "moved", fcntl.flock
    path.mkdir()

    def move_before(*arguments):
        path.rename(moved)  # it stays, so that one sees whether it is locked
        path.mkdir()
        flock(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", move_before)
        with pytest.raises(OutputError, match="was removed by another run, which has just ended; run the same command"):
            lock_directory(path)
    for each in (moved, path):
        lock_directory(each).close()


def test_where_a_file_system_has_no_locks_work_goes_on_without_one(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert lock_directory(tmp_path) is None
    with turn_in(tmp_path):
        pass


def test_turns_come_one_after_the_other(tmp_path):
    steps, begun = [], threading.Event()

    def second():
        begun.set()
        with turn_in(tmp_path):
            steps.append("second")

    thread = threading.Thread(target=second, daemon=True)
    with turn_in(tmp_path):
        thread.start()
        assert begun.wait(20)
        thread.join(0.1)  # time for the second one to go in, if nothing keeps it out
        steps.append("first")
    thread.join(20)
    assert steps == ["first", "second"]

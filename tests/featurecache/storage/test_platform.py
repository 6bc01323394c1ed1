"""What other systems lack or forbid, call by call; `test_other_systems.py` runs whole commands there."""

import asyncio
import errno
import os
import signal
import socket
import threading
from pathlib import Path

import pytest
from other_systems import is_reserved, windows_error

from featurecache.errors import ManifestError, OutputError
from featurecache.images.sources import FolderSource
from featurecache.images.table import _table_path
from featurecache.storage import platform
from featurecache.storage.output_errors import output_error, require_place
from featurecache.storage.publish import publish, publish_directory

NAMES = ("con", "CON.jpg", "nul.h5", "Aux", "com1.txt", "lpt9", "com¹.h5", "a.", "a ", "conin$")
GOOD = ("photos.h5", "console.jpg", "com10.txt", ".hidden", "a b", "nul-and-void", "Bücher", "auxiliary.h5")
FORBIDDEN = ("a:b", "a\\b", "a|b", "what?", "<a>", 'say "a"', "a*", "a\nb")


@pytest.fixture
def windows(monkeypatch):
    """Let names and errors be those of Windows."""
    monkeypatch.setattr(platform, "IS_WINDOWS", True)
    monkeypatch.setattr(platform, "_PAUSE_SECONDS", 0)


@pytest.mark.parametrize("name", [*NAMES, *GOOD])
def test_the_names_that_windows_cannot_hold_are_those_that_python_knows(name):
    assert bool(platform.name_fault(name)) == is_reserved(name)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_characters_that_windows_does_not_allow(name):
    assert "not allowed" in platform.name_fault(name)


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("name", ["nul.h5", "head.", "a:b"])
def test_no_result_gets_a_name_that_windows_cannot_hold(tmp_path, name):
    for write in (
        lambda: require_place(tmp_path / name),
        lambda: publish(tmp_path / name, b""),
        lambda: publish_directory(tmp_path / name, {}),
    ):
        with pytest.raises(OutputError, match=r"Windows cannot hold the name .*; choose another name"):
            write()
    assert os.listdir(tmp_path) == []


def test_elsewhere_such_names_are_names(tmp_path):
    publish(tmp_path / "nul.h5", b"")
    assert os.listdir(tmp_path) == ["nul.h5"]


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("path", ["..\\secret.png", "C:\\secret.png", "C:secret.png", "\\secret.png", "a.png:stream"])
def test_no_image_is_read_outside_with_a_path_of_windows(tmp_path, path):
    (tmp_path / "images").mkdir()
    assert FolderSource(tmp_path / "images").read(path, max_bytes=10).code == "outside"


@pytest.mark.usefixtures("windows")
def test_a_table_may_have_absolute_paths_of_windows():
    for path in ("C:\\data\\cats\\1.png", "C:/data/cats/1.png", "cats\\1.png"):
        assert _table_path(path, ("C:/data",), lambda _: True) == "cats/1.png"
    with pytest.raises(ManifestError, match="is not below C:/data"):
        _table_path("D:\\data\\cats\\1.png", ("C:/data",), lambda _: True)


@pytest.mark.usefixtures("windows")
def test_a_path_that_is_too_long_for_windows_is_named_so(tmp_path):
    path = tmp_path / ("x" * 200) / ("y" * 60)
    error = output_error(path, windows_error(FileNotFoundError, 3, errno.ENOENT, path))
    assert f"the path has {len(str(path))} characters, too many for Windows" in str(error)
    short = output_error(Path("x"), windows_error(FileNotFoundError, 3, errno.ENOENT, "x"))
    assert "was its folder removed" in str(short)


@pytest.mark.parametrize("number", [5, 32])
def test_a_scanner_has_a_new_file_open_for_a_moment(tmp_path, monkeypatch, number):
    monkeypatch.setattr(platform, "_PAUSE_SECONDS", 0)
    tries = []

    def rename():
        tries.append(None)
        if len(tries) < 3:
            raise windows_error(PermissionError, number, errno.EACCES, tmp_path)

    platform.patiently(rename)
    assert len(tries) == 3


def test_a_refused_rename_is_tried_once_on_other_systems(tmp_path):
    tries = []

    def rename():
        tries.append(None)
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        platform.patiently(rename)
    assert len(tries) == 1


def test_reading_and_writing_at_a_place_leave_the_position_and_other_threads_alone(tmp_path, monkeypatch):
    for name in ("pread", "preadv", "pwrite"):
        monkeypatch.delattr(os, name)
    (tmp_path / "x").write_bytes(bytes(1000))
    descriptor = os.open(tmp_path / "x", os.O_RDWR)
    os.lseek(descriptor, 7, os.SEEK_SET)
    wrong = []

    def work(number):
        for place in range(number * 100, number * 100 + 100):
            assert platform.write_at(descriptor, memoryview(bytes([number])), place) == 1
            buffer = bytearray(1)
            platform.read_into_at(descriptor, memoryview(buffer), place)
            if platform.read_at(descriptor, 1, place) != bytes([number]) or buffer != bytes([number]):
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 7
    os.close(descriptor)
    assert (tmp_path / "x").read_bytes() == b"".join(bytes([number]) * 100 for number in range(8)) + bytes(200)


def test_a_service_ends_by_signals_that_the_loop_cannot_take():
    """Where `add_signal_handler` is missing, as on Windows."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    called = []

    async def serve():
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler = _not_there
        platform.on_signals(loop, lambda: (called.append(None), ended.set()))
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(ended.wait(), 60)

    try:
        asyncio.run(serve())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert called == [None]


def _not_there(*_):
    raise NotImplementedError


def test_no_two_services_listen_at_one_address_where_reuse_would_allow_it(monkeypatch):
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    with socket.socket() as listener:
        platform.own_address(listener)
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def test_a_full_sync_is_asked_for_where_there_is_one(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(platform._fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(platform._fcntl, "fcntl", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(os, "fsync", calls.append)
    platform.sync_file(3)
    assert calls == [(3, 51)]
    monkeypatch.setattr(platform._fcntl, "fcntl", _refused)  # as on a network drive
    platform.sync_file(4)
    assert calls == [(3, 51), 4]


def _refused(*_):
    raise OSError(errno.ENOTSUP, "not supported")


@pytest.mark.parametrize("name", ["con", "aux.1", "cats."])
def test_a_service_trains_no_head_whose_name_windows_cannot_hold(name):
    from heads.service.errors import RequestError
    from heads.service.training import Jobs

    with pytest.raises(RequestError, match="Windows"):
        Jobs.submit(None, name, None)

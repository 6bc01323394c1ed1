"""Files that other libraries write: whole or not at all, under a name that was free."""

import errno
import os
from collections import namedtuple

import pytest

from featurecache.errors import OutputError
from featurecache.storage import output_errors
from featurecache.storage.external_writers import publish_written, require_new


def test_what_was_written_bears_the_final_name_alone(tmp_path):
    places = []

    def write(place):
        places.append(place)
        place.write_bytes(b"\x00whole" * 5_000_000)
        assert not (tmp_path / "model.keras").exists()

    publish_written(tmp_path / "model.keras", write, size=1)
    assert (tmp_path / "model.keras").read_bytes() == b"\x00whole" * 5_000_000
    assert os.listdir(tmp_path) == ["model.keras"]
    assert [place.suffix for place in places] == [".keras"]
    assert places[0].parent.parent == tmp_path  # on the same disk


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("Keras has a fault")])
def test_an_interruption_leaves_nothing(tmp_path, error):
    def write(place):
        place.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        publish_written(tmp_path / "model.keras", write, size=1)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_is_one_line(tmp_path):
    def write(place):
        place.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        OutputError, match=r"cannot write .*model\.keras: no space left on device, and 5\.0 kB are needed"
    ):
        publish_written(tmp_path / "model.keras", write, size=5_000)
    assert os.listdir(tmp_path) == []


def test_a_disk_without_room_shows_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(output_errors.shutil, "disk_usage", lambda _: usage(20_000, 1, 19_999))
    called = []
    with pytest.raises(
        OutputError, match=r"has 20\.0 kB free, and up to 20\.0 kB are needed while m\.keras is written"
    ):
        publish_written(tmp_path / "m.keras", called.append, size=10_000)
    assert called == []


def test_publishing_that_fails_leaves_nothing(tmp_path, use_file_system):
    use_file_system(fail="link")
    with pytest.raises(OutputError, match="cannot write"):
        publish_written(tmp_path / "m.keras", lambda place: place.write_bytes(b"whole"), size=1)
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_taken_is_kept(tmp_path):
    taken = tmp_path / "m.keras"

    def write(place):
        place.write_bytes(b"ours")
        taken.write_bytes(b"theirs")  # while we were at work

    with pytest.raises(OutputError, match="exists already; remove it or choose another name"):
        publish_written(taken, write, size=1)
    assert taken.read_bytes() == b"theirs"
    for path in (taken, tmp_path):
        with pytest.raises(OutputError, match="exists already"):
            require_new(path)
    with pytest.raises(OutputError, match="does not exist; make it first"):
        require_new(tmp_path / "nowhere" / "m.keras")
    (tmp_path / "link.keras").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"):
        require_new(tmp_path / "link.keras")

"""What is said of disks without room, and of users without a home folder."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from featurecache.errors import OutputError
from featurecache.storage.files import home_folder
from featurecache.storage.output_errors import output_error, require_space


@pytest.mark.parametrize(
    ("code", "size", "message"),
    [
        (errno.ENOSPC, 3_000_000, "cannot write a.h5: full, and 3.0 MB are needed for it; make room on that disk"),
        (errno.EDQUOT, 3_000_000, "cannot write a.h5: full, and 3.0 MB are needed for it; the quota is used up"),
        (errno.ENOSPC, 0, "cannot write a.h5: full; make room on that disk"),
        (errno.EACCES, 3_000_000, "cannot write a.h5: full; choose a folder that you may write in"),
        (errno.EIO, 3_000_000, "cannot write a.h5: full"),
    ],
)
def test_the_size_is_named_where_there_is_no_room(code, size, message):
    error = output_error(Path("a.h5"), OSError(code, "Full"), size)
    assert str(error).startswith(message)
    assert ("needed" in str(error)) == ("needed" in message)
    assert error.errno == code


@pytest.mark.parametrize(("total", "free"), [(0, 0), (100, 50), (100, 51)])
def test_a_disk_with_just_enough_room(total, free, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=total, free=free))
    require_space(tmp_path, 50, "for it")


def test_a_disk_with_a_byte_too_little(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=100, free=49))
    with pytest.raises(OutputError, match="needed for it; make room"):
        require_space(tmp_path, 50, "for it")


def test_a_user_without_a_home_folder(monkeypatch):
    def missing():
        raise RuntimeError("Could not determine home directory.")

    assert home_folder() == Path.home()
    monkeypatch.setattr(Path, "home", missing)
    assert home_folder() == Path("/")


def test_an_error_without_a_code_is_named_by_its_text():
    assert str(output_error(Path("a.h5"), OSError("Gone"))) == "cannot write a.h5: gone"

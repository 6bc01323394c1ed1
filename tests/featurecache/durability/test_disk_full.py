"""The disk is full at any moment: the message names the needed space, nothing is lost, and the run can continue."""

import errno
import re
import shutil
import subprocess

import pytest
from file_systems import CLAIMS, FailingFileSystem, TracingFileSystem
from runs import BATCH_SIZE

import featurecache.run.manifest_run
import featurecache.storage.publish
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import OutputError

AMOUNT = r"\d+(\.\d [kMG]B| bytes) are needed"


def failing_run(reference, cache_path, monkeypatch, file_system):
    """Extract on this file system, which must make it fail; return the error."""
    with monkeypatch.context() as patch:
        patch.setattr(featurecache.storage.publish, "FILE_SYSTEM", file_system)
        with pytest.raises(OutputError) as caught:
            extract(reference.images, cache_path, backbone=FakeBackbone(), batch_size=BATCH_SIZE)
    assert "\n" not in str(caught.value)
    return caught.value


def claims(reference, cache_path, monkeypatch):
    """Return the steps of a whole run at which it asks for room."""
    tracing = TracingFileSystem()
    with monkeypatch.context() as patch:
        patch.setattr(featurecache.storage.publish, "FILE_SYSTEM", tracing)
        extract(reference.images, cache_path, backbone=FakeBackbone(), batch_size=BATCH_SIZE)
    return [step for step, (name, _) in enumerate(tracing.trace) if name in CLAIMS]


@pytest.mark.slow
@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
def test_no_room_at_any_step(few, before_few, memory_path, monkeypatch, replaces, lasting):
    def folder(name):
        path = memory_path / name / "c.h5"
        path.parent.mkdir()
        if replaces:
            shutil.copy(before_few.path, path)
        return path

    for step in claims(few, folder("whole"), monkeypatch):
        cache_path = folder(str(step))
        full = FailingFileSystem(step, errno.ENOSPC, calls=CLAIMS, lasting=lasting)
        error = failing_run(few, cache_path, monkeypatch, full)
        assert error.errno == errno.ENOSPC
        assert "no space left on device" in str(error)
        assert "make room on that disk and run the same command again" in str(error)
        name, role = full.failed
        if name not in {"create", "make_directory"} and role != "work":  # they need next to nothing
            assert re.search(AMOUNT, str(error)), (full.failed, str(error))
        few.check_crash(cache_path, set(), before_few if replaces else None)
        assert not list(cache_path.parent.rglob("*.tmp"))
        few.finish(cache_path)


@pytest.fixture
def small_disk(tmp_path):
    """Return a file system of 3 MB, where this process may mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", path],  # noqa: S607
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system; the doubles above need none")
    yield path
    subprocess.run(["umount", path], check=True)  # noqa: S607


@pytest.mark.parametrize("free", [0, 20_000, 100_000, 1_000_000])
def test_a_real_disk_that_is_full(few, small_disk, tmp_path, monkeypatch, free):
    monkeypatch.setattr(featurecache.run.manifest_run.ManifestRun, "_require_space", lambda _: None)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - free))
    error = failing_run(few, small_disk / "c.h5", monkeypatch, featurecache.storage.publish.FileSystem())
    assert error.errno == errno.ENOSPC
    committed = few.known(small_disk / "c.h5")
    assert bool(committed) == (free >= 100_000)
    ballast.unlink()
    few.finish(small_disk / "c.h5")

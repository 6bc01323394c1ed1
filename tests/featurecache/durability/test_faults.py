"""Disks that fail, folders that vanish, places that may not be written: one clear line, and nothing lost."""

import errno
import os
import shutil

import pytest
from file_systems import ActingFileSystem, FailingFileSystem, TracingFileSystem
from runs import BATCH_SIZE

import featurecache.publish
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import FeatureCacheError, OutputError

NOBODY = 65534


def run(reference, cache_path, monkeypatch, file_system):
    """Extract on this file system; return the error if there was one that featurecache raises on purpose."""
    with monkeypatch.context() as patch:
        patch.setattr(featurecache.publish, "FILE_SYSTEM", file_system)
        try:
            extract(reference.images, cache_path, backbone=FakeBackbone(), batch_size=BATCH_SIZE)
        except FeatureCacheError as e:
            assert "\n" not in str(e)
            return e
    return None


@pytest.fixture
def steps(few, memory_path, monkeypatch):
    """Return every step of a whole run as (number, call)."""
    (memory_path / "whole").mkdir()
    tracing = TracingFileSystem()
    assert run(few, memory_path / "whole" / "c.h5", monkeypatch, tracing) is None
    return [(step, name) for step, (name, _) in enumerate(tracing.trace)]


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.EROFS])
def test_a_step_that_fails(few, memory_path, monkeypatch, steps, error):
    for step, name in steps:
        cache_path = memory_path / str(step) / "c.h5"
        cache_path.parent.mkdir()
        failed = run(few, cache_path, monkeypatch, FailingFileSystem(step, error))
        assert isinstance(failed, OutputError), (step, name)
        assert failed.errno == error
        assert "cannot " in str(failed)
        few.check_crash(cache_path, set())
        few.finish(cache_path)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["work", "cache folder", "file for work"])
def test_a_folder_is_removed_while_the_run_is_at_work(few, memory_path, monkeypatch, steps, what):
    cache_path = memory_path / "folder" / "c.h5"
    work = cache_path.with_name("c.h5.work")

    def act():
        shutil.rmtree(work if what != "cache folder" else cache_path.parent, ignore_errors=True)
        if what == "file for work":
            work.write_bytes(b"in the way")

    for step, name in steps:
        shutil.rmtree(cache_path.parent, ignore_errors=True)
        cache_path.parent.mkdir()
        error = run(few, cache_path, monkeypatch, ActingFileSystem(step, act))
        if what == "cache folder":
            assert error, (step, name)
            cache_path.parent.mkdir()
        elif error is None:
            assert cache_path.exists(), (step, name)
        else:
            assert isinstance(error, OutputError), (step, name)
        if work.is_file():
            assert "in the way" in str(run(few, cache_path, monkeypatch, TracingFileSystem()))
            work.unlink()
        few.check_crash(cache_path, set())
        few.finish(cache_path)


def test_a_folder_is_removed_before_anything_is_written(few, memory_path):
    cache_path = memory_path / "folder" / "c.h5"
    cache_path.parent.mkdir()

    class RemovingBackbone(FakeBackbone):
        def forward(self, images):
            shutil.rmtree(cache_path.parent, ignore_errors=True)
            return super().forward(images)

    class RemovingSource(FakeBackbone):
        @property
        def spec(self):
            return self._spec

        @spec.setter
        def spec(self, value):
            self._spec = value

    with pytest.raises(OutputError, match="run the same command again"):
        extract(few.images, cache_path, backbone=RemovingBackbone())
    with pytest.raises(OutputError, match="does not exist"):
        extract(few.images, cache_path, backbone=FakeBackbone())


def test_a_file_where_the_work_directory_belongs(few, memory_path):
    work = memory_path / "c.h5.work"
    work.write_bytes(b"in the way")
    seen = []

    class SeeingBackbone(FakeBackbone):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    with pytest.raises(OutputError, match=r"c\.h5\.work is in the way"):
        extract(few.images, memory_path / "c.h5", backbone=SeeingBackbone())
    assert seen == []
    assert work.read_bytes() == b"in the way"


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_that_may_not_be_written(few, drivers, memory_path, mode):
    if os.geteuid():
        pytest.skip("only the superuser can give up rights")
    (memory_path / "folder").mkdir()
    memory_path.chmod(0o755)
    (memory_path / "folder").chmod(mode)
    attempt = drivers[0].start(few.images, memory_path / "folder" / "c.h5", "--user", NOBODY)
    assert attempt.end() == 3
    assert attempt.error.startswith("OutputError: cannot write")
    assert "no permission" in attempt.error

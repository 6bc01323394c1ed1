"""Disks that fail, folders that vanish, places that may not be written: one clear line, and nothing lost."""

import errno
import os
import shutil

import pytest
from file_systems import ActingFileSystem, FailingFileSystem, TracingFileSystem
from runs import BATCH_SIZE, StoppingBackbone

import featurecache.storage.publish
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import FeatureCacheError, NoImagesError, OutputError

NOBODY = 65534


def run(reference, cache_path, monkeypatch, file_system):
    """Extract on this file system; return the error if there was one that featurecache raises on purpose."""
    error = None
    with monkeypatch.context() as patch:
        patch.setattr(featurecache.storage.publish, "FILE_SYSTEM", file_system)
        try:
            extract(reference.images, cache_path, backbone=FakeBackbone(), batch_size=BATCH_SIZE)
        except FeatureCacheError as e:
            error = e
    assert "\n" not in str(error)
    return error


@pytest.fixture
def steps(before_few, memory_path, monkeypatch):
    """Return every step of a whole run as (number, call)."""
    (memory_path / "whole").mkdir()
    tracing = TracingFileSystem()
    assert run(before_few, memory_path / "whole" / "c.h5", monkeypatch, tracing) is None
    return [(step, name) for step, (name, _) in enumerate(tracing.trace)]


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.EROFS])
def test_a_step_that_fails(before_few, memory_path, monkeypatch, steps, error):
    """Every step with one error; with the others, which are handled alike, the last one of every call."""
    last = {name: (step, name) for step, name in steps}
    for step, name in steps if error == errno.EIO else last.values():
        cache_path = memory_path / str(step) / "c.h5"
        cache_path.parent.mkdir()
        failed = run(before_few, cache_path, monkeypatch, FailingFileSystem(step, error))
        if name != "unlink":  # of a temporary name in the work directory, which goes in any case
            assert isinstance(failed, OutputError), (step, name)
            assert failed.errno == error
            assert "cannot write" in str(failed)
        before_few.finish(cache_path, known=before_few.check_crash(cache_path, set()))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["work", "cache folder", "file for work"])
def test_a_folder_is_removed_while_the_run_is_at_work(before_few, memory_path, monkeypatch, steps, what):
    cache_path = memory_path / "folder" / "c.h5"
    work = cache_path.with_name("c.h5.work")

    def act():
        shutil.rmtree(work if what != "cache folder" else cache_path.parent, ignore_errors=True)
        if what == "file for work":
            work.write_bytes(b"in the way")

    for step, name in steps:
        shutil.rmtree(cache_path.parent, ignore_errors=True)
        cache_path.parent.mkdir()
        error = run(before_few, cache_path, monkeypatch, ActingFileSystem(step, act))
        if what == "cache folder":
            assert error, (step, name)
            cache_path.parent.mkdir()
        elif error is None:
            assert cache_path.exists(), (step, name)
        else:
            assert isinstance(error, OutputError), (step, name)
        if work.is_file():
            error = run(before_few, cache_path, monkeypatch, TracingFileSystem())
            assert "is a file, where a run needs a folder" in str(error)
            work.unlink()
        before_few.finish(cache_path, known=before_few.check_crash(cache_path, set()))


def test_a_folder_is_removed_before_anything_is_written(few, memory_path):
    cache_path = memory_path / "folder" / "c.h5"
    cache_path.parent.mkdir()

    def remove():
        shutil.rmtree(cache_path.parent, ignore_errors=True)

    with pytest.raises(OutputError, match="Run the same command again"):
        extract(few.images, cache_path, backbone=FakeBackbone(), progress=lambda _: remove())
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

    with pytest.raises(OutputError, match=r"c\.h5\.work is a file, where a run needs a folder"):
        extract(few.images, memory_path / "c.h5", backbone=SeeingBackbone())
    assert seen == []
    assert work.read_bytes() == b"in the way"


def test_images_that_are_gone_for_a_while_cost_nothing_that_was_committed(few, memory_path, tmp_path):
    broken = tmp_path / "images"
    shutil.copytree(few.images, broken)
    for path in broken.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(MemoryError):
        extract(
            few.images,
            memory_path / "c.h5",
            backbone=StoppingBackbone(memory_path / "c.h5.work"),
            batch_size=BATCH_SIZE,
        )
    known = few.known(memory_path / "c.h5")
    assert len(known) >= 16
    with pytest.raises(NoImagesError):
        extract(broken, memory_path / "c.h5", backbone=FakeBackbone())
    assert few.known(memory_path / "c.h5") == known
    few.finish(memory_path / "c.h5")


def test_a_run_that_committed_nothing_is_in_nobodys_way(few, memory_path):
    class BrokenBackbone(FakeBackbone):
        def forward(self, images):
            raise MemoryError

    with pytest.raises(MemoryError):
        extract(few.images, memory_path / "c.h5", backbone=BrokenBackbone(seed=1))
    few.finish(memory_path / "c.h5")


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

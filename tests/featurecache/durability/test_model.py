"""A folder and its cache under random changes: the cache always equals that of a new extraction."""

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from runs import contents, write_image

import featurecache.run.units
import featurecache.storage.publish
from featurecache import FeatureCache, extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import NoImagesError
from featurecache.merging import merge
from featurecache.storage.publish import FileSystem
from featurecache.verification import verify

PLACES = [f"{split}/{label}" for split in ("train", "valid") for label in ("cats", "dogs")]
BROKEN = b"not an image"
SHARD_ROWS = 4


class InterruptedBackbone(FakeBackbone):
    """Counts images, and may end the run."""

    def __init__(self, stop_after=None, error=None):
        super().__init__({"features": 4, "predictions": 2})
        self.seen = 0
        self._stop_after = stop_after
        self._error = error

    def forward(self, images):
        if self._stop_after is not None and self.seen >= self._stop_after:
            raise self._error
        self.seen += len(images)
        return super().forward(images)


class InterruptedFileSystem(FileSystem):
    """The real calls, until one of them is interrupted."""

    def __init__(self, at):
        self._left = at

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name.startswith("_"):
            return value

        def call(*args):
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
            return value(*args)

        return call


class ChangingFolder(RuleBasedStateMachine):
    """Images come, go, move and break; runs end well or are interrupted."""

    def __init__(self):
        super().__init__()
        memory = "/dev/shm"  # noqa: S108
        self.base = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
        self.images = self.base / "images"
        self.cache_path = self.base / "caches" / "c.h5"
        self.cache_path.parent.mkdir()
        self.drawn = 0
        self.known = set()
        self.maybe = set()
        self.is_current = False

    def teardown(self):
        shutil.rmtree(self.base)

    def files(self):
        return sorted(path for path in self.images.rglob("*.png"))

    def pick(self, number):
        files = self.files()
        return files[number % len(files)]

    def target(self, place):
        self.drawn += 1
        path = self.images / place / f"{self.drawn:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.is_current = False
        return path

    def good(self):
        """Return the hashes of all contents that give features."""
        data = {path.read_bytes() for path in self.files()}
        return {hashlib.sha256(content).hexdigest() for content in data if not content.startswith(BROKEN)}

    @initialize(place=st.sampled_from(PLACES))
    def start(self, place):
        self.add(place, 3)

    @rule(place=st.sampled_from(PLACES), count=st.integers(1, 5))
    def add(self, place, count):
        for _ in range(count):
            write_image(self.target(place), self.drawn)

    @precondition(lambda self: len(self.files()) > 1)
    @rule(number=st.integers(0, 50))
    def remove(self, number):
        self.pick(number).unlink()
        self.is_current = False

    @precondition(lambda self: self.files())
    @rule(number=st.integers(0, 50), place=st.sampled_from(PLACES))
    def rename_relabel_or_split(self, number, place):
        source = self.pick(number)
        source.rename(self.target(place))

    @precondition(lambda self: self.files())
    @rule(number=st.integers(0, 50), place=st.sampled_from(PLACES))
    def duplicate(self, number, place):
        source = self.pick(number)
        shutil.copy(source, self.target(place))

    @precondition(lambda self: self.files())
    @rule(number=st.integers(0, 50))
    def corrupt(self, number):
        self.drawn += 1
        self.pick(number).write_bytes(BROKEN * self.drawn)
        self.is_current = False

    @precondition(lambda self: self.files())
    @rule(number=st.integers(0, 50))
    def change(self, number):
        self.drawn += 1
        write_image(self.pick(number), self.drawn)
        self.is_current = False

    @precondition(lambda self: self.files())
    @rule(
        stop_after=st.integers(0, 8),
        error=st.sampled_from([KeyboardInterrupt, MemoryError]),
        batch_size=st.integers(1, 3),
    )
    def interrupt(self, stop_after, error, batch_size):
        backbone = InterruptedBackbone(stop_after, error)
        new = self.good() - self.known
        try:
            extract(self.images, self.cache_path, backbone=backbone, batch_size=batch_size)
        except error:
            self.maybe |= new
            assert backbone.seen <= len(new)
        except NoImagesError:
            assert not self.good()
        else:
            assert backbone.seen <= len(new)
            self.finished()

    @precondition(lambda self: self.files())
    @rule(batch_size=st.integers(1, 3))
    def run(self, batch_size):
        backbone, ledger, good = InterruptedBackbone(), [], self.good()
        try:
            cache = extract(
                self.images,
                self.cache_path,
                backbone=backbone,
                batch_size=batch_size,
                progress=lambda progress: ledger.append(progress.to_dict()),
            )
        except NoImagesError:
            assert not good
            return
        assert len(good - self.known - self.maybe) <= backbone.seen <= len(good - self.known)
        assert ledger[-1]["forwarded"] == backbone.seen
        assert ledger[-1]["images"] == len(cache) + len(cache.failures) == len(self.files())
        if self.is_current:
            assert backbone.seen == 0
        self.finished()

    @precondition(lambda self: self.files())
    @rule(at=st.integers(1, 80))
    def interrupt_publishing(self, at):
        new = self.good() - self.known
        try:
            with patch.object(featurecache.storage.publish, "FILE_SYSTEM", InterruptedFileSystem(at)):
                extract(self.images, self.cache_path, backbone=InterruptedBackbone(), batch_size=2)
        except KeyboardInterrupt:
            self.maybe |= new
            self.is_current = False  # the cache may have been packed, or not
        except NoImagesError:
            assert not self.good()
        else:
            self.finished()

    @precondition(lambda self: self.cache_path.exists())
    @rule()
    def verify(self):
        assert verify(self.cache_path).problems == ()

    @precondition(lambda self: self.is_current and len({path.parent for path in self.files()}) > 1)
    @rule()
    def merge(self):
        """Split the folder, extract the parts, and merge them."""
        parts = []
        for number, files in enumerate((self.files()[::2], self.files()[1::2])):
            folder = self.base / f"part{number}"
            for file in files:
                copy = folder / file.relative_to(self.images)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, copy)
            with suppress(NoImagesError):
                parts.append(extract(folder, self.base / f"part{number}.h5", backbone=InterruptedBackbone()).path)
            shutil.rmtree(folder)
        if len(parts) > 1:
            merged = merge(self.base / "merged.h5", parts).path
            assert contents(merged) == contents(self.cache_path)
            merged.unlink()
        for part in parts:
            part.unlink()

    def finished(self):
        self.known, self.maybe, self.is_current = self.good(), set(), True

    @invariant()
    def the_cache_is_what_a_new_extraction_makes(self):
        # the last one of a run that was killed while it removed its work directory; the next run removes it
        assert set(os.listdir(self.cache_path.parent)) <= {"c.h5", "c.h5.work", "c.h5.work.old"}
        if self.is_current:
            fresh = extract(self.images, self.base / "fresh.h5", backbone=InterruptedBackbone(), batch_size=2).path
            assert contents(self.cache_path) == contents(fresh)
            assert FeatureCache.open(self.cache_path).problems() == []
            assert os.listdir(self.cache_path.parent) == ["c.h5"]
            fresh.unlink()


@pytest.mark.slow
def test_a_folder_that_changes(monkeypatch):
    monkeypatch.setattr(featurecache.run.units, "SHARD_ROWS", SHARD_ROWS)

    run_state_machine_as_test(
        ChangingFolder,
        settings=settings(
            max_examples=40,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )

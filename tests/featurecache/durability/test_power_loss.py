"""Power loss at any step: synced data survives; other data may survive, be lost or be torn."""

import itertools
import secrets

import pytest
from file_systems import Killed, PowerLossFileSystem, rebuild
from runs import BATCH_SIZE, copy_cache

import featurecache.storage.publish
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import FeatureCacheError
from featurecache.run.store import Store

KINDS = ("synced", "everything", "removals", "additions", "torn", "random")


class Power:
    """Runs in one folder, over which the power is watched; every state that a loss may leave is kept once."""

    def __init__(self, folder, reference, monkeypatch, *, old=None, forgets=(), kinds=KINDS, states=None):
        folder.mkdir()
        self.cache_path = folder / "c.h5"
        self.states = {} if states is None else states
        self._reference = reference
        self._monkeypatch = monkeypatch
        self._old = old
        self._kinds = kinds
        self._acknowledged = set()
        self._numbers = itertools.count()
        if old:
            copy_cache(old.path, self.cache_path)
        self.file_system = PowerLossFileSystem(folder, forgets)
        self.file_system.watch = self._keep

    def run(self, dies_at=None):
        """Extract; with ``dies_at``, the process is killed at that step."""
        self.file_system.dies_at = dies_at

        def commit(store, batches, file_records, environment):
            original(store, batches, file_records, environment)
            self._acknowledged |= {content for contents, _ in batches for content in contents}
            self._keep()

        original = Store.commit
        with self._monkeypatch.context() as patch:
            patch.setattr(featurecache.storage.publish, "FILE_SYSTEM", self.file_system)
            patch.setattr(Store, "commit", commit)
            patch.setattr(secrets, "token_hex", lambda _: f"{next(self._numbers):016}")  # so that states repeat
            try:
                extract(
                    self._reference.images,
                    self.cache_path,
                    backbone=FakeBackbone(),
                    batch_size=BATCH_SIZE,
                    part_rows=self._reference.part_rows,
                )
            except Killed:
                assert dies_at is not None
            else:
                self._keep()

    def check(self, folder):
        """Check that from every state nothing that was acknowledged is lost, and that a run goes on to the end."""
        for state, acknowledged in self.states.items():
            rebuild(folder, dict(state))
            known = self._reference.check_crash(folder / "c.h5", set(acknowledged), self._old)
            self._reference.finish(folder / "c.h5", known=known)

    def _keep(self):
        for kind in self._kinds:
            state = tuple(self.file_system.survivors(kind, seed=len(self.file_system.trace)).items())
            self.states[state] = self.states.get(state, frozenset()) | self._acknowledged


@pytest.fixture
def power(few, memory_path, monkeypatch):
    """Return a function that makes a watched folder."""

    def make(name="watched", reference=few, **options):
        return Power(memory_path / name, reference, monkeypatch, **options)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("replaces", [False, True])
def test_the_power_goes_at_any_step(power, before_few, memory_path, replaces):
    watched = power(old=before_few if replaces else None)
    watched.run()
    assert len(watched.states) > 40
    watched.check(memory_path / "rebuilt")


@pytest.mark.slow
def test_the_power_goes_in_the_run_after_a_kill(power, before_few, memory_path):
    states = {}
    whole = power("whole", before_few, kinds=())
    whole.run()
    last = {kind: step for step, kind in enumerate(whole.file_system.trace)}
    assert len(last) > 30
    for dies_at in last.values():
        watched = power(str(dies_at), before_few, kinds=("synced", "removals"), states=states)
        watched.run(dies_at)
        watched.run()
    watched.check(memory_path / "rebuilt")


@pytest.mark.slow
def test_the_power_goes_while_parts_are_written(power, in_parts, before_in_parts, memory_path):
    watched = power("parts", in_parts, old=before_in_parts)
    watched.run()
    assert len(watched.states) > 40
    watched.check(memory_path / "rebuilt")


@pytest.mark.slow
def test_the_power_goes_in_the_run_after_a_kill_while_parts_were_written(power, in_parts, before_in_parts, memory_path):
    states, options = {}, {"reference": in_parts, "old": before_in_parts, "kinds": ("synced",)}
    whole = power("whole", **options)
    whole.run()
    roles = [role for _, role in whole.file_system.trace]
    for dies_at in range(roles.index("part"), len(roles), 5):
        watched = power(str(dies_at), states=states, **options)
        watched.run(dies_at)
        watched.run()
    watched.check(memory_path / "rebuilt")


@pytest.mark.parametrize("forgotten", ["fsync", "fsync_directory"])
def test_a_disk_that_forgets_is_noticed(power, memory_path, forgotten):
    watched = power(forgets=(forgotten,), kinds=("synced", "torn"))
    watched.run()
    with pytest.raises((AssertionError, FeatureCacheError)):
        watched.check(memory_path / "rebuilt")

"""When a shard ends, and that one commit follows the other."""

import threading

import numpy as np
import pytest

from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import OutputError
from featurecache.format.file_records import FileRecord
from featurecache.images.decode import DecodeRules
from featurecache.named_backbone import recipe_of
from featurecache.provenance import Environment
from featurecache.run.committer import FIRST_SECONDS, SHARD_SECONDS, Committer
from featurecache.run.units import SHARD_BYTES, SHARD_ROWS

ENVIRONMENT = Environment(runner="test")
RECORD = FileRecord("a.png", 1, 2, "0" * 64)


class RecordingStore:
    """Takes what is committed to it; a commit can be held, or fail."""

    def __init__(self, width=16, error=None):
        spec = FakeBackbone({"features": width}).spec
        self.recipe = recipe_of(spec, DecodeRules(spec.input_size), "float32")
        self.commits = []
        self.going = threading.Event()
        self.going.set()
        self._error = error

    def commit(self, batches, file_records, environment):
        assert self.going.wait(60)
        if self._error:
            raise self._error
        rows = [len(contents) for contents, _ in batches]
        self.commits.append((rows, list(file_records), environment))


def add(committer, rows, width=16):
    committer.add_features([f"{row:064}" for row in range(rows)], {"features": np.zeros((rows, width), np.float32)})


@pytest.fixture
def make_committer():
    """Return a factory of committers, which end with the test."""
    made = []

    def make(store, **options):
        made.append(Committer(store, lambda: ENVIRONMENT, **options))
        return made[-1]

    yield make
    for committer in made:
        committer.close()


def test_a_shard_ends_before_it_has_more_rows_than_the_limit(make_committer):
    committer = make_committer(RecordingStore())
    add(committer, SHARD_ROWS - 30)
    assert not committer.is_due(30)
    assert committer.is_due(31)


def test_a_shard_ends_before_it_has_more_bytes_than_the_limit(make_committer):
    width = 20_000
    committer = make_committer(RecordingStore(width))
    add(committer, 60, width)
    assert SHARD_BYTES // (width * 4) == 60 + 40
    assert not committer.is_due(40)
    assert committer.is_due(41)


def seconds_to_commit(committer, now, count=1):
    """Add images, and return after how many seconds they are due; commit them."""
    add(committer, count)
    began, left = now[0], committer.seconds_left()
    now[0] += left
    assert not committer.is_old()
    assert not committer.is_due(1)
    now[0] += 1e-6
    assert committer.is_old()
    assert committer.is_due(1)
    committer.commit()
    assert not committer.is_old()
    return round(now[0] - began, 3)


def test_the_first_shard_ends_soon_and_later_ones_have_more_time(make_committer):
    now = [5.0]
    committer = make_committer(RecordingStore(), clock=lambda: now[0])
    assert (FIRST_SECONDS, SHARD_SECONDS) == (5, 30)
    assert [seconds_to_commit(committer, now) for _ in range(6)] == [5, 5, 10, 20, 30, 30]


def test_the_time_that_the_network_needs_to_start_counts_for_the_first_shard_only(make_committer):
    now = [5.0]
    committer = make_committer(RecordingStore(), clock=lambda: now[0])
    now[0] += SHARD_SECONDS + 1
    add(committer, 1)
    assert committer.is_due(1)
    assert committer.seconds_left() == 0
    committer.commit()
    assert [seconds_to_commit(committer, now) for _ in range(4)] == [5, 5, 10, 20]


def test_file_records_that_were_committed_do_not_delay_the_first_features(make_committer):
    now = [5.0]
    committer = make_committer(RecordingStore(), clock=lambda: now[0])
    for _ in range(5):
        committer.add_file_records([RECORD])
        now[0] += SHARD_SECONDS + 1
        committer.commit()
    assert [seconds_to_commit(committer, now) for _ in range(4)] == [5, 5, 10, 20]


def test_nothing_is_due_before_something_was_added(make_committer):
    committer = make_committer(RecordingStore())
    assert committer.seconds_left() is None
    committer.add_file_records([RECORD])
    assert 0 < committer.seconds_left() <= FIRST_SECONDS
    committer.commit()
    assert committer.seconds_left() is None


def test_what_was_added_is_committed_once_and_nothing_is_not_committed(make_committer):
    store = RecordingStore()
    committer = make_committer(store)
    committer.commit()
    add(committer, 2)
    add(committer, 3)
    committer.add_file_records([RECORD])
    committer.commit()
    committer.commit()
    committer.add_file_records([RECORD])
    committer.commit()
    committer.wait()
    assert store.commits == [([2, 3], [RECORD], ENVIRONMENT), ([], [RECORD], ENVIRONMENT)]


def test_a_commit_does_not_hold_up_the_run_but_the_next_commit(make_committer):
    store = RecordingStore()
    committer = make_committer(store)
    store.going.clear()
    add(committer, 1)
    committer.commit()
    add(committer, 2)
    assert store.commits == []
    second = threading.Thread(target=committer.commit)
    second.start()
    assert store.commits == []
    store.going.set()
    second.join()
    committer.wait()
    assert [rows for rows, _, _ in store.commits] == [[1], [2]]


def test_a_commit_that_failed_is_an_error_of_the_next_one(make_committer):
    committer = make_committer(RecordingStore(error=OutputError("full")))
    add(committer, 1)
    committer.commit()
    add(committer, 1)
    with pytest.raises(OutputError, match="full"):
        committer.commit()
    with pytest.raises(OutputError, match="full"):
        committer.wait()

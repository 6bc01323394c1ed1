"""Which batches and units a run has: the same ones, whatever is known, whoever computes them, and however often."""

import hashlib
import json
from itertools import chain

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import CacheFormatError
from featurecache.format.file_records import FileRecord
from featurecache.images.decode import DecodeRules
from featurecache.named_backbone import recipe_of
from featurecache.provenance import Environment
from featurecache.run.commit_records import publish_commit, read_record
from featurecache.run.store import Store
from featurecache.run.units import SHARD_ROWS, BatchPlan, Unit, shard_rows, unit_name

SPEC = FakeBackbone().spec
RECIPE = recipe_of(SPEC, DecodeRules(SPEC.input_size), "float32")


def planned(contents, size, done=(), failing=()):
    """Return the batches of a plan as lists of contents."""
    plan = BatchPlan(size)
    added = (plan.add(c, None if c in failing else 1, is_done=c in done) for c in contents)
    return [list(batch) for batch in chain(chain.from_iterable(added), plan.rest())]


def test_a_run_without_new_contents_needs_no_batch_size():
    plan = BatchPlan(None)
    assert [*plan.add("a", None, is_done=True), *plan.add("b", None), *plan.rest()] == []


def test_what_is_left_of_committed_batches_is_computed_as_soon_as_it_fills_one():
    assert planned(range(6), 2, done={0, 2}) == [[1, 3], [4, 5]]


@given(st.integers(0, 40), st.integers(1, 6), st.sets(st.integers(0, 8)), st.sets(st.integers(0, 39)))
def test_what_is_committed_changes_no_batch_that_is_left(count, size, done_batches, failing):
    whole = planned(range(count), size, failing=failing)
    places = [range(start, min(start + size, count)) for start in range(0, count, size)]
    done = set(chain.from_iterable(batch for number, batch in enumerate(places) if number in done_batches))
    left = planned(range(count), size, done, failing)
    assert left == [batch for batch in whole if not done.intersection(batch)]


@given(st.integers(0, 40), st.integers(1, 6), st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)))
def test_every_content_that_is_not_committed_is_in_one_batch_whatever_is(count, size, done, failing):
    batches = planned(range(count), size, done, failing)
    assert sorted(chain.from_iterable(batches)) == sorted(set(range(count)) - done - failing)
    assert all(0 < len(batch) <= size for batch in batches)


def test_few_missing_contents_of_many_batches_share_batches():
    missing = range(0, 1000, 10)
    assert len(planned(range(1000), 10, done=set(range(1000)) - set(missing))) == 10


def test_a_size_that_is_known_late_gives_the_same_batches():
    late = BatchPlan(None)
    assert list(chain.from_iterable(late.add(content, None) for content in range(7))) == []
    late.size = 3
    batches = [list(batch) for content in range(7, 12) for batch in late.add(content, 1)]
    assert [*batches, *map(list, late.rest())] == planned(range(12), 3, failing=range(7)) == [[7, 8], [9, 10, 11]]


def test_a_shard_has_at_most_so_many_rows_and_bytes():
    assert shard_rows(RECIPE) == SHARD_ROWS == 1024
    wide = FakeBackbone({"features": 20_000}).spec
    assert shard_rows(recipe_of(wide, DecodeRules(wide.input_size), "float32")) == 100


def test_the_name_of_a_unit_depends_on_recipe_contents_and_batches_alone():
    a, b = "a" * 64, "b" * 64
    expected = hashlib.sha256(f"{RECIPE.fingerprint}\n{a},{b}".encode()).hexdigest()[:32]
    assert unit_name(RECIPE, [[a, b]]) == expected
    other = recipe_of(SPEC, DecodeRules(SPEC.input_size, resize="crop"), "float32")
    assert (
        len(
            {unit_name(*of) for of in ((RECIPE, [[a, b]]), (RECIPE, [[a], [b]]), (RECIPE, [[b, a]]), (other, [[a, b]]))}
        )
        == 4
    )
    assert len(Unit(1, ({a: "x", b: "y"}, {"c": "z"}))) == 3


@pytest.fixture
def store(tmp_path):
    """Return a store whose directories exist."""
    store = Store.beside(tmp_path / "c.h5", RECIPE)
    store.scratch()
    return store


def features(contents, number):
    return {tap: np.full((len(contents), width), number, np.float32) for tap, width in RECIPE.taps.items()}


def test_of_two_attempts_at_a_unit_the_first_one_counts(store):
    contents = ["a" * 64, "b" * 64]
    for number, host in enumerate(("first", "second"), start=1):
        record = FileRecord(f"{host}.png", 1, 2, contents[0])
        name = publish_commit(
            store.directory,
            RECIPE,
            number=number,
            batches=[(contents, features(contents, number))],
            file_records=[record],
            environment=Environment(runner=host),
        )
        assert name == f"{unit_name(RECIPE, [contents])}.json"
    (path,) = (store.directory / "commits").iterdir()
    assert read_record(path).environment == Environment(runner="first")
    store.refresh()
    assert [(part.environment.runner, part.rows) for part in store.environments] == [("first", 2)]
    places = store.known.places.of(contents)
    assert places.read("features", RECIPE.taps["features"], np.dtype("float32"))[:, 0].tolist() == [1, 1]


def test_two_attempts_with_the_same_result_publish_one_shard(store):
    contents = ["a" * 64]
    for host in ("first", "second"):
        publish_commit(
            store.directory,
            RECIPE,
            number=1,
            batches=[(contents, features(contents, 7))],
            file_records=[],
            environment=Environment(runner=host),
        )
    assert len(list((store.directory / "shards").iterdir())) == 1


@pytest.mark.parametrize("change", ["rows", "checksum", "name"])
def test_a_record_that_was_changed_is_refused(store, change):
    contents = ["a" * 64]
    name = publish_commit(
        store.directory,
        RECIPE,
        number=1,
        batches=[(contents, features(contents, 7))],
        file_records=[],
        environment=Environment(),
    )
    path = store.directory / "commits" / name
    members = json.loads(path.read_bytes())
    if change == "rows":
        members["rows"] = 2
    elif change == "checksum":
        members["record_sha256"] = "0" * 64
    path.write_text(json.dumps(members, sort_keys=True))
    if change == "name":
        path = path.rename(path.with_name("0" * 32 + ".json"))
    with pytest.raises(CacheFormatError, match=r"is damaged.*remove it to compute its images again"):
        read_record(path)


class PlaceBackbone(FakeBackbone):
    """A backbone whose rows depend on the place in the batch and on its company, as those of some devices do."""

    def forward(self, images):
        found = super().forward(images)
        noise = (1 + np.arange(len(images), dtype=np.float32) + images.mean(dtype=np.float32))[:, None] * 1e-3
        return {tap: values + noise for tap, values in found.items()}


def feature_bytes(path):
    with h5py.File(path) as file:
        return {name: file["features"][name][()].tobytes() for name in file["features"]}


@pytest.mark.parametrize("stop_after", [3, 8, 13])
def test_a_continued_run_gives_the_same_bytes_where_rows_depend_on_their_batch(photos, tmp_path, stop_after):
    for number in (0, 3):
        (photos / "train" / "cats" / f"{number}-broken.png").write_bytes(b"not an image" * (number + 1))
    whole = extract(photos, tmp_path / "whole.h5", backbone=PlaceBackbone(), batch_size=5)

    class Stopping(PlaceBackbone):
        seen = 0

        def forward(self, images):
            self.seen += len(images)
            if self.seen > stop_after:
                raise KeyboardInterrupt
            return super().forward(images)

    with pytest.raises(KeyboardInterrupt):
        extract(photos, tmp_path / "c.h5", backbone=Stopping(), batch_size=5)
    cache = extract(photos, tmp_path / "c.h5", backbone=PlaceBackbone(), batch_size=5)
    assert 0 < cache.provenance["run"]["reused"] < 20
    assert feature_bytes(cache.path) == feature_bytes(whole.path)

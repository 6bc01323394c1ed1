"""What a store knows when it is opened, what it commits, refuses and removes, and when it locks and unlocks."""

import gc
import os
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

import featurecache.run.commit_records
import featurecache.run.store
from featurecache import extract, merge
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import CacheFormatError, OutputError, RecipeError
from featurecache.format.file_records import FileRecord
from featurecache.images.decode import DecodeRules
from featurecache.named_backbone import recipe_of
from featurecache.provenance import Environment
from featurecache.run.commit_records import publish_commit
from featurecache.run.store import Store, unfinished_recipe, unfinished_records
from featurecache.storage.process_identity import this_process

COMMIT = ([], [FileRecord("a.png", 1, 2, "0" * 64)], Environment(runner="test"))


def open_store(folder):
    spec = FakeBackbone().spec
    return Store.beside(folder / "x.h5", recipe_of(spec, DecodeRules(spec.input_size), "float32"))


def test_a_closed_store_refuses_a_commit_and_writes_nothing(tmp_path):
    store = open_store(tmp_path)
    store.close()
    with pytest.raises(OutputError, match="is closed"):
        store.commit(*COMMIT)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_closed_during_a_commit_unlocks_at_the_end_of_the_commit(tmp_path, monkeypatch):
    committing, going, publish = threading.Event(), threading.Event(), featurecache.run.commit_records.publish_once

    def hold(path, data):
        if path.parent.name == "commits":
            committing.set()
            assert going.wait(60)
        publish(path, data)

    monkeypatch.setattr(featurecache.run.commit_records, "publish_once", hold)
    store = open_store(tmp_path)
    thread = threading.Thread(target=store.commit, args=COMMIT)
    thread.start()
    assert committing.wait(60)
    store.close()
    second = open_store(tmp_path)
    with pytest.raises(OutputError, match="another run is at work"):
        second.lock()
    going.set()
    thread.join()
    second.lock()
    assert len(list((store.directory / "commits").iterdir())) == 1
    second.close()


RECIPE, OTHER = (
    recipe_of(spec, DecodeRules(spec.input_size), "float32")
    for spec in (FakeBackbone().spec, FakeBackbone(seed=1).spec)
)


def batch(*numbers):
    """Return contents with features that tell them apart."""
    features = {
        tap: np.array([[number] * width for number in numbers], RECIPE.stored_dtype(tap))
        for tap, width in RECIPE.taps.items()
    }
    return [f"{number:064x}" for number in numbers], features


def packed(*numbers):
    return np.array(batch(*numbers)[0], "S64")


def record(number):
    return FileRecord(f"{number}.png", 1, 2, f"{number:064x}")


def commit(store, *numbers, environment=COMMIT[2]):
    """Commit the features and the file records of these images; return the name of the commit record."""
    before = set(store.directory.glob("commits/*"))
    store.commit([batch(*numbers)] if numbers else [], [record(number) for number in numbers], environment)
    (path,) = set(store.directory.glob("commits/*")) - before
    return path.name


def known(store):
    """Return the numbers whose features a store knows; check that they are right."""
    contents = sorted(store.known.places)
    rows = store.known.places.of(contents).read("features", RECIPE.taps["features"], np.dtype("f4"))
    numbers = [int(content, 16) for content in contents]
    assert rows.tolist() == [[number] * rows.shape[1] for number in numbers]
    return numbers


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.h5"


@pytest.fixture
def store(path):
    """Return a store that has nothing yet."""
    return Store.beside(path, RECIPE)


def test_a_new_store_writes_nothing_and_knows_nothing(store, tmp_path):
    assert list(tmp_path.iterdir()) == []
    assert (known(store), store.environments, store.next_number) == ([], [], 1)
    assert (store.cache, store.replaces, store.part_rows, store.parts_in_use) == (None, False, None, frozenset())
    assert (store.max_pixels, store.batch_size("numpy")) == (0, None)
    store.discard()
    store.release()
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_commits_are_loaded_in_their_order_and_one_environment_counts_once(store, path):
    one, other = Environment(max_pixels=5), Environment(max_pixels=7)
    for numbers, made_in in (((1, 2), one), ((), other), ((3,), one), ((4,), other), ((5, 6), one)):
        commit(store, *numbers, environment=made_in)
    store.commit([], [replace(record(4), mtime_ns=9)], one)
    assert store.next_number == 7
    store.close()
    second = Store.beside(path, RECIPE)
    assert known(second) == [1, 2, 3, 4, 5, 6]
    assert [(part.environment, part.rows) for part in second.environments] == [(one, 3), (other, 1), (one, 2)]
    assert second.known.file_records["4.png"].mtime_ns == 9
    assert second.known.file_records["1.png"] == record(1)
    assert (second.next_number, second.max_pixels) == (7, 7)


def test_the_batch_size_is_the_last_one_of_the_engine(store, path):
    sizes = [("numba", 4), ("keras", 32), ("numba", 8), ("openvino", "many")]
    for number, (engine, size) in enumerate(sizes):
        commit(store, number, environment=Environment(engine={"engine": engine, "batch_size": size}))
    commit(store, 9, environment=COMMIT[2])
    store.close()
    second = Store.beside(path, RECIPE)
    found = {engine: second.batch_size(engine) for engine in ("numba", "keras", "openvino", "numpy")}
    assert found == {"numba": 8, "keras": 32, "openvino": None, "numpy": None}
    assert second.max_pixels == 0


def test_a_run_loads_what_it_and_others_committed_but_for_file_records(store, path):
    commit(store, 1, environment=COMMIT[2])
    other = Environment(max_pixels=7)
    arguments = {"batches": [batch(2)], "file_records": [record(2)], "environment": other}
    of_worker = publish_commit(store.directory, RECIPE, number=5, **arguments)
    arguments["batches"] = [batch(3, 4)]
    publish_commit(store.directory, RECIPE, number=4, **arguments)
    assert known(store) == []
    store.add_own(of_worker)
    for _ in range(2):
        store.refresh()
        assert known(store) == [1, 2, 3, 4]
        assert [(part.environment, part.rows) for part in store.environments] == [(other, 2)]
    assert store.known.file_records == {}
    assert store.next_number == 6


def test_a_record_is_expected_until_it_is_seen(store):
    store.scratch()
    data = {"batches": [batch(2)], "file_records": [], "environment": COMMIT[2]}
    name = publish_commit(store.directory, RECIPE, number=1, **data)
    late = store.directory / "late"
    (store.directory / "commits" / name).rename(late)
    assert not store.expect(name)
    late.rename(store.directory / "commits" / name)
    assert store.expect(name)


def test_a_damaged_record_and_a_removed_work_directory_are_told_apart(store, path):
    commit(store, 1)
    name = commit(store, 2)
    (store.directory / "commits" / name).write_bytes(b"{}")
    with pytest.raises(CacheFormatError, match=f"{name} is damaged .* remove it"):
        Store.beside(path, RECIPE)
    with pytest.raises(CacheFormatError, match=f"{name} is damaged"):
        unfinished_records(path)
    store.expect("gone.json")
    with pytest.raises(OutputError, match="was removed by another run, which has ended"):
        store.refresh()


def test_a_run_shows_that_it_is_at_work_and_keeps_others_out(store, path):
    directory = store.scratch()
    assert directory == path.with_name("x.h5.work")
    assert [at_work.name for at_work in directory.glob(".run-*")] == [store.token]
    assert (directory / store.token).read_text("utf-8") == this_process()
    second = Store.beside(path, RECIPE)
    assert second.token != store.token
    for act in (second.lock, second.scratch, lambda: commit(second, 1), second.discard):
        with pytest.raises(OutputError, match="another run is at work"):
            act()
    store.lock()  # it has the lock
    store.close()
    assert list(directory.glob(".run-*")) == []
    assert commit(second, 1)
    second.close()


def test_a_failed_commit_leaves_the_store_open_and_a_closed_one_unlocked(store, path, monkeypatch):
    def fail(path, data):
        raise OutputError("full")

    with monkeypatch.context() as patch:
        patch.setattr(featurecache.run.commit_records, "publish_once", fail)
        with pytest.raises(OutputError, match="full"):
            commit(store, 1)
    with pytest.raises(OutputError, match="another run is at work"):
        Store.beside(path, RECIPE).lock()
    commit(store, 2)
    store.close()
    second = Store.beside(path, RECIPE)
    assert known(second) == [2]
    second.lock()
    second.close()


def test_a_work_directory_that_was_made_again_is_locked(store, path):
    store.scratch()
    shutil.rmtree(store.directory)
    store.lock()  # there is nothing to lock
    store.directory.mkdir()
    store.lock()
    with pytest.raises(OutputError, match="another run is at work"):
        Store.beside(path, RECIPE).lock()
    assert commit(store, 1)


def test_a_recipe_that_a_run_without_commits_left_is_replaced(path):
    left = Store.beside(path, OTHER)
    left.scratch()
    left.close()
    assert unfinished_recipe(path) is None
    store = Store.beside(path, RECIPE)
    commit(store, 1)
    assert unfinished_recipe(path) == RECIPE
    assert (store.directory / "recipe.json").read_text("ascii") == RECIPE.to_json()


def test_a_recipe_that_cannot_be_read_is_named(store):
    (store.directory / "recipe.json").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"recipe\.json"):
        commit(store, 1)
    with pytest.raises(CacheFormatError, match=r"recipe\.json cannot be read: .*; remove .*x\.h5\.work to begin again"):
        unfinished_recipe(store.directory.with_name("x.h5"))


def test_directories_are_made_once(store, use_file_system):
    commit(store, 1)
    double = use_file_system()
    commit(store, 2)
    assert "make_directory" not in double.calls


def test_records_of_an_unfinished_run_come_the_latest_first(store, path, monkeypatch):
    assert unfinished_records(path) == {}
    names = [commit(store, number) for number in range(12)]
    assert [*unfinished_records(path)] == names[::-1]
    read = featurecache.run.store.read_record

    def remove(path):
        if path.name == names[3]:
            path.unlink()
        return read(path)

    monkeypatch.setattr(featurecache.run.store, "read_record", remove)
    assert len(unfinished_records(path)) == 11  # another run has removed one


# The end of a run


def test_a_work_directory_is_removed_when_its_rows_are_packed(store, path, tmp_path):
    commit(store, 1, 2)
    (tmp_path / "x.h5.work.old").mkdir()
    (tmp_path / "x.h5.work.old" / "left").touch()
    store.discard(packed(1, 2))
    assert list(tmp_path.iterdir()) == []
    second = Store.beside(path, RECIPE)
    commit(second, 3)
    second.discard(packed())  # its own rows may be unused: of images that are gone
    assert list(tmp_path.iterdir()) == []
    store.close()


@pytest.mark.parametrize(("number", "stays"), [(2, False), (3, True)])
def test_rows_that_others_committed_meanwhile_stay_unless_they_are_packed(store, path, number, stays):
    commit(store, 1)
    others = [batch(2, number)]
    publish_commit(store.directory, RECIPE, number=9, batches=others, file_records=[], environment=COMMIT[2])
    publish_commit(store.directory, RECIPE, number=9, batches=[], file_records=[record(7)], environment=COMMIT[2])
    store.discard(packed(1, 2))
    assert store.directory.exists() == stays
    if stays:
        assert list(store.directory.glob(".run-*")) == []
        second = Store.beside(path, RECIPE)
        assert known(second) == [1, 2, 3]
        second.lock()
        second.discard()
    assert not store.directory.exists()
    assert not store.directory.with_name("x.h5.work.old").exists()


@pytest.mark.parametrize("of_worker", [False, True])
def test_rows_of_workers_are_this_runs_own(store, of_worker):
    store.scratch()
    name = publish_commit(store.directory, RECIPE, number=1, batches=[batch(1)], file_records=[], environment=COMMIT[2])
    if of_worker:
        store.add_own(name)
    else:
        store.expect(name)
    store.discard(packed())
    assert not store.directory.exists()


@pytest.mark.parametrize(
    ("others", "stays"),
    [([], False), (["ended"], False), (["gone"], False), (["at work"], True), (["ended", "gone", "at work"], True)],
)
def test_rows_of_an_unfinished_run_stay_for_another_that_goes_on_with_it(store, path, monkeypatch, others, stays):
    monkeypatch.setattr(featurecache.run.store, "has_ended", lambda text: text == "ended")
    commit(store, 1)
    store.close()
    second = Store.beside(path, RECIPE)
    commit(second, 2)
    for number, text in enumerate(others):
        token = second.directory / f".run-{number}"
        if text == "gone":  # between its name was read and its text
            token.symlink_to("nowhere")
        else:
            token.write_text(text)
    second.discard(packed(2))
    assert second.directory.exists() == stays
    second.close()


def test_rows_that_are_committed_while_the_directory_is_removed_stay(store, monkeypatch):
    rename = featurecache.run.store.name_directory

    def late(directory, name):
        rename(directory, name)
        if name.suffix == ".old":
            publish_commit(name, RECIPE, number=9, batches=[batch(3)], file_records=[], environment=COMMIT[2])

    commit(store, 1)
    monkeypatch.setattr(featurecache.run.store, "name_directory", late)
    store.discard(packed(1))
    assert len(list((store.directory / "commits").iterdir())) == 2
    assert not store.directory.with_name("x.h5.work.old").exists()


def test_a_directory_that_another_run_makes_while_this_one_removes_it_is_named(store, monkeypatch):
    rename = featurecache.run.store.name_directory

    def meanwhile(directory, name):
        (name / "commits").mkdir(parents=True)
        rename(directory, name)

    commit(store, 1)
    monkeypatch.setattr(featurecache.run.store, "name_directory", meanwhile)
    with pytest.raises(OutputError, match=r"another run has made .*x\.h5\.work\.old while this one removed it; the"):
        store.discard(packed(1))
    assert len(list((store.directory / "commits").iterdir())) == 1


# What is there before a run


@pytest.mark.parametrize("options", [{}, {"replace": True}, {"replace": True, "read_only": True}])
def test_an_unfinished_run_of_another_recipe(path, options):
    left = Store.beside(path, OTHER)
    commit(left, 1)
    left.close()
    if not options:
        with pytest.raises(RecipeError, match="weights"):
            Store.beside(path, RECIPE)
    else:
        assert known(Store.beside(path, RECIPE, **options)) == []
    assert left.directory.exists() == (options != {"replace": True})


@pytest.mark.parametrize("part_rows", [None, 8, 30])
@pytest.mark.parametrize("made_with", [RECIPE, OTHER])
def test_an_existing_cache(photos, path, part_rows, made_with):
    backbone = FakeBackbone(seed=0 if made_with == RECIPE else 1)
    cache = extract(photos, path, backbone=backbone, part_rows=part_rows)
    if made_with == OTHER:
        with pytest.raises(RecipeError, match="weights"):
            Store.beside(path, RECIPE)
    for given in (None, cache):
        store = Store.beside(path, RECIPE, replace=made_with == OTHER, cache=given)
        assert store.replaces
        assert (store.cache is None) == (made_with == OTHER)
        assert len(store.known.places) == (20 if made_with == RECIPE else 0)
        assert store.part_rows == part_rows
        assert store.parts_in_use == {part.name for part in cache.parts}
        assert store.max_pixels == (cache.made_by.max_pixels if made_with == RECIPE else 0)
    assert not path.with_name("x.h5.work").exists()


def test_a_released_cache_is_not_open(photos, path):
    cache = extract(photos, path, backbone=FakeBackbone())
    store = Store.beside(path, RECIPE, cache=cache)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    store.release()
    assert len(os.listdir("/proc/self/fd")) == before - 2  # the file and its map


def test_parts_of_a_merged_cache_are_as_large_as_its_largest(photos, path, tmp_path):
    sources = []
    for number, rows in enumerate((range(8), range(8, 20))):
        paths = sorted(image.relative_to(photos).as_posix() for image in photos.rglob("*.png"))
        (tmp_path / f"{number}.txt").write_text("".join(f"{paths[row]}\n" for row in rows))
        images, cache_path = tmp_path / f"{number}.txt", tmp_path / f"{number}.h5"
        sources.append(extract(images, cache_path, root=photos, backbone=FakeBackbone()).path)
    merge(path, sources, parts=True)
    assert Store.beside(path, RECIPE).part_rows == 12


@pytest.mark.parametrize("missing", [0, 2])
def test_parts_that_are_missing_are_left_out_where_a_cache_is_replaced(photos, path, missing):
    cache = extract(photos, path, backbone=FakeBackbone(), part_rows=8)
    for part in cache.parts[:missing]:
        part.unlink()
    assert len(Store.beside(path, RECIPE, replace=True).known.places) == {0: 20, 2: 4}[missing]
    if missing:
        with pytest.raises(CacheFormatError, match=r"000001\.h5 of .* is missing"):
            Store.beside(path, RECIPE)


@pytest.mark.parametrize(("fault", "count"), [(None, 20), ("damaged", 0), ("another recipe", 0)])
def test_parts_that_a_killed_run_has_finished_are_known(photos, path, fault, count):
    part = path.with_suffix(".parts") / "000001.h5"
    part.parent.mkdir()
    extract(photos, part, backbone=FakeBackbone(seed=int(fault == "another recipe")))
    if fault == "damaged":
        part.write_bytes(part.read_bytes()[:-1])
    listed = path.with_name("x.h5.work") / "parts"
    listed.mkdir(parents=True)
    (listed / part.name).touch()
    store = Store.beside(path, RECIPE)
    assert len(store.known.places) == count
    assert len(store.known.file_records) == count
    store.discard()
    assert not part.exists()

"""Runs with workers, which are threads here: the same bytes as a plain run, whatever happens to the workers."""

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from pools import Death, ThreadPool, ThreadWorker
from runs import contents, make_images

from featurecache import FolderSource, extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.cluster import driver
from featurecache.cluster.dealing import Dealer
from featurecache.errors import ClusterError, OptionError, OutputError
from featurecache.provenance import Environment
from featurecache.run.store import Store, unfinished_records

BATCH = 8


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_cache_has_the_bytes_of_a_plain_run(extract_with, workers):
    ledger = []
    pool = ThreadPool(workers)
    extract_with(pool, progress=lambda progress: ledger.append(progress.to_dict()))
    last = ledger[-1]
    assert (last["images"], last["rows"], last["failures"]) == (120, 115, 5)
    assert last["forwarded"] == 107
    assert sum(worker["images"] for worker in last["workers"]) >= 107
    assert 1 <= len(last["workers"]) <= workers


def test_nothing_new_starts_no_worker(extract_with, plain, tmp_path):
    extract_with(ThreadPool(2))
    pool = ThreadPool(2)
    extract_with(pool)
    assert pool.given == []
    assert pool._workers == {}


def test_a_cluster_continues_a_plain_run(extract_with, plain, tmp_path, make_backbone):
    with pytest.raises(KeyboardInterrupt):
        extract(plain[1], tmp_path / "cache.h5", backbone=make_backbone(stop_after=40), batch_size=BATCH)
    kept = sum(record.rows for record in unfinished_records(tmp_path / "cache.h5").values())
    ledger = []
    extract_with(ThreadPool(2), progress=lambda progress: ledger.append(progress.to_dict()))
    assert kept >= 40
    assert ledger[-1]["forwarded"] == 107 - kept


@pytest.mark.parametrize("with_cluster", [False, True])
def test_an_interrupted_run_keeps_what_workers_have_published(extract_with, plain, tmp_path, with_cluster):
    seen = []

    def interrupt(progress):
        seen.append(progress.forwarded)
        if progress.forwarded > 30:
            raise KeyboardInterrupt

    pool = ThreadPool(2, lambda order, _: ThreadWorker(order, 1, seconds=0.05))
    with pytest.raises(KeyboardInterrupt):
        extract_with(pool, progress=interrupt)
    assert pool.closed.is_set()
    kept = sum(record.rows for record in unfinished_records(tmp_path / "cache.h5").values())
    assert 30 < kept < 107
    ledger = []
    options = {} if with_cluster else {"cluster": None}
    extract_with(ThreadPool(2), progress=lambda progress: ledger.append(progress.to_dict()), **options)
    assert ledger[-1]["forwarded"] == 107 - kept


@pytest.mark.parametrize("options", [{"part": "2/3"}, {"part_rows": 30}, {"part": "1/2", "part_rows": 20}])
def test_parts_are_those_of_a_plain_run(extract_with, plain, tmp_path, options):
    (tmp_path / "alone").mkdir()
    alone = extract(plain[1], tmp_path / "alone" / "cache.h5", backbone=FakeBackbone(), batch_size=BATCH, **options)
    (tmp_path / "workers").mkdir()
    path = tmp_path / "workers" / "cache.h5"
    cache = extract_with(ThreadPool(2), path, same=False, **options)
    assert contents(path) == contents(alone.path)
    assert [part.name for part in cache.parts] == [part.name for part in alone.parts]


def test_further_columns_of_a_table_are_kept(extract_with, plain, tmp_path):
    paths = sorted(path.relative_to(plain[1]).as_posix() for path in plain[1].rglob("*") if path.is_file())
    lines = [f"{path},{number % 7}" for number, path in enumerate(paths)]
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "t.csv"
    table.write_text("\n".join(["path,age", *lines]))
    (tmp_path / "run").mkdir()
    cache = extract_with(ThreadPool(2), tmp_path / "run" / "c.h5", images=table, same=False, root=plain[1])
    assert [f"{path},{age}" for path, age in zip(cache.paths, cache.column("age"), strict=True)] == [
        line for line in lines if line.split(",")[0] not in cache.failures
    ]


def test_workers_read_further_frames(extract_with, tmp_path):
    images, place = tmp_path / "images", tmp_path / "with"
    images.mkdir()
    place.mkdir()
    Image.new("L", (30, 20)).save(
        images / "scan.tif", save_all=True, append_images=[Image.new("L", (30, 20), level) for level in (90, 180)]
    )
    plain = extract(images, tmp_path / "plain.h5", backbone=FakeBackbone(), frames="all")

    cache = extract_with(ThreadPool(1), place / "c.h5", images=images, frames="all", same=False)

    assert list(cache.features("features").paths) == ["scan.tif", "scan.tif#2", "scan.tif#3"]
    assert contents(cache.path) == contents(plain.path)


def test_hashing_waits_for_workers(extract_with, monkeypatch):
    waiting = []
    add = Dealer.add

    def counting(self, batch):
        add(self, batch)
        waiting.append(self.waiting_rows)

    monkeypatch.setattr(Dealer, "add", counting)
    monkeypatch.setattr(driver, "_WAITING_ROWS", 2 * BATCH)
    extract_with(ThreadPool(2, lambda order, _: ThreadWorker(order, 1, seconds=0.02)))
    assert len(waiting) >= 13
    assert max(waiting) <= 3 * BATCH


def test_an_image_that_ends_three_workers_is_a_failure(extract_with, plain):
    messages = []
    pool = ThreadPool(2, lambda order, _: ThreadWorker(order, 1, deadly={"0010.png"}))
    cache = extract_with(pool, same=False, notify=messages.append)
    (path,) = (path for path in cache.failures if "0010" in path)
    assert cache.failures[path] == "it ended the process that decoded it, 3 times"
    assert len(cache) == 114
    assert sum("was lost" in message for message in messages) == 3
    rows = dict(zip(*rows_of(cache), strict=True))
    for path, features in zip(*rows_of(plain[0]), strict=True):
        assert "0010" in path or (rows[path] == features).all()
    again = ThreadPool(1)
    extract_with(again, same=False)  # what is known to end processes is not tried again
    assert again.given == []


def rows_of(cache):
    features = cache.features(next(iter(cache.taps)))
    return features.paths, features.X


def test_a_worker_that_was_given_up_and_finishes_all_the_same_gives_one_row(extract_with, plain):
    def contents(unit):
        return set().union(*unit.batches)

    is_done, is_done_twice = threading.Event(), threading.Event()

    class Sluggish(ThreadWorker):
        def do(self, unit):
            if not pool.lost:
                pool.lost.append(unit)
                pool.lose("thread 0")
                assert is_done.wait(60)
                pool.reports.append(super().do(unit))
                is_done_twice.set()
                return pool.reports[0]
            report = super().do(unit)
            if contents(unit) & contents(pool.lost[0]):
                is_done.set()
                assert is_done_twice.wait(60)  # before the run can end
            return report

    pool = ThreadPool(1, lambda order, _: Sluggish(order, 1))
    pool.lost, pool.reports = [], []
    cache = extract_with(pool)
    assert len(pool.reports) == 1
    assert len(cache) == 115


def test_workers_that_differ_are_refused_by_name_of_the_field(extract_with):
    messages = []
    pool = ThreadPool(2, lambda order, number: ThreadWorker(order, 1, processor=f"cpu{number}", host=f"node{number}"))
    extract_with(pool, notify=messages.append)
    (refused,) = [message for message in messages if "refused" in message]
    assert "its processor is 'cpu" in refused
    assert "--mixed-workers" in refused


def test_a_worker_without_a_package_is_refused_with_its_name():
    with_it, without = (
        Environment(versions={"python": "3.11.7", **more}, processor="avx2") for more in ({"pillow-heif": "1.8.1"}, {})
    )
    assert driver._difference(with_it, with_it) == ""
    assert driver._difference(with_it, without) == (
        "its pillow-heif is not installed, and that of the other workers is '1.8.1'"
    )
    assert driver._difference(without, with_it) == (
        "its pillow-heif is '1.8.1', and that of the other workers is not installed"
    )


def test_workers_that_differ_are_recorded_if_asked_for(extract_with):
    pool = ThreadPool(
        2, lambda order, number: ThreadWorker(order, 1, processor=f"cpu{number}", host=f"node{number}", seconds=0.02)
    )
    cache = extract_with(pool, mixed_workers=True)
    found = [cache.provenance, *cache.provenance["earlier"]]
    assert {part["processor"] for part in found} == {"cpu0", "cpu1"}


def test_workers_must_have_the_processor_of_an_unfinished_run(extract_with, plain, tmp_path, make_backbone):
    with pytest.raises(KeyboardInterrupt):
        extract(plain[1], tmp_path / "cache.h5", backbone=make_backbone(stop_after=40), batch_size=BATCH)
    with pytest.raises(ClusterError, match="its processor is 'other', and that of the other workers is"):
        extract_with(ThreadPool(2, lambda order, _: ThreadWorker(order, 1, processor="other")))
    extract_with(ThreadPool(2))


def test_a_node_without_the_images_is_refused_before_the_first_pass(extract_with):
    class Blind(ThreadWorker):
        def __init__(self, order, threads):
            super().__init__(replace(order, images=FolderSource(Path("/nowhere"))), threads)

    pool = ThreadPool(2, lambda order, _: Blind(order, 1))
    with pytest.raises(ClusterError, match=r"cannot read .* in /nowhere \(no such file\): the images must lie on"):
        extract_with(pool)
    assert pool.given == []


def test_a_node_without_the_work_directory_is_refused_and_others_go_on(extract_with, tmp_path):
    def make(order, number):
        return ThreadWorker(replace(order, directory=tmp_path / "elsewhere") if number == 0 else order, 1)

    messages = []
    extract_with(ThreadPool(2, make), notify=messages.append)
    (refused,) = [message for message in messages if "refused" in message]
    assert "elsewhere is not here, or its run has ended: the cache must lie on a file system" in refused


def test_a_worker_with_other_weights_is_refused(extract_with):
    class Other(ThreadWorker):
        def __init__(self, order, threads):
            super().__init__(replace(order, network={"backbone": FakeBackbone(seed=1)}), threads)

    with pytest.raises(ClusterError, match="weights is 'random:1', the driver has 'random:0'"):
        extract_with(ThreadPool(2, lambda order, _: Other(order, 1)))


def test_a_cluster_that_shrinks_to_nothing_ends_the_run_and_keeps_what_is_committed(extract_with, plain, tmp_path):
    class Shrinking(ThreadWorker):
        def do(self, unit):
            if len(pool.given) > 4:  # two units each at first, another one once one is finished
                pool.size = 0
                raise Death
            return super().do(unit)

    pool = ThreadPool(2, lambda order, _: Shrinking(order, 1))
    with pytest.raises(ClusterError, match="no room for a worker of a thread; what is committed is kept"):
        extract_with(pool)
    assert unfinished_records(tmp_path / "cache.h5")
    extract_with(ThreadPool(1))


def test_a_worker_that_waits_for_room_which_nobody_has_ends_the_run(extract_with, tmp_path):
    """It was started before the loss of its machine was known."""

    class Waiting(ThreadWorker):
        def start(self):
            pool.size = 0
            pool.closed.wait()
            raise Death

    class Dying(ThreadWorker):
        def do(self, unit):
            if len(pool.given) > 2:  # two units at first, another one once one is finished
                raise Death
            return super().do(unit)

    pool = ThreadPool(1, lambda order, number: (Waiting if number else Dying)(order, 1))
    with pytest.raises(ClusterError, match="no room for a worker of a thread; what is committed is kept"):
        extract_with(pool)
    assert unfinished_records(tmp_path / "cache.h5")


def test_a_cluster_that_is_lost_after_a_refusal_is_waited_for(extract_with, tmp_path):
    """The refused machine is not the reason why nobody is left."""

    class Other(ThreadWorker):
        def __init__(self, order, threads):
            super().__init__(replace(order, network={"backbone": FakeBackbone(seed=1)}), threads)

    class Dying(ThreadWorker):
        def do(self, unit):
            if len(pool.given) > 2:
                pool.size = 0
                raise Death
            return super().do(unit)

    pool = ThreadPool(2, lambda order, number: (Dying if number else Other)(order, 1))
    with pytest.raises(ClusterError, match="no room for a worker of a thread; what is committed is kept"):
        extract_with(pool)
    assert unfinished_records(tmp_path / "cache.h5")


def test_workers_that_die_while_they_start_end_the_run(extract_with):
    class Dying(ThreadWorker):
        def start(self):
            raise Death

    with pytest.raises(ClusterError, match="3 workers one after another ended while they started"):
        extract_with(ThreadPool(1, lambda order, _: Dying(order, 1)))


def test_an_error_of_a_worker_ends_the_run(extract_with, plain, tmp_path):
    class Full(ThreadWorker):
        def do(self, unit):
            if unit.number > 3:
                raise OutputError("the disk is full")
            return super().do(unit)

    with pytest.raises(OutputError, match="the disk is full"):
        extract_with(ThreadPool(2, lambda order, _: Full(order, 1)))
    extract_with(ThreadPool(2))


def test_a_file_that_changes_after_it_was_hashed_is_a_failure_of_this_run(extract_with, tmp_path):
    images = make_images(tmp_path / "images", range(20))

    class Late(ThreadWorker):
        def do(self, unit):
            new = tmp_path / f"{unit.number}.png"
            new.write_bytes((images / "train" / "cats" / "0001.png").read_bytes())
            new.rename(images / "train" / "cats" / "0000.png")  # at once, since another unit may be read
            return super().do(unit)

    folder = tmp_path / "caches"
    folder.mkdir()
    pool = ThreadPool(1, lambda order, _: Late(order, 1))
    cache = extract_with(pool, folder / "a.h5", images=images, same=False)
    assert cache.failures["train/cats/0000.png"] == "it has changed since the run began"
    again = extract_with(ThreadPool(1), folder / "a.h5", images=images, same=False)
    assert "train/cats/0000.png" not in again.failures


def test_records_that_a_shared_folder_shows_late_are_waited_for(extract_with, monkeypatch):
    hidden = Counter()
    expect = Store.expect

    def late(store, name):
        hidden[name] += 1
        return hidden[name] > 2 and expect(store, name)

    monkeypatch.setattr(Store, "expect", late)
    extract_with(ThreadPool(2))
    assert set(hidden.values()) == {3}


@pytest.mark.parametrize("is_open", [False, True])
def test_a_cluster_whose_machines_talk_without_a_token_is_a_warning(extract_with, is_open):
    messages, pool = [], ThreadPool(1)
    pool.is_open = is_open
    extract_with(pool, notify=messages.append)
    assert any("without a token" in message for message in messages) == is_open


def test_auto_batches_need_a_network_first(extract_with):
    with pytest.raises(OptionError, match="batch_size is 'auto', which --cluster cannot measure"):
        extract_with(ThreadPool(1), batch_size="auto")


def test_one_slow_worker_costs_at_most_a_unit(extract_with):
    has_ended = threading.Event()

    class Slow(ThreadWorker):
        def do(self, unit):
            assert has_ended.wait(60)  # others have finished its two units before it has begun with one
            return super().do(unit)

    extract_with(ThreadPool(4, lambda order, number: (ThreadWorker if number else Slow)(order, 1)))
    has_ended.set()


def test_views_have_the_bytes_of_a_plain_run(extract_with, plain, tmp_path):
    alone = extract(plain[1], tmp_path / "alone.h5", backbone=FakeBackbone(), batch_size=BATCH, views="1:crop,flip")
    place = tmp_path / "cluster" / "cache.h5"
    place.parent.mkdir()
    ledger = []
    cache = extract_with(
        ThreadPool(2),
        place,
        same=False,
        views="1:crop,flip",
        progress=lambda progress: ledger.append(progress.to_dict()),
    )
    assert contents(place) == contents(alone.path)
    assert cache.made_by.views == "1:crop,flip"
    assert ledger[-1]["forwarded"] == len(set(cache.index.images["sha256"].tolist())) > 107

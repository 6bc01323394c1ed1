import dataclasses
import hashlib
import json
import os
import shutil
import time

import h5py
import numpy as np
import pytest
from PIL import Image

import featurecache.run.run
import featurecache.run.units
from featurecache import FeatureCache, FolderSource, Progress, extract, read_manifest
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import (
    CacheFormatError,
    NoImagesError,
    OptionError,
    OutputError,
    RecipeError,
    UnknownNameError,
)
from featurecache.images.decode import DecodeRules, decode
from featurecache.images.failures import Failure
from featurecache.text import counted, in_units


def contents(cache):
    """Return everything of a cache that an interruption must not change."""
    with h5py.File(cache.path) as file:
        return {
            name: file[name][()].tolist()
            for group in ("features", "images", "failures")
            for name in (f"{group}/{member}" for member in file[group])
        }


def run(images, cache_path, **options):
    """Extract, and return the cache and the ledger of the run."""
    ledger = []
    cache = extract(images, cache_path, progress=lambda p: ledger.append(p.to_dict()), **options)
    return cache, ledger[-1]


def test_every_row_is_the_backbone_of_the_decoded_file(photos, tmp_path):
    backbone = FakeBackbone()
    cache = extract(photos, tmp_path / "c.h5", backbone=backbone, batch_size=7)
    rules = DecodeRules(backbone.spec.input_size)
    for tap in cache.taps:
        features = cache.features(tap)
        for path, row in zip(features.paths, features.X, strict=True):
            pixels = decode((photos / path).read_bytes(), rules)
            np.testing.assert_array_equal(row, backbone.forward(pixels[None])[tap][0])


def test_a_second_run_is_refused_before_it_forwards_anything(photos, tmp_path, make_backbone):
    second = make_backbone()

    class First(FakeBackbone):
        def forward(self, images):
            with pytest.raises(OutputError, match="another run"):
                extract(photos, tmp_path / "c.h5", backbone=second)
            return super().forward(images)

    first = First()
    cache = extract(photos, tmp_path / "c.h5", backbone=first, batch_size=4)
    assert (len(cache), second.seen) == (20, 0)


def test_the_ledger_counts_everything(photos, tmp_path):
    (photos / "train" / "cats" / "broken.jpg").write_bytes(b"not an image")
    shutil.copy(photos / "train" / "cats" / "0.png", photos / "train" / "cats" / "copy.png")
    cache, ledger = run(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert ledger["images"] == 22
    assert ledger["rows"] == len(cache) == 21
    assert ledger["failures"] == len(cache.failures) == 1
    assert ledger["forwarded"] == 20
    assert ledger["reused"] == 1
    assert cache.provenance["run"]["forwarded"] == 20
    ((path, reason),) = cache.failures.items()
    assert path == "train/cats/broken.jpg"
    assert reason
    rows = dict(zip(cache.features("features").paths, cache.features("features").X, strict=True))
    np.testing.assert_array_equal(rows["train/cats/copy.png"], rows["train/cats/0.png"])
    assert os.listdir(tmp_path).count("c.h5") == 1
    assert not (tmp_path / "c.h5.work").exists()


def test_progress_reaches_the_end(photos, tmp_path):
    seen = []
    extract(
        photos,
        tmp_path / "c.h5",
        backbone=FakeBackbone(),
        progress=lambda p: seen.append((p.done, p.total, p.forwarded)),
        batch_size=4,
    )
    assert [done for done, _, _ in seen[:-1]] == list(range(1, 21))
    assert seen[-1] == (20, 20, 20)


def test_the_seconds_of_a_run_are_those_since_it_began(photos, tmp_path):
    seconds, began = [], time.monotonic()
    cache = extract(photos, tmp_path / "c.h5", backbone=FakeBackbone(), progress=lambda p: seconds.append(p.seconds))
    seconds.append(time.monotonic() - began)
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    assert seconds[-3] - 0.001 <= cache.provenance["run"]["seconds"] <= seconds[-2] + 0.001  # it is rounded


@pytest.mark.parametrize("workers", [1, 2, 9])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_order_and_rows_depend_on_neither_workers_nor_batches(photos, tmp_path, workers, batch_size):
    expected = extract(photos, tmp_path / "a.h5", backbone=FakeBackbone())
    cache = extract(photos, tmp_path / "b.h5", backbone=FakeBackbone(), workers=workers, batch_size=batch_size)
    assert contents(cache) == contents(expected)


def test_nothing_changed_costs_nothing_and_writes_nothing(photos, tmp_path, make_backbone):
    run(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    before = (tmp_path / "c.h5").stat()
    backbone = make_backbone()
    cache, ledger = run(photos, tmp_path / "c.h5", backbone=backbone)
    assert backbone.seen == ledger["forwarded"] == 0
    assert ledger["reused"] == len(cache) == 20
    after = (tmp_path / "c.h5").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path).count("c.h5.work") == 0


def test_only_new_content_is_forwarded(photos, tmp_path, make_backbone):
    run(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    (photos / "train" / "cats" / "0.png").rename(photos / "valid" / "dogs" / "moved.png")
    (photos / "train" / "cats").rename(photos / "train" / "birds")
    (photos / "train" / "dogs" / "1.png").unlink()
    Image.new("RGB", (20, 20), "red").save(photos / "train" / "dogs" / "new.png")
    backbone = make_backbone()
    cache, ledger = run(photos, tmp_path / "c.h5", backbone=backbone)
    assert backbone.seen == ledger["forwarded"] == 1
    assert len(cache) == 20
    assert cache.classes == ("birds", "cats", "dogs")
    assert "train/dogs/1.png" not in cache.features("features").paths
    assert contents(cache) == contents(extract(photos, tmp_path / "fresh.h5", backbone=FakeBackbone()))


def test_a_changed_file_is_read_again(photos, tmp_path, make_backbone):
    run(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    Image.new("RGB", (20, 20), "red").save(photos / "train" / "dogs" / "1.png")
    backbone = make_backbone()
    cache, _ = run(photos, tmp_path / "c.h5", backbone=backbone)
    assert backbone.seen == 1
    assert contents(cache) == contents(extract(photos, tmp_path / "fresh.h5", backbone=FakeBackbone()))


def test_rehash_finds_a_change_that_size_and_time_hide(photos, tmp_path, make_backbone):
    path = photos / "train" / "dogs" / "1.png"
    run(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    status = path.stat()
    data = bytearray((photos / "train" / "dogs" / "2.png").read_bytes())
    path.write_bytes(data.ljust(status.st_size, b"\0")[: status.st_size])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    unnoticed, _ = run(photos, tmp_path / "c.h5", backbone=make_backbone())
    old = contents(unnoticed)
    noticed, ledger = run(photos, tmp_path / "c.h5", backbone=make_backbone(), rehash=True)
    assert ledger["images"] == ledger["rows"] + ledger["failures"] == 20
    assert contents(noticed) != old
    assert contents(noticed) == contents(extract(photos, tmp_path / "fresh.h5", backbone=FakeBackbone()))


@pytest.mark.parametrize("stop_after", [0, 3, 9, 17])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_run_goes_on(photos, tmp_path, make_backbone, monkeypatch, stop_after, error):
    monkeypatch.setattr(featurecache.run.units, "SHARD_ROWS", 6)
    path = tmp_path / "c.h5"
    (photos / "train" / "cats" / "broken.jpg").write_bytes(b"not an image")
    first = make_backbone(stop_after=stop_after, error=error)
    with pytest.raises(error):
        run(photos, path, backbone=first, batch_size=3)
    assert not path.exists()
    second = make_backbone()
    said = []
    cache, ledger = run(photos, path, backbone=second, batch_size=3, notify=said.append)
    lost = first.seen + second.seen - 20
    assert 0 <= lost <= (0 if error is KeyboardInterrupt else 6)
    assert ledger["reused"] == first.seen - lost
    assert any(f"features of {counted(first.seen - lost, 'image')}" in line for line in said) == (first.seen > lost)
    assert contents(cache) == contents(extract(photos, tmp_path / "fresh.h5", backbone=FakeBackbone()))
    assert not (tmp_path / "c.h5.work").exists()
    assert cache.problems() == []


def test_damage_in_the_old_cache_is_never_packed_as_good(photos, tmp_path):
    path = tmp_path / "c.h5"
    run(photos, path, backbone=FakeBackbone())
    with h5py.File(path) as file:
        offset = file["features/features"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[offset + 40] ^= 1
    path.write_bytes(data)
    Image.new("RGB", (20, 20), "red").save(photos / "train" / "dogs" / "new.png")
    with pytest.raises(CacheFormatError, match="rows 0 to 19 are damaged; move the file away"):
        run(photos, path, backbone=FakeBackbone())
    path.rename(tmp_path / "damaged.h5")
    cache, ledger = run(photos, path, backbone=FakeBackbone())
    assert (ledger["reused"], ledger["forwarded"]) == (1, 20)
    assert contents(cache) == contents(extract(photos, tmp_path / "fresh.h5", backbone=FakeBackbone()))


def test_a_larger_limit_is_heeded(photos, tmp_path):
    Image.new("RGB", (40, 40), "red").save(photos / "train" / "dogs" / "large.png")
    cache, _ = run(photos, tmp_path / "c.h5", backbone=FakeBackbone(), max_pixels=1000)
    assert list(cache.failures) == ["train/dogs/large.png"]
    cache, ledger = run(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert (ledger["failures"], ledger["forwarded"]) == (0, 1)


def test_a_content_that_succeeded_is_no_failure_anywhere(photos, tmp_path, make_backbone, monkeypatch):
    path = tmp_path / "c.h5"
    first = photos / "train" / "cats" / "0.png"
    monkeypatch.setattr(featurecache.run.run, "decode", lambda data, rules, **_: Failure("damaged", "flaky"))
    with pytest.raises(NoImagesError):
        run(photos, path, backbone=FakeBackbone())
    failing = {first.read_bytes()}
    monkeypatch.setattr(
        featurecache.run.run,
        "decode",
        lambda data, rules, **_: Failure("damaged", "flaky") if data in failing else decode(data, rules),
    )
    run(photos, path, backbone=FakeBackbone())
    monkeypatch.undo()
    Image.new("RGB", (20, 20), "blue").save(photos / "valid" / "dogs" / "new.png")
    with pytest.raises(KeyboardInterrupt):
        run(photos, path, backbone=make_backbone(stop_after=1), batch_size=1, retry_failures=True)
    shutil.copy(first, photos / "train" / "cats" / "copy.png")
    cache, _ = run(photos, path, backbone=FakeBackbone())
    assert cache.failures == {}
    assert len(cache) == 22


def test_what_an_unfinished_run_was_made_with_is_kept(photos, tmp_path, make_backbone):
    path = tmp_path / "c.h5"
    with pytest.raises(KeyboardInterrupt):
        run(photos, path, backbone=make_backbone(stop_after=8), batch_size=4)
    cache, _ = run(photos, path, backbone=FakeBackbone(), batch_size=4)
    (earlier,) = cache.provenance["earlier"]
    assert earlier["rows"] == 8
    assert earlier["engine"] == {"engine": "numpy", "device": "cpu"}
    Image.new("RGB", (20, 20), "red").save(photos / "train" / "dogs" / "new.png")
    cache, _ = run(photos, path, backbone=FakeBackbone())
    assert [entry.get("rows", entry.get("run", {}).get("rows")) for entry in cache.provenance["earlier"]] == [8, 20]


@pytest.mark.parametrize(
    "text",
    ["5", "null", "[]", "{}", "{", '{"number": 1}', "[" * 100_000],
)
def test_a_commit_record_that_is_none_is_refused(photos, tmp_path, make_backbone, text):
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "c.h5", backbone=make_backbone(stop_after=8), batch_size=4)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    (tmp_path / "c.h5.work" / "commits" / f"{name}.json").write_text(text)
    with pytest.raises(CacheFormatError, match=r"commit record .* remove it"):
        run(photos, tmp_path / "c.h5", backbone=FakeBackbone())


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 999},
        {"sightings": 5},
        {"sightings": [{"path": 1}]},
        {"sightings": [{"path": "a.png", "size": 1, "mtime_ns": 2, "sha256": "0f", "reason": ""}]},
        {"sightings": [{"path": "a.png", "size": 1, "mtime_ns": 2, "sha256": "x" * 64, "reason": ""}]},
        {"file": 5},
        {"file": "../../thesis.h5"},
        {"number": "1"},
        {"circumstances": []},
    ],
)
@pytest.mark.parametrize("renamed", [False, True])
def test_a_commit_record_that_was_changed_is_refused(photos, tmp_path, make_backbone, change, renamed):
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "c.h5", backbone=make_backbone(stop_after=8), batch_size=4)
    (record,) = (tmp_path / "c.h5.work" / "commits").iterdir()
    text = json.dumps(json.loads(record.read_text()) | change, sort_keys=True)
    record.write_text(text)
    if renamed:
        record.rename(record.with_name(f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"))
    with pytest.raises(CacheFormatError, match="remove"):
        run(photos, tmp_path / "c.h5", backbone=FakeBackbone())


def test_a_pipe_is_not_waited_for(photos, tmp_path):
    os.mkfifo(tmp_path / "c.h5")
    with pytest.raises(CacheFormatError, match="not a regular file"):
        run(photos, tmp_path / "c.h5", backbone=FakeBackbone())


def test_a_damaged_shard_is_refused_by_name(photos, tmp_path, make_backbone):
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "c.h5", backbone=make_backbone(stop_after=8), batch_size=4)
    (shard,) = (tmp_path / "c.h5.work" / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheFormatError, match=shard.name):
        run(photos, tmp_path / "c.h5", backbone=FakeBackbone())


def test_another_recipe_is_refused_with_field_values_and_remedy(photos, tmp_path, make_backbone):
    path = tmp_path / "c.h5"
    run(photos, path, backbone=FakeBackbone())
    before = path.read_bytes()
    with pytest.raises(RecipeError, match=r"weights is 'random:0', wanted 'random:1'.*--replace"):
        run(photos, path, backbone=FakeBackbone(seed=1))
    assert path.read_bytes() == before
    with pytest.raises(KeyboardInterrupt):
        run(photos, path, backbone=make_backbone(seed=1, stop_after=4), replace=True, batch_size=2)
    assert path.read_bytes() == before
    replaced, ledger = run(photos, path, backbone=FakeBackbone(seed=1), replace=True)
    assert ledger["reused"] == 4
    assert replaced.recipe.weights == "random:1"
    assert contents(replaced) == contents(extract(photos, tmp_path / "fresh.h5", backbone=FakeBackbone(seed=1)))


def test_an_unfinished_run_of_another_recipe_is_refused(photos, tmp_path, make_backbone):
    path = tmp_path / "c.h5"
    with pytest.raises(KeyboardInterrupt):
        run(photos, path, backbone=make_backbone(stop_after=4), batch_size=2)
    with pytest.raises(RecipeError, match=r"c\.h5\.work.*resize is 'squash', wanted 'crop'"):
        run(photos, path, backbone=FakeBackbone(), resize="crop")
    cache, ledger = run(photos, path, backbone=FakeBackbone(), resize="crop", replace=True)
    assert ledger["forwarded"] == len(cache) == 20


def test_no_usable_image_is_an_error_and_leaves_nothing(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(b"not an image")
    with pytest.raises(NoImagesError, match="none of the 3 images"):
        run(folder, tmp_path / "c.h5", backbone=FakeBackbone())
    assert sorted(os.listdir(tmp_path)) == ["photos"]


def test_unlabelled_images_and_no_split(tmp_path):
    for number in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    cache, _ = run(tmp_path / "photos", tmp_path / "c.h5", backbone=FakeBackbone())
    assert cache.classes == ()
    assert cache.splits == {"": 3}
    assert list(cache.features("features").y) == [-1, -1, -1]
    assert FeatureCache.open(cache.path).features("features", split="").X.shape == (3, 16)


def test_names_that_are_not_utf8_survive(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / os.fsdecode(b"caf\xe9.png"))
    cache, _ = run(tmp_path / "photos", tmp_path / "c.h5", backbone=FakeBackbone())
    assert list(cache.features("features").paths) == ["caf%E9.png"]
    _, ledger = run(tmp_path / "photos", tmp_path / "c.h5", backbone=FakeBackbone())
    assert ledger["forwarded"] == 0


def test_failures_are_not_tried_again_while_their_bytes_are_the_same(photos, tmp_path, monkeypatch):
    (photos / "train" / "cats" / "broken.jpg").write_bytes(b"not an image")
    run(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    tried = []
    monkeypatch.setattr(featurecache.run.run, "decode", lambda data, rules, **_: tried.append(1) or decode(data, rules))
    cache, ledger = run(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert ledger["failures"] == len(cache.failures) == 1
    assert tried == []
    run(photos, tmp_path / "c.h5", backbone=FakeBackbone(), retry_failures=True)
    assert tried == [1]
    Image.new("RGB", (9, 9)).save(photos / "train" / "cats" / "broken.jpg")
    cache, ledger = run(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert ledger["failures"] == 0
    assert ledger["forwarded"] == 1


def test_what_is_left_out_is_said(photos, tmp_path):
    (photos / "train" / "cats" / "notes.txt").write_text("x")
    (photos / "train" / "cats" / "more.txt").write_text("x")
    said = []
    run(photos, tmp_path / "c.h5", backbone=FakeBackbone(), notify=said.append)
    assert [line for line in said if line.startswith("left out")] == [
        "left out: not an image file by its extension: train/cats/more.txt and 1 more"
    ]


def test_features_that_do_not_fit_are_refused(photos, tmp_path):
    class LoudBackbone(FakeBackbone):
        def forward(self, images):
            return {tap: values * 1e6 for tap, values in super().forward(images).items()}

    with pytest.raises(RecipeError, match=r"tap features has values .*--dtype float32"):
        run(photos, tmp_path / "c.h5", backbone=LoudBackbone(), dtype="float16")
    assert not (tmp_path / "c.h5").exists()


def test_a_disk_that_is_too_small_is_said_before_the_first_forward_pass(photos, tmp_path, monkeypatch, make_backbone):
    backbone = make_backbone()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000))
    with pytest.raises(OutputError, match="kB free"):
        run(photos, tmp_path / "c.h5", backbone=backbone)
    assert backbone.seen == 0


@pytest.mark.parametrize(
    ("before", "options", "rows"),
    [
        (None, {}, 20 + 20),  # all as shards, then all in the cache
        (None, {"part_rows": 9}, 20 + 20),
        (None, {"part": "2/4"}, (20 + 20) // 4),
        ({}, {}, 3 + 23),
        ({}, {"part_rows": 9}, 3 + 23),
        ({"part_rows": 9}, {"part_rows": 9}, 3 + 3),  # parts that are there stay
    ],
)
def test_a_disk_needs_room_for_the_shards_and_for_what_is_written(photos, tmp_path, monkeypatch, before, options, rows):
    path, row_bytes = tmp_path / "c.h5", 4 * (16 + 4)
    if before is not None:
        extract(photos, path, backbone=FakeBackbone(), **before)
        for number in range(3):
            Image.new("RGB", (9, 9), (number, 0, 0)).save(photos / "train" / "cats" / f"new-{number}.png")
    free, usage = [rows * row_bytes - 1], shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free[0]))
    needed = f"up to {in_units(rows * row_bytes)} are needed for the shards and the cache"
    with pytest.raises(OutputError, match=needed):
        extract(photos, path, backbone=FakeBackbone(), **options)
    free[0] += 1
    extract(photos, path, backbone=FakeBackbone(), **options)


def test_options_out_of_range_are_refused(photos, tmp_path):
    path = tmp_path / "c.h5"
    wrong = [{"batch_size": 0}, {"batch_size": "many"}, {"workers": 0}, {"workers": "auto"}, {"max_pixels": 0}]
    for option in wrong:
        with pytest.raises(OptionError):
            extract(photos, path, backbone=FakeBackbone(), **option)
    for option in ({"dtype": "float64"}, {"resize": "stretch"}, {"filter": "box"}):
        with pytest.raises(UnknownNameError):
            extract(photos, path, backbone=FakeBackbone(), **option)
    with pytest.raises(UnknownNameError, match="did you mean 'vgg16'"):
        extract(photos, path, backbone="vgg-16")
    with pytest.raises(UnknownNameError, match="did you mean 'fc2'"):
        extract(photos, path, backbone="vgg16", taps=["fc3"], weights="random:0")
    with pytest.raises(OutputError, match="does not exist"):
        extract(photos, tmp_path / "no" / "c.h5", backbone=FakeBackbone())
    assert sorted(os.listdir(tmp_path)) == ["photos"]


def test_what_is_at_the_cache_path_is_never_overwritten_unless_it_is_a_cache(photos, tmp_path):
    path = tmp_path / "thesis.h5"
    path.write_bytes(b"years of work")
    for replace in (False, True):
        with pytest.raises(CacheFormatError):
            extract(photos, path, backbone=FakeBackbone(), replace=replace)
    assert path.read_bytes() == b"years of work"


def test_a_cache_that_appears_meanwhile_is_not_overwritten(photos, tmp_path, make_backbone):
    path = tmp_path / "c.h5"

    class SlowBackbone(FakeBackbone):
        def forward(self, images):
            if not path.exists():
                extract(photos, tmp_path / "other.h5", backbone=FakeBackbone()).path.rename(path)
            return super().forward(images)

    with pytest.raises(OutputError, match="run the same command again"):
        run(photos, path, backbone=SlowBackbone())
    _, ledger = run(photos, path, backbone=make_backbone())
    assert ledger["forwarded"] == 0


@pytest.mark.parametrize(("waiting", "computing", "bound"), [(2.0, 1.0, "decode"), (1.0, 2.0, "compute")])
def test_the_ledger_is_json_and_says_what_bound_the_run(waiting, computing, bound):
    progress = Progress(10, 9, failures=2, forwarded=4, seconds=1.60049, waiting=waiting, computing=computing)
    ledger = {
        "images": 10,
        "rows": 7,
        "failures": 2,
        "forwarded": 4,
        "reused": 3,
        "seconds": 1.6,
        "images_per_second": 1.33,  # 4 in the 3 seconds after the start
        "bound": bound,
        "warnings": [],
    }
    assert progress.to_dict() == ledger
    assert json.loads(json.dumps(progress.to_dict())) == ledger


class SlowSource(FolderSource):
    def read(self, path, *, max_bytes):
        time.sleep(0.01)
        return super().read(path, max_bytes=max_bytes)


class SlowNetwork(FakeBackbone):
    def forward(self, images):
        time.sleep(0.05)
        return super().forward(images)


@pytest.mark.parametrize(
    ("source", "network", "bound"), [(SlowSource, FakeBackbone, "decode"), (FolderSource, SlowNetwork, "compute")]
)
def test_the_slower_of_reading_and_computing_bounds_a_run(photos, tmp_path, source, network, bound):
    manifest = dataclasses.replace(read_manifest(photos), source=source(photos))
    progress = []
    extract(manifest, tmp_path / "c.h5", backbone=network(), workers=1, batch_size=2, progress=progress.append)
    assert progress[-1].bound == bound


def test_the_rate_is_that_of_the_network():
    assert Progress(total=100, done=33, seconds=5.0).rate == 0
    assert Progress(total=100, forwarded=500, seconds=900.0, waiting=20.0, computing=80.0).rate == 5


def test_a_run_that_took_no_time_has_no_speed():
    assert Progress(0).to_dict()["images_per_second"] == 0.0


def test_a_batch_whose_features_do_not_fit_into_memory_is_refused(photos, tmp_path, monkeypatch):
    """20 images of 16 and 4 features are 1,600 bytes; a batch of 7 has 560."""
    monkeypatch.setattr(featurecache.run.run, "free_memory", lambda: 560)
    assert len(extract(photos, tmp_path / "c.h5", backbone=FakeBackbone(), batch_size=7)) == 20
    with pytest.raises(
        OptionError, match=r"a batch of 8 images has 640 bytes of features, and 560 bytes .*; lower --batch-size, or"
    ):
        extract(photos, tmp_path / "d.h5", backbone=FakeBackbone(), batch_size=8)
    assert not (tmp_path / "d.h5").exists()
    monkeypatch.setattr(featurecache.run.run, "free_memory", lambda: 1_599)
    with pytest.raises(OptionError, match="a batch of 20 images has"):
        extract(photos, tmp_path / "d.h5", backbone=FakeBackbone(), batch_size=4_096)


def test_a_cache_keeps_the_provenance_of_its_last_hundred_earlier_runs(photos, tmp_path, monkeypatch):
    path = tmp_path / "c.h5"
    new = photos / "train" / "cats" / "new.png"
    Image.new("RGB", (20, 20), "red").save(new)
    extract(photos, path, backbone=FakeBackbone())
    monkeypatch.setattr(
        FeatureCache, "provenance", {"run": {}, "earlier": [{"run": {"rows": number}} for number in range(120)]}
    )
    new.unlink()
    extract(photos, path, backbone=FakeBackbone())
    monkeypatch.undo()
    earlier = FeatureCache.open(path).provenance["earlier"]
    assert earlier == [*({"run": {"rows": number}} for number in range(21, 120)), {"run": {}}]

"""Caches in parts: an index, and a folder of files that each are a cache."""

import errno
import hashlib
import os
import shutil
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest

import featurecache.rows
from featurecache import FeatureCache, extract, merge, verify
from featurecache.backbones.fake import FakeBackbone
from featurecache.cache import work_directory
from featurecache.errors import CacheFormatError, NoImagesError, OptionError, RecipeError
from featurecache.packing import NO_PLACES, pack_in_parts
from featurecache.planning import why
from tests.featurecache.conftest import write_image


def in_parts(photos, path, rows=8, **options):
    return extract(photos, path, **({"backbone": FakeBackbone(), "part_rows": rows} | options))


@pytest.fixture
def parted(photos, tmp_path):
    """Return a cache of `photos` in three parts, of 8, 8 and 4 rows."""
    return in_parts(photos, tmp_path / "parted.h5")


def files(cache):
    """Return the parts of a cache by name, with inode and time."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in cache.path.with_suffix(".parts").iterdir()
    }


def same(parted, plain):
    """Check that two caches hold the same, but for the places of their features."""
    for tap in plain.taps:
        np.testing.assert_array_equal(np.asarray(parted.features(tap).X), plain.features(tap).X)
    for ours, theirs in ((parted.index.images, plain.index.images), (parted.index.failures, plain.index.failures)):
        assert ours.keys() == theirs.keys()
        for name, column in theirs.items():
            np.testing.assert_array_equal(ours[name], column)
    assert (parted.classes, parted.recipe, parted.splits) == (plain.classes, plain.recipe, plain.splits)


def test_it_holds_what_one_file_holds(parted, cache, photos):
    same(parted, cache)
    assert [path.name for path in parted.parts] == ["000001.h5", "000002.h5", "000003.h5"]
    assert [len(FeatureCache.open(path)) for path in parted.parts] == [8, 8, 4]
    assert FeatureCache.open(parted.parts[1]).paths.tolist() == cache.paths[8:16].tolist()
    assert cache.parts == ()
    assert verify(parted.path, recompute=20, backbone=FakeBackbone()).to_dict() == {
        "ok": True,
        "problems": [],
        "recomputed": 20,
        "max_relative_error": 0.0,
        "skipped": 0,
    }
    assert [verify(path).ok for path in parted.parts] == [True] * 3
    assert not parted.path.with_name("parted.h5.work").exists()


def test_the_document_says_how_to_read_it(parted, cache):
    with h5py.File(parted.path) as index:
        assert index.attrs["format_version"] == 2
        rows, positions = index["parts/rows"][:], index["positions"][:]
        starts = np.cumsum([0, *rows])
        part = np.searchsorted(starts, positions, "right") - 1
        found = []
        for number, position in zip(part, positions, strict=True):
            name = index["parts/file"].asstr()[number]
            with h5py.File(parted.path.with_suffix(".parts") / name) as file:
                row = position - starts[number]
                found.append(file["features/features"][row])
                assert file["features/features"].id.get_offset() == index["parts/features/features"][number]
                assert file["checksums/features"].id.get_offset() == index["parts/checksums/features"][number]
        for number, path in enumerate(parted.parts):
            data = path.read_bytes()
            digest = hashlib.sha256(data[:16384])
            with h5py.File(path) as file:
                for tap in sorted(file["checksums"]):
                    digest.update(file["checksums"][tap][()].tobytes())
            assert index["parts/sha256"][number].decode() == digest.hexdigest()
            assert index["parts/size"][number] == len(data)
    np.testing.assert_array_equal(found, cache.features("features").X)


def test_an_update_rewrites_no_part(parted, photos, tmp_path, make_backbone):
    before = files(parted)
    index = parted.path.stat().st_ino
    write_image(photos / "train" / "cats" / "1a.png", 100)
    write_image(photos / "valid" / "dogs" / "9.png", 101)
    (photos / "train" / "dogs" / "0.png").unlink()
    time.sleep(0.01)
    backbone = make_backbone()
    cache = extract(photos, parted.path, backbone=backbone)
    assert backbone.seen == 2
    after = files(cache)
    assert after.keys() - before.keys() == {"000004.h5"}
    assert before.items() <= after.items()
    assert cache.path.stat().st_ino != index
    same(cache, extract(photos, tmp_path / "plain.h5", backbone=FakeBackbone()))
    assert verify(cache.path).ok
    assert "train/dogs/0.png" in parted.paths  # the old index still reads its parts
    np.testing.assert_array_equal(np.asarray(parted.features("features").X)[3], parted.features("features").X[3])


def test_nothing_is_written_if_nothing_changed(parted, photos, use_file_system):
    before = files(parted), parted.path.stat()
    double = use_file_system()
    again = extract(photos, parted.path, backbone=FakeBackbone())
    assert (files(again), again.path.stat(), double.calls) == (*before, [])
    assert why(photos, parted.path, backbone=FakeBackbone()).to_dict()["reasons"] == {"unchanged": 20}


def test_a_part_without_rows_in_use_is_removed(parted, photos, tmp_path):
    for path in parted.paths[8:16]:
        (photos / path).unlink()
    cache = extract(photos, parted.path, backbone=FakeBackbone())
    assert files(cache).keys() == {"000001.h5", "000003.h5"}
    same(cache, extract(photos, tmp_path / "plain.h5", backbone=FakeBackbone()))
    with pytest.raises(CacheFormatError, match=r"000002\.h5 of .*parted\.h5 is missing"):
        parted.features("features").X[:]


def test_a_content_is_in_the_parts_once(photos, tmp_path):
    for number in range(5):
        shutil.copy(photos / "train" / "cats" / "0.png", photos / "valid" / "dogs" / f"copy{number}.png")
    parted = in_parts(photos, tmp_path / "parted.h5", 8)
    assert sum(len(FeatureCache.open(path)) for path in parted.parts) == 20
    same(parted, extract(photos, tmp_path / "plain.h5", backbone=FakeBackbone()))


def test_one_file_becomes_parts_and_parts_become_one_file(cache, photos, tmp_path, make_backbone):
    backbone = make_backbone()
    parted = in_parts(photos, cache.path, 7, backbone=backbone)
    assert (backbone.seen, len(parted.parts)) == (0, 3)
    assert parted.path == cache.path
    whole = merge(tmp_path / "whole.h5", [parted.path])
    assert whole.parts == ()
    same(whole, cache)
    same(parted, cache)


def test_an_update_keeps_the_size_of_parts(photos, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(photos / "train", half / "train")
    in_parts(half, tmp_path / "c.h5", 6)
    shutil.copytree(photos / "valid", half / "valid")
    cache = extract(half, tmp_path / "c.h5", backbone=FakeBackbone())
    assert [len(FeatureCache.open(path)) for path in cache.parts] == [6, 4, 6, 4]


def test_another_recipe_replaces_all_parts(parted, photos):
    with pytest.raises(RecipeError):
        in_parts(photos, parted.path, backbone=FakeBackbone(seed=1))
    assert len(files(parted)) == 3
    other = extract(photos, parted.path, backbone=FakeBackbone(seed=1), replace=True)
    assert files(other).keys() == {"000004.h5", "000005.h5", "000006.h5"}
    assert verify(other.path).ok


def test_merging_links_the_files(cache, parted, tmp_path):
    before = files(parted)
    merged = merge(tmp_path / "merged.h5", [parted.path, cache.path], parts=True)
    same(merged, cache)
    assert len(merged.parts) == 3  # the rows of `cache` are those of `parted`
    assert files(merged) == before  # inodes too
    assert sum(path.stat().st_nlink for path in merged.parts) == 6
    again = merge(tmp_path / "again.h5", [cache.path, merged.path], parts=True)
    assert [path.stat().st_ino for path in again.parts] == [cache.path.stat().st_ino]
    assert verify(again.path).ok
    for path in (parted.path, cache.path, *parted.parts):
        path.unlink()
    assert verify(merged.path).ok


def test_halves_are_joined_without_a_copy(photos, tmp_path):
    plain = extract(photos, tmp_path / "plain.h5", backbone=FakeBackbone())
    tables = []
    for number in range(2):
        rows = [
            f"{path},{'cats' if 'cats' in path else 'dogs'},{path.split('/')[0]}" for path in plain.paths[number::2]
        ]
        table = tmp_path / f"{number}.csv"
        table.write_text("\n".join(["path,label,split", *rows]) + "\n")
        tables.append(extract(table, tmp_path / f"{number}.h5", root=photos, backbone=FakeBackbone()).path)
    merged = merge(tmp_path / "merged.h5", tables, parts=True)
    assert [path.stat().st_ino for path in merged.parts] == [path.stat().st_ino for path in tables]
    same(merged, plain)
    updated = extract(photos, merged.path, backbone=FakeBackbone())
    assert [path.stat().st_ino for path in updated.parts] == [path.stat().st_ino for path in tables]


def test_where_links_are_refused_files_are_copied(parted, cache, tmp_path, monkeypatch):
    link = featurecache.storage.publish.FILE_SYSTEM.link

    def refuse_links_to_parts(source, target):
        if source.parent.name == "parted.parts":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, target)

    monkeypatch.setattr(featurecache.storage.publish.FILE_SYSTEM, "link", refuse_links_to_parts)
    said = []
    merged = merge(tmp_path / "merged.h5", [parted.path], parts=True, notify=said.append)
    assert said == ["3 of 3 parts had to be copied: the file system gives no second name"]
    assert not set(files(merged).values()) & set(files(parted).values())
    same(merged, cache)
    assert verify(merged.path).ok


@pytest.mark.parametrize("fault", ["missing", "short", "exchanged", "other features"])
def test_a_faulty_part_is_named_with_the_remedy(fault, parted, photos, tmp_path, make_backbone):
    path = parted.parts[1]
    if fault == "missing":
        path.unlink()
    elif fault == "short":
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 1)
    elif fault == "exchanged":
        data = bytearray(path.read_bytes())
        data[:16384] = parted.parts[0].read_bytes()[:16384]
        path.write_bytes(data)
    else:
        with h5py.File(path, "r+") as file:  # the structure stays, the checksums and features are others
            file["features/features"][...] = 0
            sums = file["features/features"][()].tobytes()
            file["checksums/features"][0] = hashlib.sha256(sums).hexdigest()
    with pytest.raises(CacheFormatError) as caught:
        np.asarray(FeatureCache.open(parted.path).features("features").X)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith("run the command that made the cache with --replace to compute its 8 rows again")
    assert not verify(parted.path).ok
    # the other parts are kept, and the rows of this one are computed again
    backbone = make_backbone()
    again = in_parts(photos, parted.path, backbone=backbone, replace=True)
    assert backbone.seen == 8
    assert verify(again.path).ok
    same(again, extract(photos, tmp_path / "plain.h5", backbone=FakeBackbone()))


def test_damaged_features_are_found(parted):
    path = parted.parts[2]
    with h5py.File(path) as file:
        offset = file["features/features"].id.get_offset()
    with path.open("r+b") as file:
        file.seek(offset + 5)
        file.write(b"\xff")
    problems = verify(parted.path).problems
    assert problems == (
        f"{path}: features/features: rows 0 to 3 are damaged; move it away and run the command that made the "
        "cache with --replace to compute its 4 rows again",
    )
    with pytest.raises(CacheFormatError, match=r"000003\.h5 is damaged.*move it away and run the command"):
        FeatureCache.open(parted.path).read("features", 16, 4)


def test_an_index_of_other_images_is_found(parted, tmp_path, photos):
    shutil.rmtree(tmp_path / "parted.parts")
    other = tmp_path / "other"
    for number in range(20):
        write_image(other / ("train" if number < 10 else "valid") / "cats" / f"{number}.png", 200 + number)
    shutil.copy(in_parts(other, tmp_path / "other.h5").path, parted.path)
    shutil.move(tmp_path / "other.parts", tmp_path / "parted.parts")
    cache = FeatureCache.open(parted.path)
    assert cache.problems() == []
    contents = cache.index.images["sha256"]
    contents[3], contents[9] = contents[9].copy(), contents[3].copy()
    assert [line.split(" has ")[1] for line in cache.problems()] == [
        f"other images than {parted.path} says for 1 row"
    ] * 2


def test_the_index_alone_is_refused_in_words(parted, tmp_path):
    moved = tmp_path / "moved.h5"
    shutil.copy(parted.path, moved)
    with pytest.raises(CacheFormatError, match=r"moved\.parts/000001\.h5 of .*moved\.h5 is missing; put it back"):
        FeatureCache.open(moved)
    shutil.copytree(tmp_path / "parted.parts", tmp_path / "moved.parts")
    assert verify(moved).ok
    shutil.copy(parted.path, tmp_path / "moved.hdf5")
    with pytest.raises(CacheFormatError, match=r"its name must end in \.h5"):
        FeatureCache.open(tmp_path / "moved.hdf5")


def test_other_names_are_refused_before_the_work(photos, parted, tmp_path):
    with pytest.raises(OptionError, match=r"photos\.hdf5 cannot be a cache in parts: its name must end in \.h5"):
        in_parts(photos, tmp_path / "photos.hdf5")
    with pytest.raises(OptionError, match=r"must end in \.h5"):
        merge(tmp_path / "merged", [parted.path], parts=True)
    with pytest.raises(OptionError, match="part_rows is 0"):
        in_parts(photos, tmp_path / "c.h5", 0)


def test_files_of_others_in_the_folder_stay(photos, tmp_path):
    folder = tmp_path / "c.parts"
    folder.mkdir()
    (folder / "000007.h5").write_text("of an index that was moved away")
    (folder / "notes.txt").write_text("mine")
    cache = in_parts(photos, tmp_path / "c.h5", 10)
    assert [path.name for path in cache.parts] == ["000008.h5", "000009.h5"]
    shutil.rmtree(photos / "train")
    cache = in_parts(photos, tmp_path / "c.h5", 10)
    assert files(cache).keys() == {"000007.h5", "000009.h5", "notes.txt"}


def test_a_run_that_failed_leaves_parts_that_the_next_one_uses(photos, tmp_path, monkeypatch, make_backbone):
    real = featurecache.packing.pack

    def failing(path, *args, **options):
        if path.name == "c.h5":
            raise KeyboardInterrupt
        real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(featurecache.packing, "pack", failing)
        with pytest.raises(KeyboardInterrupt):
            in_parts(photos, tmp_path / "c.h5")
    folder = tmp_path / "c.parts"
    left = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert len(left) == 3
    backbone = make_backbone()
    cache = in_parts(photos, tmp_path / "c.h5", backbone=backbone)
    assert backbone.seen == 0
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == left
    assert verify(cache.path).ok


def test_what_a_killed_merge_left_is_removed(parted, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(featurecache.packing, "_in_parts", kill)
        patch.setattr(featurecache.packing.PartsFolder, "remove_unused", lambda *_: None)
        patch.setattr(featurecache.merging, "remove_directory", lambda *_: None)
        with pytest.raises(Killed):
            merge(tmp_path / "merged.h5", [parted.path], parts=True)
    assert len(list((tmp_path / "merged.parts").iterdir())) == 3
    merged = merge(tmp_path / "merged.h5", [parted.path])
    assert not (tmp_path / "merged.parts").exists()
    assert merged.parts == ()


def test_no_image_left_keeps_the_parts(parted, photos):
    before = files(parted)
    shutil.rmtree(photos)
    write_image(photos / "train" / "cats" / "0.png", 0)
    (photos / "train" / "cats" / "0.png").write_bytes(b"no image")
    with pytest.raises(NoImagesError):
        extract(photos, parted.path, backbone=FakeBackbone())
    assert files(FeatureCache.open(parted.path)) == before


def test_the_folder_may_be_a_link_to_another_one(cache, photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked.parts").symlink_to("elsewhere")
    linked = in_parts(photos, tmp_path / "linked.h5")
    same(linked, cache)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 3
    shutil.rmtree(photos / "train")
    extract(photos, linked.path, backbone=FakeBackbone())
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["000002.h5", "000003.h5"]


def test_a_cache_without_rows_has_no_parts(cache, tmp_path):
    none = {name: column[:0] for name, column in cache.index.images.items()}
    path = tmp_path / "none.h5"
    work_directory(path).mkdir()
    options = {"part_rows": 5, "in_use": (), "replace": False, "scratch": tmp_path}
    pack_in_parts(path, replace(cache.index, images=none), NO_PLACES, **options)
    opened = FeatureCache.open(path)
    assert (len(opened), opened.parts, opened.problems()) == (0, (), [])
    assert np.asarray(opened.features("features").X).shape == (0, 16)
    assert opened.read("features", 0, 0).shape == (0, 16)


def test_more_parts_than_may_be_open(photos, tmp_path, monkeypatch, cache):
    monkeypatch.setattr(featurecache.rows, "_OPEN_PARTS", 2)
    parted = in_parts(photos, tmp_path / "many.h5", 1)
    before = len(os.listdir("/proc/self/fd"))
    X = parted.features("features").X
    same(parted, cache)
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    np.testing.assert_array_equal(X[::-1], cache.features("features").X[::-1])

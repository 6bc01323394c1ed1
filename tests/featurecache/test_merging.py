import shutil

import numpy as np
import pytest

from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, OptionError, OutputError, RecipeError
from featurecache.merging import merge
from featurecache.verification import verify
from tests.featurecache.test_extraction import contents


@pytest.fixture
def halves(photos, tmp_path):
    """Return two folders that make up `photos`, overlapping in one image, and their caches."""
    folders = []
    for name, label in (("a", "cats"), ("b", "dogs")):
        folder = tmp_path / name
        for split in ("train", "valid"):
            shutil.copytree(photos / split / label, folder / split / label)
        folders.append(folder)
    (folders[1] / "train" / "cats").mkdir()
    shutil.copy2(photos / "train" / "cats" / "0.png", folders[1] / "train" / "cats" / "0.png")
    (folders[0] / "train" / "cats" / "broken.jpg").write_bytes(b"not an image")
    return [extract(folder, folder.with_suffix(".h5"), backbone=FakeBackbone()) for folder in folders]


def test_merged_halves_are_the_whole(halves, photos, tmp_path):
    shutil.copy2(tmp_path / "a" / "train" / "cats" / "broken.jpg", photos / "train" / "cats" / "broken.jpg")
    whole = extract(photos, tmp_path / "whole.h5", backbone=FakeBackbone())
    merged = merge(tmp_path / "merged.h5", [cache.path for cache in halves])
    ours, theirs = contents(merged), contents(whole)
    for column in ("images/mtime_ns",):
        ours.pop(column)
        theirs.pop(column)
    assert ours == theirs
    assert merged.classes == ("cats", "dogs")
    assert list(merged.failures) == ["train/cats/broken.jpg"]
    assert verify(merged.path).ok
    np.testing.assert_array_equal(merged.features("features").y, whole.features("features").y)
    assert [entry["path"] for entry in merged.provenance["merged"]] == [str(cache.path) for cache in halves]


def test_one_class_in_two_unicode_forms_stays_one_class(photos, tmp_path):
    caches = []
    for number, name in enumerate(("caf\u00e9", "cafe\u0301")):
        folder = tmp_path / f"part {number}"
        folder.mkdir()
        rows = [f"{path.relative_to(photos)},{name}" for path in sorted(photos.rglob("*.png"))[number::2]]
        (folder / "t.csv").write_text("\n".join(["path,label", *rows]) + "\n", "utf-8")
        caches.append(extract(folder / "t.csv", folder / "c.h5", root=photos, backbone=FakeBackbone()).path)
    merged = merge(tmp_path / "merged.h5", caches)
    assert merged.classes == ("caf\u00e9",)
    assert set(merged.features("features").y) == {0}


def test_a_merged_cache_can_be_brought_up_to_date(halves, photos, tmp_path, make_backbone):
    merge(tmp_path / "merged.h5", [cache.path for cache in halves])
    backbone = make_backbone()
    cache = extract(photos, tmp_path / "merged.h5", backbone=backbone)
    assert backbone.seen == 0
    assert len(cache) == 20


def test_other_recipes_are_refused(halves, tmp_path):
    other = extract(tmp_path / "a", tmp_path / "other.h5", backbone=FakeBackbone(seed=1))
    with pytest.raises(RecipeError, match=r"other\.h5.*weights is 'random:1', wanted 'random:0'"):
        merge(tmp_path / "merged.h5", [halves[0].path, other.path])
    assert not (tmp_path / "merged.h5").exists()


def test_one_path_with_two_meanings_is_refused(halves, tmp_path):
    folder = tmp_path / "b"
    shutil.copy2(folder / "train" / "dogs" / "1.png", folder / "train" / "cats" / "0.png")
    other = extract(folder, tmp_path / "other.h5", backbone=FakeBackbone())
    with pytest.raises(ManifestError, match=r"1 path.*'train/cats/0\.png'"):
        merge(tmp_path / "merged.h5", [halves[0].path, other.path])


def test_bad_input(halves, tmp_path):
    with pytest.raises(OptionError, match="at least one cache"):
        merge(tmp_path / "merged.h5", [])
    with pytest.raises(OutputError, match="exists already"):
        merge(halves[0].path, [cache.path for cache in halves])
    with pytest.raises(OutputError, match="does not exist"):
        merge(tmp_path / "no" / "merged.h5", [cache.path for cache in halves])

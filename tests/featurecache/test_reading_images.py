"""What extract and why say of the images, names as they are shown, and the order of classes."""

import os
import shutil

import pytest

from featurecache import extract, merge, verify
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, NoImagesError
from featurecache.planning import why


def said_by(use_case, images, cache, **options):
    lines = []
    use_case(images, cache, backbone=FakeBackbone(), notify=lines.append, **options)
    return lines


def test_extract_and_why_say_the_same_of_the_images(photos, tmp_path):
    (photos / "train" / "NaN").mkdir()
    shutil.copy(photos / "train" / "cats" / "0.png", photos / "train" / "NaN")
    (tmp_path / "birds").mkdir()
    (photos / "train" / "birds").symlink_to(tmp_path / "birds")
    planned = said_by(why, photos, tmp_path / "c.h5")
    assert planned == said_by(extract, photos, tmp_path / "c.h5")
    assert planned[:2] == [
        "found 21 images: 3 classes (NaN, cats, dogs); train 11, valid 10",
        "left out: a symbolic link to a folder, which is not followed: train/birds",
    ]
    assert planned[2].startswith("warning: the class 'NaN' looks like a placeholder")
    assert len(planned) == 3


def test_a_refused_plan_says_what_was_understood(photos, tmp_path):
    extract(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert said_by(why, photos, tmp_path / "c.h5", resize="crop") == [
        "found 20 images: 2 classes (cats, dogs); train 10, valid 10"
    ]


@pytest.fixture
def percents(photos):
    """Photos with percent signs before hexadecimal digits in all names, one of them broken, one in both splits."""
    for file in sorted(photos.rglob("*.png")):
        file.rename(file.with_name(f"a%20{file.name}"))
    (photos / "train" / "cats").rename(photos / "train" / "c%41ts")
    (photos / "valid" / "cats").rename(photos / "valid" / "c%41ts")
    (photos / "valid" / "dogs" / "b%2F.png").write_bytes(b"no image")
    shutil.copy(photos / "train" / "dogs" / "a%200.png", photos / "valid" / "dogs" / "%ff.png")
    return photos


def test_names_are_shown_as_they_are(percents, tmp_path):
    cache = extract(percents, tmp_path / "c.h5", backbone=FakeBackbone())
    paths = [*cache.paths, *cache.failures, *cache.features("features", "train").paths]
    assert all((percents / path).is_file() for path in paths)
    assert cache.classes == ("c%41ts", "dogs")
    assert list(cache.failures) == ["valid/dogs/b%2F.png"]
    assert cache.leaks == [("train/dogs/a%200.png", "valid/dogs/%ff.png")]
    (percents / "train" / "dogs" / "a%200.png").unlink()
    plan = why(percents, tmp_path / "c.h5", backbone=FakeBackbone())
    assert plan.gone == ["train/dogs/a%200.png"]
    assert plan.reasons["failed before"] == ["valid/dogs/b%2F.png"]
    assert "valid/dogs/%ff.png" in plan.reasons["unchanged"]


def test_the_file_keeps_the_encoded_form(percents, tmp_path):
    """So a cache of an earlier version has the same bytes, and its file records hold."""
    path = tmp_path / "c.h5"
    cache = extract(percents, path, backbone=FakeBackbone())
    assert cache.index.images["path"][0] == "train/c%2541ts/a%25200.png"
    before = path.read_bytes()
    assert why(percents, path, backbone=FakeBackbone()).to_dict()["reasons"] == {"unchanged": 21, "failed before": 1}
    extract(percents, path, backbone=FakeBackbone())
    assert path.read_bytes() == before
    assert verify(path, recompute=30, backbone=FakeBackbone()).recomputed == 21


def test_merged_caches_show_names_as_they_are(percents, tmp_path):
    extract(percents / "train" / "c%41ts", tmp_path / "a.h5", backbone=FakeBackbone())
    extract(percents / "valid", tmp_path / "b.h5", backbone=FakeBackbone())
    merged = merge(tmp_path / "all.h5", [tmp_path / "a.h5", tmp_path / "b.h5"])
    assert {"a%200.png", "c%41ts/a%200.png"} < {*merged.paths}
    assert list(merged.failures) == ["dogs/b%2F.png"]
    extract(percents / "train" / "dogs", tmp_path / "c.h5", backbone=FakeBackbone())
    with pytest.raises(ManifestError, match=r"'a%200\.png'"):
        merge(tmp_path / "more.h5", [tmp_path / "a.h5", tmp_path / "c.h5"])


def test_names_of_other_bytes_keep_their_escapes(photos, tmp_path):
    file = photos / "train" / "cats" / "0.png"
    file.rename(os.fsdecode(os.fsencode(file.parent) + b"/caf\xe9%20.png"))
    cache = extract(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert "train/cats/caf%E9%2520.png" in cache.paths


@pytest.fixture
def numbered(photos):
    """Photos of the classes 2 and 10."""
    for split in ("train", "valid"):
        for old, new in (("cats", "2"), ("dogs", "10")):
            (photos / split / old).rename(photos / split / new)
    return photos


def test_a_cache_keeps_the_order_of_its_classes(numbered, tmp_path):
    path = tmp_path / "c.h5"
    assert extract(numbered, path, backbone=FakeBackbone(), class_order="natural").classes == ("2", "10")
    before = path.read_bytes()
    assert extract(numbered, path, backbone=FakeBackbone()).classes == ("2", "10")
    assert path.read_bytes() == before
    (numbered / "train" / "3").mkdir()
    shutil.copy(numbered / "train" / "2" / "0.png", numbered / "train" / "3")
    cache = extract(numbered, path, backbone=FakeBackbone())
    assert cache.classes == ("2", "3", "10")
    rows = cache.features("features")
    assert all(path.split("/")[1] == cache.classes[label] for path, label in zip(rows.paths, rows.y, strict=True))
    assert extract(numbered, path, backbone=FakeBackbone(), class_order="name").classes == ("10", "2", "3")


def test_an_order_from_a_file_is_kept_in_merged_caches(photos, tmp_path):
    order = tmp_path / "order.txt"
    order.write_text("dogs\ncats\n")
    train = extract(photos / "train", tmp_path / "a.h5", backbone=FakeBackbone(), class_order=str(order))
    assert train.classes == ("dogs", "cats")
    unlabelled = extract(photos / "valid" / "cats", tmp_path / "b.h5", backbone=FakeBackbone())
    assert merge(tmp_path / "all.h5", [train.path, unlabelled.path]).classes == ("dogs", "cats")


def test_a_replaced_cache_gets_the_default_order(numbered, tmp_path):
    path = tmp_path / "c.h5"
    extract(numbered, path, backbone=FakeBackbone(), class_order="natural")
    assert extract(numbered, path, backbone=FakeBackbone(), replace=True).classes == ("10", "2")


@pytest.mark.parametrize("use_case", [extract, why])
def test_a_table_of_wrong_paths_names_one_and_where_it_was_looked_for(photos, tmp_path, use_case):
    table = tmp_path / "t.csv"
    table.write_text("path,label\n" + "".join(f"Train/Cats/{number}.png,cat\n" for number in range(5)))
    wanted = f"the first is Train/Cats/0.png in {photos}: there is train/cats/0.png"
    said = []
    options = {"backbone": FakeBackbone(), "root": photos, "notify": said.append}
    if use_case is extract:
        with pytest.raises(NoImagesError) as caught:
            extract(table, tmp_path / "c.h5", **options)
        said.append(str(caught.value))
    else:
        why(table, tmp_path / "c.h5", **options)
    assert wanted in said[-1]


def test_images_that_cannot_be_decoded_name_one_and_guess_nothing(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a%20b.png").write_bytes(b"no image")
    with pytest.raises(NoImagesError) as caught:
        extract(folder, tmp_path / "c.h5", backbone=FakeBackbone())
    assert str(caught.value).endswith(f"; the first is a%20b.png in {folder}")


@pytest.mark.parametrize("split", ["validation", "VAL", "dev"])
def test_a_split_is_read_by_its_other_names(photos, tmp_path, split):
    cache = extract(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    rows = cache.features("features", split)
    assert (len(rows), rows.split) == (10, "valid")


def test_warnings_about_classes_are_those_of_the_cache(photos, tmp_path):
    for split in ("train", "valid"):
        (photos / split / "cats").rename(photos / split / "Dogs")
    cache = extract(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert [warning.code for warning in cache.warnings] == ["similar_classes"]
    plan = why(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert plan.to_dict()["warnings"] == [warning.to_dict() for warning in cache.warnings]

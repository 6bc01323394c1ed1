"""Augmented views of images: their pixels, their rows, and that an update computes new ones alone."""

import csv
import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import featurecache
from featurecache import FolderSource, extract, merge, read_manifest, why
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, OptionError
from featurecache.images.decode import DecodeRules, decode, shrink
from featurecache.images.views import View
from featurecache.options import Views

RULES = DecodeRules(size=(30, 40))
SHA256 = "ab" * 32


def jpeg(seed=0, height=90, width=120):
    """Return the bytes of a JPEG file without any symmetry."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def paths_of(cache, split):
    return [path for path, own in zip(cache.paths, cache.features("features").splits, strict=True) if own == split]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5:flip,crop", "5:crop,flip"), ("1:flip", "1:flip"), ("100:color", "100:color"), ("3:color,flip,crop", None)],
)
def test_views_are_read_in_one_order(text, expected):
    assert str(Views.read(text)) == (expected or "3:crop,flip,color")
    assert Views.read("none") is None


@pytest.mark.parametrize(
    "text", ["", "5", "flip", "0:crop", "101:crop", "5:", "5:crop,", "5:crop,crop", "5:zoom", "05:crop", "5: crop", 5]
)
def test_what_is_no_number_and_kinds_is_refused(text):
    with pytest.raises(OptionError, match="expected a number from 1 to 100, a colon and some of crop, flip, color"):
        Views.read(text)


def test_an_image_has_one_mirror_image():
    with pytest.raises(OptionError, match="take 1:flip, or add crop or color"):
        Views.read("2:flip")


def test_a_mirrored_view_has_the_pixels_of_its_image_from_right_to_left():
    data = jpeg()
    image = decode(data, RULES)
    first, second = (View(number, ("flip",)).drawn(SHA256) for number in (1, 2))
    assert np.array_equal(decode(data, RULES, view=first), image[:, ::-1])
    assert np.array_equal(decode(data, RULES, view=second), image)
    assert not np.array_equal(image, image[:, ::-1])


@pytest.mark.parametrize("number", [1, 2, 7])
def test_a_crop_has_the_pixels_of_a_file_of_this_part(number):
    data = jpeg()
    view = View(number, ("crop",)).drawn(SHA256)
    left, top, right, bottom = (round(share * side) for share, side in zip(view.box, (120, 90, 120, 90), strict=True))
    part = Image.open(io.BytesIO(data)).crop((int(view.box[0] * 120), int(view.box[1] * 90), right, bottom))
    assert part.width * part.height >= 0.23 * 120 * 90
    assert (left, top) != (0, 0) or (right, bottom) != (120, 90)
    file = io.BytesIO()
    part.save(file, "PNG")
    assert np.array_equal(decode(data, RULES, view=view), decode(file.getvalue(), RULES))


def test_colours_are_those_of_pillow():
    data = jpeg()
    view = View(1, ("color",)).drawn(SHA256)
    image = Image.fromarray(decode(data, RULES))
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for kind, factor in zip(kinds, view.factors, strict=True):
        assert 0.6 <= factor <= 1.4
        image = kind(image).enhance(factor)
    assert np.array_equal(decode(data, RULES, view=view), np.asarray(image))


def test_thumbnails_show_the_view():
    data = jpeg()
    assert np.array_equal(shrink(data, 40, view=View(1, ("flip",)).drawn(SHA256)), shrink(data, 40)[:, ::-1])


def test_views_follow_from_content_number_and_kinds():
    kinds = ("crop", "color")
    drawn = [View(number, kinds).drawn(content) for number in range(1, 101) for content in (SHA256, "cd" * 32)]
    assert len({view.box for view in drawn}) == len({view.sha256 for view in drawn}) == 200
    assert View(3, kinds).drawn(SHA256) == View(3, kinds).drawn(SHA256)
    assert View(3, kinds).drawn(SHA256).sha256 != View(3, ("crop",)).drawn(SHA256).sha256
    left, top, right, bottom = np.array([view.box for view in drawn]).T
    assert left.min() >= 0
    assert top.min() >= 0
    assert max(right.max(), bottom.max()) <= 1 + 1e-12
    areas = (right - left) * (bottom - top)
    assert 0.24 < areas.min() < 0.3
    assert 0.85 < areas.max() <= 1
    assert 0.5 < areas.mean() < 0.7  # the mean of 0.25 and 1, less what a side over 1 loses


def test_tiny_images_have_views():
    data = jpeg(height=1, width=2)
    for number in range(1, 20):
        pixels = decode(data, RULES, view=View(number, ("crop", "flip", "color")).drawn(SHA256))
        assert pixels.shape == (30, 40, 3)


def test_images_that_train_heads_get_rows_of_their_own(photos, tmp_path):
    cache = extract(photos, tmp_path / "v.h5", views="2:flip,crop", backbone=FakeBackbone())
    plain = extract(photos, tmp_path / "p.h5", backbone=FakeBackbone())
    assert paths_of(cache, "train")[:4] == [
        "train/cats/0.png", "train/cats/0.png#1:crop,flip", "train/cats/0.png#2:crop,flip", "train/cats/1.png",
    ]  # fmt: skip
    assert len(paths_of(cache, "train")) == 30
    assert paths_of(cache, "valid") == paths_of(plain, "valid")
    rows, images = cache.features("features"), plain.features("features")
    assert rows.is_view.sum() == 20
    assert np.array_equal(rows.take(~rows.is_view).X, images.X)
    assert len(np.unique(rows.X, axis=0)) == 40  # each view is another image
    assert rows.y[rows.paths == "train/dogs/4.png#2:crop,flip"] == rows.classes.index("dogs")
    assert sorted(set(rows.sha256)) == sorted(set(images.sha256))
    assert cache.made_by.views == "2:crop,flip"
    assert featurecache.verify(cache.path, recompute=40, backbone=FakeBackbone()).recomputed == 40


def test_a_row_has_the_features_of_a_file_of_the_view(photos, tmp_path):
    cache = extract(photos, tmp_path / "v.h5", views="1:flip", backbone=FakeBackbone())
    for path in (photos / "train").rglob("*.png"):
        pixels = np.asarray(Image.open(path))[:, ::-1]
        Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    mirrored = extract(photos, tmp_path / "m.h5", backbone=FakeBackbone()).features("features", "train")
    views = cache.features("features", "train")
    assert np.array_equal(views.take(views.is_view).X, mirrored.X)


def test_an_update_computes_new_views_alone(photos, tmp_path, make_backbone):
    place = tmp_path / "v.h5"

    def update(views):
        backbone = make_backbone()
        cache = extract(photos, place, views=views, backbone=backbone)
        return backbone.seen, len(cache)

    assert update(None) == (20, 20)
    assert update("1:crop") == (10, 30)
    assert update("3:crop") == (20, 50)
    assert update(None) == (0, 50)  # the cache knows its views
    assert why(photos, place, backbone=FakeBackbone()).to_dict()["reasons"] == {"unchanged": 50}
    assert why(photos, place, views="4:crop", backbone=FakeBackbone()).to_dict()["compute"] == 10
    assert update("2:crop") == (0, 40)
    assert update("none") == (0, 20)
    assert update(None) == (0, 20)
    assert update("1:flip") == (10, 30)
    for image in photos.rglob("*.png"):
        image.touch()  # another time, the same bytes
    assert update(None) == (0, 30)
    (photos / "train" / "cats" / "0.png").write_bytes(jpeg())
    assert update(None) == (2, 30)


def test_an_interrupted_run_knows_its_views(photos, tmp_path, make_backbone):
    place = tmp_path / "v.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(photos, place, views="2:crop", backbone=make_backbone(stop_after=16), batch_size=8)
    backbone = make_backbone()
    assert len(extract(photos, place, backbone=backbone, batch_size=8)) == 40
    assert backbone.seen == 24


def test_parts_of_the_images_join_to_the_whole(photos, tmp_path):
    options = {"views": "2:crop", "backbone": FakeBackbone()}
    parts = [tmp_path / f"{number}.h5" for number in (1, 2)]
    for number, place in enumerate(parts, 1):
        extract(photos, place, part=f"{number}/2", **options)
    merged, plain = merge(tmp_path / "m.h5", parts), extract(photos, tmp_path / "p.h5", **options)
    assert merged.paths.tolist() == plain.paths.tolist()
    assert np.array_equal(merged.features("features").X, plain.features("features").X)
    assert len(extract(photos, merged.path, backbone=FakeBackbone())) == 40  # a merged cache knows its views, too
    for place in parts:
        rows = featurecache.FeatureCache.open(place).features("features", "train")
        assert sorted(set(rows.sha256)) == sorted(rows.sha256[~rows.is_view])  # views lie beside their image


def test_a_cache_with_views_takes_images_that_train_no_head(photos, tmp_path):
    lines = []
    extract(photos, tmp_path / "v.h5", views="2:crop", backbone=FakeBackbone())
    (photos / "train").rename(photos / "test")
    cache = extract(photos, tmp_path / "v.h5", backbone=FakeBackbone(), notify=lines.append)
    assert len(cache) == 20
    assert "no views (2:crop) as the cache has them: no image is in the train split or in no split" in lines


def test_features_of_views_have_the_content_of_their_image(photos, tmp_path):
    cache = extract(photos, tmp_path / "p.h5", backbone=FakeBackbone())
    viewed = read_manifest(photos).with_views("1:crop")
    rows, _ = featurecache.features_of(cache, viewed, "features", backbone=FakeBackbone())
    assert rows.is_view.sum() == 10
    assert set(rows.sha256) == set(cache.contents)


def test_a_damaged_image_fails_with_its_views(photos, tmp_path):
    (photos / "train" / "cats" / "0.png").write_bytes(b"no image")
    cache = extract(photos, tmp_path / "v.h5", views="1:flip", backbone=FakeBackbone())
    assert list(cache.failures) == ["train/cats/0.png", "train/cats/0.png#1:flip"]
    assert len(cache) == 28


def test_further_columns_and_labels_are_those_of_the_image(photos, tmp_path):
    table = tmp_path / "photos" / "table.csv"
    paths = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "room"), *((path, path[-5]) for path in paths)])
    cache = extract(table, tmp_path / "v.h5", views="1:flip", backbone=FakeBackbone())
    assert len(cache) == 40  # without a train split, images in no split train
    rooms = dict(zip(cache.paths, cache.column("room"), strict=True))
    assert all(rooms[path] == rooms[f"{path}#1:flip"] == path[-5] for path in paths)
    sha256 = cache.contents[cache.paths.tolist().index(paths[1])]
    labelled = cache.with_labels({paths[0]: "first", sha256: "second"})
    names = {path: name for path, name in zip(cache.paths, labelled.features("features").y, strict=True) if name >= 0}
    assert labelled.given_labels == {paths[0]: "first", paths[1]: "second"}
    assert {path: labelled.classes[name] for path, name in names.items()} == {
        paths[0]: "first", f"{paths[0]}#1:flip": "first", paths[1]: "second", f"{paths[1]}#1:flip": "second",
    }  # fmt: skip


def test_what_cannot_have_views_is_refused(photos, tmp_path):
    manifest = read_manifest(photos)
    with pytest.raises(ManifestError, match="has views already"):
        manifest.with_views("1:flip").with_views("2:crop")
    with pytest.raises(ManifestError, match="no image is in the train split or in no split"):
        featurecache.from_source(FolderSource(photos), [("valid/cats/0.png", "cats", "valid")]).with_views("1:flip")
    with pytest.raises(ManifestError, match="reads like the path of a view; rename the file"):
        featurecache.from_source(FolderSource(photos), [("a.png#1:flip", None, "")])
    with pytest.raises(OptionError, match="views is '1:turn'"):
        extract(photos, tmp_path / "v.h5", views="1:turn", backbone=FakeBackbone())
    assert not (tmp_path / "v.h5").exists()

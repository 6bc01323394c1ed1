"""``train --from`` with a cache of a new class: what the command says, and what it refuses."""

import json

import numpy as np
import pytest

import featurecache
import heads
from featurecache.backbones.fake import FakeBackbone

GREEN = (40, 200, 60)
RIDGE = ("--head", "ridge", "--tap", "features")


@pytest.fixture(scope="module")
def green(tmp_path_factory, write_images):
    """A cache of green images alone."""
    folder = tmp_path_factory.mktemp("green")
    for split, count in (("train", 8), ("valid", 3)):
        write_images(folder / "photos" / split / "green", count, GREEN, seed=len(split))
    return featurecache.extract(folder / "photos", folder / "green.h5", backbone=FakeBackbone()).path


def test_a_new_class_joins_a_head_that_kept_its_rows(fake_cache, green, invoke, tmp_path):
    assert invoke("train", fake_cache, tmp_path / "first", *RIDGE, "--keep-rows").code == 0
    grown = invoke("train", green, tmp_path / "grown", "--from", tmp_path / "first")
    assert grown.code == 0, grown.err
    assert "of the training rows, 28 were known (28 kept in the head), 8 are new; new: green" in grown.out.splitlines()
    assert "36 train and 15 valid rows" in grown.out
    featurecache.merge(tmp_path / "all.h5", [fake_cache, green])
    assert invoke("train", tmp_path / "all.h5", tmp_path / "whole", *RIDGE).code == 0
    evaluated = invoke("evaluate", tmp_path / "grown", tmp_path / "all.h5", "--split", "train")
    assert "36 rows trained the head" in evaluated.err
    one, other = (heads.TrainedHead.load(tmp_path / name) for name in ("grown", "whole"))
    assert (one.classes, other.classes) == (("blue", "red", "green"), ("blue", "green", "red"))
    X = featurecache.FeatureCache.open(tmp_path / "all.h5").features("features").X
    np.testing.assert_allclose(one.predict_proba(X)[:, [0, 2, 1]], other.predict_proba(X), atol=1e-9)
    assert one.training.continues == heads.TrainedHead.load(tmp_path / "first").identity


def test_views_count_as_their_image(invoke, write_images, tmp_path):
    for name, colour in (("red", (220, 40, 30)), ("green", GREEN)):
        write_images(tmp_path / "photos" / "train" / name, 4, colour, seed=len(name))
        write_images(tmp_path / "photos" / "valid" / name, 2, colour, seed=9 + len(name))
    options = {"backbone": FakeBackbone()}
    plain = featurecache.extract(tmp_path / "photos", tmp_path / "p.h5", **options)
    viewed = featurecache.extract(tmp_path / "photos", tmp_path / "v.h5", views="2:crop", **options)
    first = invoke("train", plain.path, tmp_path / "first", *RIDGE)
    assert "ridge on features, 8 train and 4 valid rows" in first.out
    grown = invoke("train", viewed.path, tmp_path / "grown", "--from", tmp_path / "first")
    assert "ridge on features, 8 train images (24 rows with views) and 4 valid rows" in grown.out
    assert heads.TrainedHead.load(tmp_path / "grown").training.growth.n_known == 24
    write_images(tmp_path / "photos" / "train" / "blue", 5, (30, 40, 220))
    more = featurecache.extract(tmp_path / "photos", tmp_path / "m.h5", views="2:crop", **options)
    again = invoke("train", more.path, tmp_path / "again", "--from", tmp_path / "grown")
    assert "of the training rows, 24 were known, 15 are new; new: blue" in again.out.splitlines()


def test_a_head_without_rows_needs_its_cache(fake_cache, fake_head, green, invoke, tmp_path):
    refused = invoke("train", green, tmp_path / "grown", "--from", fake_head)
    assert refused.code == 1
    (line,) = refused.err.splitlines()
    assert "28 of the 28 rows that trained the head are not in the cache" in line
    assert not (tmp_path / "grown").exists()
    featurecache.merge(tmp_path / "all.h5", [fake_cache, green])
    grown = invoke("train", tmp_path / "all.h5", tmp_path / "grown", "--from", fake_head, "--json")
    assert json.loads(grown.out)["growth"] == {
        "n_known": 28,
        "n_new": 8,
        "n_kept": 0,
        "n_relabelled": 0,
        "new_classes": ["green"],
    }
    same = invoke("train", fake_cache, tmp_path / "same", "--from", fake_head)
    assert "of the training rows" not in same.out

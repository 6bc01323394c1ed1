"""Caches and feature sets in other processes: what is pickled is the name of the file, not the features."""

import copy
import multiprocessing
import os
import pickle
import shutil
from dataclasses import replace

import joblib
import numpy as np
import pytest

from featurecache import FeatureCache, extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import CacheFormatError

WIDE = 4096


@pytest.fixture
def wide(photos, tmp_path):
    return extract(photos, tmp_path / "wide.h5", backbone=FakeBackbone({"wide": WIDE, "features": 16}))


def total(features):
    return float(features.X.sum()), features.paths.tolist(), os.getpid()


def rows_of(cache):
    return len(cache), cache.features("features").X.tolist()


def test_a_pickled_cache_names_its_file(wide):
    data = pickle.dumps(wide)
    assert len(data) < 1000
    again = pickle.loads(data)  # noqa: S301 - our own
    assert (again.path, again.splits, again.recipe) == (wide.path, wide.splits, wide.recipe)
    np.testing.assert_array_equal(again.features("wide").X, wide.features("wide").X)
    assert again.problems() == []


def test_the_path_of_a_pickled_cache_holds_in_another_folder(wide, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    relative = FeatureCache.open("wide.h5")
    data = pickle.dumps((relative, relative.features("wide")))
    monkeypatch.chdir("/")
    cache, features = pickle.loads(data)  # noqa: S301
    np.testing.assert_array_equal(features.X, cache.features("wide").X)


@pytest.mark.parametrize(
    "choose", [lambda rows: rows, lambda rows: rows.take(slice(3, 9)), lambda rows: rows.take(slice(9, None, -2))]
)
def test_a_pickled_feature_set_is_a_place_in_the_file(wide, choose):
    features = choose(wide.features("wide"))
    data = pickle.dumps(features)
    assert len(data) < 8000 < features.X.nbytes
    again = pickle.loads(data)  # noqa: S301
    np.testing.assert_array_equal(again.X, features.X)
    assert again.X.strides == features.X.strides
    assert not again.X.flags.writeable
    assert not again.X.flags.owndata
    for name in ("y", "paths", "splits", "sha256"):
        np.testing.assert_array_equal(getattr(again, name), getattr(features, name))
    assert (again.classes, again.split, again.tap, again.recipe) == (
        features.classes,
        features.split,
        features.tap,
        features.recipe,
    )


def test_features_that_are_no_view_of_the_file_are_pickled_with_their_values(wide, photos, tmp_path):
    features = wide.features("wide")
    half = extract(photos, tmp_path / "half.h5", backbone=FakeBackbone({"wide": WIDE}), dtype="float16")
    for copied in (features.take(features.y == 1), features.take(slice(0, 0)), half.features("wide")):
        again = pickle.loads(pickle.dumps(copied))  # noqa: S301
        np.testing.assert_array_equal(again.X, copied.X)
        assert again.X.dtype == np.float32


def test_other_features_in_a_feature_set_stay_what_they_are(wide):
    features = wide.features("wide")
    doubled = pickle.loads(pickle.dumps(replace(features, X=features.X * 2)))  # noqa: S301
    np.testing.assert_array_equal(doubled.X, features.X * 2)
    columns = pickle.loads(pickle.dumps(replace(features, X=features.X[:, 100:200])))  # noqa: S301
    np.testing.assert_array_equal(columns.X, features.X[:, 100:200])


def test_a_file_that_was_replaced_is_not_taken_for_the_old_one(wide, photos):
    features = wide.features("features")
    data, values, named = pickle.dumps(wide), features.X.copy(), pickle.dumps(features)
    shutil.rmtree(photos / "train" / "cats")
    extract(photos, wide.path, backbone=FakeBackbone({"wide": WIDE, "features": 16}))
    for pickled in (data, named):
        with pytest.raises(CacheFormatError, match="was replaced after it was pickled; open the cache and pickle it"):
            pickle.loads(pickled)  # noqa: S301
    # what is open still shows the old rows, and takes them along
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(features)).X, values)  # noqa: S301


@pytest.mark.parametrize("fault", ["missing", "empty", "other"])
def test_a_file_that_cannot_be_mapped_again_is_one_line(fault, wide):
    data = pickle.dumps(wide.features("wide"))
    wide.path.unlink()
    if fault != "missing":
        wide.path.write_bytes(b"" if fault == "empty" else b"x" * 50_000)
    with pytest.raises(CacheFormatError) as caught:
        pickle.loads(data)  # noqa: S301
    assert str(wide.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_copies_read_the_same_file(wide):
    for again in (copy.copy(wide), copy.deepcopy(wide), copy.deepcopy(wide.features("features"))):
        X = again.X if hasattr(again, "X") else again.features("features").X
        np.testing.assert_array_equal(X, wide.features("features").X)
    assert wide.problems() == []


def test_processes_of_multiprocessing_and_joblib_map_the_file(wide):
    features = wide.features("wide", "train")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        value, paths, process = pool.apply(total, (features,))
        assert pool.apply(rows_of, (wide,)) == rows_of(wide)
    assert (value, paths) == (float(features.X.sum()), features.paths.tolist())
    assert process != os.getpid()
    (found,) = joblib.Parallel(n_jobs=2)([joblib.delayed(total)(features)])
    assert found[:2] == (value, paths)
    assert joblib.hash(wide) == joblib.hash(FeatureCache.open(wide.path))

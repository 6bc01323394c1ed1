"""Rows as workers take them: what is standardised, what is mapped, and what is never touched."""

import errno
from dataclasses import replace

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from featurecache.cache import FeatureCache
from featurecache.errors import OutputError
from featurecache.storage.publish import FILE_SYSTEM
from heads.errors import TrainingError
from heads.search.prepared import CacheRows, Kind, prepare
from heads.search.validation_plan import ValidationPlan, identity, parts_of
from heads.splits import labelled_images

BY_VALID, FOLDS = ValidationPlan(0, 0.2, 0), ValidationPlan(3, 0.2, 0)
SPLITS = ["train"] * 90 + ["valid"] * 60 + ["test"] * 30


def source_of(cache, validation=BY_VALID):
    images = labelled_images(cache, "fc2")
    return CacheRows(
        cache.path, validation, identity(images, validation), images.classes, images.y, parts_of(images, validation)
    )


def test_rows_tell_which_belong_together(blob_file, tmp_path):
    source = source_of(blob_file)
    assert prepare(source, Kind(0, "fc2", False), tmp_path).together() is None
    numbers = np.arange(len(source.y)) // 3
    rows = prepare(replace(source, together=numbers), Kind(0, "fc2", False), tmp_path)
    assert rows.together().tolist() == numbers[:90].tolist()


def test_standardised_rows_are_what_scikit_learn_makes_of_them(blob_file, tmp_path):
    rows = prepare(source_of(blob_file), Kind(0, "fc2", True), tmp_path)
    features = blob_file.features("fc2")
    scaler = StandardScaler().fit(features.X[:90].astype(np.float64))
    for X, expected in zip(rows.features(), (features.X[:90], features.X[90:150]), strict=True):
        assert (X.dtype, X.flags.writeable, X.flags.c_contiguous) == (np.float32, False, True)
        np.testing.assert_allclose(X, scaler.transform(expected), atol=1e-6)
    assert [labels.tolist() for labels in rows.labels()] == [features.y[:90].tolist(), features.y[90:150].tolist()]


def test_many_blocks_are_standardised_like_one(write_cache, tmp_path, monkeypatch):
    X = np.random.default_rng(0).normal(3, 2, (180, 7)).astype(np.float32)
    cache = write_cache(tmp_path / "c.h5", {"fc2": X}, np.arange(180) % 3, SPLITS)
    monkeypatch.setattr("heads.rows._BLOCK_VALUES", 7 * 11)
    X_train, X_judged = prepare(source_of(cache), Kind(0, "fc2", True), tmp_path).features()
    scaler = StandardScaler().fit(X[:90].astype(np.float64))
    np.testing.assert_allclose(np.concatenate([X_train, X_judged]), scaler.transform(X[:150]), atol=1e-5)


def test_rows_that_lie_together_are_mapped_in_the_cache(blob_file, tmp_path):
    rows = prepare(source_of(blob_file), Kind(0, "fc1", False), tmp_path)
    X = blob_file.features("fc1").X
    assert rows.scratch is None
    assert [path.name for path in tmp_path.iterdir()] == ["blobs.h5"]
    for found, expected in zip(rows.features(), (X[:90], X[90:150]), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert not found.flags.owndata
        assert not found.flags.writeable


@pytest.mark.parametrize("standardize", [True, False])
def test_of_folds_each_is_standardised_by_the_others(standardize, blob_file, tmp_path):
    source = source_of(blob_file, FOLDS)
    features = blob_file.features("fc2")
    for part in FOLDS.parts:
        (tmp_path / str(part)).mkdir()
        rows = prepare(source, Kind(part, "fc2", standardize), tmp_path / str(part))
        train, judged = (features.take((source.parts >= 0) & ((source.parts == part) == judges)) for judges in (0, 1))
        assert [labels.tolist() for labels in rows.labels()] == [train.y.tolist(), judged.y.tolist()]
        scaler = StandardScaler(with_mean=standardize, with_std=standardize).fit(train.X.astype(np.float64))
        for found, expected in zip(rows.features(), (train.X, judged.X), strict=True):
            np.testing.assert_allclose(found, scaler.transform(expected), atol=1e-6)


def test_rows_with_others_between_them_are_written_as_they_are(blobs, write_cache, tmp_path):
    X, y = blobs(180, 6, 3)
    y[::7] = -1
    cache = write_cache(tmp_path / "c.h5", {"fc2": X}, y, SPLITS)
    rows = prepare(source_of(cache), Kind(0, "fc2", False), tmp_path)
    X_train, X_judged = rows.features()
    np.testing.assert_array_equal(X_train, X[:90][y[:90] >= 0])
    np.testing.assert_array_equal(X_judged, X[90:150][y[90:150] >= 0])


def test_features_of_half_precision_are_written_in_float32(blobs, write_cache, tmp_path):
    X, y = blobs(180, 6, 3)
    cache = write_cache(tmp_path / "c.h5", {"fc2": X}, y, SPLITS, dtype="float16")
    rows = prepare(source_of(cache), Kind(0, "fc2", False), tmp_path)
    assert rows.scratch is not None  # else every worker would hold a copy
    X_train, X_judged = rows.features()
    assert (X_train.dtype, X_judged.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(X_train, X[:90].astype(np.float16))


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("row", [3, 100])
def test_features_that_are_not_finite_name_the_image(row, standardize, blobs, write_cache, tmp_path):
    X, y = blobs(180, 6, 3)
    X[row, 2] = np.inf
    cache = write_cache(tmp_path / "c.h5", {"fc2": X}, y, SPLITS)
    with pytest.raises(TrainingError, match=f"^00{row:03}.jpg: row {row} holds features that are not finite"):
        prepare(source_of(cache), Kind(0, "fc2", standardize), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]


@pytest.mark.parametrize("validation", [BY_VALID, FOLDS])
@pytest.mark.parametrize("standardize", [True, False])
def test_features_of_test_rows_are_not_asked_for(validation, standardize, blob_file, tmp_path, monkeypatch):
    asked = set()
    features = FeatureCache.features

    def watched(cache, tap=None, split=None):
        asked.add(split)
        return features(cache, tap, split)

    monkeypatch.setattr(FeatureCache, "features", watched)
    prepare(source_of(blob_file, validation), Kind(0, "fc2", standardize), tmp_path).features()
    assert asked == ({"train"} if validation.folds else {"train", "valid"})


@pytest.mark.parametrize(("rows", "contents"), [(180, range(1, 181)), (120, range(120))])
def test_a_cache_that_was_replaced_meanwhile_is_noticed(rows, contents, blob_file, blobs, write_cache, tmp_path):
    source = source_of(blob_file)
    mapped = prepare(source, Kind(0, "fc2", False), tmp_path)
    X, y = blobs(180, 6, 3)
    write_cache(blob_file.path, {"fc2": X[:rows]}, y[:rows], SPLITS[:rows], contents=contents)
    for again in (lambda: prepare(source, Kind(0, "fc2", True), tmp_path), mapped.features):
        with pytest.raises(TrainingError, match="was replaced while a sweep was at work on it; start another sweep"):
            again()


def test_a_full_disk_shows_before_any_row_is_written(blob_file, tmp_path, monkeypatch):
    def full(descriptor, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FILE_SYSTEM, "reserve", full)
    monkeypatch.setattr(FILE_SYSTEM, "write", None)
    with pytest.raises(
        OutputError, match=r"rows.f32: no space left on device, and 3.6 kB are needed for it; make room"
    ):
        prepare(source_of(blob_file), Kind(0, "fc2", True), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["blobs.h5"]

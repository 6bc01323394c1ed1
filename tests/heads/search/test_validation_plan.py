"""Which rows train, which judge, and that folds are fair."""

import numpy as np
import pytest

from heads.errors import ParameterError, TrainingError
from heads.search.validation_plan import ValidationPlan, identity, parts_of, rows_of, usable_rows
from heads.splits import Holdout, labelled_images, training_rows

BY_VALID = ValidationPlan(0, 0.2, 0)


@pytest.fixture
def images(make_features):
    """Make rows of given labels, splits and contents; there is no feature to look at."""

    def make(y, splits="train", **options):
        return make_features(np.empty((len(y), 0), np.float32), y, splits=splits, **options)

    return make


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((1, 0.2, 0), "folds is 1, expected at least 2, or 0"),
        ((-3, 0.2, 0), "folds is -3"),
        ((0, 1.0, 0), "holdout is 1.0"),
        ((0, 0.2, -1), "the seed is -1"),
        ((0, 0.2, 2**32), "the seed is 4294967296"),
    ],
)
def test_numbers_out_of_range(arguments, said):
    with pytest.raises(ParameterError, match=said):
        ValidationPlan(*arguments)


def test_valid_rows_judge_and_test_rows_are_not_used(images):
    features = images([0, 1, -1, 0, 1, 0, -1, 1], ["train"] * 3 + ["valid"] * 2 + ["test"] * 2 + [""])
    parts = parts_of(features, BY_VALID)
    assert parts.tolist() == [1, 1, -1, 0, 0, -1, -1, -1]
    assert [rows.tolist() for rows in rows_of(parts, 0)] == [[0, 1], [3, 4]]


def test_without_a_valid_split_the_same_rows_are_held_out_as_in_training(images):
    features = images([0, 1] * 40, [""] * 80)
    rule = Holdout(0.3, 5)
    train, judged = rows_of(parts_of(features, ValidationPlan(0, 0.3, 5)), 0)
    expected = training_rows(features, rule)
    for rows, some in zip((train, judged), expected, strict=True):
        assert features.paths[rows].tolist() == some.paths.tolist()
    assert 0 < len(judged) < 40


def test_folds_are_of_training_rows_alone_and_each_row_judges_once(images):
    features = images([0, 1, 2] * 20, ["train"] * 45 + ["valid"] * 9 + ["test"] * 6)
    validation = ValidationPlan(5, 0.2, 0)
    parts = parts_of(features, validation)
    assert (parts[45:] == -1).all()
    assert list(validation.parts) == [0, 1, 2, 3, 4]
    for part in validation.parts:
        train, judged = rows_of(parts, part)
        assert sorted([*train, *judged]) == list(range(45))
        assert np.bincount(features.y[judged]).tolist() == [3, 3, 3]


def test_equal_content_is_in_one_fold(images):
    contents = np.repeat(np.arange(30), 3)
    features = images(np.repeat([0, 1] * 15, 3), contents=contents)
    parts = parts_of(features, ValidationPlan(3, 0.2, 0))
    assert all(len(set(parts[contents == content])) == 1 for content in range(30))
    assert np.bincount(parts).tolist() == [30, 30, 30]


def test_folds_follow_from_the_seed(images):
    features = images([0, 1] * 30)
    first, same, other = (parts_of(features, ValidationPlan(3, 0.2, seed)) for seed in (0, 0, 1))
    assert first.tolist() == same.tolist() != other.tolist()


def test_a_class_needs_as_many_different_images_as_there_are_folds(images):
    features = images([0] * 9 + [1] * 9, contents=[*range(9), 9, 10, 11, 11, 11, 11, 11, 11, 11])
    with pytest.raises(TrainingError, match=r"4 folds need .* different training images .*, and 'bee' has 3; take few"):
        parts_of(features, ValidationPlan(4, 0.2, 0))
    assert set(parts_of(features, ValidationPlan(3, 0.2, 0))) == {0, 1, 2}


@pytest.mark.parametrize(
    ("y", "splits", "validation", "said"),
    [
        ([-1] * 4, "train", BY_VALID, "the cache has no labelled rows"),
        ([0, 1] * 2, "test", BY_VALID, "no training rows: the labelled rows are 4 in test; put images into a train"),
        ([1] * 4, "train", ValidationPlan(2, 0.2, 0), "all 4 training rows are of the class 'bee'"),
        (
            [0, 1] * 2,
            "train",
            ValidationPlan(0, 0.0, 0),
            "no rows to validate on: the labelled rows are 4 in train; hold some",
        ),
    ],
)
def test_rows_that_cannot_train_or_judge(y, splits, validation, said, images):
    with pytest.raises(TrainingError, match=said):
        usable_rows(images(y, splits), validation)


def test_identity_is_that_of_the_rows_that_are_used(images):
    y, splits = [0, 1, 2, 0, 1, 2], ["train"] * 3 + ["valid"] * 2 + ["test"]
    found = identity(images(y, splits), BY_VALID)
    same = [
        images([0, 1, 2, 0, 1, 1], splits),
        images(y, splits, contents=[0, 1, 2, 3, 4, 9]),
    ]
    assert {identity(each, BY_VALID) for each in same} == {found}
    moved = images([2, *y], ["", *splits], contents=[9, 0, 1, 2, 3, 4, 5])
    assert identity(moved, BY_VALID) != found  # the same rows, but at other places
    other = [
        images([1, 1, 2, 0, 1, 2], splits),
        images(y, splits, contents=[0, 1, 2, 3, 9, 5]),
        images(y, ["train"] * 2 + ["valid"] * 3 + ["test"]),
        images(y, splits, classes=("a", "b", "c")),
        images(y, splits, weights="sha256:00"),
    ]
    assert len({found, *(identity(each, BY_VALID) for each in other)}) == 1 + len(other)


def test_images_are_listed_without_their_features(blob_file):
    images, features = labelled_images(blob_file, "fc2"), blob_file.features("fc2")
    assert images.X.shape == (180, 0)
    for column in ("y", "paths", "splits", "sha256"):
        assert getattr(images, column).tolist() == getattr(features, column).tolist()
    assert (images.classes, images.fingerprint) == (features.classes, features.fingerprint)

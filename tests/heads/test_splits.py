"""Which rows train and which judge: by split, and by content where there is no valid split."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.errors import UnknownNameError
from heads.errors import EvaluationError, ParameterError
from heads.splits import (
    Holdout,
    count_text,
    folds_of,
    has_valid_split,
    roles,
    rows_of_role,
    torn_files,
    training_rows,
)

RULE = Holdout(0.25, seed=3)


def features_of(make_features, splits, y=None, contents=None):
    n = len(splits)
    X = np.arange(n, dtype=np.float32).reshape(n, 1)
    return make_features(X, [0, 1] * (n // 2) if y is None else y, splits=splits, contents=contents)


def test_a_valid_split_is_taken_as_it_is(make_features):
    features = features_of(make_features, ["train"] * 4 + ["valid"] * 2 + ["test"] * 2)
    assert roles(features, RULE).tolist() == features.splits.tolist()
    train, valid = training_rows(features, RULE)
    assert train.paths.tolist() == features.paths[:4].tolist()
    assert valid.paths.tolist() == features.paths[4:6].tolist()


def test_without_a_valid_split_training_rows_are_held_out_and_test_rows_are_not(make_features):
    features = features_of(make_features, ["test"] * 200 + ["train"] * 400)
    assigned = roles(features, RULE)
    assert (assigned[:200] == "test").all()
    assert set(assigned[200:]) == {"train", "valid"}
    assert 0.15 < np.mean(assigned[200:] == "valid") < 0.35


def test_rows_in_no_split_train_only_if_there_is_no_train_split(make_features):
    assert set(roles(features_of(make_features, [""] * 8), None)) == {"train"}
    mixed = features_of(make_features, ["", "", "train", "train"])
    assert roles(mixed, None).tolist() == ["", "", "train", "train"]


def test_a_train_split_without_labels_does_not_count(make_features):
    features = features_of(make_features, ["", "", "train", "train"], y=[0, 1, -1, -1])
    train, _ = training_rows(features, None)
    assert train.paths.tolist() == features.paths[:2].tolist()


def test_a_valid_split_without_labels_does_not_count(make_features):
    features = features_of(make_features, ["train"] * 40 + ["valid"] * 2, y=[0, 1] * 20 + [-1, -1])
    assert not has_valid_split(features)
    _, valid = training_rows(features, RULE)
    assert len(valid) > 0
    assert (valid.y >= 0).all()


def test_nothing_is_held_out_of_a_fraction_of_zero(make_features):
    features = features_of(make_features, [""] * 8)
    train, valid = training_rows(features, Holdout(0, seed=0))
    assert (len(train), len(valid)) == (8, 0)


def test_unlabelled_rows_never_train(make_features):
    features = features_of(make_features, [""] * 40, y=[0, 1, -1, 1] * 10)
    train, valid = training_rows(features, RULE)
    assert len(train) + len(valid) == 30


def test_training_and_evaluation_meet_the_same_rows(make_features):
    features = features_of(make_features, [""] * 100)
    train, valid = training_rows(features, RULE)
    assert rows_of_role(features, "valid", RULE).paths.tolist() == valid.paths.tolist()
    assert rows_of_role(features, "train", RULE).paths.tolist() == train.paths.tolist()
    assert sorted([*train.paths, *valid.paths]) == features.paths.tolist()


def test_rows_stay_together(make_features):
    features = features_of(make_features, [""] * 40)
    for part in training_rows(features, RULE):
        for row in range(len(part)):
            original = int(part.X[row, 0])
            assert part.paths[row] == features.paths[original]
            assert part.y[row] == features.y[original]


def test_a_split_without_rows_is_named_with_those_that_have_some(make_features):
    said = "no row is in the valid split: the rows are 1 in test, 1 in train; .* all rows with --split all"
    with pytest.raises(EvaluationError, match=said):
        rows_of_role(features_of(make_features, ["train", "test"]), "valid", None)
    with pytest.raises(EvaluationError, match="no row is in the test split: the rows are 4 in no split; "):
        rows_of_role(features_of(make_features, [""] * 4), "test", RULE)
    with pytest.raises(EvaluationError, match="no row is in no split: the rows are 2 in train; "):
        rows_of_role(features_of(make_features, ["train"] * 2), "", None)


def test_a_name_that_is_no_split_is_refused_with_a_proposal(make_features):
    with pytest.raises(UnknownNameError, match=r"'tset'; did you mean 'test'\? \(known: all, test, train, valid\)"):
        rows_of_role(features_of(make_features, ["train", "test"]), "tset", None)


def test_all_rows_are_those_of_every_split_and_of_none(make_features):
    features = features_of(make_features, ["train", "train", "test", ""])
    assert rows_of_role(features, "all", RULE) is features
    assert rows_of_role(features, "", None).paths.tolist() == ["00003.jpg"]


def test_rows_that_lie_together_are_not_copied(make_features):
    features = features_of(make_features, ["test"] * 2 + ["train"] * 4 + ["valid"] * 2)
    train, valid = training_rows(features, RULE)
    assert np.shares_memory(train.X, features.X)
    assert np.shares_memory(valid.X, features.X)


@given(order=st.permutations(range(30)), seed=st.integers(0, 2**32 - 1))
def test_the_side_follows_from_content_and_seed_alone(make_features, order, seed):
    rule = Holdout(0.3, seed)
    contents = [each // 3 for each in range(30)]  # every content three times
    sides = roles(features_of(make_features, [""] * 30, contents=contents), rule)
    shuffled = roles(features_of(make_features, [""] * 30, contents=[contents[each] for each in order]), rule)
    assert shuffled.tolist() == sides[list(order)].tolist()
    assert (sides.reshape(10, 3) == sides.reshape(10, 3)[:, :1]).all()


def test_the_rule_is_the_one_that_stored_heads_were_made_with():
    """Changing the rule would give every stored head other valid rows, some of which trained it."""
    digests = [hashlib.sha256(str(each).encode()).hexdigest() for each in range(12)]
    assert [each for each, digest in enumerate(digests) if Holdout(0.5, 0).holds_out(digest)] == PINNED


PINNED = [4, 5, 6, 8, 9]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(ParameterError, match=r"holdout is .* expected at least 0 and below 1"):
        Holdout(fraction, 0)


def test_counts_in_words():
    assert count_text(["train", "", "train"]) == "1 in no split, 2 in train"


def _sha256(contents):
    return np.array([hashlib.sha256(str(each).encode()).hexdigest() for each in contents], dtype=object)


def test_every_class_has_like_shares_of_all_folds():
    y = np.repeat([0, 1, 2], [503, 40, 11])
    dealt = folds_of(y, np.arange(554), _sha256(range(554)), folds=5, seed=0)
    for label in range(3):
        counts = np.bincount(dealt[y == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(dealt)) <= 1


def test_a_group_is_in_one_fold_even_if_its_labels_differ():
    rng = np.random.default_rng(0)
    groups, y = rng.integers(0, 60, 300), rng.integers(0, 3, 300)
    dealt = folds_of(y, groups, _sha256(groups), folds=4, seed=1)
    assert all(len(set(dealt[groups == group])) == 1 for group in range(60))
    assert set(dealt) == {0, 1, 2, 3}


def test_folds_follow_from_contents_and_seed_and_not_from_the_order_of_rows():
    rng = np.random.default_rng(0)
    contents, y = rng.integers(0, 150, 200), rng.integers(0, 3, 200)
    groups = contents // 2
    order = rng.permutation(200)
    dealt = folds_of(y, groups, _sha256(contents), folds=5, seed=3)
    again = folds_of(y[order], (groups * 7 % 101)[order], _sha256(contents)[order], folds=5, seed=3)
    assert np.array_equal(again, dealt[order])
    assert not np.array_equal(folds_of(y, groups, _sha256(contents), folds=5, seed=4), dealt)


def test_a_class_of_two_groups_is_in_two_folds():
    y = np.repeat([0, 1], [100, 2])
    dealt = folds_of(y, np.arange(102), _sha256(range(102)), folds=5, seed=0)
    assert len(set(dealt[y == 1])) == 2


def test_frames_of_a_file_on_both_sides_are_said(make_features):
    rows = make_features(np.zeros((6, 1)), [0, 1, 0, 1, 0, 1])
    paths = np.array(["a.tif", "b.tif", "c.tif", "a.tif#2", "a.tif#3", "d.tif"], dtype=object)
    rows = replace(rows, paths=paths)
    train, valid = rows.take(slice(0, 3)), rows.take(slice(3, 6))
    [notice] = torn_files(valid, train)
    assert str(notice).startswith("2 of the 3 valid rows are frames of 1 file with training rows as well")
    assert torn_files(valid.take(slice(2, 3)), train) == []
    assert torn_files(replace(valid, groups=paths[3:]), train) == []
    same = replace(valid, paths=train.paths)  # rows that a head kept may have one name
    assert torn_files(same, train) == []

"""Which rows train and which judge: by split, and by content where there is no valid split."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.errors import UnknownNameError
from heads.errors import ParameterError
from heads.splits import Holdout, count_text, has_valid_split, roles, rows_of_role, training_rows

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


def test_a_split_that_is_not_there_is_named_with_those_that_are(make_features):
    with pytest.raises(UnknownNameError, match=r"unknown split 'valid' \(known: test, train\)"):
        rows_of_role(features_of(make_features, ["train", "test"]), "valid", None)


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

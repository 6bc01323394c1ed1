"""Duplicates: what is near and what is not, which pairs are listed, and in which order."""

import tracemalloc

import numpy as np
import pytest

from heads.auditing import duplicates
from heads.auditing.duplicates import Duplicate, DuplicateGroup, find_duplicates, groups_of
from heads.errors import ParameterError


def _near_by(rows, similarity, rng):
    """Return rows of length 1 that have this cosine with the given ones."""
    away = rng.normal(size=rows.shape)
    away -= (away * rows).sum(axis=1, keepdims=True) * rows
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    similarity = np.asarray(similarity)
    return similarity * rows + np.sqrt(1 - similarity**2) * away


@pytest.fixture
def directions():
    """60 rows in all directions of 200 dimensions, of length 1."""
    rows = np.random.default_rng(0).normal(size=(60, 200))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _cosines(X):
    """Return all similarities, by the definition."""
    centred = X - X.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    return centred @ centred.T


def test_planted_pairs_are_found_with_the_similarity_of_the_definition(directions, make_features, monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK_ROWS", 7)
    rng = np.random.default_rng(1)
    X = np.concatenate([directions, _near_by(directions[:5], 0.96, rng), _near_by(directions[5:10], 0.8, rng)]) + 3
    found = find_duplicates(make_features(X.astype(np.float32), np.zeros(70)), 0.9)
    assert {(pair.a, pair.b) for pair in found.pairs} == {(f"{n:05}.jpg", f"{60 + n:05}.jpg") for n in range(5)}
    expected = _cosines(X)
    for pair in found.pairs:
        assert pair.kind == "near"
        assert pair.similarity == pytest.approx(expected[int(pair.a[:5]), int(pair.b[:5])], abs=1e-5)
    assert found.near_rows == 10


def test_blocks_of_any_size_find_the_same(directions, make_features, monkeypatch):
    X = np.concatenate([directions, _near_by(directions, 0.97, np.random.default_rng(2))]).astype(np.float32)
    features = make_features(X, np.arange(120) % 3, splits=["train", "valid"] * 60)
    found = []
    for rows in (1, 13, 119, 2048):
        monkeypatch.setattr(duplicates, "_BLOCK_ROWS", rows)
        pairs = find_duplicates(features, 0.9).pairs
        found.append([(pair.a, pair.b, round(pair.similarity, 5)) for pair in sorted(pairs, key=lambda pair: pair.a)])
    assert len(found[0]) == 60
    assert all(each == found[0] for each in found)


def test_equal_contents_are_exact_whatever_their_features_are(directions, make_features):
    contents = [0, 1, 2, 0, 4, 2, 0]
    found = find_duplicates(make_features(directions[:7], np.zeros(7), contents=contents), 0.9)
    assert [(pair.a[:5], pair.b[:5], pair.kind, pair.similarity) for pair in found.pairs] == [
        ("00000", "00003", "exact", 1.0),
        ("00000", "00006", "exact", 1.0),
        ("00002", "00005", "exact", 1.0),
    ]
    assert found.groups.tolist() == found.contents.tolist()
    assert found.near_rows == 0


def test_what_hurts_most_comes_first(directions, make_features):
    rng = np.random.default_rng(3)
    X = np.concatenate(
        [directions[:40], _near_by(directions[:4], [[0.99], [0.95], [0.97], [0.93]], rng), directions[9:10]]
    )
    y = np.zeros(45, int)
    y[41] = 1
    splits = ["train"] * 45
    splits[42] = "test"
    contents = [*range(44), 9]
    pairs = find_duplicates(make_features(X, y, splits=splits, contents=contents), 0.9).pairs
    assert [(pair.a[3:5], pair.conflict, pair.crosses, pair.kind) for pair in pairs] == [
        ("01", True, False, "near"),
        ("02", False, True, "near"),
        ("09", False, False, "exact"),
        ("00", False, False, "near"),
        ("03", False, False, "near"),
    ]
    assert (pairs[0].class_a, pairs[0].class_b) == ("ant", "bee")
    assert (pairs[1].split_a, pairs[1].split_b) == ("train", "test")


def test_rows_without_a_label_are_compared_but_do_not_conflict(directions, make_features):
    y = [-1, 0, 1, -1]
    pairs = find_duplicates(make_features(directions[:4], y, contents=[0, 0, 2, 2]), 0.9).pairs
    assert [(pair.a[:5], pair.b[:5], pair.conflict) for pair in pairs] == [
        ("00000", "00001", False),
        ("00002", "00003", False),
    ]
    assert (pairs[0].class_a, pairs[1].class_b) == (None, None)


def test_copies_that_conflict_are_shown_though_the_first_copy_has_no_label(directions, make_features):
    pairs = find_duplicates(make_features(directions[:3], [-1, 0, 1], contents=[0, 0, 0]), 0.9).pairs
    assert {(pair.a[:5], pair.b[:5], pair.conflict) for pair in pairs} == {
        ("00000", "00001", False),
        ("00001", "00002", True),
    }


def test_an_unlabelled_row_between_two_that_conflict_does_not_hide_them(make_features, directions):
    angles = np.array([0.0, 0.05, 0.1])  # a cat, a row without a label, a dog; each near each
    rows = np.cos(angles)[:, None] * directions[0] + np.sin(angles)[:, None] * directions[1]
    features = make_features(np.concatenate([rows, directions[2:]]), [0, -1, 1, *[0] * 58])
    pairs = find_duplicates(features, 0.9).pairs
    assert [(pair.a[:5], pair.b[:5]) for pair in pairs if pair.conflict] == [("00000", "00002")]
    assert len(pairs) == 3


@pytest.mark.parametrize("rows", [5, 2048])
def test_every_group_shows_its_conflicts_and_its_leaks_with_few_pairs(rows, make_features, monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK_ROWS", rows)
    monkeypatch.setattr(duplicates, "_FIRST_LOOK", 3)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(12, 30))
        X = (centres[rng.integers(0, 12, 80)] + rng.normal(size=(80, 30)) * 0.25).astype(np.float32)
        y, splits = rng.integers(-1, 3, 80), rng.choice(["train", "valid", "test"], 80, p=[0.9, 0.05, 0.05])
        contents = rng.integers(0, 70, 80)
        X = X[contents]
        found = find_duplicates(make_features(X, y, splits=splits, contents=contents, classes=("a", "b", "c")), 0.9)
        near = (_cosines(X) >= 0.9) | (contents[:, None] == contents)
        assert near.sum() > 400
        assert len(found.pairs) <= 2 * 79
        parts = _connected(near)
        assert np.array_equal(parts[:, None] == parts, found.groups[:, None] == found.groups)
        listed = [(int(pair.a[:5]), int(pair.b[:5]), pair) for pair in found.pairs]
        assert all(near[a, b] for a, b, _ in listed)
        conflicts = near & (y[:, None] != y) & (y[:, None] >= 0) & (y >= 0)
        assert {parts[a] for a, _, pair in listed if pair.conflict} == set(parts[np.any(conflicts, axis=1)])
        leaks = near & (splits[:, None] != splits)
        assert {parts[a] for a, _, pair in listed if pair.crosses} == set(parts[np.any(leaks, axis=1)])


def _connected(near):
    from scipy.sparse.csgraph import connected_components

    return connected_components(near)[1]


def test_rows_that_are_all_near_duplicates_give_a_tree_and_a_warning_sign(make_features):
    rng = np.random.default_rng(0)
    X = np.where(np.arange(900) < 450, 1.0, -1.0)[:, None] * np.ones(20) + rng.normal(size=(900, 20)) * 0.01
    found = find_duplicates(make_features(X.astype(np.float32), np.zeros(900)), 0.9)
    assert len(found.pairs) == 898
    assert found.too_many


def test_a_row_that_is_the_mean_itself_is_near_nothing(make_features):
    X = np.concatenate([np.full((6, 4), 0.1), np.eye(4) + 0.1 - 0.25]).astype(np.float32)
    assert find_duplicates(make_features(np.full((5, 4), 0.1, np.float32), np.zeros(5)), 0.9).pairs == ()
    assert find_duplicates(make_features(X, np.zeros(10)), 0.5).pairs == ()


def test_what_rounding_leaves_of_the_mean_is_no_direction(make_features):
    away = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    mean = np.nextafter(np.full((2, 30), 100, np.float32), np.float32(200))
    X = np.concatenate([100 + away, 100 - away, mean])
    assert find_duplicates(make_features(X, np.zeros(42)), 0.9).pairs == ()


def test_huge_and_tiny_features_do_not_break_it(make_features, directions):
    for factor in (1e-36, 1e36):
        X = np.concatenate([directions, directions[:1]]).astype(np.float32) * np.float32(factor)
        pairs = find_duplicates(make_features(X, np.zeros(61)), 0.9).pairs
        assert [(pair.a[:5], pair.b[:5]) for pair in pairs] == [("00000", "00060")]


def test_one_row_has_no_duplicate(make_features):
    assert find_duplicates(make_features(np.ones((1, 3)), [0]), 0.9).pairs == ()


def test_progress_counts_the_products(make_features, directions, monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK_ROWS", 25)
    said = []
    find_duplicates(make_features(directions, np.zeros(60)), 0.9, lambda *counts: said.append(counts))
    assert said == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize("near", [0, -1, 1.01, float("nan")])
def test_a_bound_that_is_none_is_refused(near, make_features):
    with pytest.raises(ParameterError, match=r"near is .*expected above 0 and at most 1"):
        find_duplicates(make_features(np.ones((2, 3)), [0, 1]), near)


def test_groups_are_all_that_pairs_join():
    def pair(a, b, **differing):
        facts = {"conflict": False, "crosses": False} | differing
        return Duplicate(a, b, "near", 0.95, split_a="", split_b="", class_a=None, class_b=None, **facts)

    found = groups_of([pair("a", "b"), pair("c", "d", crosses=True), pair("e", "b"), pair("f", "g", conflict=True)])
    assert found == (
        DuplicateGroup(("f", "g"), crosses=False, conflict=True),
        DuplicateGroup(("c", "d"), crosses=True, conflict=False),
        DuplicateGroup(("a", "b", "e"), crosses=False, conflict=False),
    )
    assert groups_of([]) == ()


@pytest.mark.slow
def test_memory_stays_bounded_where_all_rows_are_alike(make_features):
    random = np.random.default_rng(0)
    X = np.concatenate([np.full((3000, 64), sign) + random.normal(scale=0.01, size=(3000, 64)) for sign in (1, -1)])
    features = make_features(X.astype(np.float32), [0] * 3000 + [1] * 3000)
    tracemalloc.start()
    found = find_duplicates(features, 0.9)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(groups_of(found.pairs)) == 2
    assert peak < 200e6

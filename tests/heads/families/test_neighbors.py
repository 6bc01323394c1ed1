"""Votes of the nearest rows, against scikit-learn's and against sorting all distances."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import StandardScaler

from heads import rows
from heads.base import fit_together
from heads.catalog import make_head
from heads.errors import ArtifactError, TrainingError
from heads.families import neighbors
from heads.families.neighbors import NeighborsModel

metrics = pytest.mark.parametrize("metric", ["cosine", "euclidean"])
weightings = pytest.mark.parametrize("weights", ["uniform", "distance"])


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that everything is done in several parts."""
    monkeypatch.setattr(neighbors, "_BLOCK_DISTANCES", 150)
    monkeypatch.setattr(neighbors, "_BLOCK_ROWS", 7)
    monkeypatch.setattr(rows, "_BLOCK_VALUES", 100)


@metrics
@weightings
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("n_neighbors", [1, 5, 120])
@pytest.mark.usefixtures("small_blocks")
def test_probabilities_are_those_of_scikit_learn(metric, weights, standardize, n_neighbors, blobs):
    X, y = blobs(180, 6, 4, spread=4)
    X = X * np.geomspace(1, 20, 6, dtype=np.float32) + 1
    train, new = X[:120], X[120:]
    scaler = StandardScaler(with_mean=standardize, with_std=standardize).fit(train.astype(np.float64))
    oracle = KNeighborsClassifier(n_neighbors, algorithm="brute", metric=metric, weights=weights)
    oracle.fit(scaler.transform(train.astype(np.float64)), y[:120])
    params = {"metric": metric, "weights": weights, "standardize": standardize}
    head = make_head("knn", n_neighbors=n_neighbors, **params).fit(train, y[:120])
    expected = oracle.predict_proba(scaler.transform(new.astype(np.float64)))
    np.testing.assert_allclose(head.predict_proba(new), expected, rtol=0, atol=1e-6)
    assert head.warnings_ == ()


@metrics
def test_votes_of_rare_classes_weigh_more_if_balanced(metric, blobs):
    X, y = blobs(120, 4, 3, spread=4)
    kept = (np.arange(120) // 3 % 8 >= 3 * y) | (np.arange(120) > 110)
    X, y = X[kept], y[kept]
    head = make_head("knn", n_neighbors=7, metric=metric, class_weight="balanced").fit(X, y)
    asked = NearestNeighbors(n_neighbors=7, algorithm="brute", metric=metric).fit(X).kneighbors(X)[1]
    votes = np.stack([(y[asked] == each).sum(axis=1) / np.sum(y == each) for each in range(3)], axis=1)
    np.testing.assert_allclose(head.predict_proba(X), votes / votes.sum(axis=1, keepdims=True))


def nearest_by_sorting(train, query, count, metric):
    """Return the nearest rows by exact whole numbers, the earlier first; cosine for rows and queries of one length."""
    if metric == "euclidean":
        distances = [sum((a - b) ** 2 for a, b in zip(row, query, strict=True)) for row in train]
    else:
        distances = [-sum(a * b for a, b in zip(row, query, strict=True)) for row in train]
    return sorted(range(len(train)), key=lambda row: (distances[row], row))[:count]


@settings(deadline=None, max_examples=60)
@given(signs=arrays.arrays(np.int8, (40, 4), elements=st.sampled_from([-1, 1])), count=st.integers(1, 40))
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [4, 2**21])
def test_of_rows_at_equal_distance_the_first_are_asked(metric, block, signs, count):
    train, queries = signs.astype(np.float32) * 0.1, signs[:5].astype(np.float32) * 0.1
    model = NeighborsModel(
        train, np.arange(40), np.ones(40), np.zeros(4), np.ones(4), n_neighbors=count, metric=metric, weights="uniform"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_BLOCK_DISTANCES", block)
        probabilities = model.predict_proba(queries)
    for query, row in zip(signs[:5].tolist(), probabilities, strict=True):
        asked = nearest_by_sorting(signs.tolist(), query, count, metric)
        assert np.flatnonzero(row).tolist() == sorted(asked)


@metrics
@pytest.mark.parametrize("seed", range(5))
def test_distances_that_differ_by_the_rounding_of_sums_are_equal(metric, seed):
    rng = np.random.default_rng(seed)
    train = rng.permuted(np.tile(rng.normal(5, 2, size=300), (40, 1)), axis=1).astype(np.float32)
    head = make_head("knn", metric=metric, n_neighbors=13).fit(train, np.arange(40))
    asked = np.flatnonzero(head.predict_proba(np.full((1, 300), 0.7))[0])
    assert asked.tolist() == list(range(13))


@metrics
@weightings
def test_a_row_alone_gets_what_it_gets_among_others(metric, weights, blobs):
    X, y = blobs(60, 300, 3, spread=4)
    X, y = np.concatenate([X, X, X]), np.concatenate([y, 2 - y, y])
    head = make_head("knn", metric=metric, weights=weights, n_neighbors=4).fit(X, y)
    together = head.predict_proba(X)
    alone = np.concatenate([head.predict_proba(X[row : row + 1]) for row in range(0, 180, 20)])
    np.testing.assert_allclose(alone, together[::20], rtol=0, atol=1e-6)


@metrics
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_exact_hit_outvotes_all_others(metric, standardize, dtype, blobs):
    X, y = blobs(60, 300, 3, spread=8)
    X = X.astype(dtype)
    params = {"metric": metric, "standardize": standardize, "weights": "distance"}
    head = make_head("knn", n_neighbors=20, **params).fit(X, y)
    np.testing.assert_array_equal(head.predict_proba(X), np.eye(3)[y])


@metrics
@weightings
def test_rows_of_zeros_do_no_harm(metric, weights):
    X = np.array([[0, 0], [0, 0], [3, 4], [4, 3]], np.float32)
    head = make_head("knn", n_neighbors=2, metric=metric, weights=weights).fit(X, np.array([0, 1, 1, 0]))
    probabilities = head.predict_proba(np.array([[0, 0], [3, 4]], np.float32))
    assert np.isfinite(probabilities).all()
    if metric == "euclidean":
        np.testing.assert_allclose(probabilities[0], [0.5, 0.5])
    oracle = KNeighborsClassifier(2, algorithm="brute", metric=metric, weights=weights).fit(X, [0, 1, 1, 0])
    np.testing.assert_allclose(probabilities[1], oracle.predict_proba([[3, 4]])[0], atol=1e-6)


def test_asking_more_rows_than_there_are_asks_all_and_says_so(blobs):
    X, y = blobs(12, 3, 2)
    head = make_head("knn", n_neighbors=50).fit(X, y)
    assert tuple(map(str, head.warnings_)) == ("n_neighbors is 50, but there are 12 training rows: all of them vote",)
    np.testing.assert_allclose(head.predict_proba(X), 0.5)


# What is kept


def test_rows_in_single_precision_are_not_copied(blobs, tmp_path):
    X, y = blobs(40, 3, 2)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    heads = [make_head("knn", n_neighbors=n_neighbors) for n_neighbors in (1, 5)]
    assert fit_together(heads, mapped, y) == [None, None]
    assert all(np.shares_memory(head.model_.rows, mapped) for head in heads)


def test_standardised_rows_are_kept_once_for_all_heads_that_are_fitted_together(blobs):
    X, y = blobs(40, 3, 2)
    heads = [make_head("knn", n_neighbors=n_neighbors, standardize=True) for n_neighbors in (1, 5)]
    fit_together(heads, X, y)
    assert heads[0].model_.rows is heads[1].model_.rows
    assert heads[0].model_.rows.dtype == np.float32


@pytest.mark.parametrize(("n", "d"), [(6_000, 1), (300, 3_000)])
def test_memory_is_bounded_whatever_the_shape(n, d):
    X = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    head = make_head("knn", metric="euclidean").fit(X, np.arange(n) % 2)
    tracemalloc.start()
    head.predict_proba(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20  # all distances of the first case take 275 MB at once, and their positions as much again


def test_features_too_large_for_single_precision_name_their_row():
    X = np.array([[1.0], [2.0], [1e39], [4.0]])
    with pytest.raises(TrainingError, match="row 2 holds features too large for float32") as caught:
        make_head("knn").fit(X, np.array([0, 1, 0, 1]))
    assert caught.value.row == 2


# Stored

WHOLE = {
    "rows": np.ones((4, 3), np.float32),
    "targets": np.array([0, 1, 0, 1]),
    "votes": np.ones(2),
    "mean": np.zeros(3),
    "scale": np.ones(3),
}
PARAMS = {"n_neighbors": 2, "metric": "cosine", "weights": "uniform", "class_weight": "none", "standardize": False}


def test_what_is_stored_takes_what_is_asked_from_the_parameters():
    model = NeighborsModel.from_arrays(WHOLE, classes=2, width=3, params=PARAMS)
    assert (model.n_neighbors, model.metric, model.weights) == (2, "cosine", "uniform")
    assert model.width == 3
    assert model.arrays.keys() == WHOLE.keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": np.ones((4, 3))}, r"rows has dtype float64 and shape \(4, 3\), expected float32 and \(4, 3\)"),
        ({"rows": np.ones((3, 3), np.float32)}, r"rows has .* expected float32 and \(4, 3\)"),
        ({"rows": np.full((4, 3), np.inf, np.float32)}, "rows holds values that are not finite"),
        ({"targets": np.array([0, 1, 0, 1], np.int32)}, "targets has dtype int32"),
        ({"targets": np.array([[0, 1], [0, 1]])}, r"targets has dtype int64 and shape \(2, 2\)"),
        ({"targets": np.array([0, 1, 2, 1])}, "targets holds positions of no class"),
        ({"targets": np.array([0, -1, 0, 1])}, "targets holds positions of no class"),
        ({"rows": np.ones((0, 3), np.float32), "targets": np.zeros(0, int)}, "there are no rows"),
        ({"votes": np.array([1.0, 0.0])}, "votes holds values that are not finite and above 0"),
        ({"votes": np.array([1.0, np.inf])}, "votes holds values that are not finite and above 0"),
        ({"mean": np.full(3, np.nan)}, "mean holds values that are not finite"),
        ({"scale": np.zeros(3)}, "scale holds values that are not finite and above 0"),
        ({"more": np.zeros(1)}, "expected mean, rows, scale, targets, votes"),
    ],
)
def test_stored_arrays_that_are_not_as_they_must_be(change, said):
    with pytest.raises(ArtifactError, match=said):
        NeighborsModel.from_arrays(WHOLE | change, classes=2, width=3, params=PARAMS)


def test_a_missing_array_is_named():
    with pytest.raises(ArtifactError, match="the arrays are mean, rows, scale, votes; expected"):
        NeighborsModel.from_arrays(
            {name: array for name, array in WHOLE.items() if name != "targets"}, classes=2, width=3, params=PARAMS
        )

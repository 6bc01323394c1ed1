"""The most similar rows: what float64 and NumPy by hand find, whatever the sizes and kinds of features."""

import numpy as np
import pytest

import featurecache
import heads
from featurecache.backbones.fake import FakeBackbone
from heads.errors import EvaluationError, MismatchError, ParameterError
from heads.similarity import nearest_rows


def by_hand(X, query):
    """Return all rows in the order of their cosines in float64, equal ones in the order of the rows."""
    X, query = X.astype(np.float64), query.astype(np.float64)
    with np.errstate(all="ignore"):
        X, query = (vectors / np.abs(vectors).max(axis=-1, keepdims=True) for vectors in (X, query))
        cosines = (X @ query) / np.sqrt((X**2).sum(axis=1) * (query**2).sum())
    cosines = np.nan_to_num(cosines)
    return np.lexsort((np.arange(len(X)), -np.round(cosines, 14))), cosines


def nearest(X, queries, k):
    lengths = np.full(len(X), np.nan, np.float32)
    first = nearest_rows(X, lengths, queries, k)
    again = nearest_rows(X, lengths, queries, k, measured=True)
    assert all(map(np.array_equal, first, again))
    return first


@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 3), (3000, 200), (500, 4096)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_it_finds_what_float64_finds(n, d, dtype):
    random = np.random.default_rng([n, d])
    X = np.maximum(random.standard_normal((n, d)), 0).astype(dtype)
    queries = random.standard_normal((5, d)).astype(np.float32)
    rows, similarities = nearest(X, queries, 9)

    assert rows.shape == similarities.shape == (5, min(9, n))
    for query, found, values in zip(queries, rows, similarities, strict=True):
        order, cosines = by_hand(X, query)
        assert found.tolist() == order[:9].tolist()
        np.testing.assert_allclose(values, cosines[found], atol=1e-13)


def test_rows_that_float32_cannot_tell_apart_are_told_apart():
    """Cosines to the query differ by some 1e-8, and float32 rounds them by more."""
    random = np.random.default_rng(0)
    query = random.uniform(0.5, 1, (1, 512)).astype(np.float32)
    X = (query + 1e-3 * random.standard_normal((3000, 512))).astype(np.float32)
    assert nearest(X, query, 20)[0].tolist() == [by_hand(X, query[0])[0][:20].tolist()]


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-12, 1e25, 3e38])
def test_lengths_outside_of_float32_squares_do_not_matter(scale):
    random = np.random.default_rng(1)
    directions = random.uniform(-1, 1, (300, 20))
    X = directions.astype(np.float32)
    X[::3] = (directions[::3] * scale).astype(np.float32)
    query = random.uniform(-1, 1, (1, 20)).astype(np.float32)
    order, cosines = by_hand(X, query[0])
    rows, similarities = nearest(X, query, 20)
    np.testing.assert_allclose(similarities[0], cosines[rows[0]], atol=1e-12)
    assert rows[0].tolist() == order[:20].tolist()
    assert any(row % 3 == 0 for row in rows[0])


def test_rows_and_queries_of_zeros_are_similar_to_nothing():
    X = np.array([[0, 0], [-1, 0], [1, 1]], np.float32)
    assert nearest(X, np.array([[1.0, 1.0]], np.float32), 3)[0].tolist() == [[2, 0, 1]]
    rows, similarities = nearest(X, np.zeros((1, 2), np.float32), 3)
    assert (rows.tolist(), similarities.tolist()) == ([[0, 1, 2]], [[0, 0, 0]])


def test_equal_rows_keep_their_order_and_are_wholly_similar():
    X = np.tile(np.array([[0.1, 0.7, 0.3]], np.float32), (50, 1))
    rows, similarities = nearest(X, X[:1], 10)
    assert rows.tolist() == [list(range(10))]
    np.testing.assert_allclose(similarities, 1, atol=1e-15)
    assert similarities.max() <= 1


def test_the_bits_do_not_depend_on_company_or_memory_layout():
    random = np.random.default_rng(2)
    X = random.standard_normal((1000, 300)).astype(np.float32)
    queries = random.standard_normal((8, 300)).astype(np.float32)
    together = nearest(X, queries, 20)
    for number, query in enumerate(queries):
        rows, similarities = nearest(np.asfortranarray(X), query[np.newaxis], 5)
        assert rows[0].tobytes() == together[0][number, :5].tobytes()
        assert similarities[0].tobytes() == together[1][number, :5].tobytes()


def test_many_queries_are_answered_in_turns(monkeypatch):
    random = np.random.default_rng(3)
    X, queries = (random.standard_normal((n, 4)).astype(np.float32) for n in (100, 30))
    at_once = nearest(X, queries, 3)
    monkeypatch.setattr("heads.similarity._APPROXIMATIONS", 250)
    for one, other in zip(nearest(X, queries, 3), at_once, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("similarity")
    for number in range(30):
        path = folder / "images" / ("train", "valid")[number % 3 == 2] / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (3 * number + 100 * (number % 2), 5 * number, 80)).save(path)
    return featurecache.extract(folder / "images", folder / "c.h5", backbone=FakeBackbone())


def test_images_of_a_cache_come_with_what_is_known_of_them(cache):
    rows = cache.features("features")
    [found] = heads.SimilaritySearch(cache, "features").nearest(rows.X[7:8], 4)
    order, cosines = by_hand(rows.X, rows.X[7])
    assert [image.path for image in found] == rows.paths[order[:4]].tolist()
    for image, row in zip(found, order, strict=False):
        assert image.label == rows.classes[rows.y[row]]
        assert (image.split, image.sha256) == (rows.splits[row], rows.sha256[row])
        assert image.similarity == pytest.approx(cosines[row], abs=1e-13)


def test_an_image_without_a_label_has_none(cache):
    relabelled = cache.with_labels(dict.fromkeys(cache.features("features").paths))
    [[image]] = heads.SimilaritySearch(relabelled, "features").nearest(cache.features("features").X[:1], 1)
    assert image.label is None
    assert image.to_dict()["label"] is None


def test_features_are_not_copied(cache):
    search = heads.SimilaritySearch(cache, "features")
    assert not search._X.flags.owndata
    assert np.shares_memory(search._X, cache.mapped("features"))


@pytest.mark.parametrize(
    ("queries", "k", "error", "words"),
    [
        (np.zeros((1, 15), np.float32), 1, MismatchError, r"\(1, 15\)"),
        (np.zeros(16, np.float32), 1, MismatchError, r"\(16,\)"),
        (np.full((2, 16), np.inf, np.float32), 1, EvaluationError, "query 0"),
        (np.zeros((1, 16), np.float32), 0, ParameterError, "k is 0"),
    ],
)
def test_bad_queries_are_refused(cache, queries, k, error, words):
    with pytest.raises(error, match=words):
        heads.SimilaritySearch(cache, "features").nearest(queries, k)


def test_a_tap_that_is_not_there_is_named(cache):
    with pytest.raises(featurecache.FeatureCacheError, match="nope"):
        heads.SimilaritySearch(cache, "nope")


def test_an_empty_cache_has_no_similar_images():
    positions, similarities = nearest_rows(np.empty((0, 3), np.float32), np.empty(0, np.float32), np.ones((2, 3)), 4)
    assert positions.shape == similarities.shape == (2, 0)


def test_two_threads_that_search_first_measure_the_lengths_both(cache, monkeypatch):
    search = heads.SimilaritySearch(cache, "features")
    query = cache.features("features").X[:1]
    expected = search.nearest(query, 3)
    other = heads.SimilaritySearch(cache, "features")

    def meanwhile(*arguments, **options):
        if other._lengths is None:  # another thread finishes first
            other._lengths = search._lengths
        return nearest_rows(*arguments, **options)

    monkeypatch.setattr("heads.similarity.nearest_rows", meanwhile)
    assert other.nearest(query, 3) == expected
    assert np.array_equal(other._lengths, search._lengths)

"""The map of features."""

import hashlib

import numpy as np
import pytest
from sklearn.decomposition import PCA

from heads import figures
from heads.errors import EvaluationError, ParameterError


def dots(figure):
    """All points by kind, in the order drawn."""
    return [np.asarray(each.get_offsets()) for each in figure.axes[0].collections]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_points_are_the_principal_components(blobs, make_features):
    X, y = blobs(80, 6, 3)
    figure = figures.feature_map(make_features(X, y))
    found = np.concatenate(dots(figure)[::-1])
    expected = PCA(2, svd_solver="full").fit(X.astype(np.float64))
    drawn = sorted(range(80), key=lambda row: hashlib.sha256(f"0:{row:05}.jpg".encode()).digest())
    drawn.sort(key=lambda row: y[row])
    places = expected.transform(X[drawn].astype(np.float64))
    for axis in range(2):
        assert abs(np.corrcoef(found[:, axis], places[:, axis])[0, 1]) == pytest.approx(1)
        assert found[np.abs(found[:, axis]).argmax(), axis] > 0
    first = f"{expected.explained_variance_ratio_[0]:.1%}"
    assert first in figure.axes[0].get_xlabel()


def test_the_order_of_rows_changes_nothing(blobs, make_features):
    features = make_features(*blobs(90, 5, 3))
    predicted = (features.y + (np.arange(90) % 7 == 0)) % 3
    order = np.random.default_rng(1).permutation(90)
    ours = figures.feature_map(features, predicted, limit=50)
    theirs = figures.feature_map(features.take(order), predicted[order], limit=50)
    assert figures.to_svg(ours) == figures.to_svg(theirs)


def test_no_more_rows_than_the_limit_are_read(blobs, make_features, tmp_path):
    X, y = blobs(200, 5, 2)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    figure = figures.feature_map(make_features(mapped, y), limit=20)
    assert sum(map(len, dots(figure))) == 20
    assert "20 of 200 rows" in figure.alt


def test_the_rows_with_the_lowest_hash_are_drawn(blobs, make_features):
    X, y = blobs(30, 5, 2)
    features = make_features(X, y)
    chosen = sorted(range(30), key=lambda row: hashlib.sha256(f"4:{features.paths[row]}".encode()).digest())[:10]
    ours = figures.feature_map(features, limit=10, seed=4)
    assert sorted(map(len, dots(ours))) == sorted(np.bincount(y[chosen]))


def test_wrong_rows_are_ringed_and_unlabelled_ones_are_not(blobs, make_features):
    X, y = blobs(30, 5, 2)
    predicted = y.copy()
    predicted[:3] = 1 - predicted[:3]
    y[2] = -1
    figure = figures.feature_map(make_features(X, y), predicted)
    assert len(dots(figure)[-1]) == 2
    assert legend(figure) == ["ant", "bee", "no label (1)", "wrong (2)"]


def test_of_many_classes_nine_have_colours(blobs, make_features):
    X, y = blobs(120, 5, 12)
    y[y == 11] = 3
    y[y == 10] = 4
    assert len(legend(figures.feature_map(make_features(X, y)))) == 10
    y[:2] = 11, 10
    names = legend(figures.feature_map(make_features(X, y)))
    assert len(names) == 10
    assert names[-1].startswith("other classes (")


@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 1), (3, 3), (70, 60), (2, 80)])
@pytest.mark.parametrize("constant", [False, True])
def test_few_rows_few_features_and_equal_rows(blobs, make_features, n, d, constant):
    X, y = blobs(n, d, 2)
    figure = figures.feature_map(make_features(X * 0 + 1 if constant else X, y))
    assert sum(map(len, dots(figure))) == n
    assert all(np.isfinite(each).all() for each in dots(figure))


def test_rows_without_any_label_can_be_drawn(blobs, make_features):
    X, _ = blobs(6, 3, 2)
    figure = figures.feature_map(make_features(X, np.full(6, -1), classes=("a", "b")), np.zeros(6, dtype=np.int64))
    assert legend(figure) == ["no label (6)"]


def test_half_precision_features_can_be_drawn(blobs, make_features):
    X, y = blobs(30, 5, 2)
    assert figures.feature_map(make_features(X.astype(np.float16), y)).alt.startswith("Map of the features of 30 rows")


def test_tsne_keeps_clouds_apart(blobs, make_features):
    X, y = blobs(60, 8, 3, spread=0.1)
    figure = figures.feature_map(make_features(X, y), method="tsne")
    centres = [each.mean(axis=0) for each in dots(figure)]
    reach = max(np.linalg.norm(each - centre, axis=1).max() for each, centre in zip(dots(figure), centres, strict=True))
    assert min(np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > reach
    assert "by t-SNE" in figure.alt


def test_tsne_of_too_few_rows_is_said(blobs, make_features):
    assert "there are 4 rows" in figures.feature_map(make_features(*blobs(4, 3, 2)), method="tsne").alt


def test_features_that_are_not_finite_name_the_image(blobs, make_features):
    X, y = blobs(10, 3, 2)
    X[4, 1] = np.nan
    with pytest.raises(EvaluationError, match=r"00004\.jpg: features are not finite"):
        figures.feature_map(make_features(X, y))


@pytest.mark.parametrize("options", [{"method": "umap"}, {"limit": 0}])
def test_senseless_options_are_refused(blobs, make_features, options):
    with pytest.raises(ParameterError, match="expected pca or tsne, and at least 1"):
        figures.feature_map(make_features(*blobs(10, 3, 2)), **options)


def test_two_thousand_rows_are_a_small_picture(blobs, make_features):
    features = make_features(*blobs(2500, 64, 10, spread=4.0))
    predicted = np.where(np.arange(2500) % 20, features.y, (features.y + 1) % 10)
    assert len(figures.to_svg(figures.feature_map(features, predicted))) < 200_000


def test_of_many_classes_right_and_wrong_are_told_apart(blobs, make_features):
    features = make_features(*blobs(120, 5, 12))
    predicted = np.where(np.arange(120) % 10, features.y, (features.y + 1) % 12)
    figure = figures.feature_map(features, predicted)
    assert legend(figure) == ["wrong (12)", "right (108)"]
    right, wrong = figure.axes[0].collections  # the last drawn is in front
    assert (len(right.get_offsets()), len(wrong.get_offsets())) == (108, 12)
    assert "Orange: rows that the head gets wrong (12)" in figure.caption
    assert "coloured by right and wrong" in figure.alt


def test_many_rings_are_drawn_lightly(blobs, make_features):
    features = make_features(*blobs(300, 5, 3))
    few, many = (np.where(np.arange(300) < n, (features.y + 1) % 3, features.y) for n in (60, 61))
    heavy, light = (figures.feature_map(features, each).axes[0].collections[-1] for each in (few, many))
    assert light.get_sizes()[0] < heavy.get_sizes()[0]
    assert light.get_linewidths()[0] < heavy.get_linewidths()[0]

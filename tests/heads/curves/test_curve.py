"""Learning curves: which rows train, what judges them, and bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from heads.curves import learning_curve
from heads.curves.curve import _falling, drawn_order, sizes_of
from heads.errors import ParameterError, TrainingError
from heads.evaluation.intervals import Interval


@pytest.fixture(scope="module")
def features(make_features, blobs):
    """160 rows that train, 80 that judge, 20 of a test split that holds what must not be looked at."""
    X, y = blobs(260, 8, 3, spread=3.0)
    y[:40] = np.where(np.arange(40) < 30, 0, y[:40])
    X[240:] = np.nan
    return make_features(X, y, splits=["train"] * 160 + ["valid"] * 80 + ["test"] * 20)


@pytest.fixture(scope="module")
def cache(make_cache, features):
    clean = replace(features, X=np.nan_to_num(features.X))
    return make_cache(clean)


@pytest.fixture(scope="module")
def curve(cache):
    return learning_curve(cache)


def test_sizes_are_halves_down_to_two_rows_a_class_and_ten():
    assert sizes_of(1000, 2) == (15, 31, 62, 125, 250, 500, 1000)
    assert sizes_of(23_000, 10)[0] == 23_000 >> 7
    assert sizes_of(100, 20) == (50, 100)


def test_every_beginning_of_the_drawn_order_is_stratified(features):
    train = features.take(slice(0, 160))
    shares = np.bincount(train.y) / 160
    for run in range(3):
        order = drawn_order(train, 0, run)
        assert sorted(order) == list(range(160))
        for size in (3, 10, 20, 40, 80):
            counts = np.bincount(train.y[order[:size]], minlength=3)
            assert counts.min() >= 1
            assert np.abs(counts - shares * size).max() <= 1.5
    assert not np.array_equal(drawn_order(train, 0, 0), drawn_order(train, 0, 1))
    assert not np.array_equal(drawn_order(train, 0, 0), drawn_order(train, 1, 0))


def test_the_rarest_class_is_in_every_beginning(make_features, blobs):
    X, _ = blobs(200, 4, 2)
    rows = make_features(X, [2] + [0] * 150 + [1] * 49)
    for run in range(5):
        assert set(rows.y[drawn_order(rows, 0, run)[:10]]) == {0, 1, 2}


def test_the_curve_is_what_scikit_learn_finds_on_the_same_rows(curve, features):
    train, valid = features.take(slice(0, 160)), features.take(slice(160, 240))
    assert [point.n for point in curve.points] == [10, 20, 40, 80, 160]
    for point in curve.points:
        assert len(point.runs) == (1 if point.n == 160 else 5)
        for run, accuracy in enumerate(point.runs):
            rows = drawn_order(train, 0, run)[: point.n]
            scaler = StandardScaler().fit(train.X[rows])
            model = LogisticRegression(max_iter=1000).fit(scaler.transform(train.X[rows]), train.y[rows])
            assert accuracy == pytest.approx(model.score(scaler.transform(valid.X), valid.y), abs=0.026)
        assert point.accuracy.value == pytest.approx(np.mean(point.runs))
        assert point.accuracy.low < point.accuracy.value < point.accuracy.high
    assert (curve.n_judged, curve.head, curve.tap) == (80, "logreg", "fc2")
    assert curve.forecast.n == 320
    assert curve.warnings == ()


def test_the_curve_rises(curve):
    assert curve.points[-1].accuracy.value > curve.points[0].accuracy.value


def test_the_floor_is_flat(cache, features):
    train, valid = features.y[:160], features.y[160:240]
    flat = learning_curve(cache, "majority")
    share = np.mean(valid == np.bincount(train).argmax())
    assert [point.accuracy.value for point in flat.points] == [pytest.approx(share)] * 5
    assert flat.baseline_accuracy == pytest.approx(share)
    assert flat.forecast.accuracy.value == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("head", ["logreg", "softmax"])
def test_the_order_of_the_rows_changes_nothing(head, features, make_cache):
    known = replace(features, X=np.nan_to_num(features.X))
    order = np.random.default_rng(0).permutation(260)
    first, second = (learning_curve(make_cache(each), head, repeats=2) for each in (known, known.take(order)))
    assert second == first


def test_rows_of_the_test_split_are_not_looked_at(features, make_cache, curve):
    changed = replace(
        features, X=np.nan_to_num(features.X, nan=7.0), y=np.where(features.splits == "test", 0, features.y)
    )
    assert learning_curve(make_cache(changed)) == curve


def test_another_seed_draws_other_rows(cache, curve):
    assert learning_curve(cache) == curve
    assert learning_curve(cache, seed=1).points[0].runs != curve.points[0].runs


def test_without_a_valid_split_rows_are_held_out_by_content(make_cache, make_features, blobs):
    X, y = blobs(200, 6, 2)
    curve = learning_curve(make_cache(make_features(X, y, splits="")), holdout=0.3)
    assert 40 < curve.n_judged < 80
    assert curve.points[-1].n == 200 - curve.n_judged


def test_to_dict_is_ready_for_json_and_keeps_what_is_promised(curve):
    read = json.loads(json.dumps(curve.to_dict(), allow_nan=False))
    assert read["points"][0]["n"] == 10
    assert set(read["points"][0]["accuracy"]) == {"value", "low", "high"}
    assert read["forecast"]["n"] == 320
    assert read["params"]["C"] == 1.0


def test_it_shows_itself_in_a_notebook(curve):
    assert "320 (forecast)" in curve._repr_html_()


def test_progress_counts_the_trainings(cache):
    said = []
    learning_curve(cache, "majority", repeats=2, progress=lambda *what: said.append(what))
    assert said == [(done, 9, "training heads") for done in range(10)]


def test_two_sizes_give_no_forecast_and_one_run_is_said(make_cache, make_features, blobs):
    X, y = blobs(40, 4, 2)
    curve = learning_curve(make_cache(make_features(X, y, splits=["train"] * 30 + ["valid"] * 10)), repeats=1)
    assert curve.forecast is None
    assert [warning.partition(",")[0] for warning in map(str, curve.warnings)] == [
        "with one run",
        "no forecast: a power law needs at least 3 sizes",
    ]
    assert curve.to_dict()["forecast"] is None


def test_a_head_that_gets_worse_with_more_rows_is_told():
    rising = [Interval(0.8, 0.7, 0.9), Interval(0.9, 0.85, 0.95)]
    assert list(_falling([10, 20], rising)) == []
    assert list(_falling([10, 20], [Interval(0.9, 0.85, 0.95), Interval(0.86, 0.8, 0.9)])) == []
    (said,) = _falling([10, 20], [Interval(0.95, 0.92, 0.97), Interval(0.9, 0.85, 0.95)])
    assert "with 10 rows the head was better than with all 20" in said.message


def test_what_heads_warn_of_is_kept_with_the_size(cache):
    curve = learning_curve(cache, params={"max_iter": 1}, repeats=2)
    assert [warning.partition(":")[0] for warning in map(str, curve.warnings)] == [
        f"with {n} training rows" for n in (10, 20, 40, 80, 160)
    ]


def test_classes_without_rows_are_said(make_cache, make_features, blobs):
    X, y = blobs(60, 4, 2)
    features = make_features(X, y, splits=["train"] * 50 + ["valid"] * 10, classes=("a", "b", "c"))
    assert tuple(map(str, learning_curve(make_cache(features)).warnings[:2])) == (
        "no training row is of the class c",
        "no valid row is of the class c",
    )


@pytest.mark.parametrize(
    ("n", "label", "splits", "said"),
    [
        (19, None, ["train"] * 19 + ["valid"] * 5, "19 training rows of 2 classes; .* at least 20"),
        (24, None, ["train"] * 24 + ["test"] * 5, "no rows to validate on: all 24 labelled rows in use train"),
        (24, 0, ["train"] * 24 + ["valid"] * 5, "all 24 training rows are of the class 'ant'"),
        (24, -1, ["train"] * 24 + ["valid"] * 5, "no labelled rows"),
    ],
)
def test_rows_that_give_no_curve_are_one_clear_error(n, label, splits, said, make_cache, make_features, blobs):
    X, y = blobs(n + 5, 4, 2)
    y = y if label is None else np.full(n + 5, label)
    with pytest.raises(TrainingError, match=said):
        learning_curve(make_cache(make_features(X, y, splits=splits)), holdout=0)


def test_features_that_are_not_finite_are_refused_with_the_image(features, make_cache):
    X = np.nan_to_num(features.X)
    X[200, 2] = np.inf
    with pytest.raises(TrainingError, match=r"^00200\.jpg: "):
        learning_curve(make_cache(replace(features, X=X)))


@pytest.mark.parametrize(("options", "said"), [({"repeats": 0}, "repeats is 0"), ({"params": {"C": 0}}, "C is")])
def test_options_that_cannot_be_are_refused(options, said, cache):
    with pytest.raises(ParameterError, match=said):
        learning_curve(cache, **options)

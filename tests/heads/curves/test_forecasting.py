"""Intervals and forecasts of hand-made answers whose law is known."""

import numpy as np
import pytest

from heads.curves.forecasting import intervals_and_forecast, power_law
from heads.evaluation.intervals import wilson

SIZES = (125, 250, 500, 1000)


def _answers(wrong, m, runs=1):
    """Return answers of which each run has so many wrong ones, spread over other rows in each run."""
    correct = np.ones((runs, m), bool)
    for run in range(runs):
        correct[run, np.arange(run, run + wrong) % m] = False
    return correct


def test_halving_errors_are_forecast_to_halve_again():
    _, forecast = intervals_and_forecast(SIZES, [_answers(wrong, 100_000) for wrong in (16_000, 8_000, 4_000, 2_000)])
    assert forecast.n == 2000
    assert forecast.accuracy.value == pytest.approx(0.99, abs=1e-5)
    assert 0.988 < forecast.accuracy.low < 0.99 < forecast.accuracy.high < 0.992


def test_the_law_has_the_slope_that_polyfit_finds():
    rng = np.random.default_rng(0)
    n, m = np.array([100, 230, 410, 900]), 500
    errors = np.sort(rng.uniform(0.02, 0.5, (6, 4)), axis=1)[:, ::-1]
    expected = []
    for row in errors:
        slope, _ = np.polyfit(np.log(n), np.log((row * m + 0.5) / (m + 1)), 1)
        expected.append(1 - ((row[-1] * m + 0.5) * 2**slope - 0.5) / m)
    np.testing.assert_allclose(power_law(n, 1 - errors, m, 1800), expected)


def test_more_labels_are_never_forecast_to_hurt():
    forecast = power_law(np.array([10, 20, 40]), np.array([[0.9, 0.8, 0.7], [0.7, 0.9, 0.8]]), 10**9, 80)
    assert forecast[0] == pytest.approx(0.7)
    assert 0.8 < forecast[1] < 0.9


def test_sizes_below_an_eighth_do_not_matter_to_the_forecast():
    usual = [_answers(wrong, 10_000) for wrong in (1600, 800, 400, 200)]
    _, few = intervals_and_forecast(SIZES, usual)
    _, more = intervals_and_forecast((31, 62, *SIZES), [_answers(9_999, 10_000), _answers(1, 10_000), *usual])
    assert more == few


def test_three_sizes_are_needed_for_a_forecast():
    assert intervals_and_forecast((50, 100), [_answers(20, 100), _answers(10, 100)])[1] is None
    assert intervals_and_forecast((25, 50, 100), [_answers(wrong, 100) for wrong in (40, 20, 10)])[1] is not None


def test_of_one_run_the_interval_is_that_of_its_rows():
    intervals, _ = intervals_and_forecast((50, 100), [_answers(300, 1000), _answers(200, 1000)])
    for interval, wrong in zip(intervals, (300, 200), strict=True):
        expected = wilson(1000 - wrong, 1000)
        assert interval.value == pytest.approx(expected.value)
        assert interval.low == pytest.approx(expected.low, abs=0.004)
        assert interval.high == pytest.approx(expected.high, abs=0.004)


def test_runs_that_differ_widen_the_interval_and_that_of_all_rows_too():
    alike = [_answers(200, 2000, runs=5), _answers(100, 2000)]
    spread = [np.stack([_answers(wrong, 2000)[0] for wrong in (100, 150, 200, 250, 300)]), _answers(100, 2000)]
    narrow, wide = (intervals_and_forecast((50, 100), answers)[0] for answers in (alike, spread))
    assert wide[0].value == narrow[0].value == pytest.approx(0.9)
    # the runs' deviation is 0.0354, that of their mean 0.0158; all rows were one draw, whose deviation is the former
    assert 0.05 < wide[0].high - wide[0].low < 0.085
    assert 0.09 < wide[1].high - wide[1].low < 0.16
    assert wide[1].high - wide[1].low > 3 * (narrow[1].high - narrow[1].low)


def test_heads_that_are_always_right_have_an_interval_all_the_same():
    intervals, forecast = intervals_and_forecast((25, 50, 100), [_answers(0, 200, runs=3)] * 2 + [_answers(0, 200)])
    assert all((each.low, each.high) == (wilson(200, 200).low, 1) for each in intervals)
    assert forecast.accuracy.value == 1
    assert forecast.accuracy.low < 0.99


def test_the_same_seed_draws_the_same():
    answers = [_answers(40, 300, runs=4), _answers(20, 300, runs=4), _answers(10, 300)]
    first = intervals_and_forecast((25, 50, 100), answers, seed=1)
    assert intervals_and_forecast((25, 50, 100), answers, seed=1) == first
    assert intervals_and_forecast((25, 50, 100), answers, seed=2) != first


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        hard = rng.beta(1, 4, 200)  # how often a head is wrong on each row; 0.2 in the mean
        answers = [rng.random((5, 200)) > hard, rng.random((5, 200)) > hard, rng.random((1, 200)) > hard]
        interval = intervals_and_forecast((25, 50, 100), answers, seed=trial)[0][0]
        hits += interval.low <= 0.8 <= interval.high
    assert hits >= 52

"""The report of a learning curve says what was measured, and a forecast."""

import pytest

from heads import CurvePoint, Forecast, Interval, LearningCurve
from heads.notices import Notice
from heads.report import Table
from heads.reporting import curve_report
from heads.reporting.curve import outlook


@pytest.fixture
def make_curve():
    def make(forecast):
        points = tuple(
            CurvePoint(n, Interval(value, value - 0.02, value + 0.02), (value, value))
            for n, value in ((50, 0.8), (100, 0.85), (200, 0.9))
        )
        return LearningCurve(
            points=points,
            forecast=forecast,
            head="logreg",
            tap="fc2",
            params={"C": 1.0},
            classes=("a", "b"),
            n_judged=300,
            repeats=2,
            seed=0,
            baseline_accuracy=0.5,
            warnings=(Notice("toy", "a warning"),),
        )

    return make


def test_points_and_forecast_are_told(make_curve):
    report = curve_report(make_curve(Forecast(400, Interval(0.92, 0.9, 0.94), Interval(0.02, 0.01, 0.03))))
    assert [fact.value for fact in report.facts] == ["90.00 %", "50.00 %", "92.00 %"]
    (table,) = [each for section in report.sections for each in section.blocks if isinstance(each, Table)]
    assert table.rows[0] == ("50", "80.00 %", "78.00 to 82.00 %", "2")
    assert report.warnings == ("a warning",)
    assert "+2.00 points" in report.to_markdown().replace("\\", "")


def test_a_flat_curve_promises_nothing(make_curve):
    flat = Forecast(400, Interval(0.9, 0.88, 0.92), Interval(0.0, 0.0, 0.00001))
    assert outlook(make_curve(flat)) == "Twice the labels (400) would likely not raise the accuracy: the curve is flat."


def test_without_a_forecast_none_is_made_up(make_curve):
    curve = make_curve(None)
    assert "too few" in outlook(curve)
    assert len(curve_report(curve).facts) == 2

"""The line by gradient descent, beside least squares, scikit-learn and the limit of the learning rate."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from featurecache.cli.lesson.gradient_descent import run
from featurecache.cli.lesson.lesson_writer import LessonWriter

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run(LessonWriter(tmp_path_factory.mktemp("descent"), silent=True), None)


@pytest.fixture(scope="module")
def points(found):
    return np.array(found["x"]), np.array(found["y"])


def loss(line, points):
    x, y = points
    return np.square(np.polyval(line, x) - y).mean()


def losses_after(points, rate, steps):
    """Return the loss after so many steps from (0, 4), with slopes measured by small changes of a and b."""
    line = np.array([0.0, 4.0])
    for _ in range(steps):
        nudges = 1e-4 * np.eye(2)
        slopes = [(loss(line + nudge, points) - loss(line - nudge, points)) / 2e-4 for nudge in nudges]
        line -= rate * np.array(slopes)
    return loss(line, points)


def test_it_reaches_the_least_squares_solution(found, points):
    x, y = points
    oracle = LinearRegression().fit(x[:, np.newaxis], y)
    assert found["line"] == pytest.approx([oracle.coef_[0], oracle.intercept_], abs=1e-6)
    assert found["least_squares"] == pytest.approx([oracle.coef_[0], oracle.intercept_], abs=1e-9)
    assert found["difference"] < 1e-6
    assert found["line"] == pytest.approx([2, 1], abs=0.1)


def test_the_limit_is_where_descent_begins_to_diverge(found, points):
    limit = found["limit"]
    assert losses_after(points, 0.99 * limit, 400) == pytest.approx(loss(found["least_squares"], points), abs=1e-3)
    assert losses_after(points, 1.01 * limit, 400) > 10


def test_curvatures_are_those_of_the_loss(found, points):
    lowest, middle = np.array(found["least_squares"]), loss(found["least_squares"], points)
    around = [np.array([np.cos(angle), np.sin(angle)]) for angle in np.linspace(0, np.pi, 3601)]
    curvatures = [2 * (loss(lowest + way, points) - middle) for way in around]
    assert found["curvatures"] == pytest.approx([min(curvatures), max(curvatures)], rel=1e-4)


def test_a_rate_above_the_limit_diverges_and_those_below_do_not(found, points):
    least = loss(found["least_squares"], points)
    for tried in found["rates"]:
        assert tried["first"] == pytest.approx(loss([0, 4], points) - least)
        expected = losses_after(points, tried["part"] * found["limit"], 60) - least
        assert tried["last"] == pytest.approx(expected, rel=1e-3, abs=1e-9)
    slow, near, beyond = found["rates"]
    assert slow["part"] < near["part"] < 1 < beyond["part"]
    assert near["last"] < 1e-4 < slow["last"] < slow["first"]
    assert beyond["last"] > 10 * beyond["first"]


def test_one_step_suffices_on_a_standardised_row(found):
    before, after = found["standardised"]
    assert before > 1
    assert after == pytest.approx(0, abs=1e-12)


def test_small_batches_are_ahead_at_first_and_jitter_until_the_rate_is_lowered(found):
    batches = found["batches"]
    assert [len(course) for course in batches.values()] == [20] * 4
    assert batches["1"][1] < batches["20"][1] < batches["200"][1]
    assert batches["20"][-1] < batches["1"][-1] / 5
    assert batches["1"][-1] > 0.01
    assert batches["1, rate lowered"][-1] < 1e-4
    assert sorted(batches["200"], reverse=True) == batches["200"]


def test_it_prints_what_it_found_and_draws_three_pictures(found, tmp_path, capsys):
    writer = LessonWriter(tmp_path)
    assert run(writer, None) == found
    assert [path.name for path in writer.pictures] == [
        "gradient-descent-line.png",
        "gradient-descent-surface.png",
        "gradient-descent-batches.png",
    ]
    printed = " ".join(capsys.readouterr().out.split())
    a, b = found["least_squares"]
    assert f"a = {a:.4f}, b = {b:.4f}; after 400 steps" in printed
    assert f"for the larger eigenvalue {found['limit']:.4f}" in printed

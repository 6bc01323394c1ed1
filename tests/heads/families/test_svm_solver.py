"""The solver of many support vector machines at once, against scikit-learn's and SciPy's, one at a time."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.svm import LinearSVC

from heads.families import svm_solver
from heads.families.svm_solver import Directions, Problems, solve
from heads.rows import Scaling

CS = np.array([1e-3, 0.1, 3.0])


def problems_of(y, weights=None, C=CS):
    """The problem of each C, whether label 1 scores above 0."""
    signs = np.where(y == 1, 1, -1).astype(np.int8)[:, None]
    weights = np.ones(len(y)) if weights is None else weights
    return Problems(np.repeat(signs, len(C), axis=1), np.repeat(weights[:, None], len(C), axis=1), C)


def objective(X, problems, number, vector):
    """What is minimised, and its gradient, written for one problem."""
    w, b, C = vector[:-1], vector[-1], problems.C[number]
    signs, weights = problems.signs[:, number], problems.weights[:, number]
    hinge = np.maximum(0, 1 - signs * (X @ w + b))
    slopes = -2 * C * weights * signs * hinge
    return w @ w / 2 + C * (weights * hinge**2).sum(), np.append(w + X.T @ slopes, slopes.sum())


def agrees(X, problems, solutions, number, expected, *, value=1e-6, coef=1e-3):
    found = np.append(solutions.coef[number], solutions.intercept[number])
    assert objective(X, problems, number, found)[0] == pytest.approx(
        objective(X, problems, number, expected)[0], rel=value
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=coef * np.abs(expected).max())


@pytest.fixture(params=["directly", "by conjugate gradients", "as it decides"])
def way(request, monkeypatch):
    """Each way in which steps are found."""
    if request.param != "as it decides":
        monkeypatch.setattr(svm_solver, "_DIRECT", 10**9 if request.param == "directly" else 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shape", [(150, 8), (40, 90), (3, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_minimum_is_that_of_scipy(shape, dtype, blobs):
    X, y = blobs(*shape, 2, spread=4)
    X = X.astype(dtype)
    weights = np.random.default_rng(1).uniform(0.2, 3, size=len(y))
    problems = problems_of(y, weights)
    solutions = solve(X, None, problems, tol=1e-10, max_iter=10_000)
    assert solutions.converged.all()
    X = X.astype(np.float64)
    for number in range(len(CS)):
        expected = minimize(
            lambda vector, number=number: objective(X, problems, number, vector),
            np.zeros(X.shape[1] + 1),
            jac=True,
            method="L-BFGS-B",
            options={"gtol": 1e-9, "ftol": 0, "maxiter": 20_000, "maxfun": 50_000, "maxcor": 30},
        )
        # of rows that can be separated, only what rounding leaves of the margins counts
        looser = {"value": 1e-5, "coef": 5e-3} if dtype == np.float32 else {}
        agrees(X, problems, solutions, number, expected.x, **looser)


@pytest.mark.usefixtures("way")
def test_the_minimum_is_that_of_scikit_learn(blobs):
    X, y = blobs(200, 10, 2, spread=4)
    X = X.astype(np.float64)
    weights = np.where(y == 1, 0.4, 2.5)
    problems = problems_of(y, weights)
    solutions = solve(X, None, problems, tol=1e-10, max_iter=10_000)
    for number, C in enumerate(CS):
        machine = LinearSVC(C=C, dual=False, tol=1e-10, intercept_scaling=1e4, max_iter=100_000)
        machine.fit(X, y, sample_weight=weights)
        agrees(X, problems, solutions, number, np.append(machine.coef_, machine.intercept_))


@pytest.mark.usefixtures("way")
def test_rows_of_weight_zero_are_left_out(blobs):
    X, y = blobs(120, 12, 2, spread=3)
    X = X.astype(np.float64)
    kept = np.arange(120) % 5 != 2
    masked = solve(X, None, problems_of(y, kept.astype(float)), tol=1e-10, max_iter=10_000)
    alone = solve(X[kept], None, problems_of(y[kept]), tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(masked.coef, alone.coef, rtol=0, atol=1e-8)
    np.testing.assert_allclose(masked.intercept, alone.intercept, rtol=0, atol=1e-8)
    np.testing.assert_allclose(masked.scores[kept], alone.scores, rtol=0, atol=1e-7)


def test_scores_are_those_of_the_solution_for_all_rows(blobs):
    X, y = blobs(90, 7, 2, spread=3)
    solutions = solve(X, None, problems_of(y, (np.arange(90) < 60).astype(float)), tol=1e-4, max_iter=1000)
    expected = X.astype(np.float64) @ solutions.coef.T + solutions.intercept
    np.testing.assert_allclose(solutions.scores, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_are_standardised_block_by_block(dtype, blobs, monkeypatch):
    X, y = blobs(101, 9, 2, spread=3)
    X = (X * np.arange(1, 10) + 5).astype(dtype)
    before, scaling = X.copy(), Scaling.from_rows(X, standardize=True)
    standardised = (X.astype(np.float64) - scaling.mean) / scaling.scale
    monkeypatch.setattr(svm_solver, "_BLOCK_VALUES", 9 * 13)
    blocks = solve(X, scaling, problems_of(y), tol=1e-6, max_iter=1000)
    whole = solve(standardised, None, problems_of(y), tol=1e-6, max_iter=1000)
    np.testing.assert_allclose(blocks.coef, whole.coef, rtol=0, atol=1e-4)
    np.testing.assert_allclose(blocks.scores, whole.scores, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(X, before)


def test_any_layout_in_memory_gives_the_same(blobs, tmp_path):
    X, y = blobs(60, 6, 2, spread=3)
    np.save(tmp_path / "X.npy", X)
    expected = solve(X, None, problems_of(y), tol=1e-5, max_iter=1000)
    for other in (np.load(tmp_path / "X.npy", mmap_mode="r"), np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        found = solve(other, None, problems_of(y), tol=1e-5, max_iter=1000)
        np.testing.assert_allclose(found.coef, expected.coef, rtol=0, atol=1e-5)


def test_problems_solved_together_are_those_solved_alone(blobs):
    X, y = blobs(150, 20, 2, spread=4)
    C = np.array([1e-5, 1.0, 1e-2, 100.0])
    together = solve(X, None, problems_of(y, C=C), tol=1e-5, max_iter=5000)
    for number in range(len(C)):
        alone = solve(X, None, problems_of(y, C=C[number : number + 1]), tol=1e-5, max_iter=5000)
        np.testing.assert_allclose(together.coef[number], alone.coef[0], rtol=0, atol=1e-3 * np.abs(alone.coef).max())


def test_problems_that_share_no_rows_are_solved_directly_in_turn(monkeypatch):
    rng = np.random.default_rng(3)
    X, third = rng.normal(size=(120, 4)), np.arange(120) % 3
    y, C = (rng.random(120) > 0.5).astype(int), np.full(3, 0.5)
    signs = np.where(y == 1, 1, -1)[:, None].repeat(3, axis=1)
    problems = Problems(signs, np.stack([third == part for part in range(3)], axis=1).astype(float), C)
    gathered, seen = svm_solver._Rows.gathered, []

    def watched(self, numbers):
        seen.append(len(numbers))
        return gathered(self, numbers)

    monkeypatch.setattr(svm_solver, "_DIRECT", 10**9)
    monkeypatch.setattr(svm_solver, "_DIRECT_ROWS", 45)  # two problems of 40 rows fit together, three do not
    monkeypatch.setattr(svm_solver, "_GATHERED_VALUES", 90)  # one feature at a time
    monkeypatch.setattr(svm_solver._Rows, "gathered", watched)
    solutions = solve(X, None, problems, tol=1e-9, max_iter=100)
    assert max(seen) == 80
    for part in range(3):
        alone = solve(X[third == part], None, problems_of(y[third == part], C=C[:1]), tol=1e-9, max_iter=100)
        np.testing.assert_allclose(solutions.coef[part], alone.coef[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("count", "directly"), [(40, True), (150, False)])
def test_steps_are_solved_directly_only_where_that_takes_fewer_products(count, directly, monkeypatch):
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(400, 400)), (rng.random(400) > 0.5).astype(int)
    gathered, seen = svm_solver._Rows.gathered, []

    def watched(self, numbers):
        seen.append(len(numbers))
        return gathered(self, numbers)

    monkeypatch.setattr(svm_solver._Rows, "gathered", watched)
    kept = np.arange(400) < count
    found = solve(X, None, problems_of(y, kept.astype(float), C=CS[:1]), tol=1e-9, max_iter=1000)
    assert bool(seen) is directly
    monkeypatch.setattr(svm_solver, "_DIRECT", 10**9)
    expected = solve(X[kept], None, problems_of(y[kept], C=CS[:1]), tol=1e-9, max_iter=1000)
    np.testing.assert_allclose(found.coef, expected.coef, rtol=0, atol=1e-7)


def test_where_passes_do_not_suffice_it_says_so(blobs):
    X, y = blobs(200, 30, 2, spread=6)
    problems = problems_of(y, C=np.array([1e-7, 10.0]))
    few = solve(X, None, problems, tol=1e-6, max_iter=5)
    assert few.converged.tolist() == [True, False]
    assert few.passes[1] <= 6
    assert solve(X, None, problems, tol=1e-6, max_iter=1000).converged.all()


def test_a_tolerance_below_rounding_ends_all_the_same(blobs):
    X, y = blobs(200, 10, 2, spread=4)
    solutions = solve(X, None, problems_of(y), tol=1e-30, max_iter=1000)
    assert solutions.converged.all()
    assert solutions.passes.max() < 200


@pytest.mark.usefixtures("way")
def test_a_problem_without_rows_stays_at_zero(blobs):
    X, y = blobs(30, 4, 2)
    solutions = solve(X, None, problems_of(y, np.zeros(30)), tol=1e-4, max_iter=100)
    assert solutions.converged.all()
    assert not solutions.coef.any()


@pytest.mark.usefixtures("way")
def test_rows_of_one_sign_need_no_weights_but_an_intercept_beyond_the_margin(blobs):
    X, _ = blobs(30, 4, 2)
    solutions = solve(X, None, problems_of(np.zeros(30)), tol=1e-6, max_iter=100)
    np.testing.assert_allclose(solutions.coef, 0, atol=1e-5)
    assert (solutions.intercept < -1 + 1e-5).all()


def test_features_that_overflow_are_not_converged(blobs):
    X, y = blobs(30, 4, 2)
    solutions = solve((X * 1e37).astype(np.float32), None, problems_of(y), tol=1e-4, max_iter=100)
    assert not solutions.converged.any()


@pytest.fixture
def uneven():
    """Rows of 30 features, some of them a hundred times longer than others, and signs of 40 problems (n, 40)."""
    rng = np.random.default_rng(7)
    mixing = rng.normal(size=(30, 30)) * np.geomspace(3, 0.03, 30)[:, None]
    X = rng.normal(size=(600, 30)) @ mixing
    signs = np.where(X @ rng.normal(size=(30, 40)) + 2 * rng.normal(size=(600, 40)) > 0, 1, -1)
    return X, Problems(signs, np.ones((600, 40)), np.full(40, 0.1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_save_passes_and_lead_to_the_same_minimum(uneven, dtype, monkeypatch):
    monkeypatch.setattr(svm_solver, "_DIRECT", 0)
    X, problems = uneven
    X = X.astype(dtype)
    directions = Directions.of(X, None, 40)
    tight = {"tol": 1e-10 if dtype == np.float64 else 1e-5, "max_iter": 1000}
    without, found = (solve(X, None, problems, directions=each, **tight) for each in (None, directions))
    assert found.converged.all()
    for number in range(40):
        values = [
            objective(X.astype(np.float64), problems, number, np.append(each.coef[number], each.intercept[number]))[0]
            for each in (found, without)
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-9 if dtype == np.float64 else 1e-4)
    assert found.passes.sum() < 0.6 * without.passes.sum()


def test_directions_are_those_of_standardised_rows(uneven):
    X, _ = uneven
    scaling = Scaling.from_rows(X, standardize=True)
    directions = Directions.of(X, scaling, 40)
    expected = scaling.applied(X).T @ scaling.applied(X) / len(X)
    rebuilt = directions.basis * directions.squares @ directions.basis.T
    np.testing.assert_allclose(rebuilt, expected, rtol=0, atol=1e-10)


def test_directions_are_computed_where_they_save_more_than_they_cost(uneven):
    X, _ = uneven
    assert Directions.of(X, None, 40) is not None
    assert Directions.of(X, None, 0) is None  # nothing to save
    assert Directions.of(X[:20], None, 40) is None  # a pass over the rows costs less than the directions
    with np.errstate(over="ignore"):
        assert Directions.of((X * 1e37).astype(np.float32), None, 40) is None

"""Heads that draw a line between each class and the rest, and Platt's sigmoid, which makes probabilities of scores.

Scores are calibrated on rows that they were not learned from: those of folds held out, or each row left out once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.affine import OneVsRestPredictor
from heads.base import Head, Learned, Monitor, only_or_raise
from heads.errors import TrainingError
from heads.rows import Features, Floats, Scaling, Targets, class_weights, finite, row_blocks
from heads.solver import Problems, solve

_FOLDS = 5  # scikit-learn's default
_BATCH_VALUES = 2**22  # of each array of the solver
_HELD_VALUES = 2**24  # scores that ridge keeps at a time: 128 MiB
_FEATURE_VALUES = 2**21  # values of a block of features: 16 MiB in float64
_ALONE = (
    "a class has a single row: probabilities were calibrated on training scores and are too sure; "
    "give every class at least 2 rows, better 5"
)

Signs: TypeAlias = NDArray[np.int8]


class _Line(NamedTuple):
    """What separates one class from the rest, and what it says of rows that it did not see."""

    coef: Floats  # (d,), of standardised features
    intercept: float
    held_out: NDArray[np.floating[Any]]  # (n,)
    converged: bool


@dataclass(slots=True, kw_only=True, eq=False)
class SVMHead(Head):
    """A linear support vector machine for each class; parameters and defaults are in the catalogue.

    The squared hinge of scikit-learn's ``LinearSVC``, with an intercept that is not penalised. Probabilities are those
    of its ``CalibratedClassifierCV(ensemble=False)``: Platt's sigmoid, fitted to scores of stratified folds that were
    held out, for machines that have learned from all rows. ``class_weight`` weighs rows, in the sigmoid as well.

    The solver has no random part: the seed changes nothing, and is taken because every head takes one.
    """

    C: float
    max_iter: int
    tol: float
    class_weight: str
    standardize: bool
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        return only_or_raise(self._learn_together([self], X, targets, [monitor]))

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        del monitors  # there are no epochs
        first, k = heads[0], len(heads[0].classes_)
        scaling = Scaling.of(X, standardize=first.standardize)
        signs, weights = _signs(targets, k), class_weights(targets, k, first.class_weight)[targets]
        folds = _folds(targets)
        lines = first._lines(X, scaling, Cs=[head.C for head in heads], signs=signs, weights=weights, folds=folds)
        results: list[Learned | TrainingError] = []
        for head in heads:
            own = [next(lines) for _ in range(signs.shape[1])]
            alone = () if folds.any() else (_ALONE,)
            late = () if all(line.converged for line in own) else (head._not_converged(),)
            results.append(_calibrated(own, signs, weights, scaling, (*alone, *late)))
        return results

    def _lines(
        self, X: Features, scaling: Scaling, *, Cs: Sequence[float], signs: Signs, weights: Floats, folds: Targets
    ) -> Iterator[_Line]:
        """Yield the line of every class for each C in turn; each is one problem on all rows and one without each fold.

        As many problems as memory allows are solved at once.
        """
        (n, k), each = signs.shape, int(folds.max()) + 1
        kept = np.not_equal.outer(folds, np.arange(each))
        kept[:, 0] = True
        number, C = np.tile(np.arange(k), len(Cs)), np.repeat(Cs, k)
        at_once = max(1, _BATCH_VALUES // (each * sum(X.shape)))
        for start in range(0, len(C), at_once):
            some = slice(start, start + at_once)
            problems = Problems(
                np.repeat(signs[:, number[some]], each, axis=1),
                np.tile(weights[:, None] * kept, len(C[some])),
                np.repeat(C[some], each),
            )
            solved = solve(X, scaling if self.standardize else None, problems, tol=self.tol, max_iter=self.max_iter)
            held_out = solved.scores.reshape(n, -1, each)[np.arange(n), :, folds]
            converged = solved.converged.reshape(-1, each)
            for row in range(len(C[some])):
                full = row * each
                yield _Line(solved.coef[full], solved.intercept[full], held_out[:, row], bool(converged[row].all()))

    def _not_converged(self) -> str:
        remedy = "raise max_iter or lower C" if self.standardize else "set standardize=true, raise max_iter or lower C"
        return f"svm did not converge (max_iter={self.max_iter}): {remedy}"


@dataclass(slots=True, kw_only=True, eq=False)
class RidgeHead(Head):
    """Least squares on -1 and 1 for each class, as scikit-learn's ``RidgeClassifier``; parameters are in the catalogue.

    The hat matrix gives the exact score of each row without that row, for which Platt's sigmoid is fitted, with no
    further training. Everything is computed in float64, from one matrix of products that all strengths of the penalty
    share: of features, or of rows if they are fewer. ``class_weight`` weighs rows, in the sigmoid as well.

    Nothing here is random: the seed changes nothing, and is taken because every head takes one.
    """

    alpha: float
    class_weight: str
    standardize: bool
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        return only_or_raise(self._learn_together([self], X, targets, [monitor]))

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        del monitors  # there are no epochs
        first, k = heads[0], len(heads[0].classes_)
        scaling = Scaling.of(X, standardize=first.standardize)
        signs, weights = _signs(targets, k), class_weights(targets, k, first.class_weight)[targets]
        squares = (_ByFeatures if len(X) > X.shape[1] else _ByRows)(X, scaling, signs, weights)
        lines = squares.lines(np.array([head.alpha for head in heads]))
        return [_calibrated(own, signs, weights, scaling, ()) for own in lines]


class _LeastSquares:
    """Rows, standardised and centred, times the square root of their weights: a block of float64 at a time.

    Centring leaves the intercept out of the penalty. Features beyond float64's range give lines that are not finite.
    """

    def __init__(self, X: Features, scaling: Scaling, signs: Signs, weights: Floats) -> None:
        self._X, self._scaling, self._signs = X, scaling, signs
        self._share = weights / weights.sum()
        self._roots = np.sqrt(weights)[:, None]
        self._centre = np.zeros(X.shape[1])
        for rows in row_blocks(X):
            self._centre += self._share[rows] @ X[rows].astype(np.float64)
        self._level = self._share @ signs
        self._sides = self._roots * (signs - self._level)

    def _block(self, rows: slice, features: slice = slice(None)) -> Floats:
        block = self._X[rows, features].astype(np.float64)
        block -= self._centre[features]
        block /= self._scaling.scale[features]
        block *= self._roots[rows]
        return block

    def _line(self, coef: Floats, number: int, left: Floats) -> _Line:
        """Return the line of one class, of its coefficients and of what is left of each row's side without that row."""
        intercept = self._level[number] - coef @ ((self._centre - self._scaling.mean) / self._scaling.scale)
        return _Line(coef, intercept, self._signs[:, number] - left / self._roots[:, 0], converged=True)


class _ByFeatures(_LeastSquares):
    """Least squares for more rows than features: the matrix is (d, d)."""

    def lines(self, alphas: Floats) -> Iterator[list[_Line]]:
        """Yield the lines of all classes for each alpha in turn."""
        d, (n, k) = self._X.shape[1], self._signs.shape
        gram, sides = np.zeros((d, d)), np.zeros((d, k))
        for rows in row_blocks(self._X):
            block = self._block(rows)
            gram += block.T @ block
            sides += block.T @ self._sides[rows]
        basis, factors = _inverses(gram, alphas)
        sides = basis.T @ sides
        at_once = max(1, _HELD_VALUES // (n * k))
        for start in range(0, len(alphas), at_once):
            some = factors[:, start : start + at_once]
            coef = basis @ (some[:, :, None] * sides[:, None, :]).reshape(d, -1)
            left = self._left_out(basis, some, coef)
            for number in range(some.shape[1]):
                own = range(number * k, (number + 1) * k)
                yield [self._line(coef[:, at], at % k, left[:, at]) for at in own]

    def _left_out(self, basis: Floats, factors: Floats, coef: Floats) -> Floats:
        """Return what is left of each side by lines that did not see the row, shape (n, lines).

        What is left with the row, divided by 1 minus the row's own entry of the hat matrix (Allen 1974).
        """
        (n, k), alphas = self._signs.shape, factors.shape[1]
        left = np.empty((n, alphas, k))
        for rows in row_blocks(self._X):
            block = self._block(rows)
            hat = np.square(block @ basis) @ factors + self._share[rows, None]
            fitted = (block @ coef).reshape(-1, alphas, k)
            free = np.maximum(1 - hat, np.finfo(np.float64).eps)
            left[rows] = (self._sides[rows, None, :] - fitted) / free[:, :, None]
        return left.reshape(n, -1)


class _ByRows(_LeastSquares):
    """Least squares for no more rows than features: the matrix is (n, n)."""

    def lines(self, alphas: Floats) -> Iterator[list[_Line]]:
        """Yield the lines of all classes for each alpha in turn."""
        gram = np.zeros((len(self._X), len(self._X)))
        for features in self._features():
            block = self._block(slice(None), features)
            gram += block @ block.T
        # centring took away the direction of the weights' roots; it is filled, so that it stays apart from all others
        filling = max(np.trace(gram), 1.0)
        gram += filling * np.sqrt(np.outer(self._share, self._share))
        basis, factors = _inverses(gram, alphas)
        entries = np.square(basis) @ factors - self._share[:, None] / (filling + alphas)
        sides = basis.T @ self._sides
        for number in range(len(alphas)):
            duals = basis @ (factors[:, number, None] * sides)
            coef = np.concatenate([self._block(slice(None), each).T @ duals for each in self._features()])
            left = duals / entries[:, number, None]
            yield [self._line(coef[:, at], at, left[:, at]) for at in range(duals.shape[1])]

    def _features(self) -> Iterator[slice]:
        n, d = self._X.shape
        count = max(1, _FEATURE_VALUES // n)
        return (slice(start, start + count) for start in range(0, d, count))


def _inverses(gram: Floats, alphas: Floats) -> tuple[Floats, Floats]:
    """Return a basis (m, m) and factors (m, A): ``basis * factors[:, a] @ basis.T`` inverts ``gram + alphas[a] * I``.

    Cholesky's decomposition is many times faster, but serves one alpha alone; that into eigenvectors serves all.
    """
    from scipy.linalg import solve_triangular

    if not finite(gram):
        raise TrainingError("products of features are beyond the range of float64; set standardize=true")
    identity = np.eye(len(gram))
    if len(alphas) == 1:
        try:
            lower = np.linalg.cholesky(gram + alphas[0] * identity)
        except np.linalg.LinAlgError:
            pass  # alpha is lost in rounding: the eigenvalues below it must be seen
        else:
            return solve_triangular(lower, identity, lower=True, check_finite=False).T, np.ones((len(gram), 1))
    values, basis = np.linalg.eigh(gram)
    return basis, 1 / (np.maximum(values, 0)[:, None] + alphas)


def platt(scores: NDArray[np.floating[Any]], signs: Signs, weights: Floats) -> tuple[float, float]:
    """Return the slope, at least 0, and the offset for which sigmoid(slope * score + offset) is a probability.

    Platt's method (1999), with the targets that he smoothed, so that scores which separate the classes are no harm.

    Parameters
    ----------
    scores
        Shape (n,); best of rows that they were not learned from.
    signs
        Which rows are of the class: 1 or -1, shape (n,).
    weights
        Of rows, shape (n,).

    Raises
    ------
    TrainingError
        If a score is not finite.
    """
    from scipy.optimize import minimize

    if not finite(scores):
        raise TrainingError(
            "the training diverged: scores are no longer finite numbers; choose less extreme parameters"
        )
    of_class = signs > 0
    count, rest = weights[of_class].sum(), weights[~of_class].sum()
    wanted = np.where(of_class, (count + 1) / (count + 2), 1 / (rest + 2))
    unit = float(np.std(scores, dtype=np.float64)) or 1.0
    scaled = scores.astype(np.float64) / unit

    def loss(line: Floats) -> tuple[float, Floats]:
        logits = line[0] * scaled + line[1]
        surplus = weights * (np.exp(-np.logaddexp(0, -logits)) - wanted)
        value = weights @ (np.logaddexp(0, logits) - wanted * logits)
        return float(value / weights.sum()), np.array([surplus @ scaled, surplus.sum()]) / weights.sum()

    start = [0.0, np.log((count + 1) / (rest + 1))]
    options = {"ftol": 0.0, "gtol": 1e-9}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)], options=options)
    return float(found.x[0] / unit), float(found.x[1])


def _calibrated(
    lines: Iterable[_Line], signs: Signs, weights: Floats, scaling: Scaling, warnings: tuple[str, ...]
) -> Learned | TrainingError:
    """Return the predictor of all classes, with Platt's sigmoid folded into each line."""
    try:
        coef, intercept = [], []
        for line, own in zip(lines, signs.T, strict=True):
            slope, offset = platt(line.held_out, own, weights)
            coef.append(slope * line.coef)
            intercept.append(slope * line.intercept + offset)
        if len(coef) == 1:
            coef, intercept = [-coef[0], coef[0]], [-intercept[0], intercept[0]]
        return OneVsRestPredictor.learned(np.array(coef), np.array(intercept), scaling), warnings
    except TrainingError as e:
        return e


def _signs(targets: Targets, k: int) -> Signs:
    """Return 1 where a row is of a class and -1 elsewhere, shape (n, k); of two classes, for the second alone."""
    classes = np.arange(1, 2) if k == 2 else np.arange(k)  # noqa: PLR2004 - one line parts two classes
    return np.where(targets[:, None] == classes, 1, -1).astype(np.int8)


def _folds(targets: Targets) -> Targets:
    """Return the number, from 1, of the fold that holds each row out, shape (n,); 0 if a class has a single row."""
    from sklearn.model_selection import StratifiedKFold

    folds = np.zeros(len(targets), np.intp)
    count = min(_FOLDS, int(np.bincount(targets).min()))
    if count > 1:
        for number, (_, held) in enumerate(StratifiedKFold(count).split(folds, targets), start=1):
            folds[held] = number
    return folds

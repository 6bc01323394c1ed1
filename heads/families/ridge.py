"""Ridge regression on the classes in closed form, with Platt's probabilities from exact leave-one-out scores."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import numpy as np

from heads.base import Head, Learned
from heads.epochs import Monitor
from heads.errors import TrainingError
from heads.families.affine import AffineNumberModel, OneVsRestModel
from heads.families.platt import Hyperplane, Signs, calibrated, class_signs, separable
from heads.families.shared_parameters import ALPHA_GRID, CLASS_WEIGHT, STANDARDIZE
from heads.fitted_model import FittedModel
from heads.parameters import HeadSpec, Parameter
from heads.rows import Features, Floats, Scaling, Targets, finite, row_blocks

_AUTO = "auto"
_CHOSEN_FROM = np.logspace(-3, 7, 21)
_HELD_VALUES = 2**24  # scores in memory at a time: 128 MiB
_FEATURE_VALUES = 2**21  # values of a block of features: 16 MiB in float64


@final
@dataclass(slots=True, kw_only=True, eq=False)
class RidgeHead(Head):
    """Least squares on -1 and 1 for each class, as scikit-learn's ``RidgeClassifier``; or on numbers, as ``Ridge``.

    The hat matrix gives the exact score of each row by a fit without that row, or without all rows that belong to it.
    Platt's sigmoid is fitted to these scores, so that no further training is needed. Everything is computed in float64
    from one matrix of products, of features or of rows, whichever is smaller; all strengths of the penalty share it.
    ``class_weight`` weighs the rows in both steps.
    """

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="ridge",
        summary="Least squares on the classes with an l2 penalty, in closed form; Platt's probabilities.",
        parameters=(
            Parameter(
                "alpha",
                "float",
                1.0,
                "Strength of the l2 penalty; auto: the one with the smallest squared error of rows left out.",
                above=0,
                choices=(_AUTO,),
            ),
            CLASS_WEIGHT,
            STANDARDIZE,
        ),
        libraries=("scipy",),
        shared=("alpha",),
        grid={"alpha": ALPHA_GRID},
        number_defaults={"alpha": _AUTO},
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: n * d * (min(n, d) + k),
    )
    model_class: ClassVar[type[FittedModel]] = OneVsRestModel
    number_model_class: ClassVar[type[FittedModel] | None] = AffineNumberModel

    alpha: float | str
    class_weight: str
    standardize: bool

    def _learn_numbers(self, X: Features, y: Floats, monitor: Monitor) -> Learned:
        """Fit the numbers, as scikit-learn's ``Ridge``."""
        del monitor  # there are no epochs
        scaling = Scaling.from_rows(X, standardize=self.standardize, weights=self.weights_)
        weights = np.ones(len(y)) if self.weights_ is None else self.weights_
        problem = (_ByFeatures if len(X) > X.shape[1] else _ByRows)(X, scaling, y[:, None], weights, self.together_)
        [[plane]] = problem.at([self.alpha])
        return AffineNumberModel.learned(plane.coef[None], np.array([plane.intercept]), scaling), ()

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        del monitors  # there are no epochs
        first, k = heads[0], len(heads[0].classes_)
        scaling = Scaling.from_rows(X, standardize=first.standardize, weights=first.weights_)
        signs, weights = class_signs(targets, k), first._weights_of(targets, first.class_weight)
        together, warnings = separable(targets, first.together_)
        problem = (_ByFeatures if len(X) > X.shape[1] else _ByRows)(X, scaling, signs, weights, together)
        found = problem.at([head.alpha for head in heads])
        return [calibrated(of_head, signs, weights, scaling, warnings) for of_head in found]


class _LeastSquares(ABC):
    """A least-squares problem on standardised and centred rows, each multiplied by the square root of its weight.

    Rows are read in blocks of float64. Centring keeps the intercept out of the penalty. Features beyond the range of
    float64 give hyperplanes that are not finite. Rows with the same number in ``together`` are left out together.
    """

    def __init__(
        self,
        X: Features,
        scaling: Scaling,
        signs: Signs | Floats,
        weights: Floats,
        together: Targets | None = None,
    ) -> None:
        self._X, self._scaling, self._signs = X, scaling, signs
        self._share = weights / weights.sum()
        self._roots = np.sqrt(weights)[:, None]
        self._centre = np.zeros(X.shape[1])
        for rows in row_blocks(X):
            self._centre += self._share[rows] @ X[rows].astype(np.float64)
        self._level = self._share @ signs
        self._sides = self._roots * (signs - self._level)
        self._groups = [] if together is None else _groups_of_several(together)

    def at(self, alphas: Sequence[float | str]) -> Iterator[list[Hyperplane]]:
        """Yield the hyperplanes of all classes for each strength of the penalty in turn; one of them may be chosen."""
        if _AUTO not in alphas:
            yield from self.hyperplanes(np.array(alphas))
            return
        best = min(self.hyperplanes(_CHOSEN_FROM), key=self._left_out_error)
        for alpha in alphas:
            yield best if alpha == _AUTO else next(iter(self.hyperplanes(np.array([alpha]))))

    def _left_out_error(self, planes: list[Hyperplane]) -> float:
        """Return the weighted squared error of rows by fits without them; infinite if it is not finite."""
        columns = enumerate(planes)
        error = sum(self._share @ np.square(self._signs[:, column] - plane.held_out) for column, plane in columns)
        return float(error) if np.isfinite(error) else np.inf

    @abstractmethod
    def hyperplanes(self, alphas: Floats) -> Iterator[list[Hyperplane]]:
        """Yield the hyperplanes of all classes for each strength of the penalty in turn."""

    def _block(self, rows: slice | Targets, features: slice = slice(None)) -> Floats:
        block = self._X[rows, features].astype(np.float64)
        block -= self._centre[features]
        block /= self._scaling.scale[features]
        block *= self._roots[rows]
        return block

    def _hyperplane(self, coef: Floats, column: int, residuals: Floats) -> Hyperplane:
        """Return the hyperplane of one class, given its weights (d,) and leave-one-out residuals (n,)."""
        intercept = self._level[column] - coef @ ((self._centre - self._scaling.mean) / self._scaling.scale)
        held_out = self._signs[:, column] - residuals / self._roots[:, 0]
        return Hyperplane(coef, intercept, held_out, converged=True)


class _ByFeatures(_LeastSquares):
    """Least squares with more rows than features, by the matrix of products of features, shape (d, d)."""

    def hyperplanes(self, alphas: Floats) -> Iterator[list[Hyperplane]]:
        """Yield the hyperplanes of all classes for each alpha in turn."""
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
            batch = factors[:, start : start + at_once]
            coef = basis @ (batch[:, :, None] * sides[:, None, :]).reshape(d, -1)
            residuals = self._left_out(basis, batch, coef)
            for number in range(batch.shape[1]):
                columns = range(number * k, (number + 1) * k)
                yield [self._hyperplane(coef[:, column], column % k, residuals[:, column]) for column in columns]

    def _left_out(self, basis: Floats, factors: Floats, coef: Floats) -> Floats:
        """Return the residual of each row by a fit without that row, for all alphas and classes, shape (n, A * k).

        It is the residual of the fit with all rows, divided by 1 minus the row's diagonal entry of the hat matrix
        (Allen 1974).
        """
        (n, k), alphas = self._signs.shape, factors.shape[1]
        residuals = np.empty((n, alphas, k))
        for rows in row_blocks(self._X):
            block = self._block(rows)
            hat = np.square(block @ basis) @ factors + self._share[rows, None]
            fitted = (block @ coef).reshape(-1, alphas, k)
            free = np.maximum(1 - hat, np.finfo(np.float64).eps)
            residuals[rows] = (self._sides[rows, None, :] - fitted) / free[:, :, None]
        for group in self._groups:
            residuals[group] = self._without_group(group, basis, factors, coef)
        return residuals.reshape(n, -1)

    def _without_group(self, group: Targets, basis: Floats, factors: Floats, coef: Floats) -> Floats:
        """Return the residuals of rows by a fit without all of them, shape (m, A, k).

        They are the residuals r of the fit with all rows, times the inverse of 1 - H, where H is the part of the hat
        matrix for these rows. H is ``U @ U.T``, so that r + U @ inverse(1 - U.T @ U) @ U.T @ r is the same for many.
        """
        values, alphas = np.vstack([factors, np.ones(factors.shape[1])]), factors.shape[1]
        p, k = len(values), self._signs.shape[1]
        blocks = np.array_split(group, -(-len(group) // max(1, _FEATURE_VALUES // p)))

        def parts(rows: Targets) -> tuple[Floats, Floats]:
            block = self._block(rows)
            residuals = self._sides[rows, None, :] - (block @ coef).reshape(-1, alphas, k)
            return np.hstack([block @ basis, np.sqrt(self._share[rows])[:, None]]), residuals

        if len(group) <= p:
            found = [parts(rows) for rows in blocks]
            U, residuals = (np.concatenate(each) for each in zip(*found, strict=True))
            for number, factor in enumerate(values.T):
                residuals[:, number] = _solved((U * factor) @ U.T, residuals[:, number])
            return residuals
        products, sides = np.zeros((p, p)), np.zeros((p, alphas, k))
        for rows in blocks:
            U, residuals = parts(rows)
            products += U.T @ U
            sides += np.tensordot(U, residuals, (0, 0))
        for number, root in enumerate(np.sqrt(values).T):
            solved = _solved(root[:, None] * products * root, root[:, None] * sides[:, number])
            sides[:, number] = root[:, None] * solved
        left_out = np.empty((len(group), alphas, k))
        start = 0
        for rows in blocks:
            U, residuals = parts(rows)
            left_out[start : start + len(rows)] = residuals + np.tensordot(U, sides, (1, 0))
            start += len(rows)
        return left_out


class _ByRows(_LeastSquares):
    """Least squares with at most as many rows as features, by the matrix of products of rows, shape (n, n)."""

    def hyperplanes(self, alphas: Floats) -> Iterator[list[Hyperplane]]:
        """Yield the hyperplanes of all classes for each alpha in turn."""
        gram = np.zeros((len(self._X), len(self._X)))
        for features in self._features():
            block = self._block(slice(None), features)
            gram += block @ block.T
        # Centring makes the direction of the roots of the weights an eigenvector of value 0. Give it a large value, so
        # that it stays separate from all others.
        filling = max(np.trace(gram), 1.0)
        gram += filling * np.sqrt(np.outer(self._share, self._share))
        basis, factors = _inverses(gram, alphas)
        entries = np.square(basis) @ factors - self._share[:, None] / (filling + alphas)
        sides = basis.T @ self._sides
        for number in range(len(alphas)):
            duals = basis @ (factors[:, number, None] * sides)
            coef = np.concatenate([self._block(slice(None), features).T @ duals for features in self._features()])
            residuals = duals / entries[:, number, None]
            for group in self._groups:
                here, root = basis[group], np.sqrt(self._share[group])
                part = (here * factors[:, number]) @ here.T - np.outer(root, root) / (filling + alphas[number])
                residuals[group] = _solved(np.eye(len(group)) - part, duals[group])
            columns = range(duals.shape[1])
            yield [self._hyperplane(coef[:, column], column, residuals[:, column]) for column in columns]

    def _features(self) -> Iterator[slice]:
        n, d = self._X.shape
        count = max(1, _FEATURE_VALUES // n)
        return (slice(start, start + count) for start in range(0, d, count))


def _groups_of_several(together: Targets) -> list[Targets]:
    """Return the numbers of the rows of each group that has several rows."""
    order = np.argsort(together, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(together[order])) + 1)
    return [group for group in groups if len(group) > 1]


def _solved(part: Floats, sides: Floats) -> Floats:
    """Return ``inverse(1 - part) @ sides``, with 1 enlarged as little as keeps it from being singular."""
    return np.asarray(np.linalg.solve((1 + np.finfo(np.float64).eps) * np.eye(len(part)) - part, sides), np.float64)


def _inverses(gram: Floats, alphas: Floats) -> tuple[Floats, Floats]:
    """Return a basis (m, m) and factors (m, A): ``basis * factors[:, a] @ basis.T`` inverts ``gram + alphas[a] * I``.

    For one alpha, a Cholesky decomposition is many times faster; one eigendecomposition serves all alphas.
    """
    from scipy.linalg import solve_triangular

    if not finite(gram):
        raise TrainingError("products of features are beyond the range of float64; set standardize=true")
    identity = np.eye(len(gram))
    if len(alphas) == 1:
        try:
            lower = np.linalg.cholesky(gram + alphas[0] * identity)
        except np.linalg.LinAlgError:
            pass  # rounding hides alpha: the eigenvalues are needed
        else:
            return solve_triangular(lower, identity, lower=True, check_finite=False).T, np.ones((len(gram), 1))
    values, basis = np.linalg.eigh(gram)
    return basis, 1 / (np.maximum(values, 0)[:, None] + alphas)

"""A solver of several linear support vector machines on the same rows; each pass over the rows serves all of them.

It is Newton's method with exact line search (Keerthi and DeCoste 2005). The squared hinge is piecewise quadratic, so
that few steps reach the minimum. A step depends only on the rows inside the margin. If they are few, it is solved
directly, else by conjugate gradients, where an iteration takes one pass for all problems.

Some directions of the features are much longer than others, and conjugate gradients need an iteration for about each of
them. Where there are many problems, the directions of all rows are computed once and stand for those of the rows inside
the margin (preconditioning); this halves the iterations.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.rows import Features, Floats, Scaling

_BLOCK_VALUES = 2**19  # values of a standardised block, which fits into the cache of a processor
_FORCING = 0.25  # relative residual at which conjugate gradients stop
_SLOPE_LEFT = 1e-3  # relative slope at which the line search stops
_SEARCHES = 50  # limit of the line search, far more than it needs
_DIRECT = 8  # steps are solved directly if that takes at most as many products as this many passes for each of them,
_DIRECT_ROWS = 2048  # and if they have at most this many rows: their products take up to 128 MiB
_GATHERED_VALUES = 2**21  # gathered values in memory at a time: 16 MiB in float64
_DECOMPOSED = 13  # directions of d features take about so many times d**3 products
_MANY = 30  # problems, of five classes with five folds; fewer take little time without directions
_ITERATIONS = 15  # of conjugate gradients that a problem takes with directions; without them about twice as many

Matrix: TypeAlias = NDArray[np.floating[Any]]
Numbers: TypeAlias = NDArray[np.intp]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Problems:
    """For each of P problems, minimise ``|w|**2 / 2 + C * sum(weights * max(0, 1 - signs * (X @ w + b))**2)``.

    This is the problem of scikit-learn's ``LinearSVC``, but without a penalty on the intercept b.

    Parameters
    ----------
    signs
        1 for rows that should score above 0, else -1, shape (n, P).
    weights
        Weights of the rows, shape (n, P), at least 0; a row of weight 0 is left out.
    C
        Shape (P,), above 0.
    """

    signs: NDArray[np.signedinteger[Any]]
    weights: Matrix
    C: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Solutions:
    """The minima of P problems.

    Parameters
    ----------
    coef
        Weights of the standardised features, shape (P, d), float64.
    intercept
        Shape (P,), float64.
    scores
        ``X @ w + b`` of all rows, including those left out, shape (n, P).
    passes
        Number of products of all rows with a vector, for each problem, shape (P,).
    converged
        Whether each problem converged within the passes, shape (P,).
    """

    coef: Floats
    intercept: Floats
    scores: Matrix
    passes: Numbers
    converged: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Orthogonal directions of d features, and the mean square of the rows along each of them.

    Parameters
    ----------
    squares
        Shape (d,), float64, at least 0.
    basis
        A direction in each column, shape (d, d).
    """

    squares: Floats
    basis: Matrix

    @classmethod
    def of(cls, X: Features, scaling: Scaling | None, problems: int) -> Self | None:
        """Return the directions of standardised rows (n, d), or None if they cost more than they save."""
        n, d = X.shape
        if problems < _MANY or _DECOMPOSED * d**2 + 2 * _ITERATIONS * problems * d >= 2 * _ITERATIONS * problems * n:
            return None
        rows = _Rows(X, scaling)
        with np.errstate(all="ignore"):  # features that overflow are not converged
            products = rows.products() / n
            if not np.isfinite(products).all():
                return None
        squares, basis = np.linalg.eigh(products)
        return cls(np.maximum(squares, 0), basis.astype(rows.dtype))

    def conditioned(self, gradients: Floats, curvature: Floats) -> Floats:
        """Return about the Newton steps of gradients (P, d + 1), given the sum of each problem's curvature, (P,)."""
        steps = np.empty_like(gradients)
        along = gradients[:, :-1].astype(self.basis.dtype) @ self.basis
        along /= 1 + curvature[:, None] * self.squares
        steps[:, :-1] = along @ self.basis.T
        steps[:, -1] = gradients[:, -1] / np.maximum(curvature, 1)
        return steps


def solve(
    X: Features,
    scaling: Scaling | None,
    problems: Problems,
    *,
    tol: float,
    max_iter: int,
    directions: Directions | None = None,
) -> Solutions:
    """Solve problems on standardised rows, which are read block by block and never copied as a whole.

    Parameters
    ----------
    X
        Shape (n, d). Products are computed in float64 if it is float64, else in float32.
    scaling
        The standardisation of the rows; None for none.
    problems
        The problems.
    tol
        A problem is solved when the largest component of its gradient is at most ``tol`` times that at 0, or when a
        further step would lower the objective by less than rounding.
    max_iter
        Largest number of products of all rows with a vector, for each problem; the final scores take one more.
    directions
        Those of the rows, which save iterations; None if there are none.
    """
    rows = _Rows(X, scaling)
    P = len(problems.C)
    vectors, scores = np.zeros((P, X.shape[1] + 1)), np.zeros((len(X), P), rows.dtype)
    passes, converged, first = np.zeros(P, np.intp), np.zeros(P, np.bool_), np.full(P, np.inf)
    ongoing = np.arange(P)
    with np.errstate(all="ignore"):  # overflow counts as not converged
        while len(ongoing):
            point = _Point.at(vectors[ongoing], rows, problems, ongoing)
            scores[:, ongoing] = point.scores
            passes[ongoing] += 1
            size = np.abs(point.gradient).max(axis=1)
            first[ongoing] = np.where(passes[ongoing] == 1, size, first[ongoing])
            usable = np.isfinite(size)
            converged[ongoing] = (converged[ongoing] | (size <= tol * first[ongoing])) & usable
            going = ~converged[ongoing] & usable & (passes[ongoing] < max_iter)
            ongoing, point = ongoing[going], point.take(going)
            if len(ongoing):
                step = _Step.towards_minimum(point, rows, max_iter - passes[ongoing], directions)
                passes[ongoing] += step.passes
                converged[ongoing] = -(step.vectors * point.gradient).sum(axis=1) <= point.rounding
                vectors[ongoing] += _length(point, step)[:, None] * step.vectors
    return Solutions(vectors[:, :-1].copy(), vectors[:, -1].copy(), scores, passes, converged)


class _Rows:
    """Standardised rows, a block at a time in one buffer, with a last feature 1 for the intercept."""

    def __init__(self, X: Features, scaling: Scaling | None) -> None:
        self._X, self._scaling = X, scaling
        self.dtype: np.dtype[np.floating[Any]] = np.dtype(np.float64 if X.dtype == np.float64 else np.float32)
        self._buffer = np.empty((max(1, _BLOCK_VALUES // X.shape[1]), X.shape[1]), self.dtype)

    @property
    def values(self) -> int:
        """The number of values of all rows."""
        return self._X.size

    def _blocks(self) -> Iterator[tuple[slice, Matrix]]:
        for start in range(0, len(self._X), len(self._buffer)):
            rows = slice(start, min(start + len(self._buffer), len(self._X)))
            block = self._buffer[: rows.stop - start]
            if self._scaling:
                np.subtract(self._X[rows], self._scaling.mean.astype(self.dtype), out=block)
                block *= (1 / self._scaling.scale).astype(self.dtype)
            elif self._X.dtype == self.dtype:
                block = self._X[rows]
            else:
                block[...] = self._X[rows]
            yield rows, block

    def sweep(self, vectors: Floats, reaction: Callable[[slice, Matrix], Matrix]) -> tuple[Matrix, Floats]:
        """Return products of all rows with vectors (P, d + 1), shape (n, P), and products of a reaction with all rows.

        The reaction is called with a block of rows and their products (rows, P), and returns an array of that shape.
        """
        narrow = vectors.astype(self.dtype)
        products, back = np.empty((len(self._X), len(vectors)), self.dtype), np.zeros_like(vectors)
        for rows, block in self._blocks():
            np.matmul(block, narrow[:, :-1].T, out=products[rows])
            products[rows] += narrow[:, -1]
            answer = reaction(rows, products[rows])
            back[:, :-1] += answer.T @ block
            back[:, -1] += answer.sum(axis=0, dtype=np.float64)
        return products, back

    def times(self, vectors: Floats) -> Matrix:
        """Return products of all rows with vectors (P, d + 1), shape (n, P)."""
        narrow = vectors.astype(self.dtype)
        products = np.empty((len(self._X), len(vectors)), self.dtype)
        for rows, block in self._blocks():
            np.matmul(block, narrow[:, :-1].T, out=products[rows])
        products += narrow[:, -1]
        return products

    def products(self) -> Floats:
        """Return the products of the features, summed over all rows, shape (d, d), in float64."""
        products = np.zeros((self._X.shape[1], self._X.shape[1]))
        for _, block in self._blocks():
            products += block.T @ block
        return products

    def gathered(self, numbers: Numbers) -> Iterator[tuple[slice, Floats]]:
        """Yield blocks of features of the rows of these numbers, shape (len(numbers), features), in float64."""
        count = max(1, _GATHERED_VALUES // len(numbers))
        for start in range(0, self._X.shape[1], count):
            features = slice(start, start + count)
            block = self._X[numbers, features].astype(np.float64)
            if self._scaling:
                block -= self._scaling.mean[features]
                block /= self._scaling.scale[features]
            yield features, block


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """The current vectors of P problems, and the values computed from them."""

    vectors: Floats  # (P, d + 1): weights and intercept
    gradient: Floats  # (P, d + 1)
    scores: Matrix  # (n, P)
    signs: Matrix  # (n, P)
    margins: Matrix  # (n, P): 1 - sign * score; the hinge is its positive part
    costs: Matrix  # (n, P): 2 * C * weight

    @classmethod
    def at(cls, vectors: Floats, rows: _Rows, problems: Problems, which: Numbers) -> Self:
        signs: Matrix = problems.signs[:, which].astype(rows.dtype)
        costs: Matrix = (2 * problems.C[which] * problems.weights[:, which]).astype(rows.dtype)
        margins = np.empty_like(signs)

        def slopes(block: slice, scores: Matrix) -> Matrix:
            margins[block] = 1 - signs[block] * scores
            return -costs[block] * signs[block] * np.maximum(margins[block], 0)

        scores, gradient = rows.sweep(vectors, slopes)
        gradient[:, :-1] += vectors[:, :-1]
        return cls(vectors, gradient, scores, signs, margins, costs)

    @property
    def inside(self) -> Mask:
        """Mask of the rows inside the margin, shape (n, P)."""
        return (self.margins > 0) & (self.costs > 0)

    @property
    def rounding(self) -> Floats:
        """Size of the rounding error of the objective, shape (P,)."""
        hinge = (self.costs * np.square(np.maximum(self.margins, 0))).sum(axis=0, dtype=np.float64)
        value = (np.square(self.vectors[:, :-1]).sum(axis=1) + hinge) / 2
        return np.asarray(value * np.finfo(self.margins.dtype).eps)

    def take(self, which: Mask) -> Self:
        """Return some of the problems."""
        columns = (array[:, which] for array in (self.scores, self.signs, self.margins, self.costs))
        return type(self)(self.vectors[which], self.gradient[which], *columns)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """The Newton steps of P problems."""

    vectors: Floats  # (P, d + 1)
    scores: Matrix  # (n, P): change of each score by a full step
    passes: Numbers  # (P,)

    @classmethod
    def towards_minimum(cls, point: _Point, rows: _Rows, allowed: Numbers, directions: Directions | None) -> Self:
        P, inside = len(point.vectors), point.inside
        step = cls(np.zeros_like(point.vectors), np.zeros_like(point.margins), np.zeros(P, np.intp))
        count = inside.sum(axis=0)
        most = min(int(np.cbrt(6 * _DIRECT * rows.values)), _DIRECT_ROWS)
        solved = step._solve_directly(point, rows, inside, np.flatnonzero((count > 0) & (count <= most)), 2 * most)
        if len(solved):
            step.scores[:, solved] = rows.times(step.vectors[solved])
            step.passes[solved] += 1
        step._descend(
            point, rows, point.costs * inside, np.setdiff1d(np.arange(P), solved), allowed, directions=directions
        )
        return step

    def _solve_directly(self, point: _Point, rows: _Rows, inside: Mask, which: Numbers, most: int) -> Numbers:
        """Solve the steps of problems with few rows inside the margin; return the numbers of the solved ones."""
        from scipy.linalg import cho_factor, cho_solve

        solved = []
        for together in _sharing(inside, which, most):
            union = np.flatnonzero(inside[:, together].any(axis=1))
            products = len(union) ** 2 * (point.vectors.shape[1] - 1) + (inside[:, together].sum(axis=0) ** 3).sum() / 3
            if products > 2 * _DIRECT * rows.values * len(together):
                continue
            gram, duals = np.zeros((len(union), len(union))), np.zeros((len(union), len(together)))
            for _, block in rows.gathered(union):
                gram += block @ block.T
            for column, number in enumerate(together):
                here = np.flatnonzero(inside[union, number])
                system = gram[np.ix_(here, here)]
                system[np.diag_indices(len(here))] += 1 / point.costs[union[here], number].astype(np.float64)
                sides = np.stack([point.signs[union[here], number], np.ones(len(here))], axis=1)
                try:
                    factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
                except np.linalg.LinAlgError:
                    continue
                of_signs, of_ones = cho_solve(factor, sides, check_finite=False).T
                intercept = of_signs.sum() / of_ones.sum()
                duals[here, column] = of_signs - intercept * of_ones
                self.vectors[number, -1] = intercept - point.vectors[number, -1]
                solved.append(number)
            for features, block in rows.gathered(union):
                coef = point.vectors[:, :-1][together, features]
                self.vectors[:, :-1][together, features] = duals.T @ block - coef
        return np.array(solved, np.intp)

    def _descend(
        self,
        point: _Point,
        rows: _Rows,
        curvature: Matrix,
        which: Numbers,
        allowed: Numbers,
        *,
        directions: Directions | None,
    ) -> None:
        """Compute the steps of the given problems by conjugate gradients (Hestenes and Stiefel 1952)."""
        self.vectors[which] = 0
        sums = curvature.sum(axis=0, dtype=np.float64)

        def conditioned(which: Numbers) -> Floats:
            return left[which] if directions is None else directions.conditioned(left[which], sums[which])

        left = -point.gradient
        along = np.zeros_like(left)
        along[which] = conditioned(which)
        square = (left * along).sum(axis=1)
        goal = _FORCING**2 * square
        while len(which):
            scores, turned = rows.sweep(along[which], _multiplied(curvature[:, which]))
            turned[:, :-1] += along[which, :-1]
            length = square[which] / (along[which] * turned).sum(axis=1)
            self.vectors[which] += length[:, None] * along[which]
            self.scores[:, which] += scores * length.astype(rows.dtype)
            self.passes[which] += 1
            left[which] -= length[:, None] * turned
            ahead = conditioned(which)
            now = (left[which] * ahead).sum(axis=1)
            along[which] = ahead + (now / square[which])[:, None] * along[which]
            square[which] = now
            which = which[(now > goal[which]) & (self.passes[which] < allowed[which])]


def _multiplied(factors: Matrix) -> Callable[[slice, Matrix], Matrix]:
    return lambda rows, products: factors[rows] * products


def _sharing(inside: Mask, which: Numbers, most: int) -> Iterator[list[int]]:
    """Yield groups of problems that together have at most ``most`` rows inside the margin, or a single problem."""
    together: list[int] = []
    union = np.zeros(len(inside), np.bool_)
    for number in which:
        union |= inside[:, number]
        if together and np.count_nonzero(union) > most:
            yield together
            together, union = [], inside[:, number].copy()
        together.append(int(number))
    if together:
        yield together


def _length(point: _Point, step: _Step) -> Floats:
    """Return the length of each step that minimises the objective, shape (P,), by Newton's method on its slope.

    The slope along a step is piecewise linear and increasing, so that two bounds enclose its zero.
    """
    linear = (point.vectors[:, :-1] * step.vectors[:, :-1]).sum(axis=1)
    square = np.square(step.vectors[:, :-1]).sum(axis=1)
    enough = _SLOPE_LEFT * np.abs((point.gradient * step.vectors).sum(axis=1))
    gains = point.signs * step.scores
    length, low, high = np.ones(len(linear)), np.zeros(len(linear)), np.full(len(linear), np.inf)
    for _ in range(_SEARCHES):
        margins = point.margins - length.astype(gains.dtype) * gains
        pull = np.where(margins > 0, point.costs * gains, 0)
        slope = linear + length * square - (pull * margins).sum(axis=0, dtype=np.float64)
        going = np.abs(slope) > enough
        if not going.any():
            break
        high, low = np.where(slope > 0, length, high), np.where(slope > 0, low, length)
        further = length - slope / (square + (pull * gains).sum(axis=0, dtype=np.float64))
        halfway = np.where(np.isinf(high), 2 * length, (low + high) / 2)
        length = np.where(going, np.where((further > low) & (further < high), further, halfway), length)
    return length

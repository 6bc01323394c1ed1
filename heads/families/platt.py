"""Platt's sigmoid: probabilities from the scores of hyperplanes that separate each class from the rest.

The scores must come from a model that was not trained on the scored row.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.base import Learned
from heads.errors import TrainingError
from heads.families.affine import OneVsRestModel
from heads.notices import Code, Notice
from heads.rows import Floats, Scaling, Targets, finite

_FEWEST = 2  # groups that a class needs, so that one can be left out
_SHARED = Notice(
    Code.SHARED_GROUPS,
    "all rows of a class belong together, as one group or one image with its views: probabilities were calibrated on "
    "rows whose group was known, and are too sure; give every class at least 2 groups, better 5",
)

Signs: TypeAlias = NDArray[np.int8]

_STEPS = 100  # far more than Newton's method needs
_SMALLEST_STEP = 1e-10
_DAMPING = 1e-12  # of the curvature, which is 0 along a direction if all scores are equal


class Hyperplane(NamedTuple):
    """A hyperplane that separates one class from the rest, and the scores of the rows that it was not trained on.

    Parameters
    ----------
    coef
        Weights of the standardised features, shape (d,).
    intercept
        The score of a row of zeros.
    held_out
        The score of each training row by a hyperplane that was not trained on it, shape (n,).
    converged
        Whether the solver converged.
    """

    coef: Floats
    intercept: float
    held_out: NDArray[np.floating[Any]]
    converged: bool


def class_signs(targets: Targets, k: int) -> Signs:
    """Return 1 for rows of a class and -1 for others, shape (n, k); for two classes of the second alone, (n, 1).

    Examples
    --------
    >>> class_signs(np.array([0, 1, 2]), 3).tolist()
    [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    """
    classes = np.arange(1, 2) if k == 2 else np.arange(k)  # noqa: PLR2004 - one hyperplane separates two classes
    return np.where(targets[:, None] == classes, 1, -1).astype(np.int8)


def separable(targets: Targets, together: Targets | None) -> tuple[Targets | None, tuple[Notice, ...]]:
    """Return numbers of groups that can be left out one by one, each class remaining; or None, with a warning.

    Parameters
    ----------
    targets
        The class of each row, shape (n,).
    together
        The number of each row's group, as `Head.fit` has it.
    """
    if together is None:
        return None, ()
    pairs = np.unique(np.stack([targets, together]), axis=1)
    return (together, ()) if np.bincount(pairs[0]).min() >= _FEWEST else (None, (_SHARED,))


def platt(scores: NDArray[np.floating[Any]], signs: Signs, weights: Floats) -> tuple[float, float]:
    """Fit a sigmoid to scores; return slope and offset, so that sigmoid(slope * score + offset) is a probability.

    This is the method of Platt (1999). Its smoothed targets keep the slope finite if the scores separate the classes.
    The minimum is found by Newton's method, with shorter steps where the loss would rise (Lin, Lin and Weng 2007).

    Parameters
    ----------
    scores
        Shape (n,), best from a model that was not trained on these rows.
    signs
        1 for rows of the class, -1 for the others, shape (n,).
    weights
        Weights of the rows, shape (n,).

    Returns
    -------
    tuple of float
        The slope, at least 0, and the offset.

    Raises
    ------
    TrainingError
        If a score is not finite.

    Examples
    --------
    >>> slope, offset = platt(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([-1, -1, 1, 1], np.int8), np.ones(4))
    >>> bool(slope > 0), abs(round(offset, 6))
    (True, 0.0)
    """
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
        return float(weights @ (np.logaddexp(0, logits) - wanted * logits) / weights.sum()), logits

    line = np.array([0.0, np.log((count + 1) / (rest + 1))])
    value, logits = loss(line)
    for _ in range(_STEPS):
        probabilities = np.exp(-np.logaddexp(0, -logits))
        surplus = weights * (probabilities - wanted) / weights.sum()
        curvature = weights * probabilities * (1 - probabilities) / weights.sum()
        slope = np.array([surplus @ scaled, surplus.sum()])
        mixed = curvature @ scaled
        hessian = np.array([[curvature @ np.square(scaled), mixed], [mixed, curvature.sum()]]) + _DAMPING * np.eye(2)
        step = np.linalg.solve(hessian, slope)
        lower, logits = loss(line - step)
        while lower > value and np.abs(step).max() > _SMALLEST_STEP:
            step /= 2
            lower, logits = loss(line - step)
        if lower >= value:
            break
        line, value = line - step, lower
    if line[0] < 0:  # the loss is convex: of the slopes that are allowed, 0 is the best
        share = weights @ wanted / weights.sum()
        return 0.0, float(np.log(share / (1 - share)))
    return float(line[0] / unit), float(line[1])


def calibrated(
    hyperplanes: Iterable[Hyperplane], signs: Signs, weights: Floats, scaling: Scaling, warnings: tuple[Notice, ...]
) -> Learned | TrainingError:
    """Return a model of the hyperplanes, each with its sigmoid folded into its weights.

    Parameters
    ----------
    hyperplanes
        One for each column of ``signs``.
    signs
        The result of `class_signs`, shape (n, k) or (n, 1).
    weights
        Weights of the rows, shape (n,).
    scaling
        The standardisation of the features that the hyperplanes were trained on.
    warnings
        Warnings about the training.
    """
    coef, intercept = [], []
    try:
        for hyperplane, sign in zip(hyperplanes, signs.T, strict=True):
            slope, offset = platt(hyperplane.held_out, sign, weights)
            coef.append(slope * hyperplane.coef)
            intercept.append(slope * hyperplane.intercept + offset)
        if constant := sum(not weights_of_class.any() for weights_of_class in coef):
            warnings = (*warnings, _constant(constant, len(coef)))
        if len(coef) == 1:
            coef, intercept = [-coef[0], coef[0]], [-intercept[0], intercept[0]]
        return OneVsRestModel.learned(np.array(coef), np.array(intercept), scaling), warnings
    except TrainingError as e:
        return e


def _constant(count: int, k: int) -> Notice:
    """Return the warning that the probabilities of ``count`` of k hyperplanes do not depend on the features."""
    which = f"{count:,} of {k:,} classes from the rest" if k > 1 else "the classes apart"
    fact = f"the scores of held-out rows do not tell {which}: every row gets the same probability"
    return Notice(Code.CONSTANT_PROBABILITY, f"{fact}; try another tap, another penalty or more rows")

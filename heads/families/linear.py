"""Logistic regression, and stochastic gradient descent by scikit-learn, whose warnings become notices of the head."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from heads.base import IndependentHead, Learned
from heads.epochs import Monitor
from heads.families.affine import AffineModel, OneVsRestModel, two_rows
from heads.families.library_warnings import notices_of, recorded
from heads.families.logistic_solver import solve
from heads.families.sgd_solver import Problems, descend
from heads.families.shared_parameters import C_GRID, CLASS_WEIGHT, LARGEST_INT, MAX_ITER, STANDARDIZE, C
from heads.families.shuffling import shuffled
from heads.fitted_model import FittedModel
from heads.notices import Notice, Remedy, not_converged
from heads.parameters import HeadSpec, Parameter
from heads.rows import Features, Floats, Scaling, Targets, class_weights, large, row_blocks

_L1_SHARE = 0.15  # of the penalty elasticnet, as in scikit-learn
_MANY_WEIGHTS = 2**14  # from here on, steps for all classes at once take less time than scikit-learn's, class by class

_Fitted: TypeAlias = tuple[Floats, Floats, tuple[Notice, ...]]


@final
@dataclass(slots=True, kw_only=True, eq=False)
class LogisticHead(IndependentHead):
    """Logistic regression as scikit-learn's ``LogisticRegression``, solved by L-BFGS, which is deterministic.

    Rows are read by blocks, in one pass for each step, and standardised on the way: nothing is copied.
    """

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="logreg",
        summary="Logistic regression, solved to convergence (L-BFGS).",
        parameters=(
            C,
            MAX_ITER,
            Parameter("tol", "float", 1e-4, "Gradient at which the solver stops.", above=0),
            CLASS_WEIGHT,
            STANDARDIZE,
        ),
        libraries=("scipy",),
        grid={"C": C_GRID},
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: 200 * n * d * k,
    )
    model_class: ClassVar[type[FittedModel]] = AffineModel

    C: float
    max_iter: int
    tol: float
    class_weight: str
    standardize: bool

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        del monitor  # there are no epochs
        scaling = Scaling.from_rows(X, standardize=self.standardize, weights=self.weights_)
        weights = self._weights_of(targets, self.class_weight)
        found = solve(X, scaling, targets, weights, C=self.C, tol=self.tol, max_iter=self.max_iter)
        coef, intercept = (
            (found.coef, found.intercept) if len(found.coef) > 1 else two_rows(found.coef, found.intercept)
        )
        remedy = Remedy("max_iter", "raise max_iter or lower C")
        unconverged = not_converged("logreg", self.max_iter, remedy, standardize=self.standardize)
        notices = (replace(unconverged, details=f"the solver says: {found.fault}"),) if found.fault else ()
        return AffineModel.learned(coef, intercept, scaling), notices


@final
@dataclass(slots=True, kw_only=True, eq=False)
class SGDHead(IndependentHead):
    """scikit-learn's ``SGDClassifier`` with logistic loss, one classifier for each class against the rest.

    The order of the rows in each pass depends on the seed. Where classes and features are many, or features take more
    than 1 GiB, steps of the same kind (`heads.families.sgd_solver`) take the rows for all classes at once, without a
    copy, in the order of `heads.families.shuffling`.
    """

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="sgd",
        summary="Logistic regression, each class against the rest, by stochastic gradient descent.",
        parameters=(
            Parameter("alpha", "float", 0.01, "Strength of the penalty.", above=0),
            Parameter("penalty", "choice", "l2", "Kind of the penalty.", choices=("l2", "l1", "elasticnet")),
            Parameter("max_iter", "int", 1000, "Largest number of passes over the rows.", low=1, high=LARGEST_INT),
            Parameter("tol", "float", 1e-3, "Stop when a pass lowers the loss by less than this.", above=0),
            Parameter("average", "bool", default=False, help="Use the mean of the weights over all steps."),
            CLASS_WEIGHT,
            STANDARDIZE,
        ),
        libraries=("scikit-learn",),
        grid={"alpha": (0.01, 0.1, 1.0)},  # less needs many more passes and gains nothing: docs/benchmarks.md
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: 300 * n * d * k,
    )
    model_class: ClassVar[type[FittedModel]] = OneVsRestModel

    alpha: float
    penalty: str
    max_iter: int
    tol: float
    average: bool
    class_weight: str
    standardize: bool
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        del monitor  # scikit-learn reports no epochs
        scaling = Scaling.from_rows(X, standardize=self.standardize, weights=self.weights_)
        together = large(X) or len(self.classes_) * X.shape[1] >= _MANY_WEIGHTS
        coef, intercept, notices = (self._by_windows if together else self._as_a_whole)(X, scaling, targets)
        if len(coef) == 1:
            coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
        return OneVsRestModel.learned(coef, intercept, scaling), notices

    def _as_a_whole(self, X: Features, scaling: Scaling, targets: Targets) -> _Fitted:
        """Return what scikit-learn learns from the given rows, or from a copy of them."""
        from sklearn.linear_model import SGDClassifier

        classifier = SGDClassifier(
            loss="log_loss",
            alpha=self.alpha,
            penalty=self.penalty,
            max_iter=self.max_iter,
            tol=self.tol,
            average=self.average,
            class_weight=dict(enumerate(self._of_classes(targets))),
            random_state=self.seed,
        )
        rows = scaling.applied(X) if self.standardize or X.dtype == np.float16 else np.asarray(X)
        with recorded() as said:
            classifier.fit(rows, targets, sample_weight=self.weights_)
        return classifier.coef_, classifier.intercept_, tuple(notices_of(said, self._not_converged()))

    def _of_classes(self, targets: Targets) -> Floats:
        return class_weights(targets, len(self.classes_), self.class_weight, self.weights_)

    def _by_windows(self, X: Features, scaling: Scaling, targets: Targets) -> _Fitted:
        """Return what is learned from windows of shuffled rows."""
        from threadpoolctl import threadpool_limits

        k, generator = len(self.classes_), np.random.default_rng([self.seed, 1])
        weights = self._of_classes(targets)
        positions = np.arange(1 if k == 2 else 0, k)  # noqa: PLR2004 - one hyperplane separates two classes
        # as scikit-learn weighs them: among several classes, the rest of a class has no weights
        rest = weights[:1] if k == 2 else np.ones(k)  # noqa: PLR2004
        with threadpool_limits(1, user_api="blas"):
            found = descend(
                lambda: _chunks(X, scaling, generator),
                targets,
                Problems(positions, weights[positions], rest),
                width=X.shape[1],
                alpha=self.alpha,
                l1_share={"l2": 0.0, "l1": 1.0, "elasticnet": _L1_SHARE}[self.penalty],
                average=self.average,
                tol=self.tol,
                max_iter=self.max_iter,
                weights=self.weights_,
            )
        return found.coef, found.intercept, () if found.settled else (self._not_converged(),)

    def _not_converged(self) -> Notice:
        remedy = Remedy("max_iter", "raise max_iter or tol")
        return not_converged("sgd", self.max_iter, remedy, standardize=self.standardize)


def _chunks(
    X: Features, scaling: Scaling, generator: np.random.Generator
) -> Iterator[tuple[Targets, NDArray[np.floating[Any]]]]:
    """Yield all rows in a random order, a few at a time: their numbers and their standardised features."""
    for window in shuffled(X, generator):
        for chunk in row_blocks(np.broadcast_to(np.float32(), (len(window.rows), X.shape[1]))):
            yield window.rows[chunk], scaling.applied(window.X[window.places[chunk]])

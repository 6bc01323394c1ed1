"""Linear support vector machines, one for each class, with Platt's probabilities."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Self, final

import numpy as np

from featurecache.prefetch import ahead
from heads.base import Head, Learned
from heads.epochs import Monitor
from heads.errors import TrainingError
from heads.families.affine import OneVsRestModel
from heads.families.own_threads import own_threads
from heads.families.platt import Hyperplane, Signs, calibrated, class_signs, separable
from heads.families.shared_parameters import C_GRID, CLASS_WEIGHT, MAX_ITER, STANDARDIZE, C
from heads.families.svm_solver import Directions, Problems, solve
from heads.fitted_model import FittedModel
from heads.notices import Code, Notice, Remedy, not_converged
from heads.parameters import HeadSpec, Parameter
from heads.rows import Features, Floats, Scaling, Targets
from heads.splits import folds_of

_FOLDS = 5  # scikit-learn's default
_BATCH_VALUES = 2**20  # of each array of the solver; every thread has a batch
_SINGLE_ROW = Notice(
    Code.SINGLE_ROW_CLASS,
    "a class has a single row: probabilities were calibrated on training scores and are too sure; "
    "give every class at least 2 rows, better 5",
)


@final
@dataclass(slots=True, kw_only=True, eq=False)
class SVMHead(Head):
    """A linear support vector machine for each class.

    It minimises the squared hinge loss of scikit-learn's ``LinearSVC``, but does not penalise the intercept.
    Probabilities are those of ``CalibratedClassifierCV(ensemble=False)``: the machines are trained on all rows, and
    Platt's sigmoid is fitted to scores of held-out stratified folds, none of which separates rows that belong together.
    ``class_weight`` weighs the rows in both steps.
    The solver is deterministic.
    """

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="svm",
        summary="Linear support vector machine (squared hinge), each class against the rest; Platt's probabilities.",
        parameters=(
            C,
            MAX_ITER,
            Parameter("tol", "float", 1e-3, "Gradient, relative to the first one, at which the solver stops.", above=0),
            CLASS_WEIGHT,
            STANDARDIZE,
        ),
        libraries=("scikit-learn", "scipy"),
        shared=("C",),
        grid={"C": C_GRID},
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: 600 * n * d * k,
        together=lambda n, d, k: _BATCH_VALUES / ((_FOLDS + 1) * k * (n + d)),
    )
    model_class: ClassVar[type[FittedModel]] = OneVsRestModel

    C: float
    max_iter: int
    tol: float
    class_weight: str
    standardize: bool

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        del monitors  # there are no epochs
        first, k = heads[0], len(heads[0].classes_)
        scaling = Scaling.from_rows(X, standardize=first.standardize, weights=first.weights_)
        signs, weights = class_signs(targets, k), first._weights_of(targets, first.class_weight)
        together, warnings = separable(targets, first.together_)
        folds = _folds(targets, together)
        strengths = [head.C for head in heads]
        single_row = () if folds.any() else (_SINGLE_ROW,)
        results: list[Learned | TrainingError] = []
        with own_threads() as threads:
            hyperplanes = first._hyperplanes(
                X, scaling, Cs=strengths, signs=signs, weights=weights, folds=folds, threads=threads
            )
            for head in heads:
                of_head = [next(hyperplanes) for _ in range(signs.shape[1])]
                unconverged = () if all(hyperplane.converged for hyperplane in of_head) else (head._not_converged(),)
                results.append(calibrated(of_head, signs, weights, scaling, (*warnings, *single_row, *unconverged)))
        return results

    def _hyperplanes(
        self,
        X: Features,
        scaling: Scaling,
        *,
        Cs: Sequence[float],
        signs: Signs,
        weights: Floats,
        folds: Targets,
        threads: int,
    ) -> Iterator[Hyperplane]:
        """Return the hyperplane of every class for each C in turn.

        A hyperplane takes one problem on all rows and one without each fold. The solver solves as many problems at once
        as fit into memory, in every thread.
        """
        (n, k), count = signs.shape, int(folds.max()) + 1
        kept = np.not_equal.outer(folds, np.arange(count))
        kept[:, 0] = True
        column, C = np.tile(np.arange(k), len(Cs)), np.repeat(Cs, k)
        at_once = max(1, _BATCH_VALUES // (count * sum(X.shape)))
        scales = scaling if self.standardize else None
        directions = Directions.of(X, scales, k * count)  # whatever number of C, so that each gets what it gets alone

        def solved(batch: slice) -> list[Hyperplane]:
            problems = Problems(
                np.repeat(signs[:, column[batch]], count, axis=1),
                np.tile(weights[:, None] * kept, len(C[batch])),
                np.repeat(C[batch], count),
            )
            found = solve(X, scales, problems, tol=self.tol, max_iter=self.max_iter, directions=directions)
            held_out = found.scores.reshape(n, -1, count)[np.arange(n), :, folds]
            converged = found.converged.reshape(-1, count)
            return [
                Hyperplane(coef, intercept, scores, bool(each.all()))
                for coef, intercept, scores, each in zip(
                    found.coef[::count], found.intercept[::count], held_out.T, converged, strict=True
                )
            ]

        batches = [slice(start, start + at_once) for start in range(0, len(C), at_once)]
        if threads == 1 or len(batches) == 1:
            computed: Iterable[list[Hyperplane]] = map(solved, batches)
        else:
            computed = ahead(solved, batches, workers=threads, window=threads)
        return chain.from_iterable(computed)

    def _not_converged(self) -> Notice:
        remedy = Remedy("max_iter", "raise max_iter or lower C")
        return not_converged("svm", self.max_iter, remedy, standardize=self.standardize)


def _folds(targets: Targets, together: Targets | None) -> Targets:
    """Return the number, from 1, of the fold that holds each row out, shape (n,); all 0 if a class has a single row.

    Rows with the same number in ``together`` are in one fold.
    """
    if together is not None:
        groups = [len(np.unique(together[targets == target])) for target in np.unique(targets)]
        names = together.astype(str).astype(object)
        return folds_of(targets, together, names, folds=min(_FOLDS, *groups), seed=0) + 1
    from sklearn.model_selection import StratifiedKFold

    folds = np.zeros(len(targets), np.intp)
    count = min(_FOLDS, int(np.bincount(targets).min()))
    if count > 1:
        for number, (_, held_out) in enumerate(StratifiedKFold(count).split(folds, targets), start=1):
            folds[held_out] = number
    return folds

"""Ensembles of decision trees: extremely randomised trees, and gradient boosting on histograms, by scikit-learn."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from heads.base import IndependentHead, Learned
from heads.epochs import Monitor
from heads.families.class_statistics import Classes
from heads.families.estimator_forms import forest, histogram_boosted, require_same
from heads.families.library_warnings import recorded
from heads.families.own_threads import one_openmp_thread, own_threads
from heads.families.shared_parameters import CLASS_WEIGHT, LARGEST_INT
from heads.families.trees import BoostedTreesModel, ForestModel
from heads.fitted_model import FittedModel
from heads.parameters import HeadSpec, Parameter
from heads.rows import Features, Scaling, Targets

_MOST_ITERATIONS, _MOST_TREES = 100, 1000


@final
@dataclass(slots=True, kw_only=True, eq=False)
class ExtraTreesHead(IndependentHead):
    """scikit-learn's ``ExtraTreesClassifier`` (Geurts, Ernst and Wehenkel 2006), on features in float32."""

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="extra_trees",
        summary="Extremely randomised trees, which vote.",
        parameters=(
            Parameter("n_estimators", "int", 100, "Number of trees.", low=1, high=LARGEST_INT),
            Parameter(
                "max_features",
                "float",
                "sqrt",
                "Share of the features that a split chooses from; sqrt: the square root of their number.",
                above=0,
                high=1,
                choices=("sqrt", "log2"),
            ),
            Parameter(
                "max_depth", "int", "none", "Largest depth of a tree.", low=1, high=LARGEST_INT, choices=("none",)
            ),
            Parameter("min_samples_leaf", "int", 1, "Fewest training rows of a leaf.", low=1, high=LARGEST_INT),
            CLASS_WEIGHT,
        ),
        libraries=("scikit-learn",),
        weighted=True,
        cost=lambda n, d, k: 30_000 * n * np.log2(max(2, n)) * d**0.5,
    )
    model_class: ClassVar[type[FittedModel]] = ForestModel

    n_estimators: int
    max_features: float | str
    max_depth: int | str
    min_samples_leaf: int
    class_weight: str
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        from sklearn.ensemble import ExtraTreesClassifier

        del monitor  # there are no epochs
        rows = np.asarray(X, np.float32)
        with own_threads() as threads, recorded():
            estimator = ExtraTreesClassifier(
                self.n_estimators,
                max_features=self.max_features,
                max_depth=None if self.max_depth == "none" else self.max_depth,
                min_samples_leaf=self.min_samples_leaf,
                class_weight=None if self.class_weight == "none" else self.class_weight,
                random_state=self.seed,
                n_jobs=threads,
            ).fit(rows, targets, sample_weight=self.weights_)
            model = forest(estimator, _unscaled(rows))
            require_same(estimator, model, rows)
        return model, ()


@final
@dataclass(slots=True, kw_only=True, eq=False)
class HistGradientBoostingHead(IndependentHead):
    """scikit-learn's ``HistGradientBoostingClassifier``, on the features that tell the classes apart best.

    A tree looks at all features in every split, and each iteration grows a tree for each class, or one for two classes.
    So trees get the ``features`` with the largest F statistic of the analysis of variance: the variance of the class
    means, divided by that within classes. With ``max_iter=auto`` there are 100 iterations, or fewer with many classes:
    1,000 trees in all.
    """

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="hist_gradient_boosting",
        summary="Gradient boosting: each tree corrects those before it.",
        parameters=(
            Parameter(
                "max_iter",
                "int",
                "auto",
                "Number of iterations, of a tree for each class; auto: 100, but not more than 1,000 trees.",
                low=1,
                high=LARGEST_INT,
                choices=("auto",),
            ),
            Parameter("learning_rate", "float", 0.1, "What each tree counts.", above=0),
            Parameter("max_leaf_nodes", "int", 15, "Most leaves of a tree.", low=2, high=LARGEST_INT),
            Parameter("min_samples_leaf", "int", 5, "Fewest training rows of a leaf.", low=1, high=LARGEST_INT),
            Parameter("l2", "float", 1.0, "Strength of the l2 penalty on leaves.", low=0),
            Parameter(
                "features",
                "int",
                128,
                "Number of features that trees look at, those that tell the classes apart best.",
                low=1,
                high=LARGEST_INT,
                choices=("all",),
            ),
            CLASS_WEIGHT,
        ),
        libraries=("scikit-learn",),
        weighted=True,
        cost=lambda n, d, k: 40_000 * min(_MOST_ITERATIONS * k, _MOST_TREES) * n * min(d, 128) ** 0.5,
    )
    model_class: ClassVar[type[FittedModel]] = BoostedTreesModel

    max_iter: int | str
    learning_rate: float
    max_leaf_nodes: int
    min_samples_leaf: int
    l2: float
    features: int | str
    class_weight: str
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        from sklearn.ensemble import HistGradientBoostingClassifier

        del monitor  # there are no epochs that one could watch
        rows, k = np.asarray(X, np.float32), len(self.classes_)
        features = self._best_features(rows, targets)
        most = max(1, min(_MOST_ITERATIONS, _MOST_TREES // (1 if k == 2 else k)))  # noqa: PLR2004
        with one_openmp_thread(len(rows) * len(features)), recorded():
            estimator = HistGradientBoostingClassifier(
                max_iter=most if isinstance(self.max_iter, str) else self.max_iter,
                learning_rate=self.learning_rate,
                max_leaf_nodes=self.max_leaf_nodes,
                min_samples_leaf=self.min_samples_leaf,
                l2_regularization=self.l2,
                class_weight=None if self.class_weight == "none" else self.class_weight,
                early_stopping=False,
                random_state=self.seed,
            ).fit(rows[:, features], targets, sample_weight=self.weights_)
            model = histogram_boosted(estimator, _unscaled(rows), features)
            require_same(estimator, model, rows, features)
        return model, ()

    def _best_features(self, X: NDArray[np.float32], targets: Targets) -> NDArray[np.intp]:
        """Return the numbers of the features that trees look at, ascending; the first of equally good ones."""
        if isinstance(self.features, str) or self.features >= X.shape[1]:
            return np.arange(X.shape[1])
        classes = Classes.from_rows(X, targets, len(self.classes_), standardize=True, weights=self.weights_)
        within, between = classes.counts @ classes.variances, classes.settled(classes.between())
        ratio = np.divide(between, within, out=np.where(between > 0, np.inf, 0.0), where=within > 0)
        return np.sort(np.argsort(-ratio, kind="stable")[: self.features])


def _unscaled(X: NDArray[np.float32]) -> Scaling:
    return Scaling.from_rows(X, standardize=False)

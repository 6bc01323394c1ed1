"""A head for featurecache: the nearest class mean, with probabilities by a softmax of negative squared distances."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from heads import AffineModel, HeadSpec, IndependentHead, Monitor, Notice, Parameter


@dataclass(slots=True, kw_only=True, eq=False)
class NearestMeanHead(IndependentHead):
    """Probabilities are softmax(-sharpness * ||x - mean_c||^2)."""

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="nearest_mean",
        summary="The nearest class mean.",
        parameters=(Parameter("sharpness", "float", 1.0, "How fast probabilities fall with the distance.", above=0),),
        grid={"sharpness": (0.1, 1.0, 10.0)},
    )
    model_class = AffineModel

    sharpness: float

    def _learn(
        self, X: NDArray[np.float32], targets: NDArray[np.intp], monitor: Monitor
    ) -> tuple[AffineModel, tuple[Notice, ...]]:
        means = np.array([X[targets == position].mean(axis=0, dtype=float) for position in range(len(self.classes_))])
        # the squared length of x is the same for all classes, so that the scores are linear in x
        coef, intercept = 2 * self.sharpness * means, -self.sharpness * np.square(means).sum(axis=1)
        return AffineModel.learned(coef, intercept), ()

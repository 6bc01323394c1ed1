"""The calibration of a trained head: fitted on its valid rows, or on its training rows by heads of folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heads.calibration import METHODS, NONE, Calibration
from heads.errors import TrainingError
from heads.folds import checkable, out_of_fold
from heads.rows import loss_and_accuracy
from heads.splits import NO_FOLD, folds_of, kept_together, rows_digest, without_views

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurecache.feature_set import FeatureSet
    from heads.artifact import TrainedHead
    from heads.base import Head
    from heads.notices import Notice
    from heads.rows import Floats, Targets

_FOLDS = 5


def fit_calibration(
    head: TrainedHead, method: str, train_rows: FeatureSet, valid_rows: FeatureSet, *, make: Callable[[], Head] | None
) -> tuple[Calibration, tuple[Notice, ...]]:
    """Fit the calibration of a head on rows that it was not trained on; return it with notices.

    Parameters
    ----------
    head
        The head; a calibration that it has does not count.
    method
        A key of `heads.calibration.METHODS`.
    train_rows
        The labelled rows that trained it. Where there are no valid rows, they are dealt to five folds; images with the
        same content, or of one group, are in one fold. The probabilities of each fold are those of a head that was
        trained on the others.
    valid_rows
        The labelled valid rows, maybe none.
    make
        Makes an untrained head of the same kind; None if there can be none.

    Raises
    ------
    TrainingError
        If there are no rows to calibrate on, or they cannot calibrate in this way.
    """
    notices: tuple[Notice, ...] = ()
    if len(valid_rows):
        rows, folds = valid_rows, 0
        known = np.flatnonzero(np.isin(rows.y, head.trained_classes))
        probabilities = head.model.predict_proba(rows.X)[known]
    elif make is None:
        raise TrainingError(
            "there are no valid rows to calibrate on, and heads of folds cannot continue a head, which knows all rows; "
            f"take --calibrate {NONE}"
        )
    else:
        rows, folds = train_rows, _FOLDS
        known, probabilities, notices = _of_folds(head, train_rows, make)
    if not len(known):
        which = "training row is of a class with two different images" if folds else "valid row is of a trained class"
        raise TrainingError(f"no {which}, so there is nothing to calibrate on; take --calibrate {NONE}")
    columns, y = np.array(head.trained_classes), rows.y[known]
    fitted, warnings = METHODS[method].fitted(probabilities, np.searchsorted(columns, y))
    before, after = (loss_and_accuracy(each, columns, y)[0] for each in (probabilities, fitted.applied(probabilities)))
    images = without_views(rows)
    digest = rows_digest(images.sha256, images.y)
    return Calibration(method, fitted, folds, len(images), digest, before, after), (*notices, *warnings)


def _of_folds(
    head: TrainedHead, rows: FeatureSet, make: Callable[[], Head]
) -> tuple[Targets, Floats, tuple[Notice, ...]]:
    """Return the numbers of training rows, and probabilities of heads that were trained without each of them."""
    together = np.unique(kept_together(rows).astype(str), return_inverse=True)[1]
    usable = checkable(rows.y, together)
    assigned = np.full(len(rows), NO_FOLD, np.intp)
    assigned[usable] = folds_of(
        rows.y[usable], together[usable], rows.sha256[usable], folds=_FOLDS, seed=head.training.seed
    )
    found = out_of_fold(
        rows.X,
        rows.y,
        assigned,
        rows.classes,
        make,
        scaling=None,
        progress=lambda _done, _total: None,
        weights=rows.weights,
        together=together,
        only_train=rows.is_view,
    )
    return found.rows, found.probabilities[:, list(head.trained_classes)], found.warnings

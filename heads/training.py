"""The use case: from a cache to a trained head."""

from __future__ import annotations

import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from heads.artifact import TrainedHead, TrainingRecord
from heads.base import Monitor
from heads.catalog import head_spec, make_head
from heads.errors import EvaluationError, ParameterError, TrainingError
from heads.splits import Holdout, count_text, has_valid_split, roles, training_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from featurecache.cache import FeatureCache, FeatureSet
    from heads.base import Classifier, Epoch, Head

DEFAULT_HOLDOUT = 0.2


def train(
    cache: FeatureCache,
    head: str = "softmax",
    *,
    tap: str | None = None,
    params: Mapping[str, object] | None = None,
    seed: int = 0,
    holdout: float = DEFAULT_HOLDOUT,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> TrainedHead:
    """Train a head on the labelled training rows of a cache.

    The rows of the valid split judge the head and never teach it. A cache without one has ``holdout`` of its training
    rows held out for that, chosen by content (`heads.splits`); the choice is recorded, so that an evaluation of the
    valid split meets the same rows.

    Parameters
    ----------
    cache
        The features.
    head
        The head's name in the catalogue.
    tap
        The layer whose features it takes; may be left out if the cache has only one.
    params
        The head's parameters; those not given have the catalogue's defaults.
    seed
        What the head's random choices and the rows held out follow from.
    holdout
        The part of the training rows that is held out where the cache has no valid split; 0 for none.
    on_epoch
        Called with the record of each epoch, of heads that have any.

    Raises
    ------
    UnknownNameError
        If there is no such head or tap.
    ParameterError
        If a parameter does not exist or cannot take its value, or the tap is left out and the cache has several.
    TrainingError
        If the rows cannot be trained on, or the training diverged.
    """
    spec = head_spec(head)
    values = spec.values(params or {})
    untrained = make_head(head, seed=seed, **values)
    rule = Holdout(holdout, seed)
    features = cache.features(_tap(cache, tap))
    train_rows, valid_rows = training_rows(features, rule)
    _require_rows(features, train_rows)
    monitor = Monitor(valid_rows.X, valid_rows.y, on_epoch)
    start = time.perf_counter()
    fitted = _fit(untrained, train_rows, valid_rows, monitor)
    seconds = time.perf_counter() - start
    class_counts = np.bincount(train_rows.y, minlength=len(features.classes))
    return TrainedHead(
        name=head,
        params=values,
        tap=features.tap,
        classes=features.classes,
        trained_classes=tuple(fitted.classes_.tolist()),
        recipe=features.recipe,
        weights_source=str(cache.provenance.get("weights_source", features.recipe.weights)),
        training=TrainingRecord(
            n_train=len(train_rows),
            n_valid=len(valid_rows),
            n_unlabelled=int(np.count_nonzero(features.y < 0)),
            class_counts=tuple(class_counts.tolist()),
            seed=seed,
            holdout=None if has_valid_split(features) or not holdout else rule,
            epochs=tuple(monitor.epochs),
            train_accuracy=_accuracy(fitted, train_rows),
            valid_accuracy=_accuracy(fitted, valid_rows) if len(valid_rows) else None,
            seconds=seconds,
            versions=_versions(("numpy", *spec.libraries)),
            warnings=(*fitted.warnings_, *_notes(features, rule, train_rows, valid_rows)),
        ),
        predictor=fitted.predictor_,
    )


def _tap(cache: FeatureCache, tap: str | None) -> str | None:
    if tap is None and len(cache.taps) > 1:
        taps = ", ".join(f"{name} ({width})" for name, width in cache.taps.items())
        raise ParameterError(f"the cache holds several taps: {taps}; say with --tap which one the head shall take")
    return tap


def _require_rows(features: FeatureSet, train_rows: FeatureSet) -> None:
    """Raise `TrainingError` unless there are enough training rows, saying where the labelled rows are."""
    labelled = features.splits[features.y >= 0]
    if not len(labelled):
        raise TrainingError(
            "the cache has no labelled rows; extract from folders named by class, or from a table with a label column"
        )
    if not len(train_rows):
        raise TrainingError(
            f"there are no training rows: the labelled rows are {count_text(labelled)}; put images into a train split, "
            "or hold out fewer"
        )
    present = np.unique(train_rows.y)
    if len(present) == 1:
        raise TrainingError(
            f"all {len(train_rows)} training rows are of the class {features.classes[present[0]]!r}; "
            "a head needs rows of at least two classes"
        )
    if len(train_rows) < len(features.classes):
        raise TrainingError(
            f"{len(train_rows)} training rows for {len(features.classes)} classes; a head needs at least one per class"
        )


def _fit(head: Head, train_rows: FeatureSet, valid_rows: FeatureSet, monitor: Monitor) -> Head:
    """Fit a head; where a row is at fault, name its image."""
    try:
        return head.fit(train_rows.X, train_rows.y, monitor=monitor)
    except TrainingError as e:
        if e.row is None:
            raise
        raise TrainingError(f"{train_rows.paths[e.row]}: {e}", e.row) from e
    except EvaluationError as e:
        raise TrainingError(f"{valid_rows.paths[e.row]}: {e}" if e.row is not None else str(e), e.row) from e


def _notes(features: FeatureSet, rule: Holdout, train_rows: FeatureSet, valid_rows: FeatureSet) -> list[str]:
    """Return what the user must know about the rows, one line each."""
    unlabelled = int(np.count_nonzero(features.y < 0))
    unused = int(np.count_nonzero((features.y >= 0) & (roles(features, rule) == "")))
    missing = [name for index, name in enumerate(features.classes) if index not in set(train_rows.y.tolist())]
    notes = {
        f"{unlabelled} rows without a label were not used": unlabelled,
        f"{unused} labelled rows in no split were not used, since there is a train split": unused,
        "there are no valid rows: nothing says how the head does on images that it has not seen": not len(valid_rows),
        f"no training row is of the class {', '.join(missing)}: its probability will always be 0": missing,
    }
    return [note for note, holds in notes.items() if holds]


def _accuracy(fitted: Classifier, rows: FeatureSet) -> float:
    predicted = fitted.classes_[np.argmax(fitted.predict_proba(rows.X), axis=1)]
    return float(np.mean(predicted == rows.y))


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each distribution that has one."""
    versions = {}
    for name in distributions:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions

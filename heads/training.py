"""The use case: from a cache to a trained head."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from heads.artifact import TrainedHead, TrainingRecord
from heads.base import Monitor
from heads.catalog import head_spec, make_head
from heads.errors import EvaluationError, MismatchError, ParameterError, TrainingError
from heads.splits import Holdout, count_text, has_valid_split, roles, training_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from featurecache.cache import FeatureCache, FeatureSet
    from heads.base import Classifier, Epoch, Head
    from heads.parameters import HeadSpec, Value

OUTPUTS = ("logits", "predictions")  # taps that are the network's own answer
DEFAULT_HEAD = "softmax"
DEFAULT_HOLDOUT = 0.2
_UNEVEN = 0.05  # difference of what is held out and what was to be that is said
NO_VALID_ROWS = "there are no valid rows: nothing says how the head does on images that it has not seen"


def train(
    cache: FeatureCache,
    head: str | None = None,
    *,
    tap: str | None = None,
    params: Mapping[str, object] | None = None,
    seed: int = 0,
    holdout: float | None = None,
    start: TrainedHead | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> TrainedHead:
    """Train a head on the labelled training rows of a cache.

    The rows of the valid split judge the head and never teach it, though a head may choose an epoch by them. A cache
    without one has ``holdout`` of its training rows held out for that, chosen by content (`heads.splits`); the choice
    is recorded, so that an evaluation of the valid split meets the same rows.

    Parameters
    ----------
    cache
        The features.
    head
        The head's name in the catalogue; that of ``start``, or softmax, if not given.
    tap
        The layer whose features it takes; may be left out if the cache has only one.
    params
        The head's parameters; those not given have the values of ``start``, or the catalogue's defaults.
    seed
        What the head's random choices and the rows held out follow from.
    holdout
        The part of the training rows that is held out where the cache has no valid split; 0 for none. 0.2 if not given.
    start
        A head to go on with, of a kind that is trained in epochs: from its weights, on the same tap, with the rows that
        were held out from it held out again. Its optimizer's memory is not kept.
    on_epoch
        Called with the record of each epoch, of heads that have any.

    Raises
    ------
    UnknownNameError
        If there is no such head or tap.
    ParameterError
        If a parameter does not exist or cannot take its value, the tap is left out and the cache has several, or the
        head to go on with does not allow what is asked for.
    MismatchError
        If the head to go on with was trained on another tap, recipe or classes.
    TrainingError
        If the rows cannot be trained on, or the training diverged.
    """
    spec = head_spec(head or (start.name if start else DEFAULT_HEAD))
    values = _values(spec, params or {}, start)
    untrained = make_head(spec.name, seed=seed, **values)
    rule = _holdout(holdout, seed, start)
    features = cache.features(head_tap(cache, spec, tap or (start.tap if start else None)))
    if start is not None:
        start.check(features)
    train_rows, valid_rows = training_rows(features, rule)
    require_rows(features, train_rows)
    if start is not None:
        _require_classes(start, train_rows)
    begun = start.training if start else None
    earlier, kept = (begun.epochs, begun.kept_epoch) if begun else ((), None)
    monitor = Monitor(valid_rows.X, valid_rows.y, on_epoch, earlier, kept)
    began = time.perf_counter()
    fitted = _fit(untrained, train_rows, valid_rows, monitor, start)
    seconds = time.perf_counter() - began
    class_counts = np.bincount(train_rows.y, minlength=len(features.classes))
    return TrainedHead(
        name=spec.name,
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
            holdout=None if has_valid_split(features) or not rule.fraction else rule,
            rows_sha256=_digest(train_rows),
            continues=start.identity if start else None,
            epochs=tuple(monitor.epochs),
            kept_epoch=monitor.kept,
            train_accuracy=_accuracy(fitted, _measured(train_rows, spec)),
            valid_accuracy=_accuracy(fitted, valid_rows) if len(valid_rows) else None,
            seconds=seconds,
            versions=_versions(("numpy", *spec.libraries)),
            warnings=(
                *fitted.warnings_,
                *_other_rows(start, train_rows),
                *_notes(features, rule, train_rows, valid_rows, spec),
            ),
        ),
        predictor=fitted.predictor_,
    )


def _values(spec: HeadSpec, params: Mapping[str, object], start: TrainedHead | None) -> dict[str, Value]:
    """Return every parameter's value; raise `ParameterError` for one that a head to go on with does not allow."""
    if start is None:
        return spec.values(params)
    if spec.name != start.name:
        raise ParameterError(f"head: the head to go on with is {start.name!r}, not {spec.name!r}; train a new one")
    if not spec.fixed:
        raise TrainingError(
            f"head: {spec.name} is not trained in epochs, there is nothing to go on with; train a new one"
        )
    values = spec.values({**start.params, **params})
    changed = [f"{name} is {start.params[name]!r}" for name in spec.fixed if values[name] != start.params[name]]
    if changed:
        raise ParameterError(f"in the head to go on with {', '.join(changed)}, and it stays so; train a new head")
    return values


def _holdout(asked: float | None, seed: int, start: TrainedHead | None) -> Holdout:
    """Return the rule for caches without a valid split: that of the head to go on with, whose rows it must not meet."""
    if start is None:
        return Holdout(DEFAULT_HOLDOUT if asked is None else asked, seed)
    rule = start.training.holdout or Holdout(0.0, seed)
    if asked is not None and asked != rule.fraction:
        raise ParameterError(
            f"holdout: the head to go on with was trained with {rule.fraction:g}, asked for is {asked:g}; "
            "leave it out, so that the rows that judge it stay those that it has not seen"
        )
    return rule


def feature_tap(cache: FeatureCache, spec: HeadSpec, tap: str | None) -> str | None:
    """Return the tap that a head takes if nobody says which: the last one below the network's own outputs.

    Raises
    ------
    ParameterError
        If the head cannot take it.
    """
    below = [name for name in cache.taps if name not in OUTPUTS]
    return head_tap(cache, spec, tap or (below[-1] if below and not spec.taps else None))


def head_tap(cache: FeatureCache, spec: HeadSpec, tap: str | None) -> str | None:
    """Return the tap that a head is to take, or the only one that it can.

    Raises
    ------
    ParameterError
        If it can take several and none is named, or cannot take the one that is.
    """
    possible = [name for name in cache.taps if not spec.taps or name in spec.taps]
    if tap is None and len(possible) > 1:
        taps = ", ".join(f"{name} ({cache.taps[name]})" for name in possible)
        raise ParameterError(f"the cache holds several taps: {taps}; say with --tap which one the head shall take")
    chosen = tap or next(iter(possible), None)
    if spec.taps and chosen not in spec.taps:
        raise ParameterError(
            f"tap: the head {spec.name!r} takes {' or '.join(spec.taps)}, not {chosen or ', '.join(cache.taps)}"
        )
    return chosen


def _require_classes(start: TrainedHead, train_rows: FeatureSet) -> None:
    """Raise `MismatchError` unless the training rows are of the classes that the head to go on with has learned."""
    present = tuple(np.unique(train_rows.y).tolist())
    if present != start.trained_classes:
        known, found = (
            ", ".join(start.classes[index] for index in classes) for classes in (start.trained_classes, present)
        )
        raise MismatchError(
            f"trained_classes: the head to go on with has learned {known}, the training rows are of {found}; "
            "train a new head"
        )


def require_rows(features: FeatureSet, train_rows: FeatureSet) -> None:
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


def _fit(
    head: Head, train_rows: FeatureSet, valid_rows: FeatureSet, monitor: Monitor, start: TrainedHead | None
) -> Head:
    """Fit a head; where a row is at fault, name its image."""
    predictor = start.predictor if start else None
    try:
        return head.fit(train_rows.X, train_rows.y, names=train_rows.classes, monitor=monitor, start=predictor)
    except TrainingError as e:
        if e.row is None:
            raise
        raise TrainingError(f"{train_rows.paths[e.row]}: {e}", e.row) from e
    except EvaluationError as e:
        raise TrainingError(f"{valid_rows.paths[e.row]}: {e}" if e.row is not None else str(e), e.row) from e


def _other_rows(start: TrainedHead | None, train_rows: FeatureSet) -> list[str]:
    """Return a warning if the head to go on with has learned from other rows than these."""
    if start is None or start.training.rows_sha256 == _digest(train_rows):
        return []
    return ["the head to go on with was trained on other rows; some of those that judge may be among them"]


def _measured(train_rows: FeatureSet, spec: HeadSpec) -> FeatureSet:
    """Return the training rows, or evenly spaced ones of them if the head says that all would take too long."""
    n, most = len(train_rows), spec.measured_rows
    return train_rows if most is None or n <= most else train_rows.take(np.linspace(0, n - 1, most).astype(np.intp))


def _notes(
    features: FeatureSet, rule: Holdout, train_rows: FeatureSet, valid_rows: FeatureSet, spec: HeadSpec
) -> list[str]:
    """Return what the user must know about the rows, one line each."""
    unlabelled = int(np.count_nonzero(features.y < 0))
    unused = int(np.count_nonzero((features.y >= 0) & (roles(features, rule) == "")))
    missing, unjudged = (
        [name for index, name in enumerate(features.classes) if index not in set(rows.y.tolist())]
        for rows in (train_rows, valid_rows)
    )
    measured = len(_measured(train_rows, spec))
    both = len(train_rows) + len(valid_rows)
    uneven = abs(len(valid_rows) / both - rule.fraction) > _UNEVEN and not has_valid_split(features)
    notes = {
        f"{unlabelled} rows without a label were not used": unlabelled,
        f"{unused} labelled rows in no split were not used, since there is a train split": unused,
        NO_VALID_ROWS: not len(valid_rows),
        f"{len(valid_rows)} of {both} rows are held out to judge, though {rule.fraction:g} of them were to be: "
        "which ones they are follows from their content alone": uneven,
        f"no row that judges is of the class {', '.join(unjudged)}": len(valid_rows) and unjudged,
        f"no training row is of the class {', '.join(missing)}: its probability will always be 0": missing,
        f"the train accuracy is that of {measured} of {len(train_rows)} rows": measured < len(train_rows),
    }
    return [note for note, holds in notes.items() if holds]


def _digest(rows: FeatureSet) -> str:
    """Return the SHA-256 that says which rows these are, whatever their order and names; see `TrainingRecord`."""
    lines = sorted(f"{content} {label}" for content, label in zip(rows.sha256, rows.y.tolist(), strict=True))
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()


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

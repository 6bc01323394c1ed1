"""The use case ``train``: trains a head on the features of a cache."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Self

import numpy as np

from featurecache.backbones.catalog import in_network_order
from featurecache.images.classes import class_warnings
from featurecache.memory import free_memory
from featurecache.options import MAX_PIXELS
from featurecache.storage.output_errors import output_error
from featurecache.targets import Target, require_target
from featurecache.text import counted, in_units, listed
from heads.artifact import HeadRows, NumberRange, TrainedHead, TrainingGroups, TrainingRecord
from heads.artifact.rows import MAX_ROWS_BYTES, rows_bytes
from heads.calibrate import fit_calibration
from heads.calibration import NONE
from heads.catalog import head_spec, load_heads, make_head, model_class, stored_head_class, untrained_head
from heads.continuing import (
    as_start,
    calibration_method,
    holdout_of,
    keeps_rows,
    values_of,
    widened,
)
from heads.epochs import Monitor
from heads.errors import EvaluationError, ParameterError, TrainingError
from heads.growth import grown_rows
from heads.notices import Code, Notice
from heads.rows import float32_bytes, row_blocks
from heads.splits import (
    Holdout,
    count_groups,
    count_text,
    has_valid_split,
    roles,
    rows_digest,
    same_content,
    take_rows,
    together_numbers,
    torn_files,
    torn_groups,
    training_rows,
)
from heads.thresholds import best_thresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from os import PathLike

    from featurecache.cache import FeatureCache
    from featurecache.feature_set import FeatureSet
    from featurecache.provenance import Provenance
    from heads.base import Head
    from heads.epochs import Epoch
    from heads.fitted_model import Classifier, FittedModel
    from heads.parameters import HeadSpec, Value
    from heads.rows import Features

OUTPUTS = ("logits", "predictions")  # taps with the network's own classification
DEFAULT_HEAD = "softmax"
_DEFAULT_HEADS: dict[Target, str] = {"class": DEFAULT_HEAD, "labels": "logreg", "number": "ridge"}
_UNEVEN = 0.05  # a larger difference between the actual and the requested share of held-out rows gives a warning


def default_head(target: str) -> str:
    """Return the name of the head that is trained for a target if none is named.

    Examples
    --------
    >>> heads.default_head("class"), heads.default_head("labels"), heads.default_head("number")
    ('softmax', 'logreg', 'ridge')
    """
    return _DEFAULT_HEADS[require_target(target)]


def train(
    cache: FeatureCache,
    head: str | None = None,
    *,
    tap: str | None = None,
    params: Mapping[str, object] | None = None,
    seed: int = 0,
    holdout: float | None = None,
    start: TrainedHead | None = None,
    calibrate: str | None = None,
    labels: Mapping[str, str | None] | None = None,
    target: str | None = None,
    keep_rows: bool | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
    tensorboard: str | PathLike[str] | None = None,
) -> TrainedHead:
    """Train a head on the labelled training rows of a cache.

    The rows of the valid split do not train the head, but a head may choose its best epoch by them. Without a valid
    split, the part ``holdout`` of the training rows is held out, chosen by content (`heads.Holdout`). The head records
    this choice, so that an evaluation of the valid split uses the same rows.

    Parameters
    ----------
    cache
        The features. Groups (`featurecache.FeatureCache.with_groups`) are never on both sides of the holdout. Training
        rows have the weights of `featurecache.FeatureCache.with_weights`, if the head takes weights.
    head
        The head's name in the catalogue; if None, that of ``start``, or `default_head`.
    tap
        The tap whose features to use; optional if the cache has only one.
    params
        The head's parameters; missing ones have the values of ``start``, or the catalogue's defaults.
    seed
        The seed of the head's random choices and of the choice of held-out rows.
    holdout
        The part of the training rows to hold out if the cache has no valid split; 0 for none; 0.2 if None.
    start
        A head to continue, on the same tap, with its parameters, holdout, groups and weights. New rows and classes may
        join; new classes follow its own. A family that is trained in epochs continues from its weights; the state of
        its optimizer is not kept. Others learn from all rows, so that the head is the one that these rows give: those
        that trained ``start`` must be in the cache, or kept in it.
    calibrate
        How to calibrate probabilities: ``"temperature"`` (no prediction changes) or ``"isotonic"`` (a curve for each
        class), on the valid rows, or, if there are none, on the training rows by heads that were trained on four of
        five parts of them; ``"none"``; as ``start`` was if None.
    labels
        Labels that replace those of the cache; see `featurecache.FeatureCache.with_labels`. The head records a warning
        that counts those that no row has got.
    target
        What the labels are: the name of a ``"class"``, several ``"labels"`` (``cat|indoors``), or a ``"number"``; see
        `featurecache.FeatureSet.with_target`; as for ``start`` if None, or ``"class"``. Several labels are learned one
        by one, and the threshold of each is the probability with the highest F1 on the valid rows, 0.5 without them.
    keep_rows
        Whether the stored head keeps the features of its training and valid rows, so that it can grow without their
        cache; as ``start`` did if None. Their contents and labels are stored in any case.
    on_epoch
        Called with the record of each epoch, for heads that are trained in epochs.
    tensorboard
        A folder for event files of TensorBoard: loss and accuracy of each epoch, and the learning rate. For heads that
        Keras can train; it does so then.

    Raises
    ------
    UnknownNameError
        If the head, the tap or the target does not exist.
    ManifestError
        If the labels are not what the target needs.
    ParameterError
        If a parameter or its value is not valid, if the head cannot learn the target, if the cache has several taps and
        none is given, or if ``start`` does not allow the request.
    MismatchError
        If ``start`` was trained on another tap or recipe, or no training row has one of its classes.
    TrainingError
        If the rows are not suitable for training, rows that trained ``start`` are missing and needed, or the training
        diverged.
    OutputError
        If the folder for TensorBoard cannot be written.
    EngineError
        If Keras is to train and cannot start.

    Examples
    --------
    >>> head = heads.train(cache, "centroid", tap="features")
    >>> head.training.n_train, head.training.valid_accuracy
    (32, 1.0)
    >>> third = cache.with_labels({path: "grey" for path in cache.paths[:8].tolist()})
    >>> grown = heads.train(third, start=head)
    >>> grown.classes, grown.training.growth.n_relabelled
    (('dark', 'light', 'grey'), 8)
    """
    training = Training.asked(
        head,
        params=params,
        seed=seed,
        holdout=holdout,
        start=start,
        calibrate=calibrate,
        target=target,
        keep_rows=keep_rows,
        tensorboard=None if tensorboard is None else Path(tensorboard),
    )
    chosen = head_tap(cache, training.spec, tap or (start.tap if start else None))
    relabelled = as_start(cache if labels is None else cache.with_labels(labels), start)
    features = relabelled.features(chosen).with_target(training.target)
    return training.on(
        features,
        group_column=relabelled.group_column,
        weight_column=relabelled.weight_column,
        made_by=cache.made_by,
        notices=unmatched_labels(features, relabelled.given_labels),
        on_epoch=on_epoch,
    )


@dataclass(frozen=True, slots=True)
class Training:
    """What is to be trained, checked before any row is read; make one with `Training.asked`.

    Parameters
    ----------
    spec, values
        The family, and the values of all its parameters.
    seed
        The seed of all random choices.
    rule
        Which rows are held out where there is no valid split.
    start
        The head to continue; None for a new head.
    calibrate
        How to calibrate: a key of `heads.calibration.METHODS`, or ``"none"``.
    tensorboard
        The folder for event files of TensorBoard; None for none.
    target
        What the labels are.
    keep_rows
        Whether the head keeps the features of its rows.
    """

    spec: HeadSpec
    values: Mapping[str, Value]
    seed: int
    rule: Holdout
    start: TrainedHead | None
    calibrate: str = NONE
    tensorboard: Path | None = None
    target: Target = "class"
    keep_rows: bool = False

    @classmethod
    def asked(
        cls,
        head: str | None,
        *,
        params: Mapping[str, object] | None = None,
        seed: int = 0,
        holdout: float | None = None,
        start: TrainedHead | None = None,
        calibrate: str | None = None,
        tensorboard: Path | None = None,
        target: str | None = None,
        keep_rows: bool | None = None,
    ) -> Self:
        """Check what a caller asks for; see `train`, also for errors."""
        wanted = require_target(target or (start.target if start else "class"))
        spec = start.spec if start and head in {None, start.name} else head_spec(head or default_head(wanted))
        model_class(spec.name, wanted)
        if start is not None and start.target != wanted:
            raise ParameterError(f"target: the head to continue has {start.target!r}, got {wanted!r}; train a new one")
        if start is not None and spec.fixed and wanted != "class":
            raise ParameterError(
                f"{spec.name} of several labels, or of a number, cannot be continued from its weights; train a new one"
            )
        defaults = spec.number_defaults if wanted == "number" and start is None else {}
        rule, method = holdout_of(holdout, seed, start), calibration_method(calibrate, start)
        values = values_of(spec, {**defaults, **(params or {})}, start)
        keeps = bool(keeps_rows(start) if keep_rows is None else keep_rows)
        training = cls(spec, values, seed, rule, start, method, tensorboard, wanted, keeps)
        if wanted != "class" and (method != NONE or tensorboard is not None):
            asked = "calibrate" if method != NONE else "tensorboard"
            raise ParameterError(f"{asked} is for classes, and the target is {wanted!r}; leave it out")
        if wanted == "number" and training.values.get("class_weight", "none") != "none":
            raise ParameterError("class_weight weighs classes, and numbers have none; leave it out")
        untrained = training.untrained()
        if tensorboard is not None:
            _require_logs(untrained, tensorboard)
        return training

    @property
    def anew(self) -> bool:
        """Whether the head learns from all rows, or continues from the weights of the head to continue."""
        return self.start is None or not self.spec.fixed

    def untrained(self) -> Head:
        """Return the head, untrained."""
        if self.start is not None:  # a file of a head imports nothing
            return untrained_head(stored_head_class(self.start.name, self.start.params), self.seed, self.values)
        return make_head(self.spec.name, seed=self.seed, **self.values)

    def on(
        self,
        features: FeatureSet,
        *,
        made_by: Provenance,
        group_column: str | None = None,
        weight_column: str | None = None,
        notices: Iterable[Notice] = (),
        on_epoch: Callable[[Epoch], object] | None = None,
    ) -> TrainedHead:
        """Train the head on the labelled training rows of a feature set.

        Parameters
        ----------
        features
            The rows of all splits.
        group_column
            The column that names the groups of the rows, which the head records; None if they have no groups.
        weight_column
            The column with the weights of the rows, which the head records; None if they have no weights.
        made_by
            What made the features.
        notices
            Warnings about the rows that the head records beside its own.
        on_epoch
            As in `train`, also for errors.
        """
        columns = (group_column, weight_column)
        return _trained(self, features, made_by, notices, on_epoch, columns=columns)


def _trained(
    training: Training,
    features: FeatureSet,
    made_by: Provenance,
    notices: Iterable[Notice],
    on_epoch: Callable[[Epoch], object] | None,
    *,
    columns: tuple[str | None, str | None],
) -> TrainedHead:
    spec, seed, rule, start = training.spec, training.seed, training.rule, training.start
    untrained, (group_column, weight_column) = training.untrained(), columns
    if features.weights is not None:
        require_weighted(spec)
    if start is not None:
        features = start.with_new_classes(features)
    own_train, own_valid = training_rows(features, rule)
    own_train = _weighing(own_train)
    grown = None if start is None else grown_rows(start, own_train, own_valid, features.sha256, anew=training.anew)
    train_rows, valid_rows = (grown.train, grown.valid) if grown else (own_train, own_valid)
    require_rows(features, train_rows)
    require_memory(spec, train_rows.X)
    if training.keep_rows:
        _require_room(train_rows, valid_rows)
    model = None if start is None or training.anew else widened(untrained, start, train_rows)
    record = start.training if start and not training.anew else None
    earlier, kept = (record.epochs, record.kept_epoch) if record else ((), None)
    monitor = Monitor(valid_rows.X, valid_rows.y, on_epoch, earlier, kept, tensorboard=training.tensorboard)
    began = time.perf_counter()
    fitted = _fit(untrained, train_rows, valid_rows, monitor, model)
    seconds = time.perf_counter() - began
    thresholds = (
        best_thresholds(fitted.predict_proba(valid_rows.X), valid_rows.y) if training.target == "labels" else ()
    )
    measure = partial(_accuracy, fitted, thresholds)
    trained = TrainedHead(
        name=spec.name,
        params=training.values,
        tap=features.tap,
        classes=features.classes,
        trained_classes=tuple(fitted.classes_.tolist()),
        recipe=features.recipe,
        weights_source=made_by.weights_source or features.recipe.weights,
        max_pixels=max(made_by.max_pixels or 0, MAX_PIXELS),
        training=TrainingRecord(
            n_train=len(train_rows),
            n_valid=len(valid_rows),
            n_unlabelled=int(np.count_nonzero(~features.labelled)),
            class_counts=_class_counts(train_rows),
            seed=seed,
            holdout=None if has_valid_split(features) or not rule.fraction else rule,
            rows_sha256=rows_digest(train_rows.sha256, train_rows.y),
            continues=start.identity if start else None,
            epochs=tuple(monitor.epochs),
            kept_epoch=monitor.kept,
            train_accuracy=measure(_measured(train_rows, spec)),
            valid_accuracy=measure(valid_rows) if _measurable(valid_rows) else None,
            seconds=seconds,
            versions=_versions(("numpy", *spec.libraries)) | dict(fitted.versions_),
            warnings=(
                *notices,
                *fitted.warnings_,
                *(grown.notices if grown else ()),
                *same_content(valid_rows, train_rows),
                *torn_groups(valid_rows.groups, train_rows.groups),
                *torn_files(valid_rows, train_rows),
                *class_warnings(features.classes),
                *_notices(features, rule, (own_train, own_valid), (train_rows, valid_rows), spec),
            ),
            groups=TrainingGroups.counted(group_column, train_rows, valid_rows),
            weight=weight_column,
            growth=grown.growth if grown else None,
        ),
        model=fitted.model_,
        target=training.target,
        thresholds=thresholds,
        number_range=_number_range(train_rows),
        rows=HeadRows.of(train_rows, valid_rows, keep=training.keep_rows),
    )
    return _calibrated(trained, training, train_rows, valid_rows)


def _calibrated(head: TrainedHead, training: Training, train_rows: FeatureSet, valid_rows: FeatureSet) -> TrainedHead:
    """Return a head with the calibration that was asked for, and with the accuracies that it has then."""
    if training.calibrate == NONE:
        return head
    make = training.untrained if training.anew else None
    calibration, notices = fit_calibration(head, training.calibrate, train_rows, valid_rows, make=make)
    calibrated, record = replace(head, calibration=calibration), head.training
    return replace(
        calibrated,
        training=replace(
            record,
            train_accuracy=_accuracy(calibrated, (), _measured(train_rows, training.spec)),
            valid_accuracy=_accuracy(calibrated, (), valid_rows) if len(valid_rows) else None,
            warnings=(*record.warnings, *notices),
        ),
    )


def _class_counts(rows: FeatureSet) -> tuple[int, ...]:
    """Return how many rows each class, or label, has; nothing for numbers."""
    if rows.target == "number":
        return ()
    if rows.target == "labels":
        return tuple(rows.y.sum(axis=0, dtype=np.int64).tolist())
    return tuple(np.bincount(rows.y, minlength=len(rows.classes)).tolist())


def _number_range(rows: FeatureSet) -> NumberRange | None:
    y = rows.y
    return NumberRange(float(y.mean()), float(y.min()), float(y.max())) if rows.target == "number" else None


def unmatched_labels(features: FeatureSet, labels: Mapping[str, str | None]) -> list[Notice]:
    """Return a warning that counts the labels that no row has got."""
    unknown = labels.keys() - set(features.paths.tolist())
    if not unknown:
        return []
    message = (
        f"{len(unknown):,} of {len(labels):,} given labels are of no row of the cache: {listed(unknown)}; "
        "paths or contents must be those of the cache"
    )
    return [Notice(Code.UNMATCHED_LABELS, message)]


def _require_logs(head: Head, folder: Path) -> None:
    """Raise an error unless a head can write event files for TensorBoard to a folder, which is made."""
    if not head.keras_can_train:
        name = head.spec.name
        remedy = "set -p trainer=keras" if "trainer" in (each.name for each in head.spec.parameters) else "leave it out"
        raise ParameterError(
            f"--tensorboard {folder}: Keras writes what TensorBoard shows, and does not train {name}; {remedy}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise output_error(folder, e) from e


def feature_tap(cache: FeatureCache, spec: HeadSpec, tap: str | None) -> str | None:
    """Return the requested tap, or the head's default: the last tap below the network's own outputs.

    Raises
    ------
    ParameterError
        If the head cannot use the tap.
    """
    below = [name for name in in_network_order(cache.recipe.backbone, cache.taps) if name not in OUTPUTS]
    return head_tap(cache, spec, tap or (below[-1] if below and not spec.taps else None))


def head_tap(cache: FeatureCache, spec: HeadSpec, tap: str | None) -> str | None:
    """Return the requested tap, or the only tap that the head can use.

    Raises
    ------
    ParameterError
        If no tap is requested and several are possible, or the head cannot use the requested one.
    """
    possible = [name for name in cache.taps if not spec.taps or name in spec.taps]
    if tap is None and len(possible) > 1:
        taps = ", ".join(f"{name} ({cache.taps[name]})" for name in possible)
        raise ParameterError(f"the cache has several taps: {taps}; choose one with --tap")
    chosen = tap or next(iter(possible), None)
    if spec.taps and chosen not in spec.taps:
        raise ParameterError(
            f"tap: the head {spec.name!r} uses {' or '.join(spec.taps)}, not {chosen or ', '.join(cache.taps)}"
        )
    return chosen


def _weighing(train_rows: FeatureSet) -> FeatureSet:
    """Return the training rows without those of weight 0, which teach nothing; all of them if no row has another."""
    weights = train_rows.weights
    if weights is None or not weights.any():
        return train_rows
    return take_rows(train_rows, np.flatnonzero(weights != 0))


def _require_room(*rows: FeatureSet) -> None:
    """Raise `TrainingError` if rows are too many to be kept in a head."""
    needed, n = sum(rows_bytes(each.X) for each in rows), sum(map(len, rows))
    if needed > MAX_ROWS_BYTES:
        raise TrainingError(
            f"keep_rows: {n:,} rows take {in_units(needed)}, and a head keeps {in_units(MAX_ROWS_BYTES)}; leave it "
            "out, and keep their cache"
        )


def require_rows(features: FeatureSet, train_rows: FeatureSet) -> None:
    """Raise `TrainingError` unless there are enough training rows; the message counts the labelled rows by split."""
    labelled = features.splits[features.labelled]
    if not len(labelled):
        raise TrainingError(
            "the cache has no labelled rows; extract from folders named by class or from a table with a label column, "
            "or give labels with --labels FILE.csv"
        )
    if not len(train_rows):
        raise TrainingError(
            f"there are no training rows: the labelled rows are {count_text(labelled)}; put images into a train split, "
            "or hold out fewer rows"
        )
    if features.target != "class":
        return
    present = np.unique(train_rows.y)
    if len(present) == 1:
        raise TrainingError(
            f"all {len(train_rows)} training rows are of the class {features.classes[present[0]]!r}; "
            "a head needs rows of at least two classes"
        )
    if len(train_rows) < len(features.classes):
        fact = (
            f"{len(train_rows)} training rows for {len(features.classes)} classes; a head needs at least one per class"
        )
        numbers = "; the classes are numbers: to learn numbers, set the target to number (--target number)"
        raise TrainingError(fact + numbers * all(map(_is_number, features.classes)))


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def require_memory(spec: HeadSpec, X: Features) -> None:
    """Raise `TrainingError` if a head holds all features in memory and there is no room for these, shape (n, d)."""
    needed, free = float32_bytes(X), free_memory()
    if not spec.by_blocks and needed > free:
        able = ", ".join(name for name, other in load_heads()[0].items() if other.by_blocks)
        n, d = X.shape
        raise TrainingError(
            f"the head {spec.name!r} holds all features in memory: {n:,} x {d:,} take {in_units(needed)}, and "
            f"{in_units(free)} are free; take a head that reads them by blocks ({able}), or fewer rows"
        )


def require_weighted(spec: HeadSpec) -> None:
    """Raise `ParameterError` if a head takes no weights of rows; the message names those that do."""
    if not spec.weighted:
        able = ", ".join(name for name, other in load_heads()[0].items() if other.weighted)
        raise ParameterError(f"the head {spec.name!r} takes no weights of rows; these do: {able}")


def _fit(
    head: Head, train_rows: FeatureSet, valid_rows: FeatureSet, monitor: Monitor, start: FittedModel | None
) -> Head:
    """Fit a head; errors about a row name its image."""
    try:
        return head.fit(
            train_rows.X,
            train_rows.y,
            sample_weight=train_rows.weights,
            together=together_numbers(train_rows),
            names=train_rows.classes,
            monitor=monitor,
            start=start,
        )
    except TrainingError as e:
        if e.row is None:
            raise
        raise TrainingError(f"{train_rows.paths[e.row]}: {e}", e.row) from e
    except EvaluationError as e:
        raise TrainingError(f"{valid_rows.paths[e.row]}: {e}" if e.row is not None else str(e), e.row) from e


def _measured(train_rows: FeatureSet, spec: HeadSpec) -> FeatureSet:
    """Return the rows for the train accuracy: all training rows, or an evenly spaced sample for slow heads."""
    n, most = len(train_rows), spec.measured_rows
    return train_rows if most is None or n <= most else train_rows.take(np.linspace(0, n - 1, most).astype(np.intp))


def _notices(
    features: FeatureSet,
    rule: Holdout,
    own: tuple[FeatureSet, FeatureSet],
    used: tuple[FeatureSet, FeatureSet],
    spec: HeadSpec,
) -> list[Notice]:
    """Return the warnings about rows: training and valid ones of the cache, and those with rows that a head kept."""
    train_rows, valid_rows = used
    labelled = features.labelled
    unlabelled = int(np.count_nonzero(~labelled))
    unused = int(np.count_nonzero(labelled & (roles(features, rule) == "") & ~features.is_view))
    missing, unvalidated = (
        [name for name, count in zip(features.classes, _class_counts(rows), strict=True) if not count]
        for rows in (train_rows, valid_rows)
    )
    kind = "class" if features.target == "class" else "label"
    counts = _class_counts(train_rows) if features.target == "labels" else ()
    everywhere = [name for name, count in zip(features.classes, counts, strict=False) if count == len(train_rows)]
    measured = len(_measured(train_rows, spec))
    held_out, both = len(own[1]), sum(int(np.count_nonzero(~rows.is_view)) for rows in own)
    uneven = both and abs(held_out / both - rule.fraction) > _UNEVEN and not has_valid_split(features)
    no_valid = "there are no valid rows"
    if features.groups is not None and rule.fraction and len(train_rows):
        no_valid += f": none of {counted(count_groups(train_rows), 'group')} is held out, take another seed or more"
    notices: list[tuple[object, Code, str]] = [
        (unlabelled, Code.UNLABELLED_ROWS, f"{counted(unlabelled, 'row')} without a label: not used"),
        (
            unused,
            Code.UNUSED_ROWS,
            f"{unused} labelled rows in no split were not used, since there is a train split",
        ),
        (
            not len(valid_rows),
            Code.NO_VALID_ROWS,
            f"{no_valid}: the accuracy on new images is unknown",
        ),
        (
            uneven,
            Code.UNEVEN_HOLDOUT,
            f"{held_out} of {both} rows are held out, although {rule.fraction:g} of them were requested: "
            f"{'rows are chosen by their content' if features.groups is None else 'groups are chosen by their name'} "
            "alone",
        ),
        (
            len(valid_rows) and unvalidated,
            Code.CLASS_NOT_EVALUATED,
            f"no valid row is of the {kind} {listed(unvalidated, sort=False, quoted=False)}",
        ),
        (
            missing,
            Code.CLASS_NOT_TRAINED,
            f"no training row is of the {kind} {listed(missing, sort=False, quoted=False)}: its probability will "
            "always be 0",
        ),
        (
            everywhere,
            Code.CLASS_NOT_TRAINED,
            f"every training row has the label {listed(everywhere, sort=False, quoted=False)}: its probability will "
            "always be 1",
        ),
        (
            measured < len(train_rows),
            Code.ACCURACY_OF_SAMPLE,
            f"the train accuracy was measured on {measured} of {len(train_rows)} rows",
        ),
    ]
    return [Notice(code, message) for holds, code, message in notices if holds]


def _measurable(rows: FeatureSet) -> bool:
    """Whether the accuracy of rows is defined: R2 is not, where all have one number."""
    return len(rows) > 0 and (rows.target != "number" or bool(np.ptp(rows.y)))


def _accuracy(fitted: Classifier, thresholds: Sequence[float], rows: FeatureSet) -> float:
    """Return the accuracy; of several labels the share of rows with all right; of numbers R2."""
    right, squares = 0, 0.0
    for block in row_blocks(rows.X):
        probabilities, y = fitted.predict_proba(rows.X[block]), rows.y[block]
        if rows.target == "number":
            squares += float(np.square(probabilities[:, 0] - y).sum())
        elif rows.target == "labels":
            right += int(np.count_nonzero(((probabilities >= thresholds) == y).all(axis=1)))
        else:
            right += int(np.count_nonzero(fitted.classes_[np.argmax(probabilities, axis=1)] == y))
    if rows.target == "number":
        spread = float(np.square(rows.y - rows.y.mean()).sum())
        return 1 - squares / spread if spread else 0.0
    return right / len(rows)


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of the distributions that are installed."""
    versions = {}
    for name in distributions:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions

"""The use case ``audit``: find likely label errors and duplicates in a cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.images.classes import class_warnings
from featurecache.text import counted
from heads.auditing.duplicates import Duplicate, DuplicateGroup, Duplicates, find_duplicates, groups_of
from heads.auditing.labels import LabelError, label_errors
from heads.catalog import head_spec, make_head
from heads.errors import ParameterError, TrainingError
from heads.evaluation.imagenet import imagenet_top3
from heads.evaluation.intervals import Interval, group_numbers, proportion
from heads.evaluation.predictions import PredictionsTable
from heads.folds import OutOfFold, checkable, out_of_fold
from heads.notices import Code, Notice, to_dicts
from heads.rows import Scaling, first_not_finite
from heads.splits import FEWEST_FOLDS, NO_FOLD, folds_of, kept_together, without_views
from heads.training import DEFAULT_HEAD, feature_tap, require_weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from featurecache.cache import FeatureCache
    from featurecache.feature_set import FeatureSet
    from heads.base import Head
    from heads.parameters import HeadSpec, Value
    from heads.rows import Targets

COMPARING, CHECKING = "comparing images", "checking labels"
_SHOWN = 10


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """What is likely wrong with the labels and images of a cache.

    Parameters
    ----------
    table
        Out-of-fold predictions for the labelled rows that could be checked, in the order of the cache.
    label_errors
        Rows whose label is likely wrong, worst first; see `heads.LabelError`.
    duplicates
        Pairs of duplicates, the most harmful first; see `heads.DuplicateGroup`.
    tap, head, params
        How labels were checked: the tap, the head and its parameters.
    folds, near, seed
        What was asked for.
    n_images
        Number of images, labelled or not.
    apart
        Whether near-duplicates were kept out of the training of the heads that predict them, not only equal contents.
    warnings
        Notices for the user.

    Examples
    --------
    >>> found = heads.audit(cache, tap="features", head="centroid")
    >>> found.to_dict()["head"]
    'centroid'
    """

    table: PredictionsTable
    label_errors: tuple[LabelError, ...]
    duplicates: tuple[Duplicate, ...]
    tap: str
    head: str
    params: Mapping[str, Value]
    folds: int
    near: float
    seed: int
    n_images: int
    apart: bool
    warnings: tuple[Notice, ...]

    @property
    def groups(self) -> tuple[DuplicateGroup, ...]:
        """The images that duplicates join; a pair is listed only if it joins two groups, or two of labelled images."""
        return groups_of(self.duplicates)

    @property
    def accuracy(self) -> Interval | None:
        """The share of labels that the heads agree with, with its 95 % interval; None if no label was checked."""
        if not len(self.table):
            return None
        return proportion(self.table.correct, self.table.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the predictions, ready for JSON."""
        return {
            "n": len(self.table),
            "images": self.n_images,
            "classes": list(self.table.classes),
            "accuracy": asdict(self.accuracy) if self.accuracy else None,
            "label_errors": [asdict(error) for error in self.label_errors],
            "duplicates": [asdict(pair) for pair in self.duplicates],
            "groups": [asdict(group) for group in self.groups],
            "tap": self.tap,
            "head": self.head,
            "params": dict(self.params),
            "folds": self.folds,
            "near": self.near,
            "seed": self.seed,
            "warnings": to_dicts(self.warnings),
        }

    def _repr_html_(self) -> str:
        from heads.report import Table
        from heads.report.html import fragment

        errors = tuple(
            (error.path, error.given, error.suggested, f"{error.score:.3f}") for error in self.label_errors[:_SHOWN]
        )
        duplicates = tuple(
            (pair.a, pair.b, pair.kind, f"{pair.similarity:.3f}", "yes" if pair.conflict else "")
            for pair in self.duplicates[:_SHOWN]
        )
        return fragment(
            (
                f"{len(self.label_errors)} likely label errors among {len(self.table)} rows, "
                f"{len(self.duplicates)} pairs of duplicates.",
                Table(("path", "given", "suggested", "score"), errors, "The most likely label errors", {0, 1, 2}),
                Table(
                    ("a", "b", "kind", "similarity", "labels conflict"),
                    duplicates,
                    "The worst duplicates",
                    {0, 1, 2, 4},
                ),
                *map(str, self.warnings),
            )
        )


@dataclass(frozen=True, slots=True)
class _LabelCheck:
    """How labels are checked."""

    spec: HeadSpec
    params: Mapping[str, Value]
    folds: int
    seed: int

    def __post_init__(self) -> None:
        if self.folds < FEWEST_FOLDS:
            raise ParameterError(f"folds is {self.folds}, expected at least {FEWEST_FOLDS}")
        self.make()

    def make(self, **changes: Value) -> Head:
        """Make an untrained head."""
        return make_head(self.spec.name, seed=self.seed, **{**self.params, **changes})

    def run(self, features: FeatureSet, groups: Targets, progress: Callable[[int, int], object]) -> OutOfFold:
        """Check all labels that can be checked; rows of one group are never in different folds."""
        usable = np.flatnonzero(checkable(features.y, groups))
        assigned = np.full(len(features), NO_FOLD, np.intp)
        assigned[usable] = folds_of(
            features.y[usable], groups[usable], features.sha256[usable], folds=self.folds, seed=self.seed
        )
        scaling, make = None, self.make
        if self.params.get("standardize"):
            scaling, make = Scaling.from_rows(features.X, standardize=True), partial(self.make, standardize=False)
        found = out_of_fold(
            features.X,
            features.y,
            assigned,
            features.classes,
            make,
            scaling=scaling,
            progress=progress,
            weights=features.weights,
            together=groups,
        )
        if scaling is None:
            return found
        return replace(found, warnings=tuple(notice.without("standardize") for notice in found.warnings))


def _ignore(done: int, total: int, what: str) -> None:
    """Ignore progress."""


def audit(
    cache: FeatureCache,
    *,
    tap: str | None = None,
    head: str = DEFAULT_HEAD,
    params: Mapping[str, object] | None = None,
    folds: int = 5,
    seed: int = 0,
    near: float = 0.9,
    progress: Callable[[int, int, str], object] = _ignore,
) -> Audit:
    """Find likely label errors and duplicates in a cache.

    The labels of all splits are checked, including the test split: an audit looks for wrong labels and selects no head.
    Each row is predicted by a head that was trained on the other folds. Duplicates of the row are in its own fold,
    because a duplicate with the same wrong label would confirm it, and so is its group
    (`featurecache.FeatureCache.with_groups`). If the head standardises, the scaling is computed
    from all rows of the cache, without labels. Rows without a label are only searched for duplicates.

    Nothing is written. Memory holds the training rows of one fold, beside the mapped cache; a float16 cache is
    converted as a whole in addition.

    Parameters
    ----------
    cache
        The features.
    tap
        The layer whose features are used; if not given, the last one below the network's own outputs.
    head, params
        The name in the catalogue, and the parameters, of the head that checks labels.
    folds
        Number of folds of the labelled rows, at least 2.
    seed
        What the folds follow from, and the heads' random choices.
    near
        The similarity from which on rows are near-duplicates. On the pooled features
        of MobileNetV2, different photographs stay below 0.80, and a JPEG saved again at quality 75 has 0.98 or more.
    progress
        Called with the number of steps done, their total and the phase: ``"comparing images"`` or
        ``"checking labels"``.

    Raises
    ------
    UnknownNameError
        If there is no such head or tap.
    ParameterError
        If a parameter, ``folds`` or ``near`` is out of range.
    TrainingError
        If a feature is not finite, naming the image, or a training fails.

    Examples
    --------
    >>> found = heads.audit(cache, tap="features", head="centroid")
    >>> len(found.label_errors), len(found.groups)
    (0, 2)
    """
    spec = head_spec(head)
    check = _LabelCheck(spec, MappingProxyType(spec.values(params or {})), folds, seed)
    features = without_views(cache.features(feature_tap(cache, spec, tap)))
    if features.weights is not None:
        require_weighted(spec)
    row = first_not_finite(features.X)
    if row is not None:
        path = features.paths[row]
        raise TrainingError(f"{path}: row {row} holds features that are not finite; extract them again", row)
    duplicates = find_duplicates(features, near, lambda done, total: progress(done, total, COMPARING))
    groups = _joined(duplicates.contents if duplicates.too_many else duplicates.groups, features)
    if folds > np.count_nonzero(features.y >= 0) > 0:
        raise ParameterError(f"folds is {folds}, and there are {np.count_nonzero(features.y >= 0)} labelled rows")
    n_groups = len(np.unique(groups[features.y >= 0]))
    if features.groups is not None and 0 < n_groups < folds:
        raise ParameterError(f"folds is {folds}, and there are {counted(n_groups, 'group')} of labelled rows")
    found = check.run(features, groups, lambda done, total: progress(done, total, CHECKING))
    top3 = imagenet_top3(cache, features)
    table = PredictionsTable(
        paths=features.paths[found.rows],
        splits=features.splits[found.rows],
        true=features.y[found.rows],
        probabilities=found.probabilities,
        classes=features.classes,
        imagenet_top3=None if top3 is None else top3.take(found.rows),
        groups=None if features.groups is None else features.groups[found.rows],
    )
    return Audit(
        table=table,
        label_errors=label_errors(table),
        duplicates=duplicates.pairs,
        tap=features.tap,
        head=head,
        params=check.params,
        folds=folds,
        near=near,
        seed=seed,
        n_images=len(features),
        apart=not duplicates.too_many,
        warnings=(
            *class_warnings(features.classes),
            *_notes(features, duplicates, table, near),
            *_weak_head(table, head),
            *found.warnings,
        ),
    )


def _joined(duplicates: Targets, features: FeatureSet) -> Targets:
    """Return the numbers of the groups of duplicates, shape (n,), joined where rows share a group of the cache."""
    if features.groups is None:
        return duplicates
    pairs = replace(features, sha256=duplicates.astype(str).astype(object))
    return group_numbers(kept_together(pairs))


def _notes(features: FeatureSet, duplicates: Duplicates, table: PredictionsTable, near: float) -> Iterator[Notice]:
    """Yield the notices for the user."""
    labelled = np.flatnonzero(features.y >= 0)
    present = np.unique(features.y[labelled])
    left_out = labelled[~np.isin(features.paths[labelled], table.paths)]
    if duplicates.too_many:
        yield Notice(
            Code.TOO_MANY_DUPLICATES,
            f"{duplicates.near_rows} of {len(features)} rows are near-duplicates of another: near={near:g} is too low "
            "for these features, raise it or take another tap; only equal contents are kept in one fold",
        )
    if len(present) < FEWEST_FOLDS:
        found = f"all labelled rows are of the class {features.classes[present[0]]!r}" if len(present) else "no row is"
        found += "" if len(present) else " labelled"
        yield Notice(Code.LABELS_NOT_CHECKED, f"{found}: labels cannot be checked, only duplicates were searched for")
    elif len(left_out):
        names = ", ".join(features.classes[label] for label in np.unique(features.y[left_out]))
        yield Notice(
            Code.LABELS_NOT_CHECKED,
            f"{len(left_out)} labelled rows of the class {names} were not checked: that needs two classes with two "
            f"different {'images' if features.groups is None else 'groups'} each, near-duplicates counted as one, not "
            "all in one fold",
        )
    if 0 < len(labelled) < len(features):
        unlabelled = len(features) - len(labelled)
        yield Notice(
            Code.UNLABELLED_ROWS, f"{counted(unlabelled, 'row')} without a label: only compared with the others"
        )


def _weak_head(table: PredictionsTable, head: str) -> Iterator[Notice]:
    """Yield a warning if the heads are no better than the majority baseline."""
    if not len(table):
        return
    right, majority = float(np.mean(table.correct)), float(np.bincount(table.true).max() / len(table))
    if right <= majority:
        yield Notice(
            Code.BELOW_BASELINE,
            f"{head} agrees with {100 * right:.1f} % of the labels, and the majority baseline with "
            f"{100 * majority:.1f} %: its label errors mean little; use another head, such as logreg, or more epochs",
        )

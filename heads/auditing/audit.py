"""The use case: from a cache to likely label errors and duplicates."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from heads.auditing.duplicates import Duplicate, DuplicateGroup, Duplicates, find_duplicates, groups_of
from heads.auditing.folds import FEWEST_FOLDS, NO_FOLD, OutOfFold, deal, judgeable, out_of_fold
from heads.auditing.labels import LabelError, label_errors
from heads.catalog import head_spec, make_head
from heads.errors import ParameterError, TrainingError
from heads.imagenet import seen_of
from heads.intervals import Interval, wilson
from heads.rows import Scaling, first_not_finite
from heads.table import PredictionsTable
from heads.training import DEFAULT_HEAD, feature_tap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from featurecache.cache import FeatureCache, FeatureSet
    from heads.base import Head
    from heads.parameters import HeadSpec, Value
    from heads.rows import Targets

COMPARING, JUDGING = "comparing images", "judging labels"
_DONE_ALREADY = "set standardize=true, "  # advice of heads that meet standardised features as if they were not
_SHOWN = 10


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """What is likely wrong with the labels and images of a cache.

    Parameters
    ----------
    table
        Out-of-fold predictions for the labelled rows that could be judged, in the order of the cache.
    label_errors
        Rows whose label is likely wrong, worst first; see `heads.auditing.labels`.
    duplicates
        Images that are the same, or nearly, what hurts most first; see `heads.auditing.duplicates`.
    tap, head, params
        What judged the labels: the layer, the head, and the value of each of its parameters.
    folds, near, seed
        What was asked for.
    n_images
        Number of images that were looked at, labelled or not.
    apart
        Whether near-duplicates were kept out of the training of heads that judged them, not only equal contents.
    warnings
        What was left out, or must be known, one line each.
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
    warnings: tuple[str, ...]

    @property
    def groups(self) -> tuple[DuplicateGroup, ...]:
        """The images that duplicates join; a pair is listed only if it joins two groups, or two of labelled images."""
        return groups_of(self.duplicates)

    @property
    def accuracy(self) -> Interval | None:
        """How often the heads agree with the labels, with its 95 % interval (Wilson's); None if no row was judged."""
        if not len(self.table):
            return None
        return wilson(int(np.count_nonzero(self.table.correct)), len(self.table))

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the predictions, ready for JSON."""
        return {
            "n": len(self.table),
            "images": self.n_images,
            "classes": list(self.table.classes),
            "accuracy": asdict(self.accuracy) if self.accuracy else None,
            "label_errors": [asdict(each) for each in self.label_errors],
            "duplicates": [asdict(each) for each in self.duplicates],
            "groups": [asdict(each) for each in self.groups],
            "tap": self.tap,
            "head": self.head,
            "params": dict(self.params),
            "folds": self.folds,
            "near": self.near,
            "seed": self.seed,
            "warnings": list(self.warnings),
        }

    def _repr_html_(self) -> str:
        from heads.report import Table
        from heads.report.html import fragment

        errors = tuple(
            (each.path, each.given, each.suggested, f"{each.score:.3f}") for each in self.label_errors[:_SHOWN]
        )
        duplicates = tuple(
            (each.a, each.b, each.kind, f"{each.similarity:.3f}", "yes" if each.conflict else "")
            for each in self.duplicates[:_SHOWN]
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
                *self.warnings,
            )
        )


@dataclass(frozen=True, slots=True)
class _Judge:
    """How labels are judged."""

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
        """Judge all rows that can be; rows of one group are never on both sides."""
        usable = np.flatnonzero(judgeable(features.y, groups))
        dealt = np.full(len(features), NO_FOLD, np.intp)
        dealt[usable] = deal(
            features.y[usable], groups[usable], features.sha256[usable], folds=self.folds, seed=self.seed
        )
        scaling, make = None, self.make
        if self.params.get("standardize"):
            scaling, make = Scaling.of(features.X, standardize=True), partial(self.make, standardize=False)
        found = out_of_fold(features.X, features.y, dealt, features.classes, make, scaling=scaling, progress=progress)
        return replace(found, warnings=tuple(text.replace(_DONE_ALREADY, "") for text in found.warnings))


def _ignore(done: int, total: int, what: str) -> None:
    """Take no notice of progress."""


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

    The labelled rows of all splits are judged, those of the test split as well: this asks whether labels are right, and
    selects no head. Each is judged by a head that was trained on the other folds, in which no duplicate of it is, for a
    copy would vouch for a wrong label. Features are standardised, if the head's parameters say so, by all rows of the
    cache, which shows a head no label. Rows without a label are compared with the others, no more.

    Nothing is written. Memory holds a copy of the rows that train, next to the mapped cache; a float16 cache is
    converted as a whole besides.

    Parameters
    ----------
    cache
        The features.
    tap
        The layer whose features are used; if not given, the last one below the network's own outputs.
    head, params
        What judges: the head's name in the catalogue, and its parameters.
    folds
        Number of parts that the labelled rows are dealt into, at least 2.
    seed
        What the folds follow from, and the heads' random choices.
    near
        The similarity from which on rows are near-duplicates; see `heads.auditing.duplicates`. On the pooled features
        of MobileNetV2, different photographs stay below 0.80, and a JPEG saved again at quality 75 has 0.98 or more.
    progress
        Called with how much is done, how much there is, and of what: ``"comparing images"``, ``"judging labels"``.

    Raises
    ------
    UnknownNameError
        If there is no such head or tap.
    ParameterError
        If a parameter, ``folds`` or ``near`` cannot be what it is.
    TrainingError
        If a feature is not finite, naming the image, or a training fails.
    """
    spec = head_spec(head)
    judge = _Judge(spec, MappingProxyType(spec.values(params or {})), folds, seed)
    features = cache.features(feature_tap(cache, spec, tap))
    row = first_not_finite(features.X)
    if row is not None:
        path = features.paths[row]
        raise TrainingError(f"{path}: row {row} holds features that are not finite; extract them again", row)
    duplicates = find_duplicates(features, near, lambda done, total: progress(done, total, COMPARING))
    groups = duplicates.contents if duplicates.too_many else duplicates.groups
    if folds > np.count_nonzero(features.y >= 0) > 0:
        raise ParameterError(f"folds is {folds}, and there are {np.count_nonzero(features.y >= 0)} labelled rows")
    judged = judge.run(features, groups, lambda done, total: progress(done, total, JUDGING))
    seen = seen_of(cache, features)
    table = PredictionsTable(
        paths=features.paths[judged.rows],
        splits=features.splits[judged.rows],
        true=features.y[judged.rows],
        probabilities=judged.probabilities,
        classes=features.classes,
        seen=None if seen is None else seen.take(judged.rows),
    )
    return Audit(
        table=table,
        label_errors=label_errors(table),
        duplicates=duplicates.pairs,
        tap=features.tap,
        head=head,
        params=judge.params,
        folds=folds,
        near=near,
        seed=seed,
        n_images=len(features),
        apart=not duplicates.too_many,
        warnings=(*_notes(features, duplicates, table, near), *_doubts(table, head), *judged.warnings),
    )


def _notes(features: FeatureSet, duplicates: Duplicates, table: PredictionsTable, near: float) -> Iterator[str]:
    """Yield what the user must know, one line each."""
    labelled = np.flatnonzero(features.y >= 0)
    present = np.unique(features.y[labelled])
    left_out = labelled[~np.isin(features.paths[labelled], table.paths)]
    if duplicates.too_many:
        yield (
            f"{duplicates.near_rows} of {len(features)} rows are near-duplicates of another: near={near:g} is too low "
            "for these features, raise it or take another tap; only equal contents are kept in one fold"
        )
    if len(present) < FEWEST_FOLDS:
        found = f"all labelled rows are of the class {features.classes[present[0]]!r}" if len(present) else "no row is"
        yield f"{found}{'' if len(present) else ' labelled'}: labels cannot be judged, only duplicates were looked for"
    elif len(left_out):
        names = ", ".join(features.classes[label] for label in np.unique(features.y[left_out]))
        yield (
            f"{len(left_out)} labelled rows of the class {names} were not judged: that needs two classes with two "
            "different images each, near-duplicates counted as one, not all in one fold"
        )
    if 0 < len(labelled) < len(features):
        yield f"{len(features) - len(labelled)} rows without a label were only compared with the others"


def _doubts(table: PredictionsTable, head: str) -> Iterator[str]:
    """Yield a warning if the heads know no more than how frequent the classes are."""
    if not len(table):
        return
    right, majority = float(np.mean(table.correct)), float(np.bincount(table.true).max() / len(table))
    if right <= majority:
        yield (
            f"{head} agrees with {100 * right:.1f} % of the labels, always naming the most frequent class would with "
            f"{100 * majority:.1f} %: what it says of labels means little; take another head, such as logreg, or more "
            "epochs"
        )

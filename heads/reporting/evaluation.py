"""The report of an evaluation: scores with intervals, errors, calibration and galleries."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from featurecache.text import counted, number
from heads.evaluation import galleries as choosing
from heads.evaluation.intervals import Interval
from heads.report import Fact, Report, Section, Table
from heads.reporting import parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurecache.feature_set import FeatureSet
    from heads.artifact import TrainedHead
    from heads.evaluation.evaluate import Evaluation
    from heads.report.model import Block
    from heads.report.thumbnails import Originals

_CONFUSIONS = 15  # pairs of classes that are listed


def evaluation_report(
    evaluation: Evaluation,
    *,
    head: TrainedHead | None = None,
    features: FeatureSet | None = None,
    originals: Originals | None = None,
    about: Mapping[str, str] | None = None,
) -> Report:
    """Return the report of an evaluation.

    Parameters
    ----------
    evaluation
        The evaluation.
    head
        The head that was evaluated, for its settings and its epochs.
    features
        The features for a map; their rows include those of the evaluation.
    originals
        Access to the image files; None for galleries without images.
    about
        Further facts for the end of the report, such as which cache it is of: label to text.

    Examples
    --------
    >>> report = heads.evaluation_report(evaluation, head=head)
    >>> report.title
    'centroid on features'
    """
    from heads.figures import confusion_matrix, precision_recall_curves, probability_histogram, reliability_diagram
    from heads.figures import roc_curves as roc

    table = evaluation.table
    network = head.recipe.backbone if head else features.recipe.backbone if features else parts.A_NETWORK
    shown = parts.galleries(choosing.choose(table), table, originals, network)
    matrices = tuple(parts.figure_block(confusion_matrix(table, normalize=each)) for each in (False, True))
    sections = [
        Section("What it gets wrong", (_wrong(evaluation), *matrices, *_confusions(evaluation))),
        Section("Images", shown),
        Section("Each class", (_per_class(evaluation),)),
        Section(
            "Calibration",
            (
                "If a head is calibrated, nine of ten predictions with probability 0.9 are correct.",
                *_before_calibration(evaluation, head),
                parts.figure_block(reliability_diagram(table, before=evaluation.uncalibrated)),
                parts.figure_block(probability_histogram(table)),
            ),
        ),
        Section("How well it ranks", tuple(map(parts.figure_block, (roc(table), precision_recall_curves(table))))),
        Section("All numbers", (_numbers(evaluation),)),
        *_training(head),
        *_map(evaluation, features),
    ]
    subtitle = f" of {parts.some(evaluation.classes, 'classes')}"
    return parts.evaluation_page(
        evaluation, subtitle, _facts(evaluation), sections, head=head, about=about, features=features
    )


def _facts(evaluation: Evaluation) -> tuple[Fact, ...]:
    accuracy = evaluation.accuracy
    right = int(np.count_nonzero(evaluation.table.correct))
    scores = {score.key: score for score in evaluation.scores()}
    return (
        Fact("accuracy", parts.share(accuracy.value), f"95 % interval {parts.share_range(accuracy)}"),
        Fact("right", f"{right:,} of {len(evaluation):,}", f"{counted(len(evaluation) - right, 'image')} wrong"),
        Fact("majority baseline", parts.share(evaluation.baseline_accuracy), "predicting the most frequent class"),
        *(parts.score_fact(scores[key]) for key in ("roc_auc", "log_loss", "calibration_error")),
    )


def _wrong(evaluation: Evaluation) -> str:
    wrong = len(evaluation) - int(np.count_nonzero(evaluation.table.correct))
    if not wrong:
        return f"Nothing: {len(evaluation):,} of {counted(len(evaluation), 'image')} right."
    return (
        f"{counted(wrong, 'image')} of {len(evaluation):,}. Rows of the matrix are labelled classes, "
        "columns predicted classes."
    )


def _confusions(evaluation: Evaluation) -> tuple[Table, ...]:
    """Return the most frequent confusions, where there are more than two classes and any confusion."""
    classes = evaluation.classes
    confusions = evaluation.confusions(_CONFUSIONS)
    if len(classes) <= 2 or not confusions:  # noqa: PLR2004
        return ()
    rows = tuple(
        (
            classes[labelled],
            classes[predicted],
            f"{count:,}",
            parts.share(count / evaluation.per_class[labelled].support),
        )
        for labelled, predicted, count in confusions
    )
    header = ("labelled", "predicted", "images", "of the labelled ones")
    return (Table(header, rows, "Most frequent confusions", frozenset({0, 1})),)


def _before_calibration(evaluation: Evaluation, head: TrainedHead | None) -> tuple[Block, ...]:
    """Return what the head's calibration has changed, if it has one."""
    if not evaluation.before_calibration or head is None or head.calibration is None:
        return ()
    calibration = head.calibration
    rows = tuple(
        (name.replace("_", " "), number(before), number(now.value if isinstance(now, Interval) else now))
        for name, before in evaluation.before_calibration.items()
        for now in (getattr(evaluation, name),)
    )
    which = f"training rows, in {calibration.folds} folds" if calibration.folds else "valid rows"
    return (
        f"The head is calibrated by {calibration.method}, fitted on {calibration.n_rows:,} {which}.",
        Table(("score", "before", "calibrated"), rows, "Before and after calibration", frozenset({0})),
    )


def _per_class(evaluation: Evaluation) -> Table:
    rows = tuple(
        (name, *map(parts.share, (each.precision, each.recall, each.f1)), f"{each.support:,}")
        for name, each in zip(evaluation.classes, evaluation.per_class, strict=True)
    )
    return Table(("class", "precision", "recall", "F1", "images"), rows, "How well each class is found")


def _numbers(evaluation: Evaluation) -> Table:
    caption = "All scores with their intervals; macro: mean of the classes, weighted: by their images; log loss in nats"
    return parts.score_table(evaluation.scores(), caption)


def _training(head: TrainedHead | None) -> tuple[Section, ...]:
    """Return how the head learned, if it did in epochs."""
    from heads.figures import epochs

    if head is None or not head.training.epochs:
        return ()
    record = head.training
    return (Section("How it learned", (parts.figure_block(epochs(record.epochs, kept=record.kept_epoch)),)),)


def _map(evaluation: Evaluation, features: FeatureSet | None) -> tuple[Section, ...]:
    """Return a map of the features, if there are any."""
    from heads.figures import feature_map

    if features is None:
        return ()
    numbers = {path: row for row, path in enumerate(evaluation.table.paths.tolist())}
    kept = np.flatnonzero([path in numbers for path in features.paths])
    taken = features if len(kept) == len(features) else features.take(kept)
    if not len(taken):
        return ()
    rows = evaluation.table.take(np.array([numbers[path] for path in taken.paths], dtype=np.intp))
    taken = replace(taken, y=rows.true, classes=rows.classes)
    blocks: tuple[Block, ...] = (parts.figure_block(feature_map(taken, rows.predicted)),)
    return (Section("What the features look like", blocks),)

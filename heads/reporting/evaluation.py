"""An evaluation as a report: how good a head is, how sure that is, and what it gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heads import galleries as choosing
from heads.report import Fact, Report, Section, Table
from heads.reporting import parts
from heads.splits import VALID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurecache.cache import FeatureSet
    from heads.artifact import TrainedHead
    from heads.evaluation import Evaluation
    from heads.intervals import Interval
    from heads.report.model import Block
    from heads.thumbnails import Originals

_CONFUSIONS = 15  # pairs of classes that are listed
_NAMED = 4  # classes that are named in the subtitle


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
        What is reported.
    head
        The head that was judged, for its settings and its epochs.
    features
        The features that it was judged on, of any rows that include those of the evaluation, for a map of them.
    originals
        Where the image files are; without them galleries show names and numbers only.
    about
        Further facts for the end of the report, such as which cache it is of: label to text.
    """
    from heads.figures import confusion_matrix, precision_recall_curves, probability_histogram, reliability_diagram
    from heads.figures import roc_curves as roc

    table = evaluation.table
    network = head.recipe.backbone if head else features.recipe.backbone if features else parts.A_NETWORK
    shown = parts.galleries(choosing.choose(table), table, originals, network)
    matrices = tuple(parts.picture(confusion_matrix(table, normalize=each)) for each in (False, True))
    sections = [
        Section("What it gets wrong", (_wrong(evaluation), *matrices, *_confusions(evaluation))),
        Section("Images", shown),
        Section("Each class", (_per_class(evaluation),)),
        Section(
            "How far its probabilities can be trusted",
            (
                "Of all images to which a head gives a probability of 0.9, nine in ten should be what it says.",
                *map(parts.picture, (reliability_diagram(table), probability_histogram(table))),
            ),
        ),
        Section("How well it ranks", tuple(map(parts.picture, (roc(table), precision_recall_curves(table))))),
        Section("All numbers", (_numbers(evaluation),)),
        *_training(head),
        *_map(evaluation, features),
    ]
    return Report(
        title=f"{head.name} on {head.tap}" if head else "Evaluation",
        subtitle=_subtitle(evaluation),
        facts=_facts(evaluation),
        warnings=evaluation.warnings,
        sections=tuple(sections),
        about=(*(about or {}).items(), *_about(head, features), *parts.made_by()),
    )


def _subtitle(evaluation: Evaluation) -> str:
    split = evaluation.split
    if split == VALID and (evaluation.table.splits != VALID).any():
        split = "held-out"  # from the training rows, for want of a valid split
    which = f"{split} image" if split else "image"
    named = ", ".join(evaluation.classes[:_NAMED])
    more = len(evaluation.classes) - _NAMED
    return f"{parts.counted(len(evaluation), which)} of {named}{f' and {more:,} more classes' if more > 0 else ''}"


def _facts(evaluation: Evaluation) -> tuple[Fact, ...]:
    accuracy = evaluation.accuracy
    right = int(np.count_nonzero(evaluation.table.correct))
    ranges = evaluation.intervals
    return (
        Fact("accuracy", parts.share(accuracy.value), f"95 % interval {parts.share_range(accuracy)}"),
        Fact("right", f"{right:,} of {len(evaluation):,}", f"{parts.counted(len(evaluation) - right, 'image')} wrong"),
        Fact("always the most frequent class", parts.share(evaluation.baseline_accuracy), "what a head must beat"),
        Fact("ROC AUC", parts.number(evaluation.roc_auc), _detail(ranges["roc_auc"])),
        Fact("log loss", parts.number(evaluation.log_loss), _detail(ranges["log_loss"])),
        Fact("calibration error", parts.number(evaluation.calibration_error), _detail(ranges["calibration_error"])),
    )


def _detail(interval: Interval | None) -> str:
    return "no interval" if interval is None else f"95 % interval {parts.number_range(interval)}"


def _wrong(evaluation: Evaluation) -> str:
    wrong = len(evaluation) - int(np.count_nonzero(evaluation.table.correct))
    if not wrong:
        return f"Nothing: {len(evaluation):,} of {parts.counted(len(evaluation), 'image')} right."
    return (
        f"{parts.counted(wrong, 'image')} of {len(evaluation):,}. Rows of the matrix are what images are labelled as, "
        "columns what the head says."
    )


def _confusions(evaluation: Evaluation) -> tuple[Table, ...]:
    """Return the most frequent confusions, where there are more than two classes and any confusion."""
    classes, confusion = evaluation.classes, evaluation.confusion
    off = confusion.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, off.shape), strict=True) if off[i, j]]
    if len(classes) <= 2 or not pairs:  # noqa: PLR2004
        return ()
    rows = tuple(
        (classes[i], classes[j], f"{off[i, j]:,}", parts.share(off[i, j] / confusion[i].sum())) for i, j in pairs
    )
    header = ("labelled", "predicted", "images", "of the labelled ones")
    return (Table(header, rows, "Most frequent confusions", frozenset({0, 1})),)


def _per_class(evaluation: Evaluation) -> Table:
    rows = tuple(
        (name, *map(parts.share, (each.precision, each.recall, each.f1)), f"{each.support:,}")
        for name, each in zip(evaluation.classes, evaluation.per_class, strict=True)
    )
    return Table(("class", "precision", "recall", "F1", "images"), rows, "How well each class is found")


def _numbers(evaluation: Evaluation) -> Table:
    ranges = evaluation.intervals
    values = {
        "balanced accuracy": ("balanced_accuracy", evaluation.balanced_accuracy),
        "log loss (nats)": ("log_loss", evaluation.log_loss),
        "ROC AUC": ("roc_auc", evaluation.roc_auc),
        "average precision": ("average_precision", evaluation.average_precision),
        "expected calibration error": ("calibration_error", evaluation.calibration_error),
        "precision, mean of classes": ("macro_precision", evaluation.macro.precision),
        "recall, mean of classes": ("macro_recall", evaluation.macro.recall),
        "F1, mean of classes": ("macro_f1", evaluation.macro.f1),
        "precision, weighted by images": ("weighted_precision", evaluation.weighted.precision),
        "recall, weighted by images": ("weighted_recall", evaluation.weighted.recall),
        "F1, weighted by images": ("weighted_f1", evaluation.weighted.f1),
    }
    proportions = {"accuracy": evaluation.accuracy}
    if evaluation.top_k_accuracy is not None:
        proportions[f"top-{evaluation.top_k} accuracy"] = evaluation.top_k_accuracy
    rows = [(name, parts.number(each.value), parts.number_range(each), "Wilson") for name, each in proportions.items()]
    rows += [
        (label, parts.number(value), parts.number_range(ranges[key]), "bootstrap" if ranges[key] else "-")
        for label, (key, value) in values.items()
    ]
    rows.append(("always the most frequent class", parts.number(evaluation.baseline_accuracy), "-", "-"))
    header = ("", "value", "95 % interval", "kind of interval")
    return Table(header, tuple(rows), "All numbers, with how sure they are", frozenset({0, 3}))


def _training(head: TrainedHead | None) -> tuple[Section, ...]:
    """Return how the head learned, if it did in epochs."""
    from heads.figures import epochs

    if head is None or not head.training.epochs:
        return ()
    record = head.training
    return (Section("How it learned", (parts.picture(epochs(record.epochs, kept=record.kept_epoch)),)),)


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
    predicted = evaluation.table.predicted[[numbers[path] for path in taken.paths]]
    blocks: tuple[Block, ...] = (parts.picture(feature_map(taken, predicted)),)
    return (Section("What the features look like", blocks),)


def _about(head: TrainedHead | None, features: FeatureSet | None) -> tuple[tuple[str, str], ...]:
    if head is None:
        return parts.about_features(features.recipe, features.tap) if features else ()
    record = head.training
    return (
        ("head", f"{head.name}: {parts.settings(head.params)}"),
        ("trained on", f"{parts.counted(record.n_train, 'image')}, seed {record.seed}"),
        *parts.about_features(head.recipe, head.tap),
        ("intervals", "95 %: Wilson's for accuracies, percentiles of bootstrap samples of the images for the rest"),
    )

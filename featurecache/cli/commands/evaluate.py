"""``featurecache evaluate``: metrics of a head on the labelled rows of a split."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurecache.cli.console.labels import Group, Labels, open_labelled, sources
from featurecache.cli.console.options import HeadDir, Split
from featurecache.cli.console.output import Json, print_table, show
from featurecache.cli.console.predictions_file import Predictions, require_table, write_table
from featurecache.cli.console.progress import progress
from featurecache.cli.console.reports import Format, ImageRoot, ReportFile, ReportPath, Thumbnails, tell
from featurecache.text import counted, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurecache import FeatureCache, FeatureSet
    from heads import Evaluation, Interval, LabelsEvaluation, NumbersEvaluation, Report, TrainedHead

_MATRIX = 20  # up to so many classes, the confusion matrix is printed
_CONFUSIONS = 10  # pairs of classes that are listed otherwise


def evaluate(
    head_dir: HeadDir,
    cache: Annotated[
        Path,
        typer.Argument(metavar="CACHE", readable=False, help="A cache file with the head's recipe."),
    ],
    split: Split = "valid",
    labels: Labels = None,
    group: Group = None,
    predictions: Predictions = None,
    report: ReportPath = None,
    form: Format = None,
    images: ImageRoot = None,
    thumbnails: Thumbnails = True,
    json: Json = False,
) -> None:
    """Evaluate a head on the labelled rows of a split."""
    from heads import (
        TrainedHead,
        evaluate_labels,
        evaluate_numbers,
        evaluation_report,
        labels_report,
        numbers_report,
        select_rows,
    )

    planned = ReportFile.planned(report, form, images, thumbnails=thumbnails)
    require_table(predictions)
    if report is not None and predictions is not None and predictions.resolve() == report.resolve():
        raise typer.BadParameter("--predictions and --report name the same file")
    opened, head = open_labelled(cache, labels, group), TrainedHead.load(head_dir)
    rows = select_rows(opened, head, split)
    print_text: Callable[[Any], None]
    make: Callable[..., Report]
    evaluation: Evaluation | LabelsEvaluation | NumbersEvaluation
    with progress("evaluating", bar=False):
        if head.target == "labels":
            evaluation, print_text = evaluate_labels(head, rows, cache=opened), print_labels
            make = partial(labels_report, evaluation)
        elif head.target == "number":
            evaluation, print_text = evaluate_numbers(head, rows, cache=opened), print_scores
            make = partial(numbers_report, evaluation)
        else:
            evaluation, print_text = evaluated(opened, head, rows), print_evaluation
            make = partial(evaluation_report, evaluation, features=rows)
    about = sources(cache, labels) | {"split": split}
    write_table(predictions, evaluation.table)
    tell(
        evaluation,
        print_text,
        planned,
        lambda originals: make(head=head, originals=originals, about=about),
        opened,
        json=json,
        predictions=predictions,
    )


def evaluated(cache: "FeatureCache", head: "TrainedHead", rows: "FeatureSet") -> "Evaluation":
    """Evaluate a head on rows of a cache; add the ImageNet top 3 if the cache has the tap ``predictions``."""
    from heads import evaluate as measure
    from heads import imagenet_top3

    return measure(head, rows, cache=cache, imagenet_top3=imagenet_top3(cache, rows))


def print_scores(
    evaluation: "Evaluation | LabelsEvaluation | NumbersEvaluation", *, without: tuple[str, ...] = ()
) -> None:
    """Print the scores of an evaluation with 95 % intervals; not those whose keys begin with ``without``."""
    rows = [
        (score.label, number(score.value), interval_text(score.interval))
        for score in evaluation.scores()
        if not score.key.startswith(without)
    ]
    print_table(("rows", f"{len(evaluation):,}", "95 % interval"), rows)
    if evaluation.n_groups is not None:
        show(f"intervals resample {counted(evaluation.n_groups, 'group')}")


def print_labels(evaluation: "LabelsEvaluation") -> None:
    """Print the scores of an evaluation of several labels, and those of each label."""
    print_scores(evaluation)
    show()
    print_table(evaluation.label_header, evaluation.label_rows())


def print_evaluation(evaluation: "Evaluation") -> None:
    """Print the metrics of an evaluation with 95 % intervals, the metrics per class, and the confusion matrix."""
    print_scores(evaluation, without=("macro_", "weighted_"))
    if before := evaluation.before_calibration:
        scores = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in before.items())
        show(f"before calibration: {scores}")
    show()
    print_table(
        ("class", "precision", "recall", "F1", "rows"),
        [
            (name, number(scores.precision), number(scores.recall), number(scores.f1), f"{scores.support:,}")
            for name, scores in zip(evaluation.classes, evaluation.per_class, strict=True)
        ],
    )
    show()
    _print_confusion(evaluation)


def interval_text(interval: "Interval | None") -> str:
    """Return an interval as text; an empty text for None."""
    return "" if interval is None else interval.range_text()


def _print_confusion(evaluation: "Evaluation") -> None:
    """Print the confusion matrix; of many classes, only the most frequent confusions."""
    classes = evaluation.classes
    if len(classes) <= _MATRIX:
        show("confusion matrix: rows are the actual, columns the predicted class")
        print_table(("", *classes), [(name, *row) for name, row in zip(classes, evaluation.confusion, strict=True)])
        return
    show(f"most frequent confusions (--json has all {len(classes):,} classes)")
    print_table(
        ("actual", "predicted", "rows"),
        [
            (classes[actual], classes[predicted], f"{count:,}")
            for actual, predicted, count in evaluation.confusions(_CONFUSIONS)
        ],
        left=(0, 1),
    )

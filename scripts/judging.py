"""``featurecache evaluate, compare``: how good heads are on the labelled rows of a split."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.output import Json, counted, number, print_table, show
from scripts.reports import Format, ImageRoot, ReportFile, ReportPath, Thumbnails, tell
from scripts.tables import Predictions, require_table, write_table

if TYPE_CHECKING:
    from featurecache import FeatureCache, FeatureSet
    from heads import Comparison, Evaluation, Interval, TrainedHead

_MATRIX = 20  # classes whose confusion matrix is printed
_CONFUSIONS = 10  # pairs of classes that are listed if there are more

Split = Annotated[str, typer.Option(help="train, valid or test.")]


def evaluate(
    head_dir: Annotated[Path, typer.Argument(metavar="HEAD_DIR", readable=False, help="A head's directory.")],
    cache: Annotated[
        Path,
        typer.Argument(
            metavar="CACHE", readable=False, help="A cache file of the recipe that the head was trained with."
        ),
    ],
    split: Split = "valid",
    predictions: Predictions = None,
    report: ReportPath = None,
    form: Format = None,
    images: ImageRoot = None,
    thumbnails: Thumbnails = True,
    json: Json = False,
) -> None:
    """Judge a head on the labelled rows of a split."""
    from featurecache import FeatureCache
    from heads import TrainedHead, select_rows
    from heads.reporting import evaluation_report

    planned = ReportFile.planned(report, form, images, thumbnails=thumbnails)
    require_table(predictions)
    if report is not None and predictions is not None and predictions.resolve() == report.resolve():
        raise typer.BadParameter("--predictions and --report name the same file")
    opened, head = FeatureCache.open(cache), TrainedHead.load(head_dir)
    rows = select_rows(opened, head, split)
    evaluation = _judged(opened, head, rows)
    write_table(predictions, evaluation.table)
    tell(
        evaluation,
        print_evaluation,
        planned,
        lambda originals: evaluation_report(
            evaluation, head=head, features=rows, originals=originals, about={"cache": cache.name, "split": split}
        ),
        opened,
        json=json,
        predictions=predictions,
    )


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="HEAD_DIR... CACHE", readable=False, help="Directories of heads, then a cache file."),
    ],
    split: Split = "valid",
    report: ReportPath = None,
    form: Format = None,
    images: ImageRoot = None,
    thumbnails: Thumbnails = True,
    json: Json = False,
) -> None:
    """Judge several heads on the same rows, and tell differences from luck."""
    from featurecache import FeatureCache
    from heads import TrainedHead, select_rows
    from heads import compare as judge
    from heads.reporting import comparison_report
    from heads.reporting.parts import settings

    *head_dirs, cache = paths
    names = [str(each) for each in head_dirs]
    if len(names) < 2:  # noqa: PLR2004
        raise typer.BadParameter("give at least two heads to compare, and then the cache")
    if len(set(names)) < len(names):
        raise typer.BadParameter("a head is named twice")
    planned = ReportFile.planned(report, form, images, thumbnails=thumbnails)
    opened = FeatureCache.open(cache)
    loaded = {name: TrainedHead.load(name) for name in names}
    comparison = judge({name: _judged(opened, head, select_rows(opened, head, split)) for name, head in loaded.items()})
    about = {"cache": cache.name, "split": split, "network": opened.recipe.backbone}
    about |= {name: f"{head.name} on {head.tap}: {settings(head.params)}" for name, head in loaded.items()}
    about |= {"weights": opened.recipe.weights, "fingerprint": opened.recipe.fingerprint}
    tell(
        comparison,
        print_comparison,
        planned,
        lambda originals: comparison_report(
            comparison, originals=originals, network=opened.recipe.backbone, about=about
        ),
        opened,
        json=json,
    )


def _judged(cache: "FeatureCache", head: "TrainedHead", rows: "FeatureSet") -> "Evaluation":
    """Evaluate a head on rows of a cache; the table says what the network saw as well, where the cache knows."""
    from heads import evaluate as judge
    from heads import seen_of

    return judge(head, rows, seen=seen_of(cache, rows))


def print_evaluation(evaluation: "Evaluation") -> None:
    """Print the numbers of an evaluation: overall with 95 % intervals, per class, and what was taken for what."""
    ranges = evaluation.intervals
    rows = [
        ("accuracy", number(evaluation.accuracy.value), _range(evaluation.accuracy)),
        ("majority baseline", number(evaluation.baseline_accuracy), ""),
        ("balanced accuracy", number(evaluation.balanced_accuracy), _range(ranges["balanced_accuracy"])),
        ("log loss", number(evaluation.log_loss), _range(ranges["log_loss"])),
        ("ROC AUC", number(evaluation.roc_auc), _range(ranges["roc_auc"])),
        ("average precision", number(evaluation.average_precision), _range(ranges["average_precision"])),
        ("calibration error", number(evaluation.calibration_error), _range(ranges["calibration_error"])),
    ]
    if evaluation.top_k_accuracy is not None:
        top = evaluation.top_k_accuracy
        rows.insert(1, (f"top-{evaluation.top_k} accuracy", number(top.value), _range(top)))
    print_table(("rows", f"{len(evaluation):,}", "95 % interval"), rows)
    show()
    print_table(
        ("class", "precision", "recall", "F1", "rows"),
        [
            (name, number(each.precision), number(each.recall), number(each.f1), f"{each.support:,}")
            for name, each in zip(evaluation.classes, evaluation.per_class, strict=True)
        ],
    )
    show()
    print_confusion(evaluation.classes, evaluation.confusion.tolist())


def print_comparison(comparison: "Comparison") -> None:
    """Print how good each head is, and of each pair whether the difference may be luck."""
    print_table(
        ("head", "accuracy", "95 % interval", "balanced", "log loss", "ROC AUC"),
        [
            (
                name,
                number(each.accuracy.value),
                _range(each.accuracy),
                number(each.balanced_accuracy),
                number(each.log_loss),
                number(each.roc_auc),
            )
            for name, each in comparison.evaluations.items()
        ],
    )
    show()
    print_table(
        ("first", "second", "only first right", "only second right", "difference", "95 % interval", "p", "p (Holm)"),
        [
            (
                each.a,
                each.b,
                f"{each.only_a:,}",
                f"{each.only_b:,}",
                f"{each.difference.value:+.4f}",
                f"{each.difference.low:+.4f} to {each.difference.high:+.4f}",
                f"{each.p_value:.3g}",
                f"{each.p_adjusted:.3g}",
            )
            for each in comparison.pairs
        ],
        left=(0, 1),
    )
    show()
    show(f"they disagree on {counted(len(comparison.disagreements()), 'row')}; p: exact McNemar test")


def _range(interval: "Interval | None") -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"


def print_confusion(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> None:
    """Print a confusion matrix, or its largest entries beside the diagonal if there are many classes."""
    if len(classes) <= _MATRIX:
        show("confusion matrix: rows are the actual, columns the predicted class")
        print_table(("", *classes), [(name, *row) for name, row in zip(classes, matrix, strict=True)])
        return
    confusions = sorted(
        (-count, classes[i], classes[j])
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if count and i != j
    )
    show(f"most frequent confusions (--json has all {len(classes):,} classes)")
    print_table(
        ("actual", "predicted", "rows"),
        [(actual, predicted, f"{-count:,}") for count, actual, predicted in confusions[:_CONFUSIONS]],
        left=(0, 1),
    )


COMMANDS = (evaluate, compare)

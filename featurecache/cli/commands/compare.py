"""``featurecache compare``: several heads on the same rows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurecache.cli.commands.evaluate import evaluated, interval_text
from featurecache.cli.console.labels import Group, Labels, open_labelled, sources
from featurecache.cli.console.options import Split
from featurecache.cli.console.output import Json, print_table, show
from featurecache.cli.console.progress import progress
from featurecache.cli.console.reports import Format, ImageRoot, ReportFile, ReportPath, Thumbnails, tell
from featurecache.text import counted, number

if TYPE_CHECKING:
    from heads import Comparison


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="HEAD_DIR... CACHE", readable=False, help="Directories of heads, then a cache file."),
    ],
    split: Split = "valid",
    labels: Labels = None,
    group: Group = None,
    report: ReportPath = None,
    form: Format = None,
    images: ImageRoot = None,
    thumbnails: Thumbnails = True,
    json: Json = False,
) -> None:
    """Evaluate several heads on the same rows, and test whether their differences are significant."""
    from heads import TrainedHead, comparison_report, format_parameters, select_rows
    from heads import compare as evaluate_all

    *head_dirs, cache = paths
    names = [str(directory) for directory in head_dirs]
    if len(names) < 2:  # noqa: PLR2004
        raise typer.BadParameter("give at least two heads, and then the cache")
    if len(set(names)) < len(names):
        raise typer.BadParameter("a head is given twice")
    planned = ReportFile.planned(report, form, images, thumbnails=thumbnails)
    opened = open_labelled(cache, labels, group)
    loaded = {name: TrainedHead.load(name) for name in names}
    for name, head in loaded.items():
        head.require_target("class", f"compare, with {name},")
    with progress("comparing", bar=False):
        comparison = evaluate_all(
            {name: evaluated(opened, head, select_rows(opened, head, split)) for name, head in loaded.items()}
        )
    about = sources(cache, labels) | {"split": split, "network": opened.recipe.backbone}
    about |= {name: f"{head.name} on {head.tap}: {format_parameters(head.params)}" for name, head in loaded.items()}
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


def print_comparison(comparison: "Comparison") -> None:
    """Print the metrics of each head, and the significance of each pair's difference."""
    print_table(
        ("head", "accuracy", "95 % interval", "balanced", "log loss", "ROC AUC"),
        [
            (
                name,
                number(evaluation.accuracy.value),
                interval_text(evaluation.accuracy),
                number(evaluation.balanced_accuracy),
                number(evaluation.log_loss),
                number(evaluation.roc_auc),
            )
            for name, evaluation in comparison.evaluations.items()
        ],
    )
    show()
    print_table(
        ("first", "second", "only first right", "only second right", "difference", "95 % interval", "p", "p (Holm)"),
        [
            (
                pair.a,
                pair.b,
                f"{pair.only_a:,}",
                f"{pair.only_b:,}",
                f"{pair.difference.value:+.4f}",
                f"{pair.difference.low:+.4f} to {pair.difference.high:+.4f}",
                f"{pair.p_value:.3g}",
                f"{pair.p_adjusted:.3g}",
            )
            for pair in comparison.pairs
        ],
        left=(0, 1),
    )
    show()
    test = "McNemar test"
    if comparison.n_groups is not None:
        test = f"sign-flip test of {counted(comparison.n_groups, 'group')}, which intervals resample"
    show(f"they disagree on {counted(len(comparison.disagreements()), 'row')}; p: exact {test}")

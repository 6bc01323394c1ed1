"""``featurecache curve``: accuracy against the number of labels."""

from typing import TYPE_CHECKING, Annotated

import typer

from featurecache.cli.console.labels import Group, Labels, Weight, open_labelled, sources
from featurecache.cli.console.options import CacheFile, Params, Seed, Tap
from featurecache.cli.console.output import Json, print_table, show
from featurecache.cli.console.progress import progress
from featurecache.cli.console.reports import Format, ReportFile, ReportPath, tell
from featurecache.text import number

if TYPE_CHECKING:
    from heads import LearningCurve


def curve(
    cache: CacheFile,
    tap: Tap = None,
    head: Annotated[str, typer.Option(help="The head to train: featurecache heads lists them.")] = "logreg",
    param: Params = None,
    repeats: Annotated[int, typer.Option(min=1, help="Random choices of training rows per size.")] = 5,
    holdout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of the training rows to hold out, if there is no valid split.")
    ] = 0.2,
    seed: Seed = 0,
    labels: Labels = None,
    group: Group = None,
    weight: Weight = None,
    report: ReportPath = None,
    form: Format = None,
    json: Json = False,
) -> None:
    """Measure accuracy against the number of labels, and forecast the accuracy with twice as many."""
    from heads import curve_report, head_spec, learning_curve, parse_parameters

    planned = ReportFile.planned(report, form, None, thumbnails=False)
    params = parse_parameters(head_spec(head), param or [])
    opened = open_labelled(cache, labels, group, weight)
    with progress("training", "head") as update:
        found = learning_curve(
            opened, head, tap=tap, params=params, repeats=repeats, holdout=holdout, seed=seed, progress=update
        )
    tell(
        found,
        print_curve,
        planned,
        lambda _: curve_report(found, recipe=opened.recipe, about=sources(cache, labels)),
        opened,
        json=json,
    )


def print_curve(found: "LearningCurve") -> None:
    """Print the accuracy for each number of labels, and the forecast."""
    from heads import outlook

    print_table(
        ("labels", "accuracy", "95 % interval", "runs"),
        [
            (
                f"{point.n:,}",
                number(point.accuracy.value),
                f"{point.accuracy.low:.4f} to {point.accuracy.high:.4f}",
                len(point.runs),
            )
            for point in found.points
        ],
        left=(),
    )
    show()
    show(outlook(found))

"""``featurecache audit, curve``: what a cache makes cheap: doubtful labels, copies of images, what labels buy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.output import Json, counted, number, print_table, show, steps_bar
from scripts.reports import Format, ImageRoot, ReportFile, ReportPath, Thumbnails, tell

if TYPE_CHECKING:
    from heads import Audit, LearningCurve

_LISTED = 25  # label errors and duplicates that are printed

CacheFile = Annotated[Path, typer.Argument(metavar="CACHE", readable=False, help="A cache file.")]
Tap = Annotated[
    str | None, typer.Option(help="The layer whose features are taken.", show_default="the last below the outputs")
]
Params = Annotated[
    list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="A parameter of the head.")
]
Seed = Annotated[int, typer.Option(min=0, help="What all random choices follow from.")]


def audit(
    cache: CacheFile,
    tap: Tap = None,
    head: Annotated[str, typer.Option(help="What judges the labels: featurecache heads lists them.")] = "softmax",
    param: Params = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts, each of which is judged by the others.")] = 5,
    near: Annotated[
        float, typer.Option(min=0.01, max=1, help="Cosine similarity from which on two images are near-duplicates.")
    ] = 0.9,
    seed: Seed = 0,
    report: ReportPath = None,
    form: Format = None,
    images: ImageRoot = None,
    thumbnails: Thumbnails = True,
    json: Json = False,
) -> None:
    """Find labels that are likely wrong, and images that occur more than once, within splits and across them."""
    from featurecache import FeatureCache
    from heads import audit as look
    from heads import head_spec, parse_parameters
    from heads.reporting import audit_report

    planned = ReportFile.planned(report, form, images, thumbnails=thumbnails)
    params = parse_parameters(head_spec(head), param or [])
    opened = FeatureCache.open(cache)
    with steps_bar("auditing", shown=not json) as update:
        found = look(opened, tap=tap, head=head, params=params, folds=folds, near=near, seed=seed, progress=update)
    tell(
        found,
        print_audit,
        planned,
        lambda originals: audit_report(found, recipe=opened.recipe, originals=originals, about={"cache": cache.name}),
        opened,
        json=json,
    )


def print_audit(found: "Audit") -> None:
    """Print the first likely label errors and duplicates, and how many there are."""
    if found.accuracy is None:
        show("labels were not judged")
    else:
        value = found.accuracy
        show(
            f"out of fold, {found.head} on {found.tap} agrees with {number(value.value)} of {len(found.table):,} "
            f"labels (95 % interval {value.low:.4f} to {value.high:.4f})"
        )
        show()
        doubtful = counted(len(found.label_errors), "label")
        show(
            f"{doubtful} to look at{', the most doubtful first' * bool(found.label_errors)}{_first(found.label_errors)}"
        )
    if found.label_errors:
        print_table(
            ("score", "labelled", "rather", "image"),
            [(number(each.score), each.given, each.suggested, each.path) for each in found.label_errors[:_LISTED]],
            left=(1, 2, 3),
        )
    show()
    groups = found.groups
    images = counted(sum(len(each.paths) for each in groups), "image")
    show(
        f"{images} in {counted(len(groups), 'group')} of duplicates: "
        f"{sum(each.crosses for each in groups):,} across splits, {sum(each.conflict for each in groups):,} with "
        f"conflicting labels{'; the pairs that join them' * bool(groups)}{_first(found.duplicates)}"
    )
    if found.duplicates:
        print_table(
            ("kind", "similarity", "conflict", "image", "its copy"),
            [
                (each.kind, number(each.similarity), "yes" if each.conflict else "", each.a, each.b)
                for each in found.duplicates[:_LISTED]
            ],
            left=(0, 2, 3, 4),
        )


def _first(found: tuple[object, ...]) -> str:
    return f"; the first {_LISTED} (--json and --report have more)" if len(found) > _LISTED else ""


def curve(
    cache: CacheFile,
    tap: Tap = None,
    head: Annotated[str, typer.Option(help="What is trained: featurecache heads lists them.")] = "logreg",
    param: Params = None,
    repeats: Annotated[int, typer.Option(min=1, help="Random choices of labels of each size.")] = 5,
    holdout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of the training rows to judge by, if there is no valid split.")
    ] = 0.2,
    seed: Seed = 0,
    report: ReportPath = None,
    form: Format = None,
    json: Json = False,
) -> None:
    """Measure accuracy against the number of labels, and what twice as many would likely buy."""
    from featurecache import FeatureCache
    from heads import head_spec, learning_curve, parse_parameters
    from heads.reporting import curve_report

    planned = ReportFile.planned(report, form, None, thumbnails=False)
    params = parse_parameters(head_spec(head), param or [])
    opened = FeatureCache.open(cache)
    with steps_bar("training", shown=not json) as update:
        found = learning_curve(
            opened, head, tap=tap, params=params, repeats=repeats, holdout=holdout, seed=seed, progress=update
        )
    tell(
        found,
        print_curve,
        planned,
        lambda _: curve_report(found, recipe=opened.recipe, about={"cache": cache.name}),
        opened,
        json=json,
    )


def print_curve(found: "LearningCurve") -> None:
    """Print the accuracy of each number of labels, and the outlook."""
    from heads.reporting.curve import outlook

    print_table(
        ("labels", "accuracy", "95 % interval", "runs"),
        [
            (
                f"{each.n:,}",
                number(each.accuracy.value),
                f"{each.accuracy.low:.4f} to {each.accuracy.high:.4f}",
                len(each.runs),
            )
            for each in found.points
        ],
        left=(),
    )
    show()
    show(outlook(found))


COMMANDS = (audit, curve)

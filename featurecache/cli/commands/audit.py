"""``featurecache audit``: likely wrong labels, and duplicate images."""

from typing import TYPE_CHECKING, Annotated

import typer

from featurecache.cli.console.labels import Group, Labels, Weight, open_labelled, sources
from featurecache.cli.console.options import CacheFile, Params, Seed, Tap
from featurecache.cli.console.output import Json, print_table, show
from featurecache.cli.console.progress import progress
from featurecache.cli.console.reports import Format, ImageRoot, ReportFile, ReportPath, Thumbnails, tell
from featurecache.text import counted, number

if TYPE_CHECKING:
    from heads import Audit

_LISTED = 25  # label errors and duplicates that are printed


def audit(
    cache: CacheFile,
    tap: Tap = None,
    head: Annotated[
        str, typer.Option(help="The head that checks the labels: featurecache heads lists them.")
    ] = "softmax",
    param: Params = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    near: Annotated[
        float, typer.Option(min=0.01, max=1, help="Images with at least this cosine similarity are near-duplicates.")
    ] = 0.9,
    seed: Seed = 0,
    labels: Labels = None,
    group: Group = None,
    weight: Weight = None,
    report: ReportPath = None,
    form: Format = None,
    images: ImageRoot = None,
    thumbnails: Thumbnails = True,
    json: Json = False,
) -> None:
    """Find labels that are likely wrong, and images that occur more than once, within splits and across them."""
    from heads import audit as look
    from heads import audit_report, head_spec, parse_parameters

    planned = ReportFile.planned(report, form, images, thumbnails=thumbnails)
    params = parse_parameters(head_spec(head), param or [])
    opened = open_labelled(cache, labels, group, weight)
    with progress("auditing") as update:
        found = look(opened, tap=tap, head=head, params=params, folds=folds, near=near, seed=seed, progress=update)
    tell(
        found,
        print_audit,
        planned,
        lambda originals: audit_report(found, recipe=opened.recipe, originals=originals, about=sources(cache, labels)),
        opened,
        json=json,
    )


def print_audit(found: "Audit") -> None:
    """Print the numbers of likely label errors and duplicates, and the first of them."""
    if found.accuracy is None:
        show("labels were not checked")
    else:
        value = found.accuracy
        show(
            f"out of fold, {found.head} on {found.tap} agrees with {number(value.value)} of {len(found.table):,} "
            f"labels (95 % interval {value.low:.4f} to {value.high:.4f})"
        )
        show()
        doubtful = counted(len(found.label_errors), "label")
        show(f"{doubtful} to check{', the most doubtful first' * bool(found.label_errors)}{_first(found.label_errors)}")
    if found.label_errors:
        print_table(
            ("score", "label", "suggested", "image"),
            [(number(error.score), error.given, error.suggested, error.path) for error in found.label_errors[:_LISTED]],
            left=(1, 2, 3),
        )
    show()
    groups = found.groups
    tearing = sum(pair.tears_groups for pair in found.duplicates)
    torn = f"{counted(tearing, 'pair')} across the groups of the column, " if tearing else ""
    images = counted(sum(len(group.paths) for group in groups), "image")
    show(
        f"{images} in {counted(len(groups), 'group')} of duplicates: "
        f"{sum(group.crosses for group in groups):,} across splits, {torn}"
        f"{sum(group.conflict for group in groups):,} with "
        f"conflicting labels{'; the pairs that join them' * bool(groups)}{_first(found.duplicates)}"
    )
    if found.duplicates:
        print_table(
            ("kind", "similarity", "conflict", "image", "duplicate"),
            [
                (pair.kind, number(pair.similarity), "yes" if pair.conflict else "", pair.a, pair.b)
                for pair in found.duplicates[:_LISTED]
            ],
            left=(0, 2, 3, 4),
        )


def _first(found: tuple[object, ...]) -> str:
    return f"; the first {_LISTED} (--json and --report have more)" if len(found) > _LISTED else ""

"""``featurecache why, verify, merge``: what a run would do, whether a cache is whole, several caches into one."""

from pathlib import Path
from typing import Annotated

import typer

from scripts.options import (
    Backbone,
    BatchSize,
    Cache,
    Device,
    Dtype,
    Engine,
    Filter,
    Images,
    LabelFromName,
    MovedWeights,
    Precision,
    Rehash,
    Resize,
    Root,
    Taps,
    Weights,
    tap_names,
)
from scripts.output import Json, counted, print_json, print_table, say, show

_EXPLANATIONS = {
    "unchanged": "reused: path, size and modification time are known",
    "touched": "reused: the content is the same, the modification time is not",
    "moved": "reused: the content is known from another path",
    "duplicate": "reused: the same content comes earlier in this run",
    "new": "computed: a new path with new content",
    "changed": "computed: a known path with new content",
    "failed before": "failure: the same bytes could not be decoded before",
    "unreadable": "failure: the file cannot be read",
    "gone": "gone: in the cache, no longer among the images",
}


def why(
    images: Images,
    cache: Cache,
    backbone: Backbone = "vgg16",
    weights: Weights = "imagenet",
    taps: Taps = None,
    precision: Precision = "float32",
    dtype: Dtype = "float32",
    resize: Resize = "squash",
    filter: Filter = "bilinear",
    root: Root = None,
    label_from_name: LabelFromName = False,
    rehash: Rehash = False,
    json: Json = False,
) -> None:
    """Say what extract would reuse, compute or refuse with the same arguments, and why; nothing is changed."""
    from featurecache.planning import why as plan_of

    plan = plan_of(
        images,
        cache,
        backbone=backbone,
        weights=weights,
        taps=tap_names(taps),
        precision=precision,
        dtype=dtype,
        resize=resize,
        filter=filter,
        root=root,
        label_from_name=label_from_name,
        rehash=rehash,
    )
    summary = plan.to_dict()
    if json:
        print_json(summary)
        return
    if plan.refused:
        show(f"refused: {cache} has another recipe; choose another path, or extract with --replace")
        print_table(("field", "cache", "wanted"), [(d.field, d.ours, d.theirs) for d in plan.refused], left=(0, 1, 2))
        return
    show(f"{counted(summary['reuse'], 'image')} reused, {summary['compute']:,} computed, {summary['gone']:,} gone")
    print_table(
        ("images", "why", "first"),
        [(f"{len(paths):,}", _EXPLANATIONS[reason], paths[0]) for reason, paths in plan.reasons.items()]
        + (
            [(f"{len(plan.gone):,}", "gone: in the cache, no longer among the images", plan.gone[0])]
            if plan.gone
            else []
        ),
        left=(1, 2),
    )


def verify(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", readable=False, help="A cache file.")],
    recompute: Annotated[
        int, typer.Option(min=0, metavar="K", help="Extract K rows again, chosen at random, and compare.")
    ] = 0,
    images: Annotated[
        Path | None,
        typer.Option(readable=False, help="The folder the paths are relative to.", show_default="as extracted"),
    ] = None,
    weights: MovedWeights = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    engine: Engine = "auto",
    seed: Annotated[int, typer.Option(min=0, help="What the choice of rows follows from.")] = 0,
    json: Json = False,
) -> None:
    """Check a cache: structure, order, and the checksum of every block of features."""
    from featurecache.verification import verify as check

    found = check(
        cache,
        recompute=recompute,
        images=images,
        weights=weights,
        batch_size=batch_size,
        device=device,
        engine=engine,
        seed=seed,
        notify=say,
    )
    if json:
        print_json(found.to_dict())
    else:
        for problem in found.problems:
            show(f"problem: {problem}")
        if found.max_relative_error is not None:
            show(
                f"{counted(found.recomputed, 'row')} extracted again: "
                f"largest relative error {found.max_relative_error:.2g}"
            )
        if found.skipped:
            skipped = counted(found.skipped, "image")
            show(f"{skipped} skipped: changed, gone, or in another folder, which --images names")
        if found.ok:
            show(f"{cache}: no problem")
    if not found.ok:
        raise typer.Exit(1)


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", readable=False, help="The cache file to make.")],
    caches: Annotated[list[Path], typer.Argument(metavar="CACHE", readable=False, help="Caches of one recipe.")],
    json: Json = False,
) -> None:
    """Join caches of one recipe into a new one, by content; nothing is computed again."""
    from featurecache.merging import merge as join

    merged = join(out, caches)
    if json:
        print_json({"rows": len(merged), "failures": len(merged.failures), "classes": list(merged.classes)})
    else:
        show(f"{out}: {counted(len(merged), 'row')}, {counted(len(merged.failures), 'failure')}")


COMMANDS = (why, verify, merge)

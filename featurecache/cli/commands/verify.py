"""``featurecache verify``: checks a cache for damage, and compares rows with their images."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featurecache.cli.console.options import CacheFile, MovedWeights, with_options
from featurecache.cli.console.output import Json, print_json, say, show
from featurecache.cli.console.progress import progress
from featurecache.options import RunOptions
from featurecache.text import counted


@with_options(RunOptions, only=("batch_size", "device", "engine"))
def verify(
    cache: CacheFile,
    recompute: Annotated[int, typer.Option(min=0, metavar="K", help="Extract K random rows again, and compare.")] = 0,
    images: Annotated[
        Path | None,
        typer.Option(readable=False, help="The folder that the paths are relative to.", show_default="as extracted"),
    ] = None,
    weights: MovedWeights = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the choice of rows.")] = 0,
    json: Json = False,
    **options: Any,
) -> None:
    """Check the structure, the order of rows and all checksums of a cache."""
    from featurecache import verify as check

    with progress("verifying") as update:
        found = check(
            cache,
            recompute=recompute,
            images=images,
            weights=weights,
            seed=seed,
            progress=update,
            notify=say,
            **options,
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
            show(f"{skipped} skipped: changed, missing, broken, or in another folder (give it with --images)")
        if found.ok:
            show(f"{cache}: no problem")
    if not found.ok:
        raise typer.Exit(1)

"""``featurecache precision``: what another precision, type or engine changes in features and decisions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurecache.cli.console.options import CacheFile, HeadDir, MovedWeights, Seed, with_options
from featurecache.cli.console.output import Json, print_json, print_table, say, show
from featurecache.cli.console.progress import progress
from featurecache.options import DTYPES, ENGINES, PRECISIONS, RunOptions
from featurecache.text import counted, number

if TYPE_CHECKING:
    from heads import PrecisionCheck

_LISTED = 25  # flips that are printed


@with_options(RunOptions, only=("batch_size", "device"))
def precision(
    cache: CacheFile,
    head_dir: HeadDir,
    other: Annotated[
        str | None, typer.Option("--precision", help=f"Compute in this precision: {', '.join(PRECISIONS)}.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help=f"Store features in this type: {' or '.join(DTYPES)}.")] = None,
    engine: Annotated[str | None, typer.Option(help=f"Compute with this engine: {', '.join(ENGINES)}.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to compare, chosen at random.")] = 500,
    images: Annotated[
        Path | None,
        typer.Option(readable=False, help="The folder that the paths are relative to.", show_default="as extracted"),
    ] = None,
    weights: MovedWeights = None,
    seed: Seed = 0,
    json: Json = False,
    **options: Any,
) -> None:
    """Compute a sample again in another way, and count the decisions of a head that differ."""
    from featurecache import FeatureCache
    from heads import TrainedHead, check_precision

    opened, head = FeatureCache.open(cache), TrainedHead.load(head_dir)
    with progress("computing again", "image") as update:
        found = check_precision(
            opened,
            head,
            precision=other,
            dtype=dtype,
            engine=engine,
            rows=rows,
            images=images,
            weights=weights,
            seed=seed,
            progress=update,
            notify=say,
            **options,
        )
    if json:
        print_json(found.to_dict())
        return
    print_check(found)


def print_check(found: "PrecisionCheck") -> None:
    """Print how far features are, and the decisions that differ."""
    engine = f"engine {found.engine}, " if found.engine else ""
    show(f"{counted(found.n, 'row')} with {engine}{found.precision} precision, {found.dtype} features")
    if found.skipped:
        show(f"{counted(found.skipped, 'image')} skipped: changed, missing, broken, or in another folder")
    show(
        f"relative error of features: median {found.error_median:.2g}, 99 % of rows up to {found.error_99:.2g}, all up "
        f"to {found.error_max:.2g}"
    )
    share = found.flipped
    show(
        f"{len(found.flips)} of {counted(found.n, 'decision')} differ: {100 * share.value:.2f} % (95 % interval "
        f"{100 * share.low:.2f} to {100 * share.high:.2f} %)"
    )
    if found.flips:
        first = f"; the first {_LISTED} (--json has all)" if len(found.flips) > _LISTED else ""
        show()
        show(f"decisions that differ{first}")
        print_table(
            ("before", "probability", "after", "probability", "label", "image"),
            [
                (
                    flip.before,
                    number(flip.probability_before),
                    flip.after,
                    number(flip.probability_after),
                    flip.label or "-",
                    flip.path,
                )
                for flip in found.flips[:_LISTED]
            ],
            left=(0, 2, 4, 5),
        )

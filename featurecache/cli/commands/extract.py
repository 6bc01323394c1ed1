"""``featurecache extract``: writes the features of images to a cache file."""

from typing import Any

import typer

from featurecache.cli.console.options import Cache, Images, Strict, with_options
from featurecache.cli.console.output import Json, print_failures, print_json, say, show
from featurecache.cli.console.progress import progress
from featurecache.options import ClusterOptions, DecodeOptions, ImageOptions, NetworkOptions, RunOptions
from featurecache.text import counted


@with_options(NetworkOptions, DecodeOptions, ImageOptions, RunOptions, ClusterOptions)
def extract(images: Images, cache: Cache, strict: Strict = False, json: Json = False, **options: Any) -> None:
    """Pass images through a network once and store its activations in an HDF5 file.

    The same command continues an interrupted run, and brings a cache up to date: only new content goes through
    the network.

    A cache knows its recipe, so featurecache extract IMAGES CACHE is enough to update it.
    """
    from featurecache import Progress
    from featurecache import extract as run

    last = Progress(0)

    def remember(state: Progress) -> None:
        nonlocal last
        last = state
        update(state.done, state.total, state.doing, rate=state.rate)

    with progress("extracting", "image") as update:
        made = run(images, cache, **options, progress=remember, notify=say)
    print_failures(made.failures, f"featurecache info {cache} --json")
    for warning in last.warnings:
        say(f"warning: {warning}")
    ledger = last.to_dict()
    if json:
        of_classes = [warning.to_dict() for warning in made.warnings]
        print_json(ledger | {"warnings": [*of_classes, *ledger["warnings"]]})
    else:
        widths = ", ".join(f"{tap} {width}" for tap, width in made.taps.items())
        bound = "decoding" if ledger["bound"] == "decode" else "computing"
        rows, failures = counted(len(made), "row"), counted(len(made.failures), "failure")
        show(f"{cache}: {rows} of {made.recipe.backbone} ({widths}), {failures}")
        show(
            f"{counted(ledger['forwarded'], 'image')} forwarded, {ledger['reused']:,} reused, "
            f"in {ledger['seconds']:.1f} s"
            + (
                f": {last.forwarded / last.seconds:.1f} images/s with the start, bound by {bound}"
                if last.forwarded
                else ""
            )
        )
    if strict and made.failures:
        failed = f"{counted(len(made.failures), 'image')} failed"
        say(f"error: {failed}, and --strict was given; all good rows are saved in {cache}")
        raise typer.Exit(1)

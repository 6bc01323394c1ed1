"""``featurecache extract``: images to a cache file."""

from typing import Annotated

import typer

from scripts.options import (
    Backbone,
    BatchSizeOrAuto,
    Cache,
    Device,
    Dtype,
    Engine,
    Filter,
    Images,
    LabelFromName,
    Precision,
    Rehash,
    Resize,
    Root,
    Taps,
    Weights,
    Workers,
    tap_names,
)
from scripts.output import Json, counted, print_failures, print_json, progress_bar, say, show


def extract(
    images: Images,
    cache: Cache,
    backbone: Backbone = "vgg16",
    weights: Weights = "imagenet",
    taps: Taps = None,
    batch_size: BatchSizeOrAuto = None,
    workers: Workers = None,
    device: Device = "auto",
    precision: Precision = "float32",
    engine: Engine = "auto",
    dtype: Dtype = "float32",
    resize: Resize = "squash",
    filter: Filter = "bilinear",
    max_pixels: Annotated[int, typer.Option(min=1, help="A larger image is a failure.")] = 50_000_000,
    root: Root = None,
    label_from_name: LabelFromName = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any image fails.")] = False,
    rehash: Rehash = False,
    retry_failures: Annotated[bool, typer.Option("--retry-failures", help="Decode again what failed before.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a cache of another recipe.")] = False,
    json: Json = False,
) -> None:
    """Pass images through a network once and keep its activations in an HDF5 file.

    An interrupted run goes on where it was when the same command is run again.

    A finished cache is brought up to date: only content that it does not know goes through the network.
    """
    from featurecache import Progress
    from featurecache import extract as run

    last = Progress(0)

    def remember(progress: Progress) -> None:
        nonlocal last
        last = progress
        update(progress)

    with progress_bar("extracting", shown=not json) as update:
        made = run(
            images,
            cache,
            backbone=backbone,
            weights=weights,
            taps=tap_names(taps),
            batch_size=batch_size,
            workers=workers,
            device=device,
            precision=precision,
            engine=engine,
            dtype=dtype,
            resize=resize,
            filter=filter,
            max_pixels=max_pixels,
            root=root,
            label_from_name=label_from_name,
            rehash=rehash,
            retry_failures=retry_failures,
            replace=replace,
            progress=remember,
            notify=say,
        )
    print_failures(made.failures, f"featurecache info {cache} --json")
    ledger = last.to_dict()
    if json:
        print_json(ledger)
    else:
        widths = ", ".join(f"{tap} {width}" for tap, width in made.taps.items())
        bound = "decoding" if ledger["bound"] == "decode" else "computing"
        rows, failures = counted(len(made), "row"), counted(len(made.failures), "failure")
        show(f"{cache}: {rows} of {made.recipe.backbone} ({widths}), {failures}")
        show(
            f"{counted(ledger['forwarded'], 'image')} forwarded, {ledger['reused']:,} reused, "
            f"in {ledger['seconds']:.1f} s"
            + (f": {ledger['images_per_second']:.1f} images/s, bound by {bound}" if last.forwarded else "")
        )
    if strict and made.failures:
        failed = f"{counted(len(made.failures), 'image')} failed"
        say(f"error: {failed}, and --strict was given; all good rows are saved in {cache}")
        raise typer.Exit(1)


COMMANDS = (extract,)

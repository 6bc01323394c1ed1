"""``featurecache extract``: images to a cache file."""

from pathlib import Path
from typing import Annotated

import typer

from scripts.output import Json, counted, print_failures, print_json, progress_bar, say, show


def extract(
    images: Annotated[
        Path,
        typer.Argument(metavar="IMAGES", help="A folder of images, or a CSV or TSV table: path[,label][,split]."),
    ],
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache file to make or to bring up to date.")],
    backbone: Annotated[str, typer.Option(help="The network: featurecache backbones lists them.")] = "vgg16",
    weights: Annotated[str, typer.Option(help="imagenet, the path of a weight file, or random:SEED.")] = "imagenet",
    taps: Annotated[
        str | None, typer.Option(help="Layers to keep, separated by commas.", show_default="the network's own")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a forward pass.")] = 32,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and decode.", show_default="one a processor")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, or mixed: half precision inside the network.")] = "float32",
    dtype: Annotated[str, typer.Option(help="What features are stored in: float32 or float16.")] = "float32",
    resize: Annotated[str, typer.Option(help="squash: the whole image; crop: its centre.")] = "squash",
    filter: Annotated[str, typer.Option(help="bilinear, nearest, bicubic or lanczos.")] = "bilinear",
    max_pixels: Annotated[int, typer.Option(min=1, help="A larger image is a failure.")] = 50_000_000,
    root: Annotated[
        Path | None, typer.Option(help="The folder that a table's paths are relative to.", show_default="the table's")
    ] = None,
    label_from_name: Annotated[
        bool, typer.Option("--label-from-name", help="Take labels from names such as cat.123.jpg.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any image fails.")] = False,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read files that look unchanged, too.")] = False,
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
            taps=None if taps is None else [tap.strip() for tap in taps.split(",")],
            batch_size=batch_size,
            workers=workers,
            device=device,
            precision=precision,
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
        rows, failures = counted(len(made), "row"), counted(len(made.failures), "failure")
        show(f"{cache}: {rows} of {made.recipe.backbone} ({widths}), {failures}")
        show(
            f"{counted(ledger['forwarded'], 'image')} forwarded, {ledger['reused']:,} reused, "
            f"in {ledger['seconds']:.1f} s: {ledger['images_per_second']:.1f} images/s"
            + (f", bound by {'decoding' if ledger['bound'] == 'decode' else 'computing'}" if last.forwarded else "")
        )
    if strict and made.failures:
        failed = f"{counted(len(made.failures), 'image')} failed"
        say(f"error: {failed}, and --strict was given; all good rows are saved in {cache}")
        raise typer.Exit(1)


COMMANDS = (extract,)

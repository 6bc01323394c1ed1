"""``featurecache finetune``: trains a head together with the upper layers of its network."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featurecache.cli.commands.train import EpochPrinter
from featurecache.cli.console.options import HeadDir, MovedWeights, with_options
from featurecache.cli.console.output import Json, print_failures, print_json, say, show
from featurecache.cli.console.progress import progress
from featurecache.options import DecodeOptions, ImageOptions, RunOptions

_READING = ("root", "label_from_name", "path_column", "label_column", "split_column", "frames")


@with_options(DecodeOptions, ImageOptions, RunOptions, only=(*_READING, "max_pixels", "workers", "device"))
def finetune(
    head_dir: HeadDir,
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES",
            readable=False,
            help="A folder, archive or table of labelled images with the head's classes.",
        ),
    ],
    path: Annotated[Path, typer.Argument(metavar="OUT.keras", readable=False, help="The Keras model to create.")],
    unfreeze: Annotated[
        str,
        typer.Option(metavar="STAGE", help="The first stage to train; predictions trains the head alone."),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option("-p", "--param", metavar="KEY=VALUE", help="A setting: lr, epochs, batch_size or optimizer."),
    ] = None,
    weights: MovedWeights = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the order of the images.")] = 0,
    json: Json = False,
    **options: Any,
) -> None:
    """Continue training a head on images, together with the upper layers of its network."""
    from featurecache import read_manifest
    from heads import FINE_TUNING, TrainedHead, parse_parameters
    from heads import finetune as tune

    params = parse_parameters(FINE_TUNING, param or [])
    reading = {name: options.pop(name) for name in _READING}
    with progress("fine-tuning", "image", bar=False) as update:  # epochs are printed
        done = tune(
            TrainedHead.load(head_dir),
            read_manifest(images, **reading),
            path,
            unfreeze=unfreeze,
            params=params,
            seed=seed,
            weights=weights,
            on_epoch=(lambda _: None) if json else EpochPrinter(),
            progress=update,
            notify=say,
            **options,
        )
    print_failures({path: failure.reason for path, failure in done.failures.items()}, "--json lists all")
    for warning in done.warnings:
        say(f"warning: {warning}")
    if json:
        print_json(done.to_dict())
        return
    show(
        f"{path}: {done.n_train:,} train and {done.n_valid:,} valid images, {done.trained_weights:,} of "
        f"{done.weights:,} weights trained, {done.seconds:.2f} s"
    )

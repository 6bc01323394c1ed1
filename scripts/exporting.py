"""``featurecache export, finetune``: networks and heads as files that do without this project."""

from pathlib import Path
from typing import Annotated

import typer

from scripts.options import Device, MovedWeights, Workers
from scripts.output import Json, print_failures, print_json, say, show
from scripts.training import EpochPrinter

_NAMED = 20  # classes that are named

HeadDir = Annotated[Path, typer.Argument(metavar="HEAD_DIR", readable=False, help="A head's directory.")]


def export(
    head_dir: HeadDir,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            readable=False,
            help="OUT.keras: network and head as one Keras model; OUT.joblib: the head as a scikit-learn object.",
        ),
    ],
    weights: MovedWeights = None,
) -> None:
    """Write a head, with its network or alone, as a file for Keras or scikit-learn."""
    from heads import TrainedHead
    from heads.exporting import export as write

    head = TrainedHead.load(head_dir)
    write(head, path, weights=weights, notify=say)
    inputs = f"{head.recipe.backbone} up to {head.tap} and " if path.suffix == ".keras" else ""
    show(f"{path}: {inputs}{head.name}; classes in this order: {', '.join(head.classes[:_NAMED])}")


def finetune(
    head_dir: HeadDir,
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", readable=False, help="A folder or table of labelled images, of the head's classes."
        ),
    ],
    path: Annotated[Path, typer.Argument(metavar="OUT.keras", readable=False, help="The Keras model to make.")],
    unfreeze: Annotated[
        str,
        typer.Option(
            metavar="STAGE", help="Where training begins: predictions (the head alone), or a stage of the network."
        ),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option("-p", "--param", metavar="KEY=VALUE", help="A setting: lr, epochs, batch_size or optimizer."),
    ] = None,
    weights: MovedWeights = None,
    workers: Workers = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, help="What the order of the images follows from.")] = 0,
    json: Json = False,
) -> None:
    """Go on training a head on the images, together with the upper layers of its network."""
    from heads import TrainedHead, parse_parameters
    from heads.finetuning import FINE_TUNING
    from heads.finetuning import finetune as tune

    params = parse_parameters(FINE_TUNING, param or [])
    done = tune(
        TrainedHead.load(head_dir),
        images,
        path,
        unfreeze=unfreeze,
        params=params,
        seed=seed,
        weights=weights,
        workers=workers,
        device=device,
        on_epoch=(lambda _: None) if json else EpochPrinter(),
        notify=say,
    )
    print_failures(done.failures, "--json lists all")
    for warning in done.warnings:
        say(f"warning: {warning}")
    if json:
        print_json(done.to_dict())
        return
    show(
        f"{path}: {done.n_train:,} train and {done.n_valid:,} valid images, {done.trained_weights:,} of "
        f"{done.weights:,} weights trained, {done.seconds:.2f} s"
    )


COMMANDS = (export, finetune)

"""``featurecache train``: heads on cached features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.output import Json, number, print_json, say, show

if TYPE_CHECKING:
    from heads import Epoch


def train(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", readable=False, help="A cache file.")],
    head_dir: Annotated[
        Path, typer.Argument(metavar="HEAD_DIR", readable=False, help="The directory to make for the head.")
    ],
    head: Annotated[
        str | None, typer.Option(help="What to train: featurecache heads lists them.", show_default="softmax")
    ] = None,
    tap: Annotated[
        str | None, typer.Option(help="The layer whose features it takes.", show_default="the only one")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="HEAD_DIR", readable=False, help="Go on training this head, with its settings."),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="A parameter of the head.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="What all random choices follow from.")] = 0,
    holdout: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.9,
            help="Part of the training rows to judge by, if there is no valid split.",
            show_default="0.2",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train a head on the train split of a cache; the valid split watches."""
    from featurecache import FeatureCache
    from heads import TrainedHead, head_spec, parse_parameters, require_free
    from heads import train as fit
    from heads.training import DEFAULT_HEAD

    require_free(head_dir)
    begun = None if start is None else TrainedHead.load(start)
    params = parse_parameters(head_spec(head or (begun.name if begun else DEFAULT_HEAD)), param or [])
    trained = fit(
        FeatureCache.open(cache),
        head,
        tap=tap,
        params=params,
        seed=seed,
        holdout=holdout,
        start=begun,
        on_epoch=None if json else EpochPrinter(),
    )
    trained.save(head_dir)
    for warning in trained.training.warnings:
        say(f"warning: {warning}")
    if json:
        print_json(trained.to_dict())
        return
    record = trained.training
    rows = f"{record.n_train:,} train and {record.n_valid:,} valid rows"
    show(f"{head_dir}: {trained.name} on {trained.tap}, {rows}, {record.seconds:.2f} s")
    if record.kept_epoch is not None and record.kept_epoch < len(record.epochs):
        show(f"the weights of epoch {record.kept_epoch} were kept")
    show(f"train accuracy {number(record.train_accuracy)}, valid accuracy {number(record.valid_accuracy)}")


class EpochPrinter:
    """Prints one line about each epoch as soon as it is over, below a header."""

    def __init__(self) -> None:
        self._begun = False

    def __call__(self, epoch: "Epoch") -> None:
        """Print an epoch."""
        if not self._begun:
            show("epoch      loss  accuracy  valid_loss  valid_accuracy")
        self._begun = True
        show(
            f"{epoch.epoch:5d}  {epoch.loss:8.4f}  {epoch.accuracy:8.4f}  {number(epoch.valid_loss):>10}  "
            f"{number(epoch.valid_accuracy):>14}"
        )


COMMANDS = (train,)

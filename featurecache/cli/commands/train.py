"""``featurecache train``: trains a head on cached features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurecache.cli.console.labels import Group, Labels, Weight, open_labelled
from featurecache.cli.console.options import CacheFile
from featurecache.cli.console.output import Json, print_json, say, show
from featurecache.cli.console.progress import progress
from featurecache.text import listed, number

if TYPE_CHECKING:
    from heads import Calibration, Epoch, Growth, TrainedHead


def train(
    cache: CacheFile,
    head_dir: Annotated[
        Path, typer.Argument(metavar="HEAD_DIR", readable=False, help="The directory to create for the head.")
    ],
    head: Annotated[
        str | None,
        typer.Option(
            help="The head to train: featurecache heads lists them.",
            show_default="softmax; for labels logreg, for a number ridge",
        ),
    ] = None,
    tap: Annotated[str | None, typer.Option(help="The tap whose features to use.", show_default="the only one")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="HEAD_DIR",
            readable=False,
            help="Continue from this head, with its parameters; new rows and classes may join.",
        ),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="A parameter of the head.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of all random choices.")] = 0,
    holdout: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.9,
            help="Part of the training rows to hold out, if there is no valid split.",
            show_default="0.2",
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="temperature|isotonic|none",
            help="Calibrate probabilities on the valid rows, or, if there are none, on folds of the training rows.",
            show_default="none",
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            readable=False,
            help="A folder for event files of TensorBoard; for heads that Keras can train.",
        ),
    ] = None,
    keep_rows: Annotated[
        bool | None,
        typer.Option(
            "--keep-rows/--no-keep-rows",
            help="Keep the features of the rows in the head, so that it can grow without their cache.",
            show_default="as --from, else no",
        ),
    ] = None,
    labels: Labels = None,
    group: Group = None,
    weight: Weight = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="What the labels are: a class, several labels (cat|indoors), or a number.",
            metavar="KIND",
            show_default="as --from, else class",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train a head on the train split of a cache, and measure it on the valid split."""
    from heads import TrainedHead, default_head, head_spec, parse_parameters, require_free
    from heads import train as fit

    require_free(head_dir)
    begun = None if start is None else TrainedHead.load(start)
    spec = begun.spec if begun and head in {None, begun.name} else head_spec(head or default_head(target or "class"))
    params = parse_parameters(spec, param or [])
    opened = open_labelled(cache, labels, group, weight)
    with progress("training", bar=False):  # epochs are printed
        trained = fit(
            opened,
            head,
            tap=tap,
            params=params,
            seed=seed,
            holdout=holdout,
            start=begun,
            calibrate=calibrate,
            target=target,
            keep_rows=keep_rows,
            on_epoch=None if json else EpochPrinter(),
            tensorboard=tensorboard,
        )
    trained.save(head_dir)
    for warning in trained.training.warnings:
        if warning.code != "unmatched_labels":  # said before
            say(f"warning: {warning}")
    if json:
        print_json(trained.to_dict())
        return
    record = trained.training
    rows = f"{_train_text(trained)} and {record.n_valid:,} valid rows"
    show(f"{head_dir}: {trained.name} on {trained.tap}, {rows}, {record.seconds:.2f} s")
    if record.growth is not None and record.growth.grew:
        show(_growth_text(record.growth))
    if record.weight is not None:
        show(f"training rows were weighed by the column {record.weight!r}")
    if record.groups is not None:
        groups = f"{record.groups.n_train:,} train and {record.groups.n_valid:,} valid groups"
        show(f"rows were kept together by the column {record.groups.column!r}: {groups}")
    if record.kept_epoch is not None and record.kept_epoch < len(record.epochs):
        show(f"the weights of epoch {record.kept_epoch} were kept")
    if trained.calibration:
        show(_calibration_text(trained.calibration))
    score = _SCORES[trained.target]
    show(f"train {score} {number(record.train_accuracy)}, valid {score} {number(record.valid_accuracy)}")


_SCORES = {"class": "accuracy", "labels": "accuracy of all labels", "number": "R2"}


def _train_text(head: "TrainedHead") -> str:
    """Return how many rows trained a head, and of how many images, if some are views."""
    rows, n = head.training_rows(), f"{head.training.n_train:,}"
    if rows is None or rows.is_view is None:
        return f"{n} train"
    return f"{int((~rows.valid & ~rows.is_view).sum()):,} train images ({n} rows with views)"


def _growth_text(growth: "Growth") -> str:
    """Return which training rows and classes are new, in one line."""
    kept = f" ({growth.n_kept:,} kept in the head)" if growth.n_kept else ""
    text = f"of the training rows, {growth.n_known:,} were known{kept}, {growth.n_new:,} are new"
    classes = f"; new: {listed(growth.new_classes, sort=False, quoted=False)}" if growth.new_classes else ""
    return text + classes


def _calibration_text(calibration: "Calibration") -> str:
    """Return how a head was calibrated, in one line."""
    which = f"training rows, in {calibration.folds} folds" if calibration.folds else "valid rows"
    losses = f"log loss {number(calibration.log_loss_before)} before, {number(calibration.log_loss_after)} after"
    return f"calibrated by {calibration.method} on {calibration.n_rows:,} {which}: {losses}"


class EpochPrinter:
    """Prints a header, and one line after each epoch."""

    def __init__(self) -> None:
        self._begun = False

    def __call__(self, epoch: "Epoch") -> None:
        """Print the metrics of an epoch."""
        if not self._begun:
            show("epoch      loss  accuracy  valid_loss  valid_accuracy")
        self._begun = True
        show(
            f"{epoch.epoch:5d}  {epoch.loss:8.4f}  {epoch.accuracy:8.4f}  {number(epoch.valid_loss):>10}  "
            f"{number(epoch.valid_accuracy):>14}"
        )

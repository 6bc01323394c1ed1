"""``featurecache predict``: new images through a network and a head."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.options import BatchSize, Device, Engine, MovedWeights, Workers
from scripts.output import Json, number, print_failures, print_json, print_table, say, show
from scripts.tables import Predictions, require_table, write_table

if TYPE_CHECKING:
    from heads import Prediction

_COLUMNS = 6  # classes that get a column of their own
_BEST = 3  # classes that are shown of an image if there are more


def predict(
    head_dir: Annotated[Path, typer.Argument(metavar="HEAD_DIR", readable=False, help="A head's directory.")],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", readable=False, help="Image files, or folders of images.")
    ],
    top: Annotated[
        int | None, typer.Option(min=1, help="Show only so many classes of an image, the most probable ones.")
    ] = None,
    predictions: Predictions = None,
    weights: MovedWeights = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    device: Device = "auto",
    engine: Engine = "auto",
    json: Json = False,
) -> None:
    """Classify new images with a trained head."""
    from heads import TrainedHead
    from heads import predict as classify

    require_table(predictions)
    prediction = classify(
        TrainedHead.load(head_dir),
        images,
        weights=weights,
        batch_size=batch_size,
        workers=workers,
        device=device,
        engine=engine,
        notify=say,
    )
    write_table(predictions, prediction.table)
    print_failures(prediction.failures, "--json lists all")
    if json:
        print_json(prediction.to_dict(top))
        return
    print_predictions(prediction, top)
    if predictions is not None:
        show()
        show(f"predictions: {predictions}")


def print_predictions(prediction: "Prediction", top: int | None = None) -> None:
    """Print class and probabilities of every image; of many classes, or if so asked, the most probable ones alone."""
    table = prediction.table
    if top is None and len(table.classes) <= _COLUMNS:
        rows = [
            (table.classes[best], *map(number, row), path)
            for best, row, path in zip(table.predicted, table.probabilities.tolist(), table.paths, strict=True)
        ]
        print_table(("class", *table.classes, "image"), rows, left=(0, len(table.classes) + 1))
        return
    shown = []
    for path, ranked in zip(table.paths, prediction.ranked(top or _BEST), strict=True):
        (best, probability), *others = ranked.items()
        following = ", ".join(f"{name} {number(value)}" for name, value in others)
        shown.append((best, number(probability), following, path))
    print_table(("class", "probability", "next", "image"), shown, left=(0, 2, 3))


COMMANDS = (predict,)

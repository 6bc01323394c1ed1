"""``featurecache predict``: predicts new images with a head."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurecache.cli.console.options import HeadDir, MovedWeights, place_of, with_options
from featurecache.cli.console.output import Json, print_failures, print_json, print_table, say, show
from featurecache.cli.console.predictions_file import Predictions, require_table, write_table
from featurecache.cli.console.progress import progress
from featurecache.options import DecodeOptions, RunOptions
from featurecache.text import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from heads import LabelsPrediction, Prediction

_COLUMNS = 6  # up to so many classes, each has a column
_BEST = 3  # classes per image that are shown otherwise


@with_options(DecodeOptions, RunOptions, only=("max_pixels", "batch_size", "workers", "device", "engine"))
def predict(
    head_dir: HeadDir,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Image files, folders of images, or addresses.")],
    top: Annotated[
        int | None, typer.Option(min=1, help="Show only this number of most probable classes per image.")
    ] = None,
    predictions: Predictions = None,
    weights: MovedWeights = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Predict the class, the labels or the number of new images with a trained head."""
    from heads import LabelsPrediction, NumbersPrediction, Prediction, TrainedHead, predict_labels, predict_numbers
    from heads import predict as classify

    require_table(predictions)
    head = TrainedHead.load(head_dir)
    if top is not None and head.target != "class":
        raise typer.BadParameter(f"--top is for classes, and this head predicts {head.target_text}")
    functions: dict[str, Callable[..., Prediction | LabelsPrediction | NumbersPrediction]] = {
        "class": classify,
        "labels": predict_labels,
        "number": predict_numbers,
    }
    places = [place_of(image) for image in images]
    with progress("predicting", "image") as update:
        prediction = functions[head.target](head, places, weights=weights, progress=update, notify=say, **options)
    write_table(predictions, prediction.table)
    print_failures({path: failure.reason for path, failure in prediction.failures.items()}, "--json lists all")
    for warning in prediction.warnings:
        say(f"warning: {warning}")
    if json:
        print_json(prediction.to_dict(top) if isinstance(prediction, Prediction) else prediction.to_dict())
        return
    if isinstance(prediction, Prediction):
        print_predictions(prediction, top)
    elif isinstance(prediction, LabelsPrediction):
        print_labels(prediction)
    else:
        numbers = zip(prediction.table.predicted.tolist(), prediction.table.paths, strict=True)
        print_table(("number", "image"), [(number(each), path) for each, path in numbers], left=(1,))
    if predictions is not None:
        show()
        show(f"predictions: {predictions}")


def print_labels(prediction: "LabelsPrediction") -> None:
    """Print the labels of every image with their probabilities."""
    table = prediction.table
    rows = []
    for row, path in enumerate(table.paths):
        given = [
            f"{name} {number(table.probabilities[row, label])}"
            for label, name in enumerate(table.labels)
            if table.predicted[row, label]
        ]
        rows.append((", ".join(given) or "-", path))
    print_table(("labels", "image"), rows, left=(0, 1))


def print_predictions(prediction: "Prediction", top: int | None = None) -> None:
    """Print class and probabilities of every image; for many classes, or with ``top``, only the most probable ones."""
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

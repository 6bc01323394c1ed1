"""``featurecache train, evaluate, predict``: heads on cached features."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.options import BatchSize, Device, MovedWeights, Workers
from scripts.output import Json, number, print_failures, print_json, print_table, say, show

if TYPE_CHECKING:
    from heads import Epoch, Evaluation, PredictionsTable

_TABLE = b"path,split,true_class,predicted_class"  # how a table of predictions begins
_COLUMNS = 6  # classes that get a column of their own in a table of predictions
_BEST = 3  # classes that are shown of an image if there are more
_MATRIX = 20  # classes whose confusion matrix is printed
_CONFUSIONS = 10  # pairs of classes that are listed if there are more


def train(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", readable=False, help="A cache file.")],
    head_dir: Annotated[
        Path, typer.Argument(metavar="HEAD_DIR", readable=False, help="The directory to make for the head.")
    ],
    head: Annotated[str, typer.Option(help="What to train: featurecache heads lists them.")] = "softmax",
    tap: Annotated[
        str | None, typer.Option(help="The layer whose features it takes.", show_default="the only one")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="A parameter of the head.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="What all random choices follow from.")] = 0,
    holdout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of the training rows to judge by, if there is no valid split.")
    ] = 0.2,
    json: Json = False,
) -> None:
    """Train a head on the train split of a cache; the valid split watches."""
    from featurecache import FeatureCache
    from heads import head_spec, parse_parameters, require_free
    from heads import train as fit

    require_free(head_dir)
    params = parse_parameters(head_spec(head), param or [])
    trained = fit(
        FeatureCache.open(cache),
        head,
        tap=tap,
        params=params,
        seed=seed,
        holdout=holdout,
        on_epoch=None if json else print_epoch,
    )
    trained.save(head_dir)
    for warning in trained.training.warnings:
        say(f"warning: {warning}")
    if json:
        print_json(trained.to_dict())
        return
    record = trained.training
    rows = f"{record.n_train:,} train and {record.n_valid:,} valid rows"
    show(f"{head_dir}: {head} on {trained.tap}, {rows}, {record.seconds:.2f} s")
    show(f"train accuracy {number(record.train_accuracy)}, valid accuracy {number(record.valid_accuracy)}")


def print_epoch(epoch: "Epoch") -> None:
    """Print one line about an epoch as soon as it is over."""
    if epoch.epoch == 1:
        show("epoch      loss  accuracy  valid_loss  valid_accuracy")
    show(
        f"{epoch.epoch:5d}  {epoch.loss:8.4f}  {epoch.accuracy:8.4f}  {number(epoch.valid_loss):>10}  "
        f"{number(epoch.valid_accuracy):>14}"
    )


def evaluate(
    head_dir: Annotated[Path, typer.Argument(metavar="HEAD_DIR", readable=False, help="A head's directory.")],
    cache: Annotated[
        Path,
        typer.Argument(
            metavar="CACHE", readable=False, help="A cache file of the recipe that the head was trained with."
        ),
    ],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "valid",
    predictions: Annotated[
        Path | None, typer.Option(readable=False, help="Write the predictions, a row for each image, to this CSV file.")
    ] = None,
    json: Json = False,
) -> None:
    """Judge a head on the labelled rows of a split."""
    from featurecache import FeatureCache
    from featurecache.publish import publish, require_place
    from heads import TrainedHead, select_rows
    from heads import evaluate as judge

    if predictions is not None:
        require_place(predictions)
        require_replaceable(predictions)
    loaded = TrainedHead.load(head_dir)
    evaluation = judge(loaded, select_rows(FeatureCache.open(cache), loaded, split))
    if predictions is not None:
        publish(predictions, evaluation.table.to_csv().encode(), replace=True)
    for warning in evaluation.warnings:
        say(f"warning: {warning}")
    if json:
        print_json(evaluation.to_dict())
    else:
        print_evaluation(evaluation)
        if predictions is not None:
            show()
            show(f"predictions: {predictions}")


def require_replaceable(path: Path) -> None:
    """Raise `OutputError` if ``path`` is anything but free or a table of predictions, which a new one may replace."""
    from featurecache.errors import OutputError

    if not path.exists():
        return
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose another path for the predictions")
    if not path.is_file() or not _begins(path, _TABLE):
        raise OutputError(f"{path} exists already and is no table of predictions; choose another path for them")


def _begins(path: Path, start: bytes) -> bool:
    """Whether a file can be read and begins with ``start``."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(start)) == start
    except PermissionError:
        return False


def print_evaluation(evaluation: "Evaluation") -> None:
    """Print the numbers of an evaluation: overall, per class, and what was taken for what."""
    accuracy = evaluation.accuracy
    print_table(
        ("rows", f"{len(evaluation):,}"),
        [
            ("accuracy", f"{accuracy.value:.4f}  (95 % interval {accuracy.low:.4f} to {accuracy.high:.4f})"),
            ("majority baseline", number(evaluation.baseline_accuracy)),
            ("balanced accuracy", number(evaluation.balanced_accuracy)),
            ("log loss", number(evaluation.log_loss)),
            ("ROC AUC", number(evaluation.roc_auc)),
        ],
        left=(0, 1),
    )
    show()
    print_table(
        ("class", "precision", "recall", "F1", "rows"),
        [
            (name, number(each.precision), number(each.recall), number(each.f1), f"{each.support:,}")
            for name, each in zip(evaluation.classes, evaluation.per_class, strict=True)
        ],
    )
    show()
    print_confusion(evaluation.classes, evaluation.confusion.tolist())


def print_confusion(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> None:
    """Print a confusion matrix, or its largest entries beside the diagonal if there are many classes."""
    if len(classes) <= _MATRIX:
        show("confusion matrix: rows are the actual, columns the predicted class")
        print_table(("", *classes), [(name, *row) for name, row in zip(classes, matrix, strict=True)])
        return
    confusions = sorted(
        (-count, classes[i], classes[j])
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if count and i != j
    )
    show(f"most frequent confusions (--json has all {len(classes):,} classes)")
    print_table(
        ("actual", "predicted", "rows"),
        [(actual, predicted, f"{-count:,}") for count, actual, predicted in confusions[:_CONFUSIONS]],
        left=(0, 1),
    )


def predict(
    head_dir: Annotated[Path, typer.Argument(metavar="HEAD_DIR", readable=False, help="A head's directory.")],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", readable=False, help="Image files, or folders of images.")
    ],
    weights: MovedWeights = None,
    batch_size: BatchSize = 32,
    workers: Workers = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Classify new images with a trained head."""
    from heads import TrainedHead
    from heads import predict as classify

    prediction = classify(
        TrainedHead.load(head_dir),
        images,
        weights=weights,
        batch_size=batch_size,
        workers=workers,
        device=device,
        notify=say,
    )
    print_failures(dict(prediction.failures), "--json lists all")
    if json:
        print_json(prediction.to_dict())
        return
    print_predictions(prediction.table)


def print_predictions(table: "PredictionsTable") -> None:
    """Print class and probabilities of every image; of many classes, the most probable ones."""
    classes, few = table.classes, len(table.classes) <= _COLUMNS
    rows = []
    for path, row in zip(table.paths, table.probabilities.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda index: -row[index])[: None if few else _BEST]
        first, others = best[0], ", ".join(f"{classes[index]} {number(row[index])}" for index in best[1:])
        rows.append((classes[first], *(map(number, row) if few else (number(row[first]), others)), path))
    header = classes if few else ("probability", "next")
    print_table(("class", *header, "image"), rows, left=(0, len(header) + 1) if few else (0, 2, 3))


COMMANDS = (train, evaluate, predict)

"""``featurecache train, evaluate``: heads on cached features."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.output import Json, number, print_json, print_table, say, show

if TYPE_CHECKING:
    from heads import Epoch, Evaluation

_TABLE = b"path,split,true_class,predicted_class"  # how a table of predictions begins
_MATRIX = 20  # classes whose confusion matrix is printed
_CONFUSIONS = 10  # pairs of classes that are listed if there are more


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


COMMANDS = (train, evaluate)

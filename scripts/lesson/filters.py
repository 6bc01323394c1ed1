"""What the first layer looks for, learned and random, and what features of a random network are worth."""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.lesson.board import Board
from scripts.lesson.caches import SURE, is_random
from scripts.output import say

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache import FeatureCache, FeatureSet
    from featurecache.backbones.catalog import Application
    from featurecache.backbones.weights import Weights

_RANDOM = "random:0"
_WITHOUT_A_CACHE = "vgg16"
_IMAGES, _IMAGES_VGG = 240, 96  # so many go through the random network; VGG networks take longer
_CLASSES = 12  # at most


def run(board: Board, cache: Path | None) -> dict[str, Any]:
    """Draw learned and random filters, and compare heads on the features of the two networks."""
    from featurecache import FeatureCache
    from featurecache.backbones.catalog import application
    from featurecache.backbones.filters import first_filters
    from featurecache.backbones.weights import resolve_weights
    from heads.figures.filters import filter_grid, grid_shape, is_live

    opened = None if cache is None else FeatureCache.open(cache)
    row = application(_WITHOUT_A_CACHE if opened is None else opened.recipe.backbone)
    learned, why_not = _imagenet(row) if opened is None else _weights_of(opened, row)
    drawn = {"random": first_filters(row, resolve_weights(_RANDOM, row))}
    if learned is not None:
        drawn = {"learned": first_filters(row, learned)} | drawn

    height, width, colours, count = drawn["random"].shape
    numbers = height * width * colours
    board.say(
        f"The first layer of {row.name} has {count} filters. Each is laid on place after place of the picture, "
        f"{height} x {width} points in three colours, multiplies the {numbers} numbers there by {numbers} weights of "
        "its own, and adds the products: one number that says how much the place looks like the filter. So a filter "
        "can be drawn as what it looks for. Grey is a weight of 0; brighter than grey is more of a colour, darker is "
        "less of it."
    )
    board.draw("filters-first-layer", filter_grid({f"{row.name}, {name}": each for name, each in drawn.items()}))
    agreement = {name: colour_agreement(each) for name, each in drawn.items()}
    silent = {name: int(np.count_nonzero(~is_live(each))) for name, each in drawn.items()}
    if learned is None:
        board.say(f"These weights are drawn at random, which is what every network starts with: noise. {why_not}")
    else:
        board.say(
            "On the right are weights drawn at random, which is what every network starts with: noise. On the left is "
            "what became of such noise when the network learned from photographs. Look for light beside dark (an "
            "edge, in one of several directions), for a bright line between dark ones (a stripe), and for a blob of "
            "one colour. Nobody wrote these filters: gradient descent found that edges and colours help."
        )
        board.say(
            "What you see can be counted. A filter that looks for light and dark has about the same weight for red, "
            f"green and blue. The correlation of the three is {agreement['learned']:.2f} in the learned filters and "
            f"{agreement['random']:.2f} in the random ones.{_grey(silent['learned'], count)}"
        )
    results: dict[str, Any] = {
        "network": row.name,
        "filters": count,
        "size": [height, width],
        "grid": list(grid_shape(count)),
        "drawn": list(drawn),
        "colour_agreement": agreement,
        "silent": silent,
    }
    if opened is None or learned is None:
        return results | {"heads": None}
    return results | {"heads": _compare_heads(board, opened, row)}


def colour_agreement(filters: NDArray[np.float32]) -> float:
    """Return the mean correlation of two colours' weights, of filters of shape (height, width, 3, n)."""
    red, green, blue = np.moveaxis(filters, 2, 0).reshape(3, -1)
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in ((red, green), (red, blue), (green, blue))]))


def _grey(silent: int, count: int) -> str:
    """Return what grey filters are, if there are any."""
    if not silent:
        return ""
    return f" {silent} of the {count} are grey: they lost all their weight on the way, and the network does without."


def _imagenet(row: Application) -> tuple[Weights | None, str]:
    """Return ImageNet's weights if they are there already, or what to do to see them."""
    from featurecache.backbones.weights import resolve_weights
    from featurecache.errors import WeightsError

    try:
        return resolve_weights("imagenet", row, download=False), ""
    except WeightsError:
        return None, (
            f"The learned filters of {row.name} cannot be shown beside them, since its ImageNet weights are not on "
            f"this machine and a lesson fetches nothing. To see them: featurecache filters {row.name}, which fetches "
            "them, or this lesson with a cache that a pretrained network made: featurecache lesson filters CACHE."
        )


def _weights_of(cache: FeatureCache, row: Application) -> tuple[Weights | None, str]:
    """Return the weights that made a cache, or why there is nothing to learn from them."""
    from featurecache.backbones.weights import resolve_weights
    from featurecache.errors import WeightsError

    recorded = cache.recipe.weights
    if is_random(cache):
        return None, (
            f"{cache.path} was made by a network with such weights, which has learned nothing. For the learned filters "
            "give a cache that was extracted with --weights imagenet or with the path of a weight file."
        )
    source = str(cache.provenance.get("weights_source", recorded))
    remedy = "put that file back there, or give the lesson without a cache"
    try:
        found = resolve_weights(source, row, download=False)
    except WeightsError as e:
        raise WeightsError(f"the weights that made {cache.path} are no longer to be had: {e}; {remedy}") from e
    if found.identity != recorded:
        raise WeightsError(f"{found.path} is another file than the one that made {cache.path}; {remedy}")
    return found, ""


def _compare_heads(board: Board, cache: FeatureCache, row: Application) -> dict[str, Any] | None:
    """Train a head on learned features of some images, and one on random features of the same; say what that shows."""
    from heads import Originals
    from heads.intervals import mcnemar, wilson

    root = Originals.of(cache).root
    train, valid = _some_rows(cache, _IMAGES_VGG if row.blocks else _IMAGES)
    if min(len(set(train.y)), len(set(valid.y))) < 2:  # noqa: PLR2004 - a head tells classes apart
        board.say("Whether it matters is not shown here: that takes labelled images of at least two classes.")
        return None
    if root is None:
        board.say(
            "Whether it matters is not shown here: that takes the images, and the cache does not say where they lie."
        )
        return None
    if not root.is_dir():
        board.say(f"Whether it matters is not shown here: that takes the images, and their folder {root} is gone.")
        return None
    board.say(
        f"Does it matter for what comes after? {len(train)} of the images in {cache.path} train a head (logistic "
        f"regression on what comes out of {train.tap}) and {len(valid)} others judge it. Once the head gets the cached "
        "features, and once what the same network makes of the same images when all its weights are random."
    )
    found = _random_features(cache, train, valid, root)
    if found is None:
        board.say(f"But too few of them are still in {root}, so this has to be left out.")
        return None
    random_train, random_valid = found
    right = {
        "learned": _right(_same_images(train, random_train), _same_images(valid, random_valid)),
        "random": _right(random_train, random_valid),
    }
    scores = {name: wilson(int(rows.sum()), len(rows)) for name, rows in right.items()}
    board.table(
        ("weights", "accuracy", "95 % interval"),
        [(name, f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}") for name, each in scores.items()],
    )
    p = mcnemar(right["learned"], right["random"])
    board.say(_meaning(right["learned"], right["random"], p, len(set(valid.y))))
    accuracies = {name: each.value for name, each in scores.items()}
    return accuracies | {"p": p, "n_train": len(random_train), "n_valid": len(random_valid)}


def _some_rows(cache: FeatureCache, count: int) -> tuple[FeatureSet, FeatureSet]:
    """Return about ``count`` rows that train and that judge, evenly taken from each class."""
    from heads import head_spec
    from heads.splits import Holdout, training_rows
    from heads.training import DEFAULT_HOLDOUT, feature_tap

    features = cache.features(feature_tap(cache, head_spec("logreg"), None))
    both = training_rows(features, Holdout(DEFAULT_HOLDOUT, seed=0))
    classes = sorted(set(both[0].y) & set(both[1].y))[:_CLASSES]
    each = max(2, count // (2 * max(1, len(classes))))
    train, valid = (rows.take(_evenly(rows.y, classes, each)) for rows in both)
    return train, valid


def _evenly(y: NDArray[np.int64], classes: list[int], each: int) -> NDArray[np.intp]:
    """Return the numbers of at most ``each`` rows of each class, spread over all of its rows, in order."""
    chosen: list[int] = []
    for index in classes:
        rows = np.flatnonzero(y == index)
        chosen += rows[np.linspace(0, len(rows) - 1, min(each, len(rows))).astype(int)].tolist()
    return np.array(sorted(chosen), dtype=np.intp)


def _random_features(
    cache: FeatureCache, train: FeatureSet, valid: FeatureSet, root: Path
) -> tuple[FeatureSet, FeatureSet] | None:
    """Return what the network makes of some rows' images with random weights; None if too few images are there."""
    from featurecache import extract
    from featurecache.errors import NoImagesError

    with TemporaryDirectory() as folder:
        table = Path(folder) / "images.csv"
        with table.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("path", "label", "split"))
            for rows, split in ((train, "train"), (valid, "valid")):
                writer.writerows((path, rows.classes[y], split) for path, y in zip(rows.paths, rows.y, strict=True))
        try:
            made = extract(
                table,
                Path(folder) / "random.h5",
                root=root,
                backbone=cache.recipe.backbone,
                weights=_RANDOM,
                taps=(train.tap,),
                resize=cache.recipe.resize,
                filter=cache.recipe.filter,
                notify=say,
            )
        except NoImagesError:
            return None
        if set(made.splits) != {"train", "valid"}:
            return None
        found = made.features(train.tap, "train"), made.features(train.tap, "valid")
    return found if len(set(found[0].y)) > 1 else None


def _same_images(rows: FeatureSet, others: FeatureSet) -> FeatureSet:
    """Return the rows of the images that others are of, in their order."""
    place = {path: number for number, path in enumerate(rows.paths)}
    return rows.take(np.array([place[path] for path in others.paths], dtype=np.intp))


def _right(train: FeatureSet, valid: FeatureSet) -> NDArray[np.bool_]:
    """Train a head on some rows; return which of the others it has right."""
    from heads import make_head

    head = make_head("logreg").fit(train.X, train.y)
    predicted = head.classes_[np.argmax(head.predict_proba(valid.X), axis=1)]
    right: NDArray[np.bool_] = predicted == valid.y
    return right


def _meaning(learned: NDArray[np.bool_], random: NDArray[np.bool_], p: float, classes: int) -> str:
    """Return what the comparison shows."""
    counts = (
        f"{np.count_nonzero(learned & ~random)} images are right with learned features alone, "
        f"{np.count_nonzero(random & ~learned)} with random ones alone"
    )
    if p < SURE and learned.mean() > random.mean():
        return (
            f"{counts}: that is no luck (p = {p:.2g}, exact McNemar test). Network, images, labels and head are the "
            "same; only the weights differ. What the network has learned from other photographs is what the head "
            f"lives on. Guessing would be right {1 / classes:.2f} of the time."
        )
    return (
        f"{counts}: that may be luck (p = {p:.2g}, exact McNemar test). Where colour or brightness tells images apart, "
        "random features can do as well as learned ones; where it takes shapes, as with animals, they do not."
    )

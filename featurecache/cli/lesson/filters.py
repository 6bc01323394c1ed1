"""The lesson `filters`: filters of the first layer, learned and random, and heads on the features of both networks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.cli.console.output import say
from featurecache.cli.lesson.caches import SIGNIFICANT, is_random
from featurecache.cli.lesson.lesson_writer import LessonWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache import FeatureCache, FeatureSet
    from featurecache.backbones.catalog import NetworkSpec
    from featurecache.backbones.weights import Weights
    from featurecache.images.image_source import ImageSource

_RANDOM = "random:0"
_DEFAULT_NETWORK = "vgg16"  # without a cache
_IMAGES, _IMAGES_VGG = 240, 96  # images through the random network; VGG networks are slower
_MAX_CLASSES = 12


def run(writer: LessonWriter, cache: Path | None) -> dict[str, Any]:
    """Draw learned and random filters, and compare heads on the features of the two networks."""
    from featurecache import FeatureCache
    from featurecache.backbones.catalog import find_network
    from featurecache.backbones.filters import first_filters
    from featurecache.backbones.weights import resolve_weights
    from heads.figures.filters import filter_grid, grid_shape, is_live

    opened = None if cache is None else FeatureCache.open(cache)
    network = find_network(_DEFAULT_NETWORK if opened is None else opened.recipe.backbone)
    learned, why_not = _imagenet(network) if opened is None else _weights_of(opened, network)
    filters = {"random": first_filters(network, resolve_weights(_RANDOM, network))}
    if learned is not None:
        filters = {"learned": first_filters(network, learned)} | filters

    height, width, colours, count = filters["random"].shape
    numbers = height * width * colours
    writer.say(
        f"The first layer of {network.name} has {count} filters. The network moves each filter over the image. At "
        f"every position the filter covers {height} x {width} pixels in three colours. It multiplies these {numbers} "
        f"values by its {numbers} weights and adds up the products. The result is one number: how similar the image "
        "is to the filter at this position. So we can draw a filter as the pattern that it responds to. Grey is a "
        "weight of 0; brighter than grey means more of a colour, darker means less."
    )
    writer.draw(
        "filters-first-layer", filter_grid({f"{network.name}, {name}": kernel for name, kernel in filters.items()})
    )
    agreement = {name: colour_agreement(kernel) for name, kernel in filters.items()}
    silent = {name: int(np.count_nonzero(~is_live(kernel))) for name, kernel in filters.items()}
    if learned is None:
        writer.say(f"These weights are random, as in every network before training: noise. {why_not}")
    else:
        writer.say(
            "On the right are random weights, as in every network before training: noise. On the left are weights "
            "that the network learned from photographs. Look for light beside dark (an edge, in one of several "
            "directions), for a bright line between dark ones (a stripe), and for a blob of one colour. Nobody "
            "designed these filters: gradient descent found that edges and colours help."
        )
        writer.say(
            "We can measure this. A filter for light and dark has about the same weight for red, green and blue. The "
            f"correlation between the colours is {agreement['learned']:.2f} in the learned filters and "
            f"{agreement['random']:.2f} in the random ones.{_about_grey_filters(silent['learned'], count)}"
        )
    results: dict[str, Any] = {
        "network": network.name,
        "filters": count,
        "size": [height, width],
        "grid": list(grid_shape(count)),
        "drawn": list(filters),
        "colour_agreement": agreement,
        "silent": silent,
    }
    if opened is None or learned is None:
        return results | {"heads": None}
    return results | {"heads": _compare_heads(writer, opened, network)}


def colour_agreement(filters: NDArray[np.float32]) -> float:
    """Return the mean correlation between two colours' weights in filters of shape (height, width, 3, n)."""
    red, green, blue = np.moveaxis(filters, 2, 0).reshape(3, -1)
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in ((red, green), (red, blue), (green, blue))]))


def _about_grey_filters(silent: int, count: int) -> str:
    """Return a sentence on the grey filters; empty if there are none."""
    if not silent:
        return ""
    return f" {silent} of the {count} are grey: their weights became 0 in training, and the network works without them."


def _imagenet(network: NetworkSpec) -> tuple[Weights | None, str]:
    """Return ImageNet's weights if this machine has them, else None and how to see them."""
    from featurecache.backbones.weights import resolve_weights
    from featurecache.errors import WeightsError

    try:
        return resolve_weights("imagenet", network, download=False), ""
    except WeightsError:
        return None, (
            f"The learned filters of {network.name} are not shown: this machine does not have its ImageNet weights, "
            f"and a lesson downloads nothing. To see them, run featurecache filters {network.name}, which downloads "
            "the weights, or run this lesson with a cache that a pretrained network made: featurecache lesson filters "
            "CACHE."
        )


def _weights_of(cache: FeatureCache, network: NetworkSpec) -> tuple[Weights | None, str]:
    """Return the weights that made a cache, or None and why they show no learned filters."""
    from featurecache.backbones.weights import resolve_weights
    from featurecache.errors import WeightsError

    recorded = cache.recipe.weights
    if is_random(cache):
        return None, (
            f"A network with such weights, which has learned nothing, made {cache.path}. For learned filters give a "
            "cache that was extracted with --weights imagenet or with the path of a weight file."
        )
    source = cache.made_by.weights_source or recorded
    remedy = "put that file back, or run the lesson without a cache"
    try:
        found = resolve_weights(source, network, download=False)
    except WeightsError as e:
        raise WeightsError(f"the weights that made {cache.path} are not available: {e}; {remedy}") from e
    if found.identity != recorded:
        raise WeightsError(f"{found.path} is not the file that made {cache.path}; {remedy}")
    return found, ""


def _compare_heads(writer: LessonWriter, cache: FeatureCache, network: NetworkSpec) -> dict[str, Any] | None:
    """Compare a head on learned features with one on random features of the same images; None if that is impossible."""
    from heads import Originals
    from heads.evaluation.intervals import mcnemar, wilson

    source = Originals.from_cache(cache).source
    train, valid = _balanced_rows(cache, _IMAGES_VGG if network.blocks else _IMAGES)
    if min(len(set(train.y)), len(set(valid.y))) < 2:  # noqa: PLR2004 - a head needs two classes
        writer.say("The effect on a head is not shown here: it takes labelled images of at least two classes.")
        return None
    if source is None:
        writer.say(
            "The effect on a head is not shown here: it takes the images, and the cache does not record where they are."
        )
        return None
    if not source.exists():
        writer.say(
            f"The effect on a head is not shown here: it takes the images, and their folder {source.name} is gone."
        )
        return None
    writer.say(
        f"Does this matter for a head? {len(train)} images of {cache.path} train a head (logistic regression on the "
        f"outputs of {train.tap}), and {len(valid)} other images evaluate it. We train it twice: on the cached "
        "features, and on the features that the same network computes from the same images with random weights."
    )
    random_features = _random_features(cache, train, valid, source)
    if random_features is None:
        writer.say(f"But too few of the images are still in {source.name}, so this comparison is left out.")
        return None
    random_train, random_valid = random_features
    correct = {
        "learned": _correct(_same_images(train, random_train), _same_images(valid, random_valid)),
        "random": _correct(random_train, random_valid),
    }
    intervals = {name: wilson(int(rows.sum()), len(rows)) for name, rows in correct.items()}
    writer.table(
        ("weights", "accuracy", "95 % interval"),
        [
            (name, f"{interval.value:.4f}", f"{interval.low:.4f} to {interval.high:.4f}")
            for name, interval in intervals.items()
        ],
    )
    p = mcnemar(correct["learned"], correct["random"])
    writer.say(_conclusion(correct["learned"], correct["random"], p, len(set(valid.y))))
    accuracies = {name: interval.value for name, interval in intervals.items()}
    return accuracies | {"p": p, "n_train": len(random_train), "n_valid": len(random_valid)}


def _balanced_rows(cache: FeatureCache, count: int) -> tuple[FeatureSet, FeatureSet]:
    """Return about ``count`` training and validation rows in all, as many of each class."""
    from heads import head_spec
    from heads.splits import DEFAULT_HOLDOUT, Holdout, training_rows
    from heads.training import feature_tap

    features = cache.features(feature_tap(cache, head_spec("logreg"), None))
    train, valid = training_rows(features, Holdout(DEFAULT_HOLDOUT, seed=0))
    classes = sorted(set(train.y) & set(valid.y))[:_MAX_CLASSES]
    per_class = max(2, count // (2 * max(1, len(classes))))
    return train.take(_evenly_spaced(train.y, classes, per_class)), valid.take(
        _evenly_spaced(valid.y, classes, per_class)
    )


def _evenly_spaced(y: NDArray[np.int64], classes: list[int], per_class: int) -> NDArray[np.intp]:
    """Return the indices of at most ``per_class`` evenly spaced rows of each class, sorted."""
    chosen: list[int] = []
    for label in classes:
        rows = np.flatnonzero(y == label)
        chosen += rows[np.linspace(0, len(rows) - 1, min(per_class, len(rows))).astype(int)].tolist()
    return np.array(sorted(chosen), dtype=np.intp)


def _random_features(
    cache: FeatureCache, train: FeatureSet, valid: FeatureSet, source: ImageSource
) -> tuple[FeatureSet, FeatureSet] | None:
    """Return random-weight features of the images of these rows; None if too few of the images exist."""
    from featurecache import extract
    from featurecache.errors import NoImagesError
    from featurecache.images.manifest import from_source

    images = from_source(
        source,
        [
            (path, rows.classes[y], split)
            for rows, split in ((train, "train"), (valid, "valid"))
            for path, y in zip(rows.paths, rows.y, strict=True)
        ],
    )
    with TemporaryDirectory() as folder:
        try:
            random_cache = extract(
                images,
                Path(folder) / "random.h5",
                backbone=cache.recipe.backbone,
                weights=_RANDOM,
                taps=(train.tap,),
                resize=cache.recipe.resize,
                filter=cache.recipe.filter,
                notify=say,
            )
        except NoImagesError:
            return None
        if set(random_cache.splits) != {"train", "valid"}:
            return None
        random_train, random_valid = (random_cache.features(train.tap, split) for split in ("train", "valid"))
    return (random_train, random_valid) if len(set(random_train.y)) > 1 else None


def _same_images(rows: FeatureSet, others: FeatureSet) -> FeatureSet:
    """Return the rows of the images of ``others``, in the order of ``others``."""
    indices = {path: index for index, path in enumerate(rows.paths)}
    return rows.take(np.array([indices[path] for path in others.paths], dtype=np.intp))


def _correct(train: FeatureSet, valid: FeatureSet) -> NDArray[np.bool_]:
    """Train a head on the training rows; return which validation rows it predicts correctly, shape (n,)."""
    from heads import make_head

    head = make_head("logreg").fit(train.X, train.y)
    predicted = head.classes_[np.argmax(head.predict_proba(valid.X), axis=1)]
    correct: NDArray[np.bool_] = predicted == valid.y
    return correct


def _conclusion(learned: NDArray[np.bool_], random: NDArray[np.bool_], p: float, classes: int) -> str:
    """Return the conclusion of the comparison, as text."""
    counts = (
        f"{np.count_nonzero(learned & ~random)} images are correct only with learned features, "
        f"{np.count_nonzero(random & ~learned)} only with random ones"
    )
    if p < SIGNIFICANT and learned.mean() > random.mean():
        return (
            f"{counts}: the difference is significant (p = {p:.2g}, exact McNemar test). Network, images, labels and "
            "head are the same; only the weights differ. So the head owes its accuracy to what the network has learned "
            f"from other photographs. Guessing would have an accuracy of {1 / classes:.2f}."
        )
    return (
        f"{counts}: the difference may be chance (p = {p:.2g}, exact McNemar test). Where colour or brightness "
        "separates the classes, random features can do as well as learned ones; where shapes matter, as with animals, "
        "they do not."
    )

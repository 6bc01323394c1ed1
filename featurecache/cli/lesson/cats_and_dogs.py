"""The lesson `cats-and-dogs`: heads on a network's predictions and on the layer below, their errors, and an export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.cli.lesson.caches import MAX_TABLE_CLASSES, SIGNIFICANT, is_random, open_cache, require_usable
from featurecache.cli.lesson.exported import show_model
from featurecache.cli.lesson.lesson_writer import LessonWriter
from featurecache.text import number

if TYPE_CHECKING:
    from featurecache import FeatureCache
    from heads import Evaluation, TrainedHead

_PREDICTIONS = "predictions"
_PREDICTIONS_SETTINGS = {"standardize": False, "optimizer": "rmsprop", "lr": 0.1, "epochs": 3, "batch_size": 64}
_LAYER_BELOW_SETTINGS = {"epochs": 10}
_GALLERY_SIZE = 6


def run(writer: LessonWriter, cache: Path | None) -> dict[str, Any]:
    """Train and compare heads on both layers, show their errors, and run the exported model."""
    from heads import compare

    opened = open_cache(cache)
    below = _layer_below(opened)
    require_usable(opened, below)
    _introduce(writer, opened)
    heads = {
        f"softmax on {_PREDICTIONS}": _train_on_predictions(writer, opened),
        f"imagenet_map on {_PREDICTIONS}": _map_classes(writer, opened),
        f"softmax on {below}": _train_on_layer_below(writer, opened, below),
        f"softmax on {_PREDICTIONS}, trained alike": _train_alike(writer, opened, below),
    }
    evaluations = {name: _evaluate(opened, head) for name, head in heads.items()}
    wrong = {name: int(np.count_nonzero(~evaluation.table.correct)) for name, evaluation in evaluations.items()}
    answers, by_hand, features, alike = evaluations
    pair = next(pair for pair in compare(evaluations).pairs if {pair.a, pair.b} == {alike, features})
    writer.table(
        ("head", "accuracy", "95 % interval", "wrong"),
        [
            (
                name,
                number(evaluation.accuracy.value),
                f"{evaluation.accuracy.low:.4f} to {evaluation.accuracy.high:.4f}",
                f"{wrong[name]:,} of {len(evaluation):,}",
            )
            for name, evaluation in evaluations.items()
        ],
    )
    test = f"exact McNemar test on the same {len(evaluations[features]):,} images: p = {pair.p_value:.2g}"
    writer.say(_which_is_better(wrong[alike], wrong[features], pair.p_value, test, learned=not is_random(opened)))
    galleries = _show_errors(writer, opened, evaluations[features], features)
    model = show_model(writer, opened, heads[features], evaluations[features])
    return {
        "classes": list(opened.classes),
        "tap": below,
        "accuracy": {name: evaluation.accuracy.value for name, evaluation in evaluations.items()},
        "answers": answers,
        "by_hand": by_hand,
        "features": features,
        "alike": alike,
        "p": pair.p_value,
        "confusion": evaluations[features].confusion.tolist(),
        "galleries": galleries,
        "model": model,
    }


def _layer_below(cache: FeatureCache) -> str:
    """Return the cached layer below the predictions; raise `MismatchError` unless the cache holds both."""
    from heads import MismatchError
    from heads.training import OUTPUTS

    below = [tap for tap in cache.taps if tap not in OUTPUTS]
    if _PREDICTIONS not in cache.taps or not below:
        raise MismatchError(
            f"the lesson compares {_PREDICTIONS} with the layer below, and {cache.path} holds "
            f"{', '.join(cache.taps)}; extract one without --taps, or with both"
        )
    return below[-1]


def _introduce(writer: LessonWriter, cache: FeatureCache) -> None:
    """Describe the images, the network's predictions, and one-hot labels."""
    from featurecache.text import listed
    from heads import imagenet_top3

    writer.say(
        f"{cache.path} holds the outputs of {cache.recipe.backbone} for {len(cache):,} images of "
        f"{listed(cache.classes, sort=False, quoted=False)}. The network has processed each image once; training "
        "heads does not run it again."
    )
    rows = cache.features(_PREDICTIONS)
    top3 = imagenet_top3(cache, rows)
    if top3 is not None:
        texts = ", ".join(f"{name} {probability:.3f}" for name, probability in top3.texts(0))
        writer.say(
            "Its predictions are probabilities of ImageNet's 1,000 classes, not of our classes. The highest for "
            f"{rows.paths[0]}: {texts}."
        )
    elif is_random(cache):
        writer.say("Its weights are random: it has learned nothing, and its predictions have no meaning.")
    classes = cache.classes[:MAX_TABLE_CLASSES]
    writer.say(
        "A head predicts one number per class, in the order recorded in the cache. A label is written in the same "
        "form, as the correct prediction (one-hot):"
    )
    one_hot = np.eye(len(cache.classes), dtype=int)[: len(classes), : len(classes)]
    writer.table(("label", *classes), [(name, *row) for name, row in zip(classes, one_hot, strict=True)])


def _train_on_predictions(writer: LessonWriter, cache: FeatureCache) -> TrainedHead:
    """Train a softmax head on the network's 1,000 predictions."""
    width, k = cache.taps[_PREDICTIONS], len(cache.classes)
    writer.say(
        f"We start with the simplest head: one dense layer with softmax from the {width:,} predictions to {k} "
        f"probabilities, {width * k + k:,} weights. RMSprop trains it with learning rate "
        f"{_PREDICTIONS_SETTINGS['lr']}, in batches of {_PREDICTIONS_SETTINGS['batch_size']} images, for "
        f"{_PREDICTIONS_SETTINGS['epochs']} epochs."
    )
    return _train_and_show(writer, cache, _PREDICTIONS, _PREDICTIONS_SETTINGS)


def _map_classes(writer: LessonWriter, cache: FeatureCache) -> TrainedHead:
    """Add up the probabilities of ImageNet's classes by WordNet's groups for cats and dogs, else by learned groups."""
    from heads import TrainingError, train

    try:
        head = train(cache, "imagenet_map", tap=_PREDICTIONS, params={"groups": "cats_dogs"})
        how = (
            "Can we use the predictions without training? According to WordNet, 5 of ImageNet's classes are cats and "
            "118 are dogs; a head can add up their probabilities."
        )
    except TrainingError:  # these are not cats and dogs
        head = train(cache, "imagenet_map", tap=_PREDICTIONS, params={"groups": "learned"})
        how = (
            "Is a simpler head enough? The labels of the training images show in which class's images the network "
            "predicts each ImageNet class most. The head assigns it to that class and adds up the probabilities."
        )
    limits = (
        "The predictions have no meaning here, and neither have their sums."
        if is_random(cache)
        else "Such a head assigns an ImageNet class to one class only, even if it is weak evidence for it."
        if head.params["groups"] == "learned"
        else "Such a head needs classes that ImageNet has. It cannot use other evidence, such as a sofa or a leash."
    )
    writer.say(f"{how} This head is imagenet_map in the table below. {limits}")
    return head


def _train_on_layer_below(writer: LessonWriter, cache: FeatureCache, tap: str) -> TrainedHead:
    """Train a softmax head on the layer below the predictions."""
    k = len(cache.classes)
    purpose = "train a new last layer of the network" if is_random(cache) else "fine-tune the network's last layer"
    writer.say(
        f"The last layer of the network predicts ImageNet's classes. We remove it, put a new layer for {k} classes in "
        "its place, and train only that layer; all layers below are frozen. The input of the new layer is then "
        f"always the same for an image, and the cache holds it: {tap}. To train a head on it is to {purpose}."
    )
    return _train_and_show(writer, cache, tap, _LAYER_BELOW_SETTINGS)


def _train_alike(writer: LessonWriter, cache: FeatureCache, below: str) -> TrainedHead:
    """Train a softmax head on the predictions with the settings of the one on the layer below."""
    from heads import train

    writer.say(
        "This head was trained differently from the first: on standardised features, with another optimizer, for "
        f"{_LAYER_BELOW_SETTINGS['epochs']} epochs. With several changes at once we cannot know which one helped. So "
        f"the table has a second head on {_PREDICTIONS}, trained in the same way as the one on {below}."
    )
    return train(cache, "softmax", tap=_PREDICTIONS, params=_LAYER_BELOW_SETTINGS)


def _train_and_show(writer: LessonWriter, cache: FeatureCache, tap: str, settings: dict[str, Any]) -> TrainedHead:
    """Train a softmax head and show every epoch."""
    from heads import train

    head = train(cache, "softmax", tap=tap, params=settings)
    writer.table(
        ("epoch", "loss", "accuracy", "valid loss", "valid accuracy"),
        [
            (epoch.epoch, *map(number, (epoch.loss, epoch.accuracy, epoch.valid_loss, epoch.valid_accuracy)))
            for epoch in head.training.epochs
        ],
        left=(),
    )
    return head


def _evaluate(cache: FeatureCache, head: TrainedHead) -> Evaluation:
    from heads import evaluate, select_rows

    return evaluate(head, select_rows(cache, head, "valid"))


def _which_is_better(predictions: int, features: int, p: float, test: str, *, learned: bool) -> str:
    """Return the conclusion of the comparison of two softmax heads, trained alike, from their numbers of errors."""
    significant = p < SIGNIFICANT
    certainty = "so the difference is significant" if significant else "so it may be chance; more images would tell"
    better = features < predictions
    result = (
        f"Trained alike, the head on the layer below {'did better' if better else 'did not do better'} here: "
        f"{features} wrong, and {predictions} with the predictions ({test}, {certainty})."
    )
    if not learned:
        return (
            f"{result} This does not show what predictions lose: the weights between the two are random, so these "
            "predictions are only random mixtures of the layer below."
        )
    if not better:
        return (
            f"{result} The layer below holds more information than the predictions, but a head must learn from the "
            "training images which part of it matters."
        )
    return (
        f"{result} {'The' if significant else 'A likely'} reason: the predictions keep what ImageNet's classes need; "
        "the layer below still holds more, and the new layer selects from it what our classes need."
    )


def _show_errors(writer: LessonWriter, cache: FeatureCache, evaluation: Evaluation, name: str) -> dict[str, list[str]]:
    """Show the confusion matrix and the five galleries; return the paths of the images in each."""
    from heads import Originals
    from heads.evaluation import galleries
    from heads.figures import confusion_matrix, gallery

    writer.say(f"Which errors does {name} make? Rows are the labels, columns the predictions:")
    if len(evaluation.classes) <= MAX_TABLE_CLASSES:
        rows = zip(evaluation.classes, evaluation.confusion.tolist(), strict=True)
        writer.table(("", *evaluation.classes), [(actual, *row) for actual, row in rows])
    writer.draw("cats-and-dogs-confusion", confusion_matrix(evaluation.table))
    writer.say(
        "The matrix counts the errors; images help to explain them. The five galleries show random correct and "
        "random incorrect images; for each class the most certain correct and the most certain incorrect ones; and "
        "the least certain ones. Study the certain errors most closely: often the label is wrong, or the image shows "
        "both classes, or neither."
    )
    originals = Originals.from_cache(cache)
    if originals.source is None or not originals.source.exists():
        place = originals.source and originals.source.name
        writer.say(f"(The folder of the images, {place}, is gone: the galleries show names instead.)")
    choices_by_kind: dict[str, list[galleries.Choice]] = {}
    for choice in galleries.choose(evaluation.table, count=_GALLERY_SIZE):
        choices_by_kind.setdefault(choice.name, []).append(choice)
    for kind, choices in choices_by_kind.items():
        writer.draw(f"cats-and-dogs-{kind.replace('_', '-')}", gallery(evaluation.table, choices, originals))
    return {
        kind: [str(evaluation.table.paths[row]) for choice in choices for row in choice.rows]
        for kind, choices in choices_by_kind.items()
    }

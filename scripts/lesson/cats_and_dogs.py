"""A head on a network's answers, one on the layer below, what they get wrong, and both as one Keras model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.lesson.board import Board
from scripts.lesson.caches import IN_A_TABLE, SURE, is_random, open_cache, require_usable
from scripts.lesson.exported import show_model
from scripts.output import number

if TYPE_CHECKING:
    from featurecache import FeatureCache
    from heads import Evaluation, TrainedHead

_ANSWERS = "predictions"
_LESSON_9 = {"standardize": False, "optimizer": "rmsprop", "lr": 0.1, "epochs": 3, "batch_size": 64}
_LESSON_11 = {"epochs": 10}
_IN_A_ROW = 6  # images of a gallery


def run(board: Board, cache: Path | None) -> dict[str, Any]:
    """Train both heads, compare them with what the network says itself, show errors, and use the exported model."""
    from heads import compare

    opened = open_cache(cache)
    below = _layer_below(opened)
    require_usable(opened, below)
    _introduce(board, opened)
    heads = {
        f"softmax on {_ANSWERS}": _on_answers(board, opened),
        f"imagenet_map on {_ANSWERS}": _by_hand(board, opened),
        f"softmax on {below}": _on_layer_below(board, opened, below),
        f"softmax on {_ANSWERS}, trained alike": _alike(board, opened, below),
    }
    judged = {name: _judged(opened, head) for name, head in heads.items()}
    wrong = {name: int(np.count_nonzero(~each.table.correct)) for name, each in judged.items()}
    answers, by_hand, features, alike = judged
    pair = next(each for each in compare(judged).pairs if {each.a, each.b} == {alike, features})
    board.table(
        ("head", "accuracy", "95 % interval", "wrong"),
        [
            (
                name,
                number(each.accuracy.value),
                f"{each.accuracy.low:.4f} to {each.accuracy.high:.4f}",
                f"{wrong[name]:,} of {len(each):,}",
            )
            for name, each in judged.items()
        ],
    )
    test = f"exact McNemar test on the same {len(judged[features]):,} images: p = {pair.p_value:.2g}"
    board.say(_which_is_better(wrong[alike], wrong[features], pair.p_value, test, learned=not is_random(opened)))
    shown = _show_errors(board, opened, judged[features], features)
    model = show_model(board, opened, heads[features], judged[features])
    return {
        "classes": list(opened.classes),
        "tap": below,
        "accuracy": {name: each.accuracy.value for name, each in judged.items()},
        "answers": answers,
        "by_hand": by_hand,
        "features": features,
        "alike": alike,
        "p": pair.p_value,
        "confusion": judged[features].confusion.tolist(),
        "galleries": shown,
        "model": model,
    }


def _layer_below(cache: FeatureCache) -> str:
    """Return the cached layer below the network's answers; raise `MismatchError` unless both are there."""
    from heads import MismatchError
    from heads.training import OUTPUTS

    below = [tap for tap in cache.taps if tap not in OUTPUTS]
    if _ANSWERS not in cache.taps or not below:
        raise MismatchError(
            f"the lesson compares {_ANSWERS} with the layer below, and {cache.path} holds "
            f"{', '.join(cache.taps)}; extract one without --taps, or with both"
        )
    return below[-1]


def _introduce(board: Board, cache: FeatureCache) -> None:
    """Say what the images are, and how labels are written."""
    from heads import seen_of
    from heads.figures.style import listed

    board.say(
        f"{cache.path} holds what {cache.recipe.backbone} made of {len(cache):,} images of {listed(cache.classes)}. "
        "The network has seen each of them once; from here on nobody waits for it."
    )
    rows = cache.features(_ANSWERS)
    seen = seen_of(cache, rows)
    if seen is not None:
        texts = ", ".join(f"{name} {probability:.3f}" for name, probability in seen.texts(0))
        board.say(
            "Its answers are probabilities of the 1,000 classes of ImageNet, which are not the classes asked for. Of "
            f"{rows.paths[0]} it says: {texts}."
        )
    elif is_random(cache):
        board.say("Its weights are random: it has learned nothing, and its answers mean nothing by themselves.")
    some = cache.classes[:IN_A_TABLE]
    board.say(
        "A head's answer has one number for each class, in the order that the cache has recorded. A label is written "
        "in the same way, as the answer that would be right (one-hot):"
    )
    one_hot = np.eye(len(cache.classes), dtype=int)[: len(some), : len(some)]
    board.table(("label", *some), [(name, *row) for name, row in zip(some, one_hot, strict=True)])


def _on_answers(board: Board, cache: FeatureCache) -> TrainedHead:
    """Train a softmax head on the network's 1,000 answers, as the lesson does."""
    width, k = cache.taps[_ANSWERS], len(cache.classes)
    board.say(
        f"First the simplest thing: one dense layer with softmax from the {width:,} answers to {k} probabilities, "
        f"{width * k + k:,} weights. It is trained by RMSprop with learning rate {_LESSON_9['lr']}, "
        f"{_LESSON_9['batch_size']} images at a time, for {_LESSON_9['epochs']} epochs."
    )
    return _train_and_show(board, cache, _ANSWERS, _LESSON_9)


def _by_hand(board: Board, cache: FeatureCache) -> TrainedHead:
    """Let ImageNet's classes speak for those asked for: as WordNet says, or else for those that they meet most."""
    from heads import TrainingError, train

    try:
        head = train(cache, "imagenet_map", tap=_ANSWERS, params={"groups": "cats_dogs"})
        how = (
            "Could one not say without learning what the answers mean? Of ImageNet's classes, WordNet says, 5 are cats "
            "and 118 are dogs; the head adds up their probabilities."
        )
    except TrainingError:  # these are not cats and dogs
        head = train(cache, "imagenet_map", tap=_ANSWERS, params={"groups": "learned"})
        how = (
            "Could one do with less? The labels of the training images say in which class's images each of ImageNet's "
            "classes is seen most; let it speak for that class. The head adds up their probabilities."
        )
    limits = (
        "Its answers mean nothing here, so their sums mean as little."
        if is_random(cache)
        else "Such a head counts an answer as a whole for one class, however weak a sign of it the answer is."
        if head.params["groups"] == "learned"
        else "Such a head needs classes that ImageNet has, and cannot use that a sofa or a leash tells something, too."
    )
    board.say(f"{how} It is imagenet_map in the table below. {limits}")
    return head


def _on_layer_below(board: Board, cache: FeatureCache, tap: str) -> TrainedHead:
    """Train a softmax head on the layer below the answers."""
    k = len(cache.classes)
    done = "train a new last layer of the network" if is_random(cache) else "fine-tune the network's last layer"
    board.say(
        f"The last layer of the network is there for ImageNet's question. So take it off, put a new one for {k} "
        "classes in its place, and train that alone; everything below is frozen. What comes into the new layer is then "
        f"always the same for an image, and it is in the cache: {tap}. To train a head on it is to {done}."
    )
    return _train_and_show(board, cache, tap, _LESSON_11)


def _alike(board: Board, cache: FeatureCache, below: str) -> TrainedHead:
    """Train a softmax head on the answers as the one on the layer below, so that only what they get differs."""
    from heads import train

    board.say(
        f"That head was trained otherwise than the first: with features standardised, by another optimizer, for "
        f"{_LESSON_11['epochs']} epochs. Whoever changes two things at once cannot say which of them helped. So the "
        f"table has the head on {_ANSWERS} once more, trained in the same way as the one on {below}."
    )
    return train(cache, "softmax", tap=_ANSWERS, params=_LESSON_11)


def _train_and_show(board: Board, cache: FeatureCache, tap: str, settings: dict[str, Any]) -> TrainedHead:
    """Train a softmax head and show every epoch."""
    from heads import train

    head = train(cache, "softmax", tap=tap, params=settings)
    board.table(
        ("epoch", "loss", "accuracy", "valid loss", "valid accuracy"),
        [
            (each.epoch, *map(number, (each.loss, each.accuracy, each.valid_loss, each.valid_accuracy)))
            for each in head.training.epochs
        ],
        left=(),
    )
    return head


def _judged(cache: FeatureCache, head: TrainedHead) -> Evaluation:
    from heads import evaluate, select_rows

    return evaluate(head, select_rows(cache, head, "valid"))


def _which_is_better(answers: int, features: int, p: float, test: str, *, learned: bool) -> str:
    """Return what the comparison of two softmax heads, trained alike, says, given how many images each has wrong."""
    sure = p < SURE
    luck = "so that is hardly luck" if sure else "so luck is not ruled out: more images would tell"
    better = features < answers
    found = (
        f"Trained alike, the layer below {'did better' if better else 'did not do better'} here: {features} wrong, and "
        f"{answers} with the answers ({test}, {luck})."
    )
    if not learned:
        return (
            f"{found} This says nothing about what answers leave out: the weights between the two are random, so these "
            "answers are no answers, but mixtures of the layer below that nobody has chosen."
        )
    if not better:
        return (
            f"{found} It holds more than the answers do, but what of that matters a head has to find out from the "
            "training images."
        )
    return (
        f"{found} {'The' if sure else 'A likely'} reason: the answers keep what ImageNet asked for; the layer below "
        "still knows what else was seen, and the new layer picks from it what our question needs."
    )


def _show_errors(board: Board, cache: FeatureCache, judged: Evaluation, name: str) -> dict[str, list[str]]:
    """Show the confusion matrix and the five galleries; return the paths of the images in each."""
    from heads import Originals, galleries
    from heads.figures import confusion_matrix, gallery

    board.say(f"What does {name} get wrong? Rows are what an image is labelled as, columns what the head says:")
    if len(judged.classes) <= IN_A_TABLE:
        rows = zip(judged.classes, judged.confusion.tolist(), strict=True)
        board.table(("", *judged.classes), [(actual, *row) for actual, row in rows])
    board.draw("cats-and-dogs-confusion", confusion_matrix(judged.table))
    board.say(
        "A number tells how many, pictures tell why. Here are five galleries: images that the head has right and "
        "images that it has wrong, drawn at random; of each class the right ones and the wrong ones of which it is "
        "surest; and those of which it is least sure. Look longest at the errors of which it is sure: often the label "
        "is wrong, or the image shows both, or neither."
    )
    originals = Originals.of(cache)
    if originals.root is None or not originals.root.is_dir():
        board.say(f"(The folder of the images, {originals.root}, is gone: the galleries show names in their place.)")
    shown: dict[str, list[galleries.Choice]] = {}
    for choice in galleries.choose(judged.table, count=_IN_A_ROW):
        shown.setdefault(choice.name, []).append(choice)
    for kind, choices in shown.items():
        board.draw(f"cats-and-dogs-{kind.replace('_', '-')}", gallery(judged.table, choices, originals))
    return {
        kind: [str(judged.table.paths[row]) for choice in choices for row in choice.rows]
        for kind, choices in shown.items()
    }

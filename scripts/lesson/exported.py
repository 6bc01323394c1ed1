"""The end of the lesson cats-and-dogs: network and head as one Keras model, and what it says of new images."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.lesson.board import Board
from scripts.lesson.caches import IN_A_TABLE
from scripts.output import say

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache import FeatureCache
    from heads import Evaluation, TrainedHead

_NEW = 6  # images that the model is shown


def show_model(board: Board, cache: FeatureCache, head: TrainedHead, judged: Evaluation) -> dict[str, Any] | None:
    """Export network and head as one Keras model, and let it judge images that it has never seen.

    Returns
    -------
    dict
        What it says of the first image, and the largest difference to what the head says of cached features; None if
        images or network are not there any more.
    """
    from featurecache.errors import FeatureCacheError
    from heads import export

    paths, pixels = _new_images(cache, judged)
    if not paths:
        board.say("To end with, the model would judge new images; but the images of this cache are not there any more.")
        return None
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        try:
            export(head, file, notify=say)
        except FeatureCacheError as e:
            board.say(f"To end with, network and head would become one Keras model; but {e}.")
            return None
        size, probabilities = file.stat().st_size, _predict(file, pixels)
    place = {path: row for row, path in enumerate(judged.table.paths)}
    rows = [place[path] for path in paths]
    difference = float(np.abs(probabilities - judged.table.probabilities[rows]).max())
    board.say(
        f"Network and new layer together are one Keras model ({size / 1e6:.1f} MB): raw pixels in, probabilities of "
        f"{', '.join(judged.classes[:IN_A_TABLE])} out, in this order. These are images that the head has not "
        "learned from:"
    )
    some = judged.classes[:IN_A_TABLE]
    board.table(
        ("image", *some, "so it is"),
        [
            (path, *(f"{each:.4f}" for each in row[: len(some)]), judged.classes[int(np.argmax(row))])
            for path, row in zip(paths, probabilities, strict=True)
        ],
        left=(0, len(some) + 1),
    )
    board.say(
        "The head on the cache gives the same probabilities; the largest difference is "
        f"{difference:.1g}, which is rounding. On the command line:"
    )
    board.code(_commands(cache, head, paths[0]))
    first = dict(zip(judged.classes, probabilities[0].tolist(), strict=True))
    return {
        "image": paths[0],
        "class": judged.classes[int(np.argmax(probabilities[0]))],
        "probabilities": first,
        "images": len(paths),
        "largest_difference": difference,
    }


def _new_images(cache: FeatureCache, judged: Evaluation) -> tuple[list[str], NDArray[np.uint8]]:
    """Return paths and pixels of some judging images, as far as they are there: some of all, and the least sure."""
    from featurecache.batches import image_batches
    from featurecache.decode import DecodeRules
    from featurecache.names import decode_name
    from heads import Originals

    recipe, originals = cache.recipe, Originals.of(cache)
    evenly = np.linspace(0, len(judged) - 1, _NEW - 1).astype(int)
    rows = dict.fromkeys([*evenly.tolist(), int(np.argmin(judged.table.margin))])
    paths = [str(judged.table.paths[row]) for row in rows]
    root = os.fsencode(originals.root or "")
    batches = image_batches(
        paths,
        lambda path: os.path.join(root, decode_name(path)),  # noqa: PTH118 - pathlib takes no bytes
        DecodeRules(recipe.input_size, recipe.resize, recipe.filter),
        batch_size=_NEW,
        failures={},
    )
    with closing(batches):
        for batch in batches:
            same = [sha256 == originals.sha256[path] for path, sha256 in zip(batch.items, batch.sha256, strict=True)]
            return [path for path, is_same in zip(batch.items, same, strict=True) if is_same], batch.pixels[same]
    return [], np.empty((0, *recipe.input_size, 3), np.uint8)


def _predict(file: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what a Keras model says of images, shape (n, k), loaded from its file."""
    from featurecache.backbones.runtime import load_keras

    keras = load_keras()
    model = keras.saving.load_model(file, safe_mode=True)
    probabilities: NDArray[np.float32] = model.predict(pixels, verbose=0)
    return probabilities


def _commands(cache: FeatureCache, head: TrainedHead, path: str) -> str:
    from featurecache.names import decode_name
    from heads import Originals

    file = quote(str(cache.path))
    image, here = (Originals.of(cache).root or Path()) / os.fsdecode(decode_name(path)), Path.cwd()
    if image.is_relative_to(here):
        image = image.relative_to(here)
    return (
        f"featurecache train {file} last-layer --tap {head.tap} -p epochs={head.params['epochs']}\n"
        f"featurecache evaluate last-layer {file} --report report.html\n"
        f"featurecache predict last-layer {quote(str(image))}\n"
        "featurecache export last-layer model.keras"
    )

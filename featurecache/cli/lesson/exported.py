"""The end of the lesson `cats-and-dogs`: network and head as one Keras model, and its predictions for new images."""

from __future__ import annotations

from contextlib import closing
from itertools import compress
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.cli.console.output import say
from featurecache.cli.lesson.caches import MAX_TABLE_CLASSES
from featurecache.cli.lesson.lesson_writer import LessonWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache import FeatureCache
    from heads import Evaluation, TrainedHead

_IMAGES = 6  # that the model predicts


def show_model(
    writer: LessonWriter, cache: FeatureCache, head: TrainedHead, evaluation: Evaluation
) -> dict[str, Any] | None:
    """Export network and head as one Keras model, and predict images that did not train the head.

    Returns
    -------
    dict
        The prediction for the first image, and the largest difference from the head's probabilities on cached features;
        None if the images or the network do not exist any more.
    """
    from featurecache.errors import FeatureCacheError
    from heads import export

    paths, pixels = _new_images(cache, evaluation)
    if not paths:
        writer.say(
            "At the end the model would predict new images; but the images of this cache are not there any more."
        )
        return None
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        try:
            export(head, file, notify=say)
        except FeatureCacheError as e:
            writer.say(f"At the end network and head would become one Keras model; but {e}.")
            return None
        size, probabilities = file.stat().st_size, _predict(file, pixels)
    indices = {path: row for row, path in enumerate(evaluation.table.paths)}
    rows = [indices[path] for path in paths]
    difference = float(np.abs(probabilities - evaluation.table.probabilities[rows]).max())
    shown_classes = evaluation.classes[:MAX_TABLE_CLASSES]
    writer.say(
        f"Network and new layer form one Keras model ({size / 1e6:.1f} MB): raw pixels in, probabilities of "
        f"{', '.join(shown_classes)} out, in this order. These images did not train the head:"
    )
    writer.table(
        ("image", *shown_classes, "predicted"),
        [
            (path, *(f"{value:.4f}" for value in row[: len(shown_classes)]), evaluation.classes[int(np.argmax(row))])
            for path, row in zip(paths, probabilities, strict=True)
        ],
        left=(0, len(shown_classes) + 1),
    )
    writer.say(
        f"The head on the cache gives the same probabilities; the largest difference is {difference:.1g}, which is "
        "rounding. The commands:"
    )
    writer.code(_commands(cache, head, paths[0]))
    first = dict(zip(evaluation.classes, probabilities[0].tolist(), strict=True))
    return {
        "image": paths[0],
        "class": evaluation.classes[int(np.argmax(probabilities[0]))],
        "probabilities": first,
        "images": len(paths),
        "largest_difference": difference,
    }


def _new_images(cache: FeatureCache, evaluation: Evaluation) -> tuple[list[str], NDArray[np.uint8]]:
    """Return paths and pixels of unchanged validation images, evenly spaced, and of the least certain one."""
    from featurecache.images.batches import image_batches
    from featurecache.images.decode import DecodeRules
    from featurecache.images.manifest import ImageEntry
    from heads import Originals

    recipe, originals = cache.recipe, Originals.from_cache(cache)
    evenly = np.linspace(0, len(evaluation) - 1, _IMAGES - 1).astype(int)
    rows = dict.fromkeys([*evenly.tolist(), int(np.argmin(evaluation.table.margin))])
    paths = [str(evaluation.table.paths[row]) for row in rows]
    rules = DecodeRules(recipe.input_size, recipe.resize, recipe.filter)
    if originals.source is not None:
        entries = [ImageEntry(path, -1, "") for path in paths]
        with closing(image_batches(entries, originals.source, rules, batch_size=_IMAGES, failures={})) as batches:
            for batch in batches:
                decoded = [entry.path for entry in batch.entries]
                unchanged = [
                    sha256 == originals.sha256[path] for path, sha256 in zip(decoded, batch.sha256, strict=True)
                ]
                return list(compress(decoded, unchanged)), batch.pixels[unchanged]
    return [], np.empty((0, *recipe.input_size, 3), np.uint8)


def _predict(file: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Load a Keras model and return its probabilities for the images, shape (n, k)."""
    from featurecache.backbones.keras_runtime import fixed_settings, load_keras

    keras = load_keras()
    with fixed_settings():
        model = keras.saving.load_model(file, safe_mode=True)
        probabilities: NDArray[np.float32] = model.predict_on_batch(pixels)
    return probabilities


def _commands(cache: FeatureCache, head: TrainedHead, path: str) -> str:
    from heads import Originals

    file = quote(str(cache.path))
    source, working_folder = Originals.from_cache(cache).source, Path.cwd()
    image = Path(source.locate(path) if source else path)
    if image.is_relative_to(working_folder):
        image = image.relative_to(working_folder)
    return (
        f"featurecache train {file} last-layer --tap {head.tap} -p epochs={head.params['epochs']}\n"
        f"featurecache evaluate last-layer {file} --report report.html\n"
        f"featurecache predict last-layer {quote(str(image))}\n"
        "featurecache export last-layer model.keras"
    )

"""Network and head as a LiteRT model (TensorFlow Lite), which Keras converts; the head consists of dense layers.

The file has ``featurecache.json`` at its end, as a ZIP archive that readers of LiteRT models pass over:
``zipfile.ZipFile("model.tflite").read("featurecache.json")``.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from featurecache.backbones.keras_runtime import load_keras, without_chatter
from featurecache.storage.external_writers import publish_written
from featurecache.text import in_short
from heads.errors import HeadError
from heads.exporting.keras_model import DESCRIPTION, require_conversion

if TYPE_CHECKING:
    from collections.abc import Mapping

_SINCE = (3, 13)  # the version of Keras that converts first
_OF_TENSORFLOW = re.compile(rb"\0Flex[A-Z]\w*\0")  # a whole name of an operation of TensorFlow, which LiteRT lacks


def require_litert() -> None:
    """Raise `HeadError` unless Keras can convert networks to LiteRT here."""
    require_conversion("LiteRT", _SINCE)


def save_litert(model: Any, path: Path, description: Mapping[str, Any]) -> None:  # noqa: ANN401 - a keras.Model
    """Publish a Keras model as a LiteRT model of one image, (1, height, width, 3), whole or not at all.

    Raises
    ------
    HeadError
        If Keras cannot convert it.
    OutputError
        If the file cannot be written.
    """
    converted = _converted(model)

    def write(place: Path) -> None:
        place.write_bytes(converted)
        with zipfile.ZipFile(place, "a") as archive:
            archive.writestr(DESCRIPTION, json.dumps(description, indent=2, allow_nan=False) + "\n")

    publish_written(path, write, size=len(converted))


def _converted(model: Any) -> bytes:  # noqa: ANN401 - a keras.Model
    image = load_keras().InputSpec(shape=(1, *model.input.shape[1:]), dtype="uint8", name="images")
    with TemporaryDirectory() as folder, without_chatter():
        path = Path(folder, "model.tflite")
        try:
            model.export(str(path), format="litert", verbose=False, input_signature=[image])
            converted = path.read_bytes()
        except (MemoryError, OSError):  # as of a full disk: not the network's fault
            raise
        except Exception as e:
            raise HeadError(f"Keras cannot convert {model.name} to LiteRT ({in_short(e)})") from e
    if _OF_TENSORFLOW.search(converted):
        raise HeadError(f"{model.name} has operations that LiteRT does not have; export it to a .onnx file")
    return converted

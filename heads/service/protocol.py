"""The Open Inference Protocol: requests and answers as JSON with tensors in it, or behind it as raw bytes."""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.text import printable
from heads.service.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data", "model_repository")
OUTPUTS = {"probabilities": "FP64", "class": "BYTES"}
_INPUTS = {"image": "BYTES", "features": "FP32"}
_PREFIX = 4  # bytes of the length before each element of a BYTES tensor, little-endian
_DEEPEST = 4  # nested lists of a tensor's data in JSON, and sides of a shape
_LONGEST_SIDE = 2**31 - 1
_DIGITS = 19  # of a number of bytes, at most


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """A request for the answers of one head.

    Parameters
    ----------
    id
        What the answer repeats; None if the client gave none.
    images
        Encoded image files, if the input is ``image``.
    features
        Shape (n, d), float32, if the input is ``features``.
    outputs
        The names of the wanted outputs, in order, and whether each is wanted as raw bytes.
    """

    id: str | None
    images: list[bytes] | None
    features: NDArray[np.float32] | None
    outputs: Mapping[str, bool]


def parse(body: bytes, header_length: str | None, most_images: int) -> InferRequest:
    """Read a request.

    Parameters
    ----------
    body
        JSON, followed by the data of its tensors if ``header_length`` is given.
    header_length
        The value of `HEADER_LENGTH`: the number of bytes of JSON.
    most_images
        How many images a request may have.

    Raises
    ------
    RequestError
        With status 413 for too many images, and with 400 for the first other fault.
    """
    length = len(body)
    if header_length is not None:
        is_number = header_length.isascii() and header_length.isdigit() and len(header_length) <= _DIGITS
        if not (is_number and int(header_length) <= length):
            raise _fault(f"{HEADER_LENGTH} is {header_length[:40]!r}, and the body has {length} bytes")
        length = int(header_length)
    request = json_object(body[:length])
    identifier = request.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise _fault("id is not text")
    inputs = _objects(request, "inputs")
    if len(inputs) != 1 or inputs[0]["name"] not in _INPUTS:
        names = ", ".join(repr(printable(item["name"])[:40]) for item in inputs)
        raise _fault(f"inputs are {names or 'none'}; expected one, image or features")
    tensor = inputs[0]
    name, kind, count, shape = tensor["name"], tensor.get("datatype"), *_shape(tensor)
    if kind != _INPUTS[name]:
        raise _fault(f"the datatype of {name} is {kind!r:.40}, expected {_INPUTS[name]!r}")
    raw = _raw(tensor, body[length:])
    images = features = None
    if name == "image":
        if count > most_images:
            message = f"the request has {count} images, {most_images} are allowed; send fewer at a time"
            raise RequestError(413, "too_many_images", message)
        elements = _elements(raw) if raw is not None else (_decoded(text) for text in _flat(tensor))
        images = list(islice(elements, most_images + 1))
        _require_count(name, len(images), count)
    else:
        if len(shape) != 2:  # noqa: PLR2004 - (n, d)
            raise _fault(f"features have the shape {list(shape)}, expected [n, d]")
        values = _floats(raw) if raw is not None else _numbers(list(_flat(tensor)))
        _require_count(name, len(values), count)
        features = values.reshape(shape)
    return InferRequest(identifier, images, features, _wanted(request))


def json_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object; nothing but white space is an empty one.

    Raises
    ------
    RequestError
        With status 400 if it is something else.
    """
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        reason = printable(str(e)) if isinstance(e, ValueError) else "it is nested too deeply"
        raise _fault(f"the body is not JSON: {reason}") from e
    if not isinstance(value, dict):
        raise _fault("the body is not a JSON object")
    return value


def answer(
    request: InferRequest, name: str, version: str, classes: Sequence[str], probabilities: NDArray[np.float64]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the number of bytes of its JSON if raw bytes follow.

    Parameters
    ----------
    request
        What was asked.
    name, version
        The head that answers.
    classes
        Its k classes.
    probabilities
        Shape (n, k).
    """
    outputs: list[dict[str, Any]] = []
    tails: list[bytes] = []
    for output, is_raw in request.outputs.items():
        labels = [] if output == "probabilities" else [classes[index] for index in probabilities.argmax(axis=1)]
        shape = list(probabilities.shape) if output == "probabilities" else [len(labels)]
        tensor: dict[str, Any] = {"name": output, "datatype": OUTPUTS[output], "shape": shape}
        if is_raw:
            tail = _joined(labels) if output == "class" else probabilities.astype("<f8", copy=False).tobytes()
            tensor["parameters"] = {"binary_data_size": len(tail)}
            tails.append(tail)
        else:
            tensor["data"] = labels if output == "class" else probabilities.ravel().tolist()
        outputs.append(tensor)
    body: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": outputs}
    if request.id is not None:
        body["id"] = request.id
    text = json.dumps(body).encode("ascii")
    return text + b"".join(tails), len(text) if tails else None


def metadata(name: str, version: str, width: int, classes: int) -> dict[str, Any]:
    """Return the description of a head as a model of the protocol."""
    return {
        "name": name,
        "versions": [version],
        "platform": "featurecache",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "features", "datatype": "FP32", "shape": [-1, width]},
        ],
        "outputs": [
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, classes]},
            {"name": "class", "datatype": "BYTES", "shape": [-1]},
        ],
    }


def _fault(message: str) -> RequestError:
    return RequestError(400, "bad_protocol", message)


def _objects(request: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of objects with names."""
    items = request.get(name, [])
    if not isinstance(items, list) or not all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in items
    ):
        raise _fault(f"{name} is not a list of objects that have a name")
    return items


def _shape(tensor: dict[str, Any]) -> tuple[int, tuple[int, ...]]:
    """Return the number of elements of a tensor, and its shape."""
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(side) is int and side >= 0 for side in shape):
        raise _fault(f"the shape of {tensor['name']} is not a list of whole numbers from 0 on")
    if len(shape) > _DEEPEST or max(shape) > _LONGEST_SIDE:
        raise _fault(f"the shape of {tensor['name']} has more than {_DEEPEST} sides, or one over {_LONGEST_SIDE:,}")
    return math.prod(shape), tuple(shape)


def _parameters(item: dict[str, Any]) -> dict[str, Any]:
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _fault("parameters are not an object")
    return parameters


def _raw(tensor: dict[str, Any], rest: bytes) -> bytes | None:
    """Return the bytes of a tensor that follow the JSON; None if its data is in the JSON."""
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        if rest:
            raise _fault(f"{len(rest)} bytes follow the JSON, and no input has a binary_data_size")
        return None
    if type(size) is not int or size != len(rest):
        raise _fault(f"binary_data_size is {size!r:.40}, and {len(rest)} bytes follow the JSON")
    if "data" in tensor:
        raise _fault("the input has both data and a binary_data_size")
    return rest


def _require_count(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise _fault(f"{name} has {found} elements, and its shape says {expected}")


def _elements(raw: bytes) -> Iterator[bytes]:
    """Yield the elements of a BYTES tensor, each behind its length."""
    place = number = 0
    while place < len(raw):
        end = place + _PREFIX
        size = int.from_bytes(raw[place:end], "little")
        if end > len(raw) or end + size > len(raw):
            raise _fault(f"element {number} says that it has {size} bytes, and {max(0, len(raw) - end)} follow")
        yield raw[end : end + size]
        place, number = end + size, number + 1


def _joined(texts: Sequence[str]) -> bytes:
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(_PREFIX, "little") + text for text in encoded)


def _floats(raw: bytes) -> NDArray[np.float32]:
    if len(raw) % 4:
        raise _fault(f"features have {len(raw)} bytes, which is no multiple of 4")
    return np.frombuffer(raw, "<f4").astype(np.float32, copy=False)


def _flat(tensor: dict[str, Any]) -> Iterator[Any]:
    """Yield the elements of a tensor in JSON, nested in lists or not."""
    data = tensor.get("data")
    if not isinstance(data, list):
        raise _fault(f"{tensor['name']} has neither a list as data nor a binary_data_size")
    yield from _unnested(data, _DEEPEST)


def _unnested(items: list[Any], depth: int) -> Iterator[Any]:
    if not depth:
        raise _fault("data is nested too deeply")
    for item in items:
        if isinstance(item, list):
            yield from _unnested(item, depth - 1)
        else:
            yield item


def _numbers(values: list[Any]) -> NDArray[np.float32]:
    if not all(type(value) in {int, float} for value in values):
        raise _fault("features hold something that is not a number")
    try:
        with np.errstate(over="ignore"):
            return np.array(values, np.float64).astype(np.float32)
    except OverflowError as e:
        raise _fault("features hold a number that is too large") from e


def _decoded(text: object) -> bytes:
    """Return the bytes of an image in JSON, which cannot carry them as they are."""
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise _fault("an image in JSON is not base64; encode it, or send it as binary data")


def _wanted(request: dict[str, Any]) -> dict[str, bool]:
    """Return the wanted outputs, all if none is named, and whether each is wanted as raw bytes."""
    everything = _parameters(request).get("binary_data_output", False)
    if not isinstance(everything, bool):
        raise _fault("binary_data_output is neither true nor false")
    wanted: dict[str, bool] = {}
    for item in _objects(request, "outputs"):
        parameters = _parameters(item)
        is_raw = parameters.get("binary_data", everything)
        if item["name"] not in OUTPUTS or item["name"] in wanted:
            raise _fault(f"the output {printable(item['name'])[:40]!r} does not exist or is named twice")
        if not isinstance(is_raw, bool):
            raise _fault("binary_data is neither true nor false")
        if "classification" in parameters:
            raise _fault("classification is not supported; ask for the outputs probabilities and class")
        wanted[item["name"]] = is_raw
    return wanted or dict.fromkeys(OUTPUTS, everything)

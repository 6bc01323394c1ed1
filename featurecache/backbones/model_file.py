"""A network of the user's own: a ``.keras`` file, which is checked and loaded in Keras's safe mode, or a preset."""

import io
import json
import os
import re
import zipfile
from collections.abc import Collection, Iterable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from featurecache.backbones.catalog import HEAD_ALONE, NETWORKS, OWN_MODEL, NetworkSpec
from featurecache.backbones.keras_runtime import fixed_settings, load_keras
from featurecache.backbones.preset import tapped_preset
from featurecache.backbones.safe_loading import INPUT, TappedModel, loaded, require_built_in
from featurecache.errors import EngineError, OptionError, UnknownNameError, WeightsError
from featurecache.options import LARGEST_SIDE, OWN_MODEL_SUFFIX
from featurecache.storage.files import open_regular
from featurecache.text import did_you_mean, in_short

LARGEST_TAP = 4_000_000
"""The largest number of features of all taps together: 16 MB for an image, 512 MB for a batch of 32."""

_LARGEST_CONFIG = 100_000_000  # bytes
_LOCAL_HEADER = 30  # bytes before the name of a member
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_PREPARING = {"Rescaling", "Normalization"}
_ARITHMETIC = {"Multiply", "Divide", "TrueDivide", "Subtract"}  # Keras's operations, as of preprocess_input
_ONLY_TRAINING = re.compile(
    r"(Spatial|Gaussian|Alpha)?Dropout([123]D)?|GaussianNoise|AugMix|CutMix|MixUp|RandAugment|Random(?!Crop)\w+"
)
"""Layers that return their input except in training."""

_AFTER_CLASSIFIER = {"Activation", "Softmax"}
_HEAD = "head"  # the stage that trains the head alone


def read_network(
    path: Path,
    *,
    preprocessing: str | None = None,
    input_size: tuple[int, int] | None = None,
    taps: Collection[str] | None = None,
) -> NetworkSpec:
    """Return a model file or a preset as a network; starts Keras.

    Parameters
    ----------
    path
        The ``.keras`` file, or the folder of a preset.
    preprocessing
        A mode of `PREPROCESSING`; if None, ``inside`` if the model has layers for it, or the preset tells it, else
        empty.
    input_size
        Height and width of its input, where the model leaves them open; those of the model if None.
    taps
        The taps that will be used; the default one if None.

    Raises
    ------
    WeightsError
        If the file cannot be read, is no Keras model, would run code, or is no network for images.
    EngineError
        If the network is a preset, and KerasHub is not installed.
    OptionError
        If the input size is missing, or it or the preprocessing does not fit the model, or a tap is too wide.
    UnknownNameError
        If there is no such tap.
    """
    model = tapped_model(path, input_size)
    if path.is_dir() and model.prepares and preprocessing not in {None, "inside"}:
        raise OptionError(f"the preset {path} has an image converter, which prepares pixels; leave out --preprocess")
    if preprocessing == "inside" and not model.prepares:
        raise OptionError(
            f"{path} has no layer Rescaling or Normalization at its beginning, and no image converter, expected one "
            "with --preprocess inside; pass none if it takes pixels from 0 to 255 as they are"
        )
    widths = {tap: prod(output.shape[1:]) for tap, output in model.taps.items()}
    wanted = {model.default} if taps is None else {*taps}
    for tap in sorted(wanted):
        if tap not in widths:
            raise UnknownNameError(f"tap of {path.name}", tap, widths)
    if (total := sum(widths[tap] for tap in wanted)) > LARGEST_TAP:
        what = f"{', '.join(sorted(wanted))} of {path}"
        raise OptionError(
            f"{f'the taps {what} have' if len(wanted) > 1 else f'the tap {what} has'} {total:,} features for an image, "
            f"expected at most {LARGEST_TAP:,}; choose layers above with --taps, or fewer of them"
        )
    height, width = model.images.shape[1:3]
    return NetworkSpec(
        name=OWN_MODEL,
        constructor="",
        module="",
        input_size=(height, width),
        preprocessing=preprocessing or ("inside" if model.prepares else ""),
        taps=widths,
        default_taps=(model.default,),
        stages={}
        if path.is_dir()
        else {_HEAD: HEAD_ALONE}
        | {tap: model.layers[tap] for tap in reversed(widths) if tap in model.layers and tap != _HEAD},
        weights_file=str(path),
        weights_url="",
        parameters=model.parameters,
        resize=model.resize,
        filter=model.filter,
    )


def tapped_model(path: Path, input_size: tuple[int, int] | None, *, dtype_policy: str = "float32") -> TappedModel:
    """Load a model file in Keras's safe mode, or a preset, and return the model with its taps.

    Parameters
    ----------
    path, input_size
        As in `read_network`.
    dtype_policy
        Keras's name of the precision of a preset.

    Raises
    ------
    WeightsError, OptionError, EngineError
        As `read_network`; EngineError also if a model file is asked for in another precision than float32.
    """
    if path.is_dir():
        return tapped_preset(path, input_size, dtype_policy=dtype_policy)
    if dtype_policy != "float32":
        raise EngineError(
            f"Keras computes the layers of {path} in the precisions that they were saved with; leave out --precision "
            "mixed, pass --precision tf32 on a GPU, or --engine openvino on a CPU"
        )
    _require_safe(path)
    keras = load_keras()
    with fixed_settings():
        try:
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read(_CONFIG))
            config.pop("compile_config", None)
            model = loaded(path, lambda: keras.saving.deserialize_keras_object(config, safe_mode=True), path)
        except (MemoryError, WeightsError):
            raise
        except Exception as e:  # a damaged or unusual file may raise anything
            raise WeightsError(f"Keras {keras.__version__} cannot load the model {path}: {in_short(e)}") from e
        size = _input_size(path, model, input_size)
        images = keras.Input((*size, 3), name=INPUT)
        try:
            found = _Replay(nested=True).run(model, images)
            if found.has_twins:
                first, found = found, _Replay(nested=False).run(model, images)
                found.prepares |= first.prepares  # a layer inside a nested model
        except ValueError as e:
            sides = "x".join(map(str, size))
            raise OptionError(
                f"{path} does not take images of {sides} pixels ({in_short(e)}); pass another --input-size"
            ) from e
        if not found.taps:
            raise WeightsError(f"{path} has no layer with features of fixed width, expected a network for images")
        return TappedModel(images, found.taps, found.layers, found.default(), found.prepares, model.count_params())


class _Replay:
    """Calls the layers of a model again on another input, and keeps what each one gives.

    A Keras model does not tell what a layer inside a nested model gives for the images of the outer one. The layers
    keep their weights.

    Parameters
    ----------
    nested
        Whether the layers of nested models are called one by one; else a nested model counts as one layer.
    """

    def __init__(self, *, nested: bool) -> None:
        self._nested = nested
        self.taps: dict[str, Any] = {}
        self.prepares = False
        self.has_twins = False
        self.layers: dict[str, str] = {}
        self._begun = False
        self._kinds: dict[str, str] = {}
        self._names: set[str] = set()
        self._below: dict[str, str] = {}  # from a tap to the one that its layer takes
        self._given: dict[int, str] = {}  # from the id of an output to its tap
        self._outputs: list[Any] = []  # as long as they are there, ids are unique

    def run(self, model: Any, images: Any) -> "_Replay":  # noqa: ANN401 - Keras has no types
        self._last = self._given.get(id(self._through(model, images, "")), "")
        return self

    def default(self) -> str:
        """Return the tap below the classifier: what the last dense layer takes, or else the last layer."""
        last = name = self._last or [*self.taps][-1]
        while self._kinds[name] in _AFTER_CLASSIFIER and name in self._below:
            name = self._below[name]
        return self._below.get(name, last) if self._kinds[name] == "Dense" else last

    def _through(self, model: Any, images: Any, folder: str) -> Any:  # noqa: ANN401 - Keras has no types
        keras = load_keras()

        def call(layer: Any, *inputs: Any, **options: Any) -> Any:  # noqa: ANN401 - Keras has no types
            name = f"{folder}{layer.name}"
            if _ONLY_TRAINING.fullmatch(type(layer).__name__) and len(inputs) == 1:
                output = inputs[0]  # also in fine-tuning, where this layer would change it
            elif self._nested and _is_plain_model(layer) and len(inputs) == 1:
                output = self._through(layer, inputs[0], f"{name}.")
            else:
                self._note_layer(layer)
                output = layer(*inputs, **options)
                if isinstance(layer, keras.Layer):
                    self.layers[name] = layer.name
            self._note_output(layer, name, inputs, output)
            return output

        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                images = call(layer, images)
            return images
        flat = keras.tree.map_structure(lambda _: images, model.input)
        outputs = model._run_through_graph(flat, operation_fn=lambda layer: layer, call_fn=call)
        return keras.tree.flatten(outputs)[0]

    def _note_layer(self, layer: Any) -> None:  # noqa: ANN401 - Keras has no types
        """Note the name of a layer, which is unique in a model, and whether it prepares pixels."""
        self.has_twins |= layer.name in self._names
        self._names.add(layer.name)
        has_kernel = any("kernel" in weight.name for weight in getattr(layer, "weights", ()))
        self._begun |= has_kernel
        prepares = type(layer).__name__ in (_PREPARING if isinstance(layer, load_keras().Layer) else _ARITHMETIC)
        self.prepares |= prepares and not self._begun

    def _note_output(self, layer: Any, name: str, inputs: Iterable[Any], output: Any) -> None:  # noqa: ANN401
        """Note a tap, if its output is one vector or map of numbers of fixed width."""
        keras = load_keras()
        self._outputs.append(output)
        if not keras.backend.is_keras_tensor(output) or None in output.shape[1:] or len(output.shape) == 1:
            return
        self.has_twins |= name in self.taps
        first = next(iter(inputs), None)
        self.taps[name] = output
        self._kinds[name] = type(layer).__name__
        if output is not first:
            self._given.setdefault(id(output), name)
            if id(first) in self._given:
                self._below[name] = self._given[id(first)]


def _is_plain_model(layer: Any) -> bool:  # noqa: ANN401 - Keras has no types
    """Whether a layer is a model with one input and one output, whose layers can be called one by one."""
    return isinstance(layer, load_keras().Model) and len(layer.inputs) == len(layer.outputs) == 1


def _input_size(path: Path, model: Any, asked: tuple[int, int] | None) -> tuple[int, int]:  # noqa: ANN401
    """Return height and width of the input of a model; raise an error unless it takes one batch of RGB images."""
    try:
        inputs = list(model.inputs or ())
    except (AttributeError, ValueError):  # a model that was never built
        inputs = []
    if len(inputs) != 1:
        raise WeightsError(f"the model {path} has {len(inputs) or 'no'} inputs, expected one: images")
    shape = tuple(inputs[0].shape)
    if len(shape) != 4 or shape[3] != 3:  # noqa: PLR2004 - (n, height, width, 3)
        sides = ", ".join("any" if side is None else str(side) for side in shape[1:])
        raise WeightsError(f"the model {path} takes inputs of shape ({sides}), expected RGB images: (height, width, 3)")
    own = shape[1:3]
    if asked is None and None in own:
        sides = "x".join("any" if side is None else str(side) for side in own)
        what = (
            "any size; choose one, such as --input-size 224"
            if own == (None, None)
            else (f"{sides} pixels; choose one size, such as --input-size {'x'.join(str(side or 224) for side in own)}")
        )
        raise OptionError(f"the model {path} takes images of {what}")
    size = tuple(own_side or side for own_side, side in zip(own, asked or own, strict=True))
    if asked is not None and asked != size:
        sides = "x".join("any" if side is None else str(side) for side in own)
        remedy = f"pass {size[0]}x{size[1]}" if None in own else "leave it out"
        raise OptionError(
            f"--input-size is {asked[0]}x{asked[1]}, but the model {path} takes images of {sides} pixels; {remedy}"
        )
    if max(size) > LARGEST_SIDE:
        raise WeightsError(
            f"the model {path} takes images of {size[0]}x{size[1]} pixels, expected at most {LARGEST_SIDE:,} on a side"
        )
    return size[0], size[1]


def _require_safe(path: Path) -> None:
    """Raise `WeightsError` unless a file is a ``.keras`` file of built-in layers that refers to nothing outside."""
    from featurecache.backbones.weight_file import require_own_numbers

    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            _require_stored(path, archive)
            with archive.open(_CONFIG) as config:
                require_built_in(path, json.loads(config.read(_LARGEST_CONFIG)))
            require_own_numbers(path, _Member(stream, archive.getinfo(_WEIGHTS)))
    except WeightsError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, EOFError, RuntimeError) as e:
        raise WeightsError(f"{path} is not a Keras model: {_what_else(path)}") from e
    except OSError as e:
        raise WeightsError(_unreadable(path, e)) from e
    if path.suffix != OWN_MODEL_SUFFIX:
        raise WeightsError(f"the model {path} must have a name that ends in {OWN_MODEL_SUFFIX}, for Keras; rename it")


class _Member(io.RawIOBase):
    """A member of an archive that is not compressed, as a file: `zipfile` reads all before a place to get there.

    Parameters
    ----------
    stream
        The archive.
    member
        Its entry.
    """

    def __init__(self, stream: BinaryIO, member: zipfile.ZipInfo) -> None:
        self._stream, self._size, self._place = stream, member.file_size, 0
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER)
        lengths = (int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little"))  # name and extra
        self._start = member.header_offset + _LOCAL_HEADER + sum(lengths)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - anything with a buffer
        self._stream.seek(self._start + self._place)
        data = self._stream.read(min(len(buffer), max(self._size - self._place, 0)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _require_stored(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise `WeightsError` if members of an archive are compressed or overlap: they could be of any size."""
    members = archive.infolist()
    size = archive.fp.seek(0, os.SEEK_END) if archive.fp else 0
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > size:
        raise WeightsError(f"the model {path} is a compressed archive, as Keras writes none; save it with model.save")


def _what_else(path: Path) -> str:
    """Return what a file is that is no ``.keras`` file, and what to do."""
    with open_regular(path) as stream:
        beginning = stream.read(8)
    if beginning == b"\x89HDF\r\n\x1a\n":
        return (
            "it is an HDF5 file; pass a file of weights with --weights, and save a whole model again with "
            "model.save('NAME.keras')"
        )
    if beginning.startswith(b"PK"):
        return f"it is a zip archive without a readable {_CONFIG} and {_WEIGHTS}; save it again with model.save"
    return "it is no zip archive, as .keras files are; save the model with model.save('NAME.keras')"


def _unreadable(path: Path, error: OSError) -> str:
    """Return the message for a model file that the operating system or HDF5 does not let us read."""
    reason = (error.strerror or str(error)).lower()
    remedy = "give the path of another one"
    if isinstance(error, FileNotFoundError):
        near = [other.name for other in path.parent.glob("*.keras")] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, [*near, *NETWORKS])
        remedy = f"expected a .keras file, a folder with a preset, or a network of featurecache backbones{hint}"
    return f"the model file {path} cannot be read: {reason}; {remedy}"

"""A preset of KerasHub as a network: checks a folder, and builds the image tower of ViT, DINOv2, CLIP or SigLIP."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.keras_runtime import fixed_settings, load_keras, load_keras_hub
from featurecache.backbones.safe_loading import INPUT, TappedModel, loaded, require_built_in
from featurecache.backbones.weights import PRESET_CONFIG, PRESET_CONVERTER, PRESET_WEIGHTS
from featurecache.errors import FeatureCacheError, OptionError, WeightsError
from featurecache.options import FILTERS, LARGEST_SIDE, RESIZES
from featurecache.storage.files import open_regular
from featurecache.text import in_short

_LARGEST_CONFIG = 10_000_000  # bytes
_FILTERS = {name.replace("lanczos", "lanczos3"): name for name in FILTERS}  # from KerasHub's names
_OLD = ("height", "width", "mean", "variance")  # settings of the converters of old presets
_SHARDS = "model.weights.json"  # lists the files of weights that lie in several
_CHANNELS = 3

_Outputs = dict[str, Any]  # from a tap to a Keras tensor


def _vit(network: Any, images: Any) -> _Outputs:  # noqa: ANN401 - Keras has no types
    tokens = network(images)
    return _of_tokens(tokens, 1) if network.use_class_token else {"patches": _mean(tokens)}


def _dinov2(network: Any, images: Any) -> _Outputs:  # noqa: ANN401 - Keras has no types
    return _of_tokens(network({"images": images}), 1 + network.num_register_tokens)


def _clip(network: Any, images: Any) -> _Outputs:  # noqa: ANN401 - Keras has no types
    outputs = _of_tokens(network.vision_encoder({"images": images}), 1)
    return outputs | {"embedding": network.vision_projection(outputs["cls"])}


def _siglip(network: Any, images: Any) -> _Outputs:  # noqa: ANN401 - Keras has no types
    tower = network.vision_encoder
    tokens = tower.embedding(images)
    for layer in tower.encoder_layers:
        tokens = layer(tokens)
    tokens = tower.post_layer_norm(tokens)
    return {"patches": _mean(tokens), "embedding": tower.head(tokens)}


def _of_tokens(tokens: Any, first: int) -> _Outputs:  # noqa: ANN401 - Keras has no types
    """Return the class token, and the mean of the tokens from number ``first`` on, which are those of patches."""
    return {"cls": tokens[:, 0], "patches": _mean(tokens[:, first:])}


def _mean(tokens: Any) -> Any:  # noqa: ANN401 - Keras has no types
    return load_keras().ops.mean(tokens, axis=1)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A network of KerasHub: its taps, the default one, its towers, and whether it takes images of any size."""

    taps: Callable[[Any, Any], _Outputs]
    default: str
    towers: tuple[str, str] | tuple[()] = ()
    takes_any_size: bool = False


_KINDS = {
    "ViTBackbone": _Kind(_vit, "cls"),
    "DINOV2Backbone": _Kind(_dinov2, "cls", takes_any_size=True),
    "CLIPBackbone": _Kind(_clip, "embedding", ("CLIPVisionEncoder", "CLIPTextEncoder")),
    "SigLIPBackbone": _Kind(_siglip, "embedding", ("SigLIPVisionEncoder", "SigLIPTextEncoder")),
}
"""The classes that a preset may name; no other class is looked up."""


@dataclass(frozen=True, slots=True)
class _Converter:
    """What a preset's image converter does: it resizes images, then computes ``pixels * scale + offset``.

    Parameters
    ----------
    size
        Height and width, if it sets them.
    scale, offset
        A number for each channel, shape (3,).
    resize, filter
        Choices of `RESIZES` and `FILTERS`.
    """

    size: tuple[int, int] | None
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    resize: str
    filter: str


def tapped_preset(folder: Path, input_size: tuple[int, int] | None, *, dtype_policy: str = "float32") -> TappedModel:
    """Build the image tower of a preset, and return it with its taps; its image converter is a part of it.

    Parameters
    ----------
    folder
        The preset.
    input_size
        Height and width of the images, where the network takes any size.
    dtype_policy
        Keras's name of the precision of the layers, whatever the preset was saved in.

    Raises
    ------
    WeightsError
        If the folder is no preset, has another network, or cannot be read.
    OptionError
        If the network takes images of another size.
    EngineError
        If KerasHub is not installed.
    """
    config = _read(folder, PRESET_CONFIG)
    name, settings = config.get("class_name"), config.get("config")
    if name is None:
        raise WeightsError(
            f"{folder} is no preset of KerasHub: its {PRESET_CONFIG} names no class of KerasHub, as those of other "
            "libraries; load it with KerasHub, and save it with save_to_preset"
        )
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(settings, dict):
        raise WeightsError(f"the preset {folder} has the network {name}, expected one of {', '.join(_KINDS)}")
    require_built_in(folder, config, (str(name), *kind.towers))
    converter = _converter(folder)
    _require_weights(folder)
    hub = load_keras_hub(f"the preset {folder}")
    settings = _without_precision(settings)
    keras = load_keras()
    try:
        with fixed_settings(dtype_policy):
            size = _input_size(folder, settings, kind, input_size, converter)
            build = getattr(hub.models, str(name)).from_config
            network = loaded(folder, lambda: build(settings), folder / PRESET_WEIGHTS, dtype_policy=dtype_policy)
            images = keras.Input((*size, _CHANNELS), name=INPUT)
            taps = kind.taps(network, images * converter.scale + converter.offset if converter else images)
            parameters = keras.Model(images, taps).count_params()
    except (MemoryError, FeatureCacheError):
        raise
    except Exception as e:  # a damaged or unusual preset may raise anything
        raise WeightsError(f"KerasHub {hub.__version__} cannot load the preset {folder}: {in_short(e)}") from e
    default = kind.default if kind.default in taps else next(iter(taps))
    resizing = (converter.resize, converter.filter) if converter else ()
    return TappedModel(images, taps, {}, default, converter is not None, parameters, *resizing)


def _read(folder: Path, name: str) -> dict[str, Any]:
    """Return the object in a JSON file of a preset."""
    try:
        with open_regular(folder / name) as stream:
            found = json.loads(stream.read(_LARGEST_CONFIG))
    except FileNotFoundError as e:
        raise WeightsError(
            f"{folder} is no preset of KerasHub: it has no {name}; pass a folder that save_to_preset has written"
        ) from e
    except OSError as e:
        raise WeightsError(f"{folder / name} cannot be read: {(e.strerror or str(e)).lower()}") from e
    except (ValueError, RecursionError) as e:
        raise WeightsError(f"{folder} is no preset of KerasHub: {name} is not JSON; copy it again") from e
    if not isinstance(found, dict):
        raise WeightsError(f"{folder} is no preset of KerasHub: {name} is a {type(found).__name__}, expected an object")
    return found


def _require_weights(folder: Path) -> None:
    """Raise `WeightsError` unless the weights lie in one HDF5 file that refers to no other."""
    from featurecache.backbones.weight_file import require_own_numbers

    path = folder / PRESET_WEIGHTS
    try:
        with open_regular(path) as stream:
            require_own_numbers(path, stream)
    except FileNotFoundError as e:
        several = (
            f"its weights lie in several files ({_SHARDS}), expected one, {path.name}; save it again without shards"
        )
        what = several if (folder / _SHARDS).exists() else f"it has no {path.name}; copy it again"
        raise WeightsError(f"the preset {folder} cannot be used: {what}") from e
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        raise WeightsError(f"the weights {path} are damaged or incomplete ({in_short(e)}); copy them again") from e


def _without_precision(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a network, and of its towers, without the precision that it was saved with."""
    settings = {name: value for name, value in config.items() if name != "dtype"}
    for tower in ("vision_encoder", "text_encoder"):
        if isinstance(inner := settings.get(tower), dict) and isinstance(inner.get("config"), dict):
            settings[tower] = inner | {"config": _without_precision(inner["config"])}
    return settings


def _input_size(
    folder: Path,
    settings: dict[str, Any],
    kind: _Kind,
    asked: tuple[int, int] | None,
    converter: _Converter | None,
) -> tuple[int, int]:
    """Return the size of the input; set it where the network takes any."""
    inner = settings["vision_encoder"]["config"] if kind.towers else settings
    height, width, channels = inner["image_shape"]
    if channels != _CHANNELS:
        raise WeightsError(f"the preset {folder} takes images of {channels} channels, expected RGB images")
    size = (height, width)
    if kind.takes_any_size:
        size = asked or (converter.size if converter else None) or size
        settings["image_shape"] = (*size, channels)
    elif asked is not None and asked != size:
        sides = "x".join(map(str, asked))
        raise OptionError(
            f"--input-size is {sides}, but the preset {folder} takes images of {height}x{width} pixels; leave it out"
        )
    if not all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in size):
        raise WeightsError(f"the preset {folder} takes images of {size}, expected 1 to {LARGEST_SIDE:,} on each side")
    return size


def _converter(folder: Path) -> _Converter | None:
    """Return what the image converter of a preset does; None if it has none."""
    if not (folder / PRESET_CONVERTER).exists():
        return None
    found = _read(folder, PRESET_CONVERTER)
    try:
        settings = found["config"]
        size, by = settings.get("image_size"), settings.get("interpolation", "bilinear")
        obstacle = _obstacle(settings)
        converter = _Converter(
            None if size is None else (int(size[0]), int(size[1])),
            _channels(settings.get("scale"), 1.0),
            _channels(settings.get("offset"), 0.0),
            RESIZES[settings.get("crop_to_aspect_ratio", True)],
            _FILTERS.get(by, by),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as e:
        obstacle = f"it is damaged ({type(e).__name__}: {in_short(e)}); copy it again"
    if obstacle:
        raise WeightsError(f"{PRESET_CONVERTER} of the preset {folder} cannot be used: {obstacle}")
    return converter


def _obstacle(settings: Mapping[str, Any]) -> str:
    """Return why images cannot be resized as a converter does, with what is expected; empty if they can."""
    if settings.get("pad_to_aspect_ratio"):
        return "it pads images, expected one that crops or squashes them"
    if old := [name for name in _OLD if name in settings]:
        return f"it has {old[0]}, as in old presets; load the preset with KerasHub and save it again"
    if (by := settings.get("interpolation", "bilinear")) not in _FILTERS:
        return f"it resizes by {by}, expected {', '.join(_FILTERS)}"
    return ""


def _channels(value: Any, default: float) -> NDArray[np.float32]:  # noqa: ANN401 - JSON
    """Return a finite number for each channel, shape (3,)."""
    numbers = np.broadcast_to(np.asarray(default if value is None else value, np.float32), _CHANNELS)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{value} is not a number for each channel")
    return numbers

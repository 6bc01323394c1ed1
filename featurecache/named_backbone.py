"""Resolves a backbone by name without starting it, and derives its recipe."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import OWN_MODEL, REGISTRY, ExternalNetwork, NetworkSpec
from featurecache.backbones.catalog import find_network as find_keras_network
from featurecache.backbones.engines import choose_engine, default_batch_size, missing_engine, start_engine
from featurecache.backbones.protocol import Backbone, BackboneSpec
from featurecache.backbones.weights import resolve_weights
from featurecache.errors import EngineError, OptionError, RecipeError, UnknownNameError
from featurecache.images.decode import DECODE_VERSION, DecodeRules
from featurecache.options import DEVICES, OWN_MODEL_PREFIX, OWN_MODEL_SUFFIX, read_size
from featurecache.recipe import Recipe


@dataclass(frozen=True, slots=True)
class NamedBackbone:
    """A backbone that has not been started: its identity, and the function that starts it.

    Parameters
    ----------
    spec
        The backbone's identity; needs no framework.
    weights
        The value of the option ``weights`` that gives the same weights again.
    engine
        The name of the engine; empty for a backbone that was passed in or that a package runs.
    batch_size
        Images per batch, unless the user sets another number.
    start
        Starts the backbone. Takes the batch size (None to measure the fastest one) and the approximate number of
        images, or one batch for a caller that has one pass at a time. Called once, and only if an image needs a forward
        pass.
    arguments
        The arguments of `source_of` that give the same backbone in another process.
    """

    spec: BackboneSpec
    weights: str
    engine: str
    batch_size: int
    start: Callable[[int | None, int], Backbone]
    arguments: Mapping[str, Any]


def source_of(
    backbone: str | NetworkSpec | Backbone,
    weights: str = "imagenet",
    *,
    taps: Iterable[str] | None = None,
    device: str = "auto",
    precision: str = "float32",
    engine: str = "auto",
    before: str = "",
    is_new: bool = False,
    rehash: bool = False,
    download: bool = True,
    notify: Callable[[str], None] = lambda _: None,
) -> NamedBackbone:
    """Return the named backbone for a network in the catalogue, or wrap a given backbone.

    A model file or a preset is given by what is known of it, see `network_of`, and its path as ``weights``. The options
    are those of `featurecache.extract`; they do not apply to a given backbone. ``before`` is the engine that computed
    the features that are there already, and ``is_new`` whether none are there in this precision; see `choose_engine`.
    Engines are loaded when the network starts.
    """
    if not isinstance(backbone, str | NetworkSpec):
        given, own = backbone, backbone.batch_size
        return NamedBackbone(given.spec, given.spec.weights, "", own, lambda *_: given, {"backbone": given})
    row = REGISTRY.find(backbone) if isinstance(backbone, str) else backbone
    row.spec("", taps, precision)  # check the names before looking for weights
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    if isinstance(row, ExternalNetwork):
        return _external_source(row, weights, taps=taps, device=device, precision=precision, engine=engine)
    chosen = choose_engine(engine, row, device=device, precision=precision, before=before, is_new=is_new)
    missing = "" if engine != "auto" else missing_engine(chosen, row, device=device, precision=precision, before=before)
    found = resolve_weights(weights, row, download=download, rehash=rehash, notify=notify)
    spec = row.spec(found.identity, taps, precision)

    def start(batch_size: int | None, images: int) -> Backbone:
        what = f"the model {found.source}" if row.is_own_model else f"{row.name} with {found.source} weights"
        notify(f"starting {what} on {chosen}{missing and f' ({missing})'}")
        return start_engine(
            chosen,
            row,
            found,
            taps=tuple(spec.taps),
            batch_size=batch_size,
            precision=precision,
            device=device,
            images=images,
            asked=engine,
            is_new=is_new,
            notify=notify,
        )

    arguments = {
        "backbone": backbone,
        "weights": found.source,
        "taps": tuple(spec.taps),
        "device": device,
        "precision": precision,
        "engine": chosen,
    }
    return NamedBackbone(spec, found.source, chosen, default_batch_size(chosen, row), start, arguments)


def _external_source(
    network: ExternalNetwork, weights: str, *, taps: Iterable[str] | None, device: str, precision: str, engine: str
) -> NamedBackbone:
    """Return the named backbone for a network that an installed package runs."""
    if engine != "auto" or precision != "float32":
        raise EngineError(
            f"the package that adds {network.name} runs it itself, in float32; leave out --engine and --precision"
        )
    source = str(Path(weights).absolute()) if Path(weights).is_file() else weights
    spec = network.spec(network.identify(source), taps, precision)

    def start(batch_size: int | None, images: int) -> Backbone:
        del images  # the package chooses its own batch size
        size = batch_size or network.batch_size
        backbone = network.start(weights=source, taps=tuple(spec.taps), batch_size=size, device=device)
        if backbone.spec != spec:
            raise EngineError(
                f"the package that adds {network.name} started another network than it described: {backbone.spec}, "
                f"expected {spec}; report this to the package's authors"
            )
        return backbone

    arguments = {"backbone": network.name, "weights": source, "taps": tuple(spec.taps), "device": device}
    return NamedBackbone(spec, source, "", network.batch_size, start, arguments)


def own_model_path(backbone: str) -> Path | None:
    """Return the path of a model file or preset that a backbone names; None if it is the name of a network.

    Paths begin with ``keras:`` or end in ``.keras``, or are folders whose name no network has.
    """
    path = Path(os.path.expanduser(backbone.removeprefix(OWN_MODEL_PREFIX))).absolute()  # noqa: PTH111 - unknown users
    if backbone.startswith(OWN_MODEL_PREFIX) or path.suffix.lower() == OWN_MODEL_SUFFIX:
        return path
    if not backbone or not os.path.isdir(path):  # noqa: PTH112 - pathlib raises an error for a name that is too long
        return None
    try:
        REGISTRY.find(backbone)
    except UnknownNameError:
        return path
    return None


def find_network(backbone: str, *, input_size: str | None = None) -> NetworkSpec:
    """Return the Keras network of this name, or the user's own model at this path; a model starts Keras.

    Parameters
    ----------
    backbone
        A name that `load_networks` lists, the path of a ``.keras`` file, or the folder of a preset of KerasHub.
    input_size
        Height and width in pixels, such as ``"224"`` or ``"240x320"``, for a model that takes any size.

    Raises
    ------
    UnknownNameError
        If there is no network of this name.
    EntryPointError
        If a package has a network of this name that cannot be loaded.
    EngineError
        If a package runs the network of this name itself, so that Keras cannot, or KerasHub is not installed.
    WeightsError
        If the model cannot be read, or would run code.
    OptionError
        If the input size is missing, or is not one of this network.

    Examples
    --------
    >>> featurecache.find_network("vgg16").default_taps
    ('fc2', 'predictions')
    """
    path = own_model_path(backbone)
    if path is not None:
        from featurecache.backbones.model_file import read_network

        return read_network(path, input_size=None if input_size is None else read_size(input_size), taps=())
    if input_size is not None:
        raise OptionError(f"{backbone} has its own input size; leave out --input-size")
    return find_keras_network(backbone)


def network_of(recipe: Recipe) -> str | NetworkSpec:
    """Return what `source_of` takes for the network of a recipe: its name, or what it knows of a user's model."""
    return own_network(recipe) if recipe.backbone == OWN_MODEL else recipe.backbone


def own_network(recipe: Recipe) -> NetworkSpec:
    """Return what a recipe knows of a model file or a preset; its stages are in the file alone."""
    return NetworkSpec(
        name=OWN_MODEL,
        constructor="",
        module="",
        input_size=recipe.input_size,
        preprocessing=recipe.preprocessing,
        taps=recipe.taps,
        default_taps=tuple(recipe.taps),
        stages={},
        weights_file="",
        weights_url="",
    )


def recipe_of(spec: BackboneSpec, rules: DecodeRules, dtype: str) -> Recipe:
    """Return the recipe of a backbone's features of images that are decoded by these rules."""
    return Recipe(
        decode_version=DECODE_VERSION,
        resize=rules.resize,
        filter=rules.filter,
        backbone=spec.name,
        weights=spec.weights,
        input_size=spec.input_size,
        preprocessing=spec.preprocessing,
        taps=spec.taps,
        precision=spec.precision,
        dtype=dtype,
    )


def as_stored(features: Mapping[str, NDArray[np.float32]], tap: str, recipe: Recipe) -> NDArray[Any]:
    """Return the features of a tap, shape (n, d), in the data type of the cache.

    Raises
    ------
    RecipeError
        If that data type cannot hold the values.
    """
    dtype = recipe.stored_dtype(tap)
    with np.errstate(over="ignore"):
        values: NDArray[Any] = features[tap].astype(dtype, copy=False)
    if not np.isfinite(values).all():
        finite = np.abs(features[tap][np.isfinite(features[tap])])
        if recipe.precision == "float32" and recipe.dtype == "float32":
            remedy = "the weights are damaged or belong to another network; choose others with --weights"
        else:
            remedy = "use --precision float32 --dtype float32"
        raise RecipeError(
            f"the tap {tap} has values that {recipe.precision} precision and {dtype} features cannot hold "
            f"(the largest finite one is {finite.max(initial=0):g}); {remedy}"
        )
    return values

"""Where features come from: a backbone that is named before it is started, and the recipe that follows from it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.catalog import DEVICES, application
from featurecache.backbones.engines import BATCH_SIZES, choose_engine, start_engine
from featurecache.backbones.protocol import Backbone, BackboneSpec
from featurecache.backbones.weights import resolve_weights
from featurecache.decode import DECODE_VERSION, DecodeRules
from featurecache.errors import RecipeError, UnknownNameError
from featurecache.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Source:
    """Where features come from: what identifies the backbone, and how to get it when it is needed.

    Parameters
    ----------
    spec
        The backbone's identity; known without a framework.
    weights
        What to ask for to get the same weights again.
    engine
        What runs the backbone; nothing if it is there already.
    batch_size
        Images of a batch, if nothing else is asked for.
    start
        Makes the backbone, for batches of so many images, and about so many images in all; without the first number
        batches of the size that is fastest are found. Called once, and only if an image has to go through it.
    """

    spec: BackboneSpec
    weights: str
    engine: str
    batch_size: int
    start: Callable[[int | None, int], Backbone]


def source_of(
    backbone: str | Backbone,
    weights: str = "imagenet",
    *,
    taps: Iterable[str] | None = None,
    device: str = "auto",
    precision: str = "float32",
    engine: str = "auto",
    rehash: bool = False,
    download: bool = True,
    notify: Callable[[str], None] = lambda _: None,
) -> Source:
    """Return a network of the catalogue, or a backbone that there is already, as a source of features.

    The options are those of `featurecache.extract`; a backbone brings its own. An engine is loaded when a network of
    the catalogue is started.
    """
    if not isinstance(backbone, str):
        return Source(backbone.spec, backbone.spec.weights, "", backbone.batch_size, lambda *_: backbone)
    row = application(backbone)
    row.spec("", taps, precision)  # names are checked before weights are looked for
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    chosen = choose_engine(engine, row, device=device, precision=precision)
    found = resolve_weights(weights, row, download=download, rehash=rehash, notify=notify)
    spec = row.spec(found.identity, taps, precision)

    def start(batch_size: int | None, images: int) -> Backbone:
        notify(f"starting {row.name} with {found.source} weights on {chosen}")
        return start_engine(
            chosen,
            row,
            found,
            taps=tuple(spec.taps),
            batch_size=batch_size,
            precision=precision,
            device=device,
            images=images,
            notify=notify,
        )

    return Source(spec, found.source, chosen, BATCH_SIZES[chosen], start)


def recipe_of(spec: BackboneSpec, rules: DecodeRules, dtype: str) -> Recipe:
    """Return the recipe of features that this backbone makes of images decoded by these rules."""
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
    """Return the features of a tap, shape (n, d), in the type that they are stored in.

    Raises
    ------
    RecipeError
        If that type cannot hold them.
    """
    dtype = recipe.stored_dtype(tap)
    with np.errstate(over="ignore"):
        values: NDArray[Any] = features[tap].astype(dtype, copy=False)
    if not np.isfinite(values).all():
        finite = np.abs(features[tap][np.isfinite(features[tap])])
        if recipe.precision == "float32" and recipe.dtype == "float32":
            remedy = "the network's weights are damaged, or not this network's: name others by --weights"
        else:
            remedy = "use --precision float32 --dtype float32"
        raise RecipeError(
            f"the tap {tap} has values that {recipe.precision} precision and {dtype} features cannot hold "
            f"(the largest finite one is {finite.max(initial=0):g}); {remedy}"
        )
    return values

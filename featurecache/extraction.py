"""The use case: from images and options to a finished cache file; the only entry that users need."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from featurecache.backbones.protocol import Backbone
from featurecache.cache import FeatureCache
from featurecache.decode import DecodeRules
from featurecache.errors import OptionError, UnknownNameError
from featurecache.manifest import Manifest, read_manifest
from featurecache.publish import require_place
from featurecache.run import Progress, Run
from featurecache.source import recipe_of, source_of
from featurecache.store import Store

DTYPES = ("float32", "float16")


def extract(
    images: str | os.PathLike[str],
    cache_path: str | os.PathLike[str],
    *,
    backbone: str | Backbone = "vgg16",
    weights: str = "imagenet",
    taps: Iterable[str] | None = None,
    batch_size: int | Literal["auto"] | None = None,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    engine: str = "auto",
    dtype: str = "float32",
    resize: str = "squash",
    filter: str = "bilinear",
    max_pixels: int = 50_000_000,
    root: str | os.PathLike[str] | None = None,
    label_from_name: bool = False,
    rehash: bool = False,
    retry_failures: bool = False,
    replace: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    notify: Callable[[str], None] = lambda _: None,
) -> FeatureCache:
    """Pass every image through a network once and write its activations to a cache file.

    An interrupted run goes on where it was when it is called again; a cache of the same recipe is brought up to date,
    and only content that it does not know goes through the network.

    Parameters
    ----------
    images
        A folder of images, or a CSV or TSV table; see `featurecache.manifest.read_manifest`.
    cache_path
        The cache file to make or to bring up to date.
    backbone
        A name of the catalogue, or a `Backbone` (then weights, taps, device, precision and engine are its own).
    weights
        ``"imagenet"``, the path of a Keras weight file, or ``"random:SEED"``.
    taps
        Layers to keep; the network's default ones if not given.
    batch_size
        Images in a forward pass; the engine's own number if not given, and with ``"auto"`` the one at which it is
        fastest here, by trying; then an interrupted run goes on with the number that it had found.
    workers
        Threads that read and decode; one for each processor if not given.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"`` or ``"gpu"``.
    precision
        ``"float32"``, or ``"mixed"`` for half precision inside the network.
    engine
        What runs the network: ``"keras"``, ``"numba"`` (the VGG networks on a CPU), or ``"auto"``: Keras where there is
        a GPU, else the faster one of those that are installed. Features agree but for rounding, so that one engine
        goes on with what the other began.
    dtype
        What features are stored in: ``"float32"`` or ``"float16"`` (probabilities always in float32).
    resize, filter, max_pixels
        See `featurecache.decode.DecodeRules`.
    root, label_from_name
        See `featurecache.manifest.read_manifest`.
    rehash
        Read every file, even where path, size and modification time are those of a known one.
    retry_failures
        Decode images again that failed before with the same bytes.
    replace
        Replace a cache of another recipe instead of refusing it.
    progress
        Is told how far the run is after every image, and at the end what it did.
    notify
        Is told in one line what a person might want to know.

    Returns
    -------
    FeatureCache
        The finished cache, open.

    Raises
    ------
    ManifestError, NoImagesError
        If there is no image to extract, or none that can be used.
    UnknownNameError, OptionError, WeightsError, DeviceError, EngineError
        If the network cannot be had as asked for, or an option is out of its range.
    RecipeError
        If the cache or an unfinished run has another recipe, or the features do not fit the recipe's dtype.
    OutputError
        If the cache cannot be written. Whatever was committed is kept, and the same call goes on from there.
    """
    cache_path = Path(cache_path)
    for option, value in (("batch_size", None if batch_size == "auto" else batch_size), ("workers", workers)):
        if value is not None and not (isinstance(value, int) and value >= 1):
            auto = " or 'auto'" if option == "batch_size" else ""
            raise OptionError(f"{option} is {value!r}; expected a whole number from 1 on{auto}")
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    require_place(cache_path)
    manifest = read_manifest(Path(images), root=None if root is None else Path(root), label_from_name=label_from_name)
    for line in _left_out(manifest):
        notify(line)
    source = source_of(
        backbone,
        weights,
        taps=taps,
        device=device,
        precision=precision,
        engine=engine,
        rehash=rehash,
        notify=notify,
    )
    rules = DecodeRules(source.spec.input_size, resize, filter, max_pixels)
    store = Store.beside(cache_path, recipe_of(source.spec, rules, dtype), replace=replace)
    if retry_failures:
        store.reasons.clear()
    if store.places:
        notify(f"known from before and kept: the features of {len(store.places):,} image(s)")
    size = store.batch_size(source.engine) if batch_size == "auto" else batch_size or source.batch_size
    if batch_size == "auto" and size:
        notify(f"batches of {size} images, as this run began")
    run = Run(
        manifest,
        store,
        rules,
        source,
        batch_size=size,
        workers=workers or len(os.sched_getaffinity(0)),
        rehash=rehash,
        report=progress,
    )
    return run.make(cache_path)


def _left_out(manifest: Manifest) -> Iterator[str]:
    """Say what was found beside the images: one line for each reason, with a count and one path."""
    first = {item.reason: item.path for item in reversed(manifest.ignored)}
    for reason, count in Counter(item.reason for item in manifest.ignored).items():
        yield f"left out: {reason}: {first[reason]}" + (f" and {count - 1} more" if count > 1 else "")

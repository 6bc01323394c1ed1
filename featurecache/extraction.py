"""The use case ``extract``: computes the features of images and writes them to a cache file."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal

from featurecache.backbones.protocol import Backbone
from featurecache.cache import FeatureCache
from featurecache.cluster.driver import ClusterRun
from featurecache.cluster.ray_workers import RayPool
from featurecache.errors import OptionError
from featurecache.images.image_source import threads_for
from featurecache.images.manifest import Images
from featurecache.named_backbone import NamedBackbone
from featurecache.options import ClusterOptions, DecodeOptions, ImageOptions, NetworkOptions, RunOptions
from featurecache.preparation import find, open_store, prepare, read_images
from featurecache.rows import parts_folder
from featurecache.run.manifest_run import ManifestRun
from featurecache.run.progress import Progress
from featurecache.run.run import Run
from featurecache.run.store import Store
from featurecache.storage.output_errors import require_place
from featurecache.text import counted

OPEN_CLUSTER = (
    "the machines of the cluster talk without a token, so that anyone who reaches them can run programs there; set "
    "RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN on all of them, see docs/scale.md"
)


def extract(
    images: Images,
    cache_path: str | os.PathLike[str],
    *,
    backbone: str | Backbone | None = None,
    weights: str | None = None,
    taps: Iterable[str] | None = None,
    preprocess: str | None = None,
    input_size: str | None = None,
    precision: str | None = None,
    dtype: str | None = None,
    resize: str | None = None,
    filter: str | None = None,
    max_pixels: int | None = None,
    views: str | None = None,
    root: str | os.PathLike[str] | None = None,
    label_from_name: bool = False,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    frames: str | None = None,
    class_order: str | None = None,
    batch_size: int | Literal["auto"] | None = None,
    workers: int | None = None,
    device: str = "auto",
    engine: str = "auto",
    part_rows: int | None = None,
    part: str | None = None,
    rehash: bool = False,
    retry_failures: bool = False,
    replace: bool = False,
    cluster: str | None = None,
    gpus_per_worker: int | None = None,
    cpus_per_worker: int | None = None,
    mixed_workers: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    notify: Callable[[str], None] = lambda _: None,
) -> FeatureCache:
    """Pass every image through a network once and write its activations to a cache file.

    The same call continues an interrupted run, or brings a cache up to date: only new content goes through the
    network. A cache or an interrupted run provides the values of ``backbone``, ``weights``, ``taps``, ``precision``,
    ``dtype``, ``resize``, ``filter``, ``max_pixels``, ``views`` and ``frames`` that are None. It refuses a value that
    differs from its recipe; other views and frames may be asked for. Without a cache, or with ``replace``, the defaults
    below apply.

    Parameters
    ----------
    images
        A folder, ZIP or TAR file of images, a CSV or TSV table, a ``.txt`` list, a DataFrame of pandas (see
        `featurecache.read_manifest`), or a manifest of another source (see `featurecache.from_source`). The cache keeps
        the further columns of a table, `FeatureCache.column`.
    cache_path
        The cache file to create or to bring up to date.
    backbone
        A name in the catalogue (default ``"vgg16"``), the path of a Keras model, ``"model.keras"`` or
        ``"keras:PATH"``, or a `Backbone`, which determines weights, taps, device,
        precision and engine itself. A cache that was made with your own `Backbone` needs it again.
    weights
        ``"imagenet"`` (the default), the path of a Keras weight file, or ``"random:SEED"``. If None and there
        is a cache, its weights are read from their old place and compared with its recipe.
    taps
        Layers to keep; by default the network's default taps in the catalogue. Of a model file, any layer; by default
        the one below its last dense layer.
    preprocess
        Of a model file, how pixels are prepared: one of `featurecache.options.PREPROCESSING`. It may be None if the
        model has layers for it.
    input_size
        Of a model file that takes images of any size, height and width: ``"224"`` or ``"240x320"``.
    precision
        ``"float32"`` (the default), the same on every device; ``"tf32"``, on GPUs alone: factors of products are
        rounded to 10 bits, as matrix units of NVIDIA's GPUs from Ampere on do; or ``"mixed"`` for half precision inside
        the network: float16 on a GPU, bfloat16 on a CPU that computes faster in it. Each is refused for a new cache on
        another CPU.
    dtype
        Data type of the stored features: ``"float32"`` (the default) or ``"float16"``; probabilities stay float32.
    resize, filter, max_pixels
        How images are decoded, see `featurecache.options.DecodeOptions`; the defaults are ``"squash"``,
        ``"bilinear"`` and 50,000,000. A larger ``max_pixels`` is recorded in the cache, for later runs and for its
        heads. The limit for the bytes of a file grows with it.
    views
        Augmented views of each image that trains heads, besides itself: their number, and some of ``crop``, ``flip``
        and ``color``, such as ``"5:crop,flip"``; ``"none"`` for none, which is the default. Each view is a row. See
        `Manifest.with_views`.
    root, label_from_name, path_column, label_column, split_column, frames
        See `featurecache.read_manifest`.
    class_order
        See `featurecache.read_manifest`; if None, a cache keeps the order of its classes.
    batch_size
        Images per forward pass; the engine's default if None. ``"auto"`` measures which size is fastest on this
        machine; a continued run keeps the size that it found.
    workers
        Threads that read and decode images; one per processor if None. With ``cluster``, the number of workers; as many
        as there is room for if None.
    device
        ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"gpu"``.
    engine
        ``"keras"``, ``"openvino"`` (on a CPU), ``"numba"`` (VGG networks on a CPU), or ``"auto"``: Keras if there is a
        GPU, otherwise the engine that made the cache or unfinished run, or else the fastest one: numba for VGG networks
        in float32, and OpenVINO for others. It is Keras, with a message, where that one is not installed or cannot run
        the network. Features of the engines agree up to rounding, so any engine can continue a run of another one.
    part_rows
        Make a cache in parts: ``photos.h5`` is an index, and ``photos.parts/`` holds the features in files of at most
        so many rows. An update adds parts and leaves the old ones as they are. A cache in parts stays one if None.
    part
        ``"I/N"``: extract only the I-th of N parts of the images. An image's content determines its part. `merge` joins
        the caches of all parts to the cache of all images. Every part has all classes. A cache of a part stays one if
        None. A part may be empty.
    rehash
        Read every file, even if its path, size and modification time are unchanged.
    retry_failures
        Decode images again whose bytes could not be decoded before.
    replace
        Replace a cache or an unfinished run of another recipe. Options that are None get their defaults, not the
        values of the replaced cache.
    cluster
        Compute with the workers of a Ray cluster: ``"local"`` for one that is started on this machine for this call, or
        the address of a head node; see ``docs/scale.md``. Images, cache and weights must lie on a file system that all
        nodes have at the same paths. The cache has the same bytes; a run may be continued with or without a cluster.
    gpus_per_worker, cpus_per_worker
        What each worker gets: one GPU where the cluster has GPUs, and 4 processors or an equal share for each GPU, if
        None.
    mixed_workers
        Record that workers differ in engine, versions or processor, instead of refusing those that do.
    progress
        Called with the progress after every image, and with the totals at the end.
    notify
        Called with one-line status messages for the user.

    Returns
    -------
    FeatureCache
        The finished cache, open.

    Raises
    ------
    ManifestError, NoImagesError
        If there are no images, or none that can be used.
    UnknownNameError, OptionError, WeightsError, DeviceError, EngineError
        If an option is out of its range, or the network or its weights are not available, or if the cache or an
        unfinished run is of another part of the images.
    ClusterError
        If there is no such cluster, or its workers cannot do the work.
    RecipeError
        If the cache or an unfinished run has another recipe, if its backbone is not in the catalogue and not given, or
        if the features do not fit the recipe's dtype.
    OutputError
        If the cache cannot be written. Committed features are kept, and the same call continues from there.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> cache = featurecache.extract(images, folder / "features.h5", backbone=FakeBackbone())
    >>> len(cache), cache.classes, dict(cache.taps)
    (48, ('dark', 'light'), {'features': 16, 'predictions': 4})
    """
    cache_path = Path(cache_path)
    network = NetworkOptions(
        backbone=backbone if isinstance(backbone, str) else None,
        weights=weights,
        taps=None if taps is None else tuple(taps),
        preprocess=preprocess,
        input_size=input_size,
        precision=precision,
        dtype=dtype,
    )
    decode = DecodeOptions(resize=resize, filter=filter, max_pixels=max_pixels, views=views)
    run = RunOptions(
        batch_size=batch_size,
        workers=workers,
        device=device,
        engine=engine,
        part_rows=part_rows,
        part=part,
        rehash=rehash,
        retry_failures=retry_failures,
        replace=replace,
    )
    ClusterOptions(  # checks them
        cluster=cluster, gpus_per_worker=gpus_per_worker, cpus_per_worker=cpus_per_worker, mixed_workers=mixed_workers
    )
    require_place(cache_path)
    if part_rows is not None:
        parts_folder(cache_path)  # its name must be one of a cache in parts
    options = ImageOptions(
        root=None if root is None else Path(root),
        label_from_name=label_from_name,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        frames=frames,
        class_order=class_order,
    )
    found = None if replace else find(cache_path)
    manifest = read_images(images, options, views, found, notify)
    with ExitStack() as stack:
        pool: RayPool | None = None
        if cluster:
            pool = stack.enter_context(
                closing(RayPool(cluster, workers=workers, gpus=gpus_per_worker, cpus=cpus_per_worker))
            )
            if pool.is_open:
                notify(f"warning: {OPEN_CLUSTER}")
            run = dataclasses.replace(run, device=pool.device) if device == "auto" else run
        prepared = prepare(found, backbone=backbone, network=network, decode=decode, run=run, notify=notify)
        store = open_store(cache_path, prepared, run)
        if store.known.places:
            notify(f"kept from an earlier run: the features of {counted(len(store.known.places), 'image')}")
        common: dict[str, Any] = {
            "batch_size": _batch_size(batch_size, store, prepared.source, notify, measured=pool is None),
            "part_rows": part_rows or store.part_rows,
            "rehash": rehash,
            "report": progress,
        }
        arguments = (manifest, store, prepared.rules, prepared.source)
        extraction: ManifestRun[Any]
        if pool:
            extraction = ClusterRun(
                *arguments,
                **common,
                workers=threads_for(manifest.source),
                pool=pool,
                mixed=mixed_workers,
                notify=notify,
            )
        else:
            extraction = Run(*arguments, **common, workers=threads_for(manifest.source, workers))
        cache = extraction.make(cache_path)
    if store.directory.is_dir():
        notify(
            f"{store.directory} stays: another run has committed other features there; run its command again to join "
            "them, or remove the folder"
        )
    if not len(cache):
        notify(f"part {prepared.part} has none of the {len(manifest):,} images; merge joins it with the other parts")
    return cache


def _batch_size(
    asked: int | str | None, store: Store, source: NamedBackbone, notify: Callable[[str], None], *, measured: bool
) -> int | None:
    """Return the images in a batch; None if it is to be measured.

    Raises
    ------
    OptionError
        If it cannot be measured, since workers start when batches have been made.
    """
    if asked != "auto":
        return int(asked) if asked else source.batch_size
    size = store.batch_size(source.engine)
    if size:
        notify(f"batches of {size} images, as at the start of this run")
    elif not measured:
        raise OptionError("batch_size is 'auto', which --cluster cannot measure; give a number, or leave it out")
    elif store.directory.is_dir():
        size = source.batch_size
        notify(f"batches of {size} images: an earlier run ended before its first commit, so none is measured again")
    return size

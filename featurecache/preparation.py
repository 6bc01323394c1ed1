"""Prepares `extract` and `why`: completes the options from an existing cache, resolves the network and the recipe."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featurecache.backbones.catalog import OWN_MODEL, REGISTRY, ExternalNetwork, NetworkSpec
from featurecache.backbones.protocol import Backbone
from featurecache.backbones.weights import resolve_weights
from featurecache.cache import FeatureCache, work_directory
from featurecache.errors import OptionError, RecipeError, UnknownNameError, WeightsError
from featurecache.images.decode import DecodeRules
from featurecache.images.manifest import Images, Manifest, manifest_of
from featurecache.images.names import split_frame
from featurecache.named_backbone import NamedBackbone, network_of, own_model_path, recipe_of, source_of
from featurecache.options import (
    FRAMES,
    MAX_PIXELS,
    NO_VIEWS,
    DecodeOptions,
    ImageOptions,
    ImagePart,
    NetworkOptions,
    RunOptions,
    completed,
    read_size,
)
from featurecache.provenance import Environment
from featurecache.recipe import Recipe, require_recipe
from featurecache.run.commit_records import CommitRecord
from featurecache.run.store import Store, unfinished_recipe, unfinished_records
from featurecache.text import counted


@dataclass(frozen=True, slots=True)
class Prepared:
    """An extraction that is ready to begin.

    Parameters
    ----------
    source
        The network, not started.
    rules
        How images are decoded.
    recipe
        The recipe of the extraction.
    found
        The cache or unfinished run at the path; None if there is none, or if it will be replaced.
    part
        The part of the images; None for all.
    """

    source: NamedBackbone
    rules: DecodeRules
    recipe: Recipe
    found: "Found | None"
    part: ImagePart | None


@dataclass(frozen=True, slots=True)
class Found:
    """The recipe of a cache or of an unfinished run.

    Parameters
    ----------
    place
        The cache file, or the work directory.
    recipe
        Its recipe.
    weights
        The recorded sources of its weights (``"imagenet"``, a path or ``"random:SEED"``), the latest first.
    max_pixels
        The largest recorded limit for images in pixels; 0 if none is recorded.
    part
        The part of the images that it is of, such as ``"2/4"``; None for all images.
    views
        The views of images that it has, such as ``"5:crop,flip"``; None if it has none.
    frames
        ``"all"`` if it has further frames of files; else None.
    engine
        The engine that computed its latest features on a CPU; empty if none is recorded.
    records
        The commit records of the unfinished run by file name, the latest first.
    cache
        The open cache; None for an unfinished run.
    """

    place: Path
    recipe: Recipe
    weights: tuple[str, ...]
    max_pixels: int
    part: str | None
    views: str | None
    frames: str | None
    engine: str
    records: Mapping[str, CommitRecord]
    cache: FeatureCache | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the cache, in order; none for an unfinished run."""
        return () if self.cache is None else self.cache.classes

    @property
    def paths(self) -> Iterable[str]:
        """The paths of the rows of the cache; none for an unfinished run."""
        return () if self.cache is None else self.cache.index.images["path"]


def find(cache_path: Path) -> Found | None:
    """Return the cache at a path, or else its unfinished run; None if there is neither.

    Raises
    ------
    CacheFormatError
        If the file is damaged, or is not a cache.
    """
    records = unfinished_records(cache_path)
    if cache_path.exists():
        cache = FeatureCache.open(cache_path)
        return _found(cache_path, cache.recipe, records, cache)
    recipe = unfinished_recipe(cache_path)
    return None if recipe is None else _found(work_directory(cache_path), recipe, records)


def _found(
    place: Path, recipe: Recipe, records: Mapping[str, CommitRecord], cache: FeatureCache | None = None
) -> Found:
    environments: list[Environment] = [record.environment for record in records.values()]
    if cache is not None:
        environments.append(cache.made_by)
    limit = max((environment.max_pixels or 0 for environment in environments), default=0)
    latest = next(iter(environments), None) if cache is None else cache.made_by
    part, views, frames = (latest.part, latest.views, latest.frames) if latest else (None, None, None)
    engine = next((environment.cpu_engine for environment in environments if environment.engine), "")
    return Found(place, recipe, _weights_of(recipe, environments), limit, part, views, frames, engine, records, cache)


def read_images(
    images: Images, options: ImageOptions, views: str | None, existing: Found | None, notify: Callable[[str], None]
) -> Manifest:
    """Return the manifest of images, with the views and frames that are asked for, or else those of what exists.

    A manifest that has views already keeps them.

    Raises
    ------
    OptionError, ManifestError, NoImagesError
        As `manifest_of` and `Manifest.with_views`.
    """
    known_classes, known_paths = (existing.classes, existing.paths) if existing else ((), ())
    manifest = manifest_of(
        images,
        options,
        known_classes=known_classes,
        known_paths=known_paths,
        known_frames=existing.frames if existing else None,
        notify=notify,
    )
    frames = {path for path in known_paths if "#" in path and split_frame(path)[1] > 1}
    if frames and manifest.frames is None:
        gone = frames.difference(entry.path for entry in manifest.entries)
        if gone:
            notify(
                f"warning: the cache loses {counted(len(gone), 'row')} of further frames; frames={FRAMES[1]!r} "
                f"(--frames {FRAMES[1]}) keeps them"
            )
    if views is None:
        views = NO_VIEWS if manifest.views or existing is None else existing.views or NO_VIEWS
        if views != NO_VIEWS and manifest.training_split is None:
            notify(f"no views ({views}) as the cache has them: no image is in the train split or in no split")
            return manifest
    viewed = manifest.with_views(views)
    if viewed is not manifest:
        notify(f"and {counted(len(viewed) - len(manifest), 'view')} of images that train heads ({viewed.views})")
    return viewed


def prepare(
    existing: Found | None,
    *,
    backbone: str | Backbone | None,
    network: NetworkOptions,
    decode: DecodeOptions,
    run: RunOptions,
    download: bool = True,
    notify: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Resolve the network and the recipe of an extraction.

    The existing cache or unfinished run provides the options of the recipe that are None. Without one, or with
    ``run.replace``, they get their defaults.

    Parameters
    ----------
    existing
        The cache or unfinished run, from `find`.
    backbone
        A name in the catalogue, or a backbone, which determines weights, taps, precision, device and engine itself.
    download
        Whether to download missing ImageNet weights.
    notify
        Called with one-line status messages for the user.

    Raises
    ------
    RecipeError
        If an option differs from the recipe of the cache or unfinished run, or its backbone is not in the catalogue.
    UnknownNameError, WeightsError, DeviceError, EngineError
        If the network is not available.
    OptionError
        If the cache or unfinished run is of another part of the images.
    """
    network = _with_file(network)
    backbone = network.backbone if isinstance(backbone, str) else backbone
    found = None if run.replace else existing
    part = _part(found, run.part)
    known = {} if found is None else _known_options(found, backbone)
    if not (backbone is None or isinstance(backbone, str)):
        source = source_of(backbone)
        rules = _rules(source.spec.input_size, decode, known)
        dtype = completed(NetworkOptions(dtype=network.dtype), {"dtype": known["dtype"]} if known else {}).dtype
        return Prepared(source, rules, recipe_of(source.spec, rules, str(dtype)), found, part)
    wanted = completed(network, known)
    row = _row(wanted, found, is_given=network.weights is not None)
    rules = _rules(row.input_size, decode, _resizing(row) | known)
    sources: tuple[str, ...] = (str(wanted.weights),)
    may_download = download
    inherits_weights = found is not None and network.weights is None
    if found is not None and inherits_weights:
        spec = row.spec(found.recipe.weights, wanted.taps, str(wanted.precision))
        require_recipe(found.recipe, recipe_of(spec, rules, str(wanted.dtype)), found.place)
        sources, may_download = found.weights or ("imagenet",), download and bool(found.weights)

    def name(weights: str) -> NamedBackbone:
        return source_of(
            row if wanted.backbone == OWN_MODEL and isinstance(row, NetworkSpec) else row.name,
            weights,
            taps=wanted.taps,
            device=run.device,
            precision=str(wanted.precision),
            engine=run.engine,
            before=found.engine if found else "",
            is_new=found is None,
            rehash=run.rehash,
            download=may_download,
            notify=notify,
        )

    source = _first_of(found, sources, name) if found is not None and inherits_weights else name(sources[0])
    return Prepared(source, rules, recipe_of(source.spec, rules, str(wanted.dtype)), found, part)


def open_store(cache_path: Path, prepared: Prepared, run: RunOptions, *, read_only: bool = False) -> Store:
    """Open the store of a prepared extraction.

    Parameters
    ----------
    read_only
        Whether to leave an unfinished run on disk even if it would be replaced.

    Raises
    ------
    RecipeError
        If the cache or an unfinished run has another recipe, and ``run.replace`` is not set.
    """
    found = prepared.found
    store = Store.beside(
        cache_path,
        prepared.recipe,
        replace=run.replace,
        cache=found.cache if found else None,
        records=found.records if found else None,
        read_only=read_only,
    )
    store.known.part = prepared.part
    if run.retry_failures:
        store.known.forget_failures()
    return store


def _with_file(network: NetworkOptions) -> NetworkOptions:
    """Return the options with the path of a model as its weights: they alone tell one model from another."""
    path = own_model_path(network.backbone or "")
    if path is None:
        return network
    if network.weights is not None:
        raise OptionError(f"the model {network.backbone} has weights of its own; leave out --weights")
    return dataclasses.replace(network, backbone=OWN_MODEL, weights=str(path))


def _row(wanted: NetworkOptions, found: Found | None, *, is_given: bool) -> NetworkSpec | ExternalNetwork:
    """Return the network: of the catalogue, or as a model file or the recipe of its cache describes it.

    Parameters
    ----------
    is_given
        Whether the user has given the weights, or the model file; else they are those of the cache.
    """
    if wanted.backbone != OWN_MODEL:
        if wanted.preprocess is not None or wanted.input_size is not None:
            raise OptionError(
                f"{wanted.backbone} has its own preprocessing and input size; --preprocess and --input-size are for a "
                "model of your own, --backbone NAME.keras or a preset's folder"
            )
        return REGISTRY.find(str(wanted.backbone))
    size = None if wanted.input_size is None else read_size(wanted.input_size)
    if found is not None and found.recipe.backbone == OWN_MODEL and {*(wanted.taps or ())} <= {*found.recipe.taps}:
        known = network_of(found.recipe)
        if isinstance(known, NetworkSpec) and (not is_given or _is_file_of(known, found, str(wanted.weights))):
            mode = wanted.preprocess or known.preprocessing
            return dataclasses.replace(known, preprocessing=mode, input_size=size or known.input_size)
    if wanted.weights in {None, "imagenet"}:
        raise OptionError("the network keras is a file or folder of yours: name it, --backbone keras:PATH")
    from featurecache.backbones.model_file import read_network

    path = Path(str(wanted.weights))
    taps = None if wanted.taps is None else tuple(wanted.taps)
    network = read_network(path, preprocessing=wanted.preprocess, input_size=size, taps=taps)
    if not network.preprocessing:
        what = "image converter" if path.is_dir() else "layer that prepares pixels"
        raise OptionError(
            f"{path} has no {what}; give the way of its training: --preprocess unit (pixels from 0 to 1), tf (-1 to "
            "1), caffe, torch, or none (0 to 255)"
        )
    return network


def _is_file_of(network: NetworkSpec, found: Found, path: str) -> bool:
    """Whether a model file is the one that made a cache."""
    return resolve_weights(path, network).identity == found.recipe.weights


def _part(found: Found | None, asked: str | None) -> ImagePart | None:
    """Return the part of the images to extract: the one that is asked for, or that of the cache or unfinished run.

    Raises
    ------
    OptionError
        If the two differ: the rows of the other part would be lost.
    """
    if found and asked and asked != found.part:
        ours = f"part {found.part}" if found.part else "all"
        raise OptionError(
            f"{found.place} is of {ours} of the images, wanted part {asked}; choose another path, or --replace it"
        )
    text = asked or (found and found.part)
    return ImagePart.read(text) if text else None


def _weights_of(recipe: Recipe, environments: Iterable[Environment]) -> tuple[str, ...]:
    """Return the values of ``--weights`` that gave the weights of a recipe, each once; empty if none is recorded."""
    recorded = (environment.weights_source for environment in environments)
    sources = tuple(dict.fromkeys(source for source in recorded if source is not None))
    return sources or ((recipe.weights,) if recipe.weights.startswith("random:") else ())


def _first_of(found: Found, sources: Sequence[str], name: Callable[[str], NamedBackbone]) -> NamedBackbone:
    """Return the network with the weights of the first source that still gives the weights of the recipe.

    Raises
    ------
    WeightsError
        If no source does; it describes the first one.
    """
    faults: list[WeightsError] = []
    for weights in sources:
        try:
            source = name(weights)
        except WeightsError as e:
            fault = WeightsError(
                f"the weights of {found.place} cannot be read again: {e}; give their path with --weights"
            )
            fault.__cause__ = e
        else:
            if source.spec.weights == found.recipe.weights:
                return source
            fault = WeightsError(
                f"the weights {weights} are not the weights of {found.place}: their identity is "
                f"{source.spec.weights}, its recipe has {found.recipe.weights}; give the right ones with --weights"
            )
        faults.append(fault)
    if not found.weights:
        raise WeightsError(
            f"{found.place} does not record the source of its weights; give it with --weights"
        ) from faults[0]
    raise faults[0]


def _known_options(found: Found, backbone: str | Backbone | None) -> dict[str, object]:
    """Return the options of a cache or run; without its taps and weights if another backbone is requested.

    Raises
    ------
    RecipeError
        If no backbone is given and the recorded one is not in the catalogue.
    """
    recipe = found.recipe
    known: dict[str, object] = {name: getattr(recipe, name) for name in ("precision", "dtype", "resize", "filter")}
    known["max_pixels"] = max(found.max_pixels, MAX_PIXELS)
    if backbone is not None and backbone != recipe.backbone:
        return known
    if backbone is None and recipe.backbone != OWN_MODEL:
        try:
            REGISTRY.find(recipe.backbone)
        except UnknownNameError:
            raise RecipeError(
                f"{found.place} was made with the backbone {recipe.backbone!r}, which is not in the catalogue: pass "
                "that Backbone to featurecache.extract, or choose another path"
            ) from None
    if recipe.backbone == OWN_MODEL:
        known |= {"preprocess": recipe.preprocessing, "input_size": "x".join(map(str, recipe.input_size))}
    return known | {"backbone": recipe.backbone, "taps": tuple(recipe.taps), "weights": next(iter(found.weights), None)}


def _resizing(row: NetworkSpec | ExternalNetwork) -> dict[str, object]:
    """Return how a network has images resized, where no cache tells."""
    return {"resize": row.resize, "filter": row.filter} if isinstance(row, NetworkSpec) else {}


def _rules(size: tuple[int, int], decode: DecodeOptions, known: dict[str, object]) -> DecodeRules:
    options = completed(decode, known)
    return DecodeRules(size, str(options.resize), str(options.filter), options.max_pixels or MAX_PIXELS)

"""Chooses and starts the engine that runs a network; loads no other engine."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from math import prod

import numpy as np

from featurecache.backbones.batch_size import Resizable, find_batch_size
from featurecache.backbones.catalog import NetworkSpec
from featurecache.backbones.device_group import DeviceGroup
from featurecache.backbones.keras_runtime import find_devices, is_out_of_memory, may_have_gpu
from featurecache.backbones.protocol import Backbone, EngineFault
from featurecache.backbones.weights import Weights
from featurecache.errors import DeviceError, EngineError, UnknownNameError
from featurecache.options import ENGINES
from featurecache.processors import processor_class
from featurecache.text import in_short

BATCH_SIZES = {"keras": 32, "numba": 64, "openvino": 32}
"""Default numbers of images in a batch."""

IMAGES_PER_DEVICE = 2_000
"""Images of a run for each GPU that takes part: a second one starts for seconds, in which the first computes many."""

_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16"})
"""Instructions of processors that compute faster in bfloat16 than in float32."""

_TF32_ON_A_CPU = "tf32 is a precision of GPUs, and a CPU computes in float32; leave out --precision tf32"

_BATCH_PIXELS = 32 * 600 * 600  # of a batch at most: those of the largest network in the catalogue


def default_batch_size(engine: str, network_spec: NetworkSpec) -> int:
    """Return the default number of images in a batch: fewer than that of the engine where images are very large."""
    return max(1, min(BATCH_SIZES[engine], _BATCH_PIXELS // prod(network_spec.input_size)))


def choose_engine(
    asked: str,
    network_spec: NetworkSpec,
    *,
    device: str,
    precision: str,
    before: str = "",
    is_new: bool = False,
) -> str:
    """Return the name of the requested engine, or for ``"auto"`` of one that is available.

    ``"auto"`` is Keras where there may be a GPU. On a CPU it is the engine ``before``, or else the one that was
    measured to be the fastest: numba for VGG networks in float32, OpenVINO for all others. It is Keras where that one
    is not installed; see `missing_engine`.

    Parameters
    ----------
    before
        The engine that computed the features that are there already, on a CPU: the rows of a cache then have the bytes
        of a single run.
    is_new
        Whether no features are there: then another precision may be asked for.

    Raises
    ------
    UnknownNameError
        If there is no such engine.
    EngineError
        If the requested engine is not installed, or cannot run the network this way, or if new features would be
        computed in mixed precision where that takes longer than float32, or in tf32 on a CPU.
    """
    if asked not in ENGINES:
        raise UnknownNameError("engine", asked, ENGINES)
    on_cpu = device == "cpu" or (device == "auto" and not may_have_gpu())
    if asked != "auto":
        if obstacle := _obstacle(asked, network_spec, device, precision):
            raise EngineError(obstacle)
        chosen = asked
    elif not on_cpu:
        return "keras"  # which finds out whether there is a GPU
    else:
        chosen = next(
            engine
            for engine in (before, _fastest(network_spec, precision), "keras")
            if engine in ENGINES[1:] and not _obstacle(engine, network_spec, device, precision)
        )
    if is_new and precision == "tf32" and (on_cpu or chosen != "keras"):
        raise EngineError(_TF32_ON_A_CPU)
    if is_new and on_cpu and chosen == "keras" and precision == "mixed":
        raise EngineError(_slow_on_a_cpu())
    return chosen


def missing_engine(chosen: str, network_spec: NetworkSpec, *, device: str, precision: str, before: str = "") -> str:
    """Return why ``"auto"`` chose Keras, where a faster engine is not installed; empty otherwise."""
    if chosen != "keras" or before == "keras" or device == "gpu" or (device == "auto" and may_have_gpu()):
        return ""
    fastest = _fastest(network_spec, precision)
    return f"{fastest} is not installed, which is faster: pip install {fastest}" if find_spec(fastest) is None else ""


def start_engine(
    engine: str,
    network_spec: NetworkSpec,
    weights: Weights,
    *,
    taps: tuple[str, ...],
    batch_size: int | None,
    precision: str,
    device: str,
    images: int = 0,
    asked: str = "",
    is_new: bool = False,
    notify: Callable[[str], None] = lambda _: None,
) -> Backbone:
    """Start a network on an engine that `choose_engine` returned for it.

    If ``batch_size`` is None, sizes are measured and the fastest for ``images`` images is used. Where there are several
    GPUs of one model, Keras uses one for every `IMAGES_PER_DEVICE` images, without those that lack the memory.

    Raises
    ------
    EngineError
        If the engine cannot be loaded or cannot run the network, unless ``asked`` is ``"auto"``: then Keras runs it.
        Also if features would be new (``is_new``) and in tf32, and a CPU computes them.
    """

    def start(name: str) -> Resizable:
        size = batch_size or default_batch_size(name, network_spec)
        return _start(
            name, network_spec, weights, taps, size, precision=precision, device=device, images=images, notify=notify
        )

    try:
        backbone = start(engine)
    except EngineFault as e:
        if asked != "auto":
            remedy = f"{e.remedy}, or " if e.remedy else ""
            raise EngineError(f"{e}; {remedy}use --engine keras") from e
        notify(f"{e}; using the engine keras instead")
        backbone = start("keras")
    if precision == "tf32" and backbone.provenance["device"] == "cpu":
        if is_new:
            raise EngineError(_TF32_ON_A_CPU)
        notify("computing in float32, since tf32 is a precision of GPUs")
    if batch_size is None:
        find_batch_size(backbone, images, notify)
    return backbone


def _start(
    engine: str,
    network_spec: NetworkSpec,
    weights: Weights,
    taps: tuple[str, ...],
    batch_size: int,
    *,
    precision: str,
    device: str,
    images: int,
    notify: Callable[[str], None],
) -> Resizable:
    """Start a network on this engine; raise `EngineFault` if that is not possible here."""
    if engine != "keras" and (fault := _import_fault(engine)):
        raise EngineFault(f"{engine} cannot be loaded ({fault})", f"pip install -U {engine}")
    if engine == "numba":
        from featurecache.backbones.numba_engine import NumbaBackbone

        return NumbaBackbone(network_spec, weights, taps=taps, batch_size=batch_size, precision=precision)
    if engine == "openvino":
        from featurecache.backbones.openvino_engine import OpenVinoBackbone

        return OpenVinoBackbone(
            network_spec, weights, taps=taps, batch_size=batch_size, precision=precision, notify=notify
        )
    from featurecache.backbones.keras_engine import KerasBackbone

    def start(name: str, size: int) -> Resizable:
        return KerasBackbone(
            network_spec, weights, taps=taps, batch_size=size, precision=precision, device=name, notify=notify
        )

    first, *others = find_devices(device)[: max(1, images // IMAGES_PER_DEVICE)]
    backbone = start(first, batch_size)
    return _with_others(backbone, others, start, notify) if others else backbone


def _with_others(
    first: Resizable, devices: Sequence[str], start: Callable[[str, int], Resizable], notify: Callable[[str], None]
) -> Resizable:
    """Return a backbone and those of other devices as one, without devices that have not the memory for its batches.

    All devices have one batch size: one that other programs use would make the batches of all smaller. So each makes a
    pass first.
    """
    _try(first)
    members = [first]
    for name in devices:
        try:
            member = start(name, first.batch_size)
            _try(member)
        except Exception as e:
            if not (isinstance(e, DeviceError) or is_out_of_memory(e)):
                raise
            is_left_out = True
        else:
            is_left_out = member.batch_size < first.batch_size
        if is_left_out:
            notify(
                f"computing without {name}: its free memory does not suffice for batches of {first.batch_size} images"
            )
        else:
            members.append(member)
    if len(members) == 1:
        return first
    notify(f"computing on {len(members)} GPUs")
    return DeviceGroup(members)


def _try(backbone: Backbone) -> None:
    """Make a pass over blank images, after which the batch size is one that the device's memory allows."""
    backbone.forward(np.zeros((backbone.batch_size, *backbone.spec.input_size, 3), np.uint8))


def _fastest(network_spec: NetworkSpec, precision: str) -> str:
    """Return the engine that was measured to be the fastest on a CPU; see ``docs/benchmarks.md``."""
    return "numba" if network_spec.blocks and precision != "mixed" else "openvino"


def _has_bfloat16() -> bool:
    return not _BFLOAT16.isdisjoint(processor_class().split())


def _slow_on_a_cpu() -> str:
    """Return why Keras does not compute new features in mixed precision on a CPU, with a remedy."""
    what = "the engine keras computes mixed precision in float16, which is slower than float32 on a CPU"
    others = " with --engine openvino, or" if _has_bfloat16() else ""
    return f"{what}; leave out --precision mixed, or compute{others} on a GPU"


def _obstacle(engine: str, network_spec: NetworkSpec, device: str, precision: str) -> str:
    """Return why an engine cannot run this network, with a remedy; empty if it can."""
    if engine == "keras":
        return ""
    if engine == "numba" and (obstacle := _obstacle_to_numba(network_spec, precision)):
        return obstacle
    if device == "gpu":
        return f"the engine {engine} runs on the CPU; use --engine keras for a GPU, or leave out --device gpu"
    if precision == "mixed" and not _has_bfloat16():
        return (
            f"the engine {engine} computes mixed precision in bfloat16, which this processor has no instructions for, "
            "so that it would be slower than float32; leave out --precision mixed, or compute on a GPU"
        )
    if find_spec(engine) is None:
        return f"the engine {engine} is not installed; pip install {engine}, or use --engine keras"
    return ""


def _obstacle_to_numba(network_spec: NetworkSpec, precision: str) -> str:
    if not network_spec.blocks:
        return f"the engine numba does not know {network_spec.title}, only vgg16 and vgg19; use --engine keras"
    if precision == "mixed":
        return "the engine numba computes in float32, not in mixed precision; use --engine keras"
    return ""


def _import_fault(engine: str) -> str:
    """Return why an engine cannot compute, for example on a platform without it; empty if it can."""
    try:
        import_module(f"featurecache.backbones.{engine}_engine")
    except Exception as e:  # noqa: BLE001 - an installation of packages that do not fit may raise anything
        return in_short(e)
    return ""

"""Chooses and starts the engine that runs a network; loads no other engine."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from math import prod

from featurecache.backbones.batch_size import Resizable, find_batch_size
from featurecache.backbones.catalog import NetworkSpec
from featurecache.backbones.keras_runtime import may_have_gpu
from featurecache.backbones.protocol import Backbone
from featurecache.backbones.weights import Weights
from featurecache.errors import EngineError, UnknownNameError
from featurecache.options import ENGINES

BATCH_SIZES = {"keras": 32, "numba": 64}
"""Default numbers of images in a batch."""

_BATCH_PIXELS = 32 * 600 * 600  # of a batch at most: those of the largest network in the catalogue


def default_batch_size(engine: str, network_spec: NetworkSpec) -> int:
    """Return the default number of images in a batch: fewer than that of the engine where images are very large."""
    return max(1, min(BATCH_SIZES[engine], _BATCH_PIXELS // prod(network_spec.input_size)))


def choose_engine(asked: str, network_spec: NetworkSpec, *, device: str, precision: str) -> str:
    """Return ``"keras"`` or ``"numba"``: the requested engine, or for ``"auto"`` the fastest one available.

    ``"auto"`` is Keras where there may be a GPU. On a CPU it is numba for VGG networks in float32, if numba is
    installed, else Keras.

    Raises
    ------
    UnknownNameError
        If there is no such engine.
    EngineError
        If the requested engine is not installed, or cannot run the network this way.
    """
    if asked not in ENGINES:
        raise UnknownNameError("engine", asked, ENGINES)
    if asked == "keras":
        return asked
    obstacle = _obstacle(network_spec, device, precision)
    if asked == "numba":
        if obstacle:
            raise EngineError(obstacle)
        return asked
    return "keras" if obstacle or (device == "auto" and may_have_gpu()) else "numba"


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
    asked: str = "numba",
    notify: Callable[[str], None] = lambda _: None,
) -> Backbone:
    """Start a network on an engine that `choose_engine` returned for it.

    If ``batch_size`` is None, sizes are measured and the fastest for ``images`` images is used.

    Raises
    ------
    EngineError
        If numba cannot be imported, unless ``asked`` is ``"auto"``: then Keras runs the network.
    """
    size = batch_size or default_batch_size(engine, network_spec)
    backbone: Resizable
    if engine == "numba" and asked == "auto" and (fault := _import_fault()):
        notify(f"numba cannot be loaded ({fault}); using the engine keras instead")
        engine = "keras"
    if engine == "numba":
        if fault := _import_fault():
            raise EngineError(f"numba cannot be loaded ({fault}); pip install -U numba, or use --engine keras")
        from featurecache.backbones.numba_engine import NumbaBackbone

        backbone = NumbaBackbone(network_spec, weights, taps=taps, batch_size=size)
    else:
        from featurecache.backbones.keras_engine import KerasBackbone

        backbone = KerasBackbone(
            network_spec, weights, taps=taps, batch_size=size, precision=precision, device=device, notify=notify
        )
    if batch_size is None:
        find_batch_size(backbone, images, notify)
    return backbone


def _obstacle(network_spec: NetworkSpec, device: str, precision: str) -> str:
    """Return why numba cannot run this network, with a remedy; empty if it can."""
    if not network_spec.blocks:
        return f"the engine numba does not know {network_spec.name}, only vgg16 and vgg19; use --engine keras"
    if precision != "float32":
        return f"the engine numba computes in float32, not in {precision} precision; use --engine keras"
    if device == "gpu":
        return "the engine numba runs on the CPU; use --engine keras for a GPU, or leave out --device gpu"
    if find_spec("numba") is None:
        return "the engine numba is not installed; pip install numba, or use --engine keras"
    return ""


def _import_fault() -> str:
    """Return why the engine numba cannot compute, for example on a platform without it; empty if it can."""
    try:
        import_module("featurecache.backbones.numba_engine")
    except Exception as e:  # noqa: BLE001 - an installation of numba and NumPy that do not fit may raise anything
        return " ".join(str(e).split()) or type(e).__name__
    return ""

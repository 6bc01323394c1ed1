"""Which engine runs a network: decided before any of them is loaded."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from featurecache.backbones.batch_size import Resizable, find_batch_size
from featurecache.backbones.catalog import Application
from featurecache.backbones.protocol import Backbone
from featurecache.backbones.weights import Weights
from featurecache.errors import EngineError, UnknownNameError

ENGINES = ("auto", "keras", "numba")
BATCH_SIZES = {"keras": 32, "numba": 64}
"""Images of a batch where nothing else is asked for."""
_DEVICE_FILES = ("nvidia*", "kfd", "dxg")  # of NVIDIA's driver, of AMD's, and of GPUs inside WSL
_DEVICES = Path("/dev")


def choose_engine(asked: str, application: Application, *, device: str, precision: str) -> str:
    """Return ``"keras"`` or ``"numba"``: what was asked for, or the faster of those that can do it.

    ``"auto"`` leaves it to Keras where there may be a GPU. On a CPU it is numba, if that is installed, for networks of
    the VGG family in float32.

    Raises
    ------
    UnknownNameError
        If there is no such engine.
    EngineError
        If the one that was asked for is not installed, or cannot do this.
    """
    if asked not in ENGINES:
        raise UnknownNameError("engine", asked, ENGINES)
    if asked == "keras":
        return asked
    obstacle = _obstacle(application, device, precision)
    if asked == "numba":
        if obstacle:
            raise EngineError(obstacle)
        return asked
    return "keras" if obstacle or (device == "auto" and _may_have_gpu()) else "numba"


def start_engine(
    engine: str,
    application: Application,
    weights: Weights,
    *,
    taps: tuple[str, ...],
    batch_size: int | None,
    precision: str,
    device: str,
    images: int = 0,
    notify: Callable[[str], None] = lambda _: None,
) -> Backbone:
    """Start a network on an engine that `choose_engine` returned for it.

    Without a batch size the one that is fastest for so many images is found.
    """
    size = batch_size or BATCH_SIZES[engine]
    backbone: Resizable
    if engine == "numba":
        try:
            from featurecache.backbones.numba_engine import NumbaBackbone
        except ImportError as e:
            raise EngineError(
                f"numba cannot be loaded ({e}); pip install -U 'featurecache[fast]', or use --engine keras"
            ) from e
        backbone = NumbaBackbone(application, weights, taps=taps, batch_size=size)
    else:
        from featurecache.backbones.keras_engine import KerasBackbone

        backbone = KerasBackbone(
            application, weights, taps=taps, batch_size=size, precision=precision, device=device, notify=notify
        )
    if batch_size is None:
        find_batch_size(backbone, images, notify)
    return backbone


def _obstacle(application: Application, device: str, precision: str) -> str:
    """Return why numba cannot run this, and what to do about it; nothing if it can."""
    if not application.blocks:
        return f"the engine numba does not know {application.name}, only vgg16 and vgg19; use --engine keras"
    if precision != "float32":
        return f"the engine numba computes in float32, not in {precision} precision; use --engine keras"
    if device == "gpu":
        return "the engine numba runs on the CPU; use --engine keras for a GPU, or leave out --device gpu"
    if find_spec("numba") is None:
        return "the engine numba is not installed; pip install 'featurecache[fast]', or use --engine keras"
    return ""


def _may_have_gpu() -> bool:
    return any(next(_DEVICES.glob(pattern), None) for pattern in _DEVICE_FILES)

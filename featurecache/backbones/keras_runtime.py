"""Starts Keras and compiles models for its backends; the only module that imports them."""

import gc
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.protocol import EngineFault
from featurecache.errors import DeviceError, EngineError, UnknownNameError
from featurecache.options import DEVICES
from featurecache.storage.files import open_regular
from featurecache.storage.platform import memory_file
from featurecache.text import did_you_mean, in_short

BACKENDS = ("tensorflow", "jax", "torch")

# TensorFlow's start-up messages, and the one about a missing driver (303) on machines without a GPU
_START_UP_CHATTER = re.compile(rb"WARNING: All log messages before absl::|[IW]\d{4} |E\d{4} .*cuInit: .*\(303\)")

# Environment variables that let libraries compute float32 in less precision, and their values for full precision
_FULL_PRECISION = {
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
    "TF_SET_ONEDNN_FPMATH_MODE": "STRICT",
}

# By itself, TensorFlow uses oneDNN only on processors with AVX-512 or the like. oneDNN's convolutions are faster on the
# others, too (docs/benchmarks.md), and round alike at every place of a batch.
_X86 = ("x86_64", "AMD64")

_DEVICE_FILES = ("nvidia*", "kfd", "dxg")  # of NVIDIA's driver, of AMD's, and of GPUs inside WSL
_DEVICES = Path("/dev")

_SPARE_ROWS = 8  # at most, of a pass

# What Keras accepts in keras.json; it refuses others with an exception when it is imported
_ACCEPTED = {
    "floatx": ("float16", "float32", "float64"),
    "image_data_format": ("channels_last", "channels_first"),
}


@cache
def load_keras() -> Any:  # noqa: ANN401 - Keras has no types
    """Import Keras and its backend, without the lines that libraries print while they start.

    Raises
    ------
    EngineError
        If Keras cannot start; the message names the setting that prevents it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.update(_FULL_PRECISION)
    if platform.machine() in _X86 and "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if "keras" not in sys.modules:
        _require_settings(_settings_file())
    try:
        with without_chatter(), without_collection():
            import keras

            _has_gpu(keras.backend.backend())
    except Exception as e:
        why = " ".join(f"{type(e).__name__}: {e}".split())
        names = sorted(name for name in os.environ if name.startswith(("KERAS_", "JAX_", "XLA_")))
        places = " and ".join([str(_settings_file()), *(f"the environment variable {name}" for name in names)])
        raise EngineError(f"Keras cannot start ({why}); its settings are in {places}") from e
    _require_backend(keras.backend.backend(), "this program has loaded Keras with")
    return keras


def _settings_file() -> Path:
    """Return where Keras reads its settings."""
    home = os.environ.get("KERAS_HOME")
    if home is None:
        base = os.path.expanduser("~")  # noqa: PTH111 - as Keras: pathlib raises an error without a home folder
        home = str(Path(base if os.access(base, os.W_OK) else "/tmp", ".keras"))  # noqa: S108 - Keras's choice
    return Path(os.path.expanduser(home), "keras.json")  # noqa: PTH111


def _require_settings(file: Path) -> None:
    """Raise `EngineError` if Keras cannot be imported with a setting; the message names it and its place."""
    try:
        with open_regular(file) as stream:
            found = json.load(stream)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # Keras ignores a file that is not JSON
        found = {}
    except OSError as e:
        raise EngineError(
            f"Keras's settings {file} cannot be read: {(e.strerror or str(e)).lower()}; make the file readable, or "
            "set KERAS_HOME to another folder"
        ) from e
    if not isinstance(found, dict):
        raise EngineError(
            f"Keras's settings {file} are {found!r:.40}, expected a JSON object; correct or delete the file"
        )
    for name, accepted in _ACCEPTED.items():
        if name in found and found[name] not in accepted:
            raise EngineError(_bad_setting(file, name, found[name], f"one of {', '.join(accepted)}"))
    if not isinstance(found.get("epsilon", 0.0), float):
        raise EngineError(_bad_setting(file, "epsilon", found["epsilon"], "a number with a decimal point"))
    in_environment = os.environ.get("KERAS_BACKEND")
    if in_environment:
        _require_backend(in_environment, "the environment variable KERAS_BACKEND names")
    else:
        _require_backend(found.get("backend", BACKENDS[0]), f'"backend" in {file} names')


def _bad_setting(file: Path, name: str, value: object, expected: str) -> str:
    return f'"{name}" in {file} is {value!r:.40}, expected {expected}; correct or delete the file'


def _require_backend(name: object, who: str) -> None:
    """Raise `EngineError` unless a backend of Keras is one that we can run, and is installed."""
    if name not in BACKENDS:
        hint = did_you_mean(str(name), BACKENDS)
        raise EngineError(
            f"{who} the Keras backend {name!r}{hint}; expected {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}"
        )
    if find_spec(str(name)) is None:
        raise EngineError(f"{who} the Keras backend {name!r}, which is not installed; install it, or name tensorflow")


def may_have_gpu() -> bool:
    """Whether there is a driver of a GPU, found without starting Keras."""
    return any(next(_DEVICES.glob(pattern), None) for pattern in _DEVICE_FILES)


def find_device(asked: str) -> str:
    """Return the requested device: ``"gpu"``, ``"cpu"``, or one by number; for ``"auto"`` the GPU if there is one.

    Raises
    ------
    UnknownNameError
        If there is no such device.
    DeviceError
        If a GPU is requested and there is none.
    """
    kind = asked.partition(":")[0]
    if kind not in DEVICES:
        raise UnknownNameError("device", asked, DEVICES)
    if kind == "cpu":
        return asked
    backend = load_keras().backend.backend()
    if _has_gpu(backend):
        return "gpu" if kind == "auto" else asked
    if kind == "gpu":
        raise DeviceError(f"{backend} finds no GPU; install its GPU build and driver, or pass --device cpu")
    return "cpu"


def find_devices(asked: str) -> tuple[str, ...]:
    """Return the devices that can compute a run together: that of `find_device`, or all GPUs of the first one's model.

    Environment variables of drivers, such as ``CUDA_VISIBLE_DEVICES``, choose among GPUs.

    Raises
    ------
    UnknownNameError, DeviceError
        As `find_device`.
    """
    device = find_device(asked)
    if device != "gpu":
        return (device,)
    models = _models_of_gpus(load_keras().backend.backend())
    alike = tuple(f"gpu:{number}" for number, model in enumerate(models) if model == models[0])
    return alike if len(alike) > 1 else ("gpu",)


def placed(device: str) -> Any:  # noqa: ANN401 - Keras has no types
    """Return a context in which Keras uses this device: ``"gpu"``, ``"cpu"``, or one by number, as ``"gpu:1"``."""
    return nullcontext() if device == "gpu" else load_keras().device(device)


@contextmanager
def fixed_settings(dtype_policy: str = "float32") -> Iterator[None]:
    """Use the same settings of Keras inside the block on every machine, whatever `keras.json` or the program has set.

    Parameters
    ----------
    dtype_policy
        The precision of layers that are made inside the block, by Keras's name.
    """
    config = load_keras().config
    fixed = {
        "floatx": "float32",
        "epsilon": 1e-7,
        "image_data_format": "channels_last",
        "dtype_policy": dtype_policy,
    }
    before = {name: getattr(config, name)() for name in fixed}
    try:
        for name, value in fixed.items():
            getattr(config, f"set_{name}")(value)
        yield
    finally:
        for name, value in before.items():
            getattr(config, f"set_{name}")(value)


class _ProcessSetting:
    """A setting that a library keeps for the whole process: threads that want the same value have it at the same time.

    Parameters
    ----------
    read, write
        Return the value, and set another one.
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self._read, self._write = read, write
        self._changed = Condition()
        self._users, self._value, self._before = 0, None, None

    @contextmanager
    def held(self, value: Any) -> Iterator[None]:  # noqa: ANN401 - of any type
        """Keep a value inside the block; the last thread that leaves it sets what was there before."""
        with self._changed:
            self._changed.wait_for(lambda: self._users == 0 or self._value == value)
            if self._users == 0:
                self._value, self._before = value, self._read()
                self._write(value)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if self._users == 0:
                    self._write(self._before)
                    self._changed.notify_all()


def _of_tensorflow() -> Any:  # noqa: ANN401 - TensorFlow has no types
    return import_module("tensorflow").config.experimental


def _of_torch() -> tuple[Any, ...]:
    """Return where PyTorch keeps the precision of products: of matrices and convolutions, on GPUs and on CPUs."""
    torch = import_module("torch")
    found = torch.backends
    if not hasattr(found, "fp32_precision"):
        raise EngineError(f"PyTorch {torch.__version__} is too old, expected 2.9 or newer; pip install -U torch")
    return found.cuda.matmul, found.cudnn.conv, found.mkldnn.matmul, found.mkldnn.conv


def _write_torch(values: tuple[str, ...]) -> None:
    for place, value in zip(_of_torch(), values, strict=True):
        place.fp32_precision = value


_PRODUCTS = {
    "tensorflow": _ProcessSetting(
        lambda: _of_tensorflow().tensor_float_32_execution_enabled(),
        lambda value: _of_tensorflow().enable_tensor_float_32_execution(value),
    ),
    "torch": _ProcessSetting(lambda: tuple(place.fp32_precision for place in _of_torch()), _write_torch),
}
_EXACT: Mapping[str, Any] = {"tensorflow": False, "jax": "float32", "torch": ("ieee", "ieee", "ieee", "ieee")}
_TF32: Mapping[str, Any] = {"tensorflow": True, "jax": "tensorfloat32", "torch": ("tf32", "tf32", "ieee", "ieee")}


def products(precision: str) -> Any:  # noqa: ANN401 - a context manager
    """Return a context in which products of float32 are exact, whatever a backend's default and the program's settings.

    With the precision ``"tf32"``, a GPU's matrix units may round factors to 10 bits. TensorFlow and JAX let them do so
    by default, PyTorch in convolutions. JAX takes the setting when a function is compiled, the others when it runs.
    """
    backend = load_keras().backend.backend()
    value = (_TF32 if precision == "tf32" else _EXACT)[backend]
    if backend == "jax":
        return import_module("jax").default_matmul_precision(value)
    return _PRODUCTS[backend].held(value)


def load_keras_hub(what: object) -> Any:  # noqa: ANN401 - KerasHub has no types
    """Import KerasHub; raise `EngineError` if it is not installed, or cannot start. ``what`` is what needs it."""
    if find_spec("keras_hub") is None:
        raise EngineError(f"{what} needs KerasHub, which is not installed; pip install 'featurecache[hub]'")
    load_keras()
    try:
        with without_chatter():
            return import_module("keras_hub")
    except Exception as e:
        why = f"{type(e).__name__}: {in_short(e)}"
        raise EngineError(f"KerasHub, which {what} needs, cannot start ({why}); pip install -U keras-hub") from e


def versions() -> dict[str, str]:
    """Return the versions of Keras and of its backend."""
    keras = load_keras()
    backend = keras.backend.backend()
    return {"keras": keras.__version__, "backend": f"{backend} {import_module(backend).__version__}"}


def threads_that_matter() -> dict[str, str]:
    """Return the number of threads of a backend whose results depend on it in the last bits; empty for others."""
    if load_keras().backend.backend() != "torch":
        return {}
    return {"torch_threads": str(import_module("torch").get_num_threads())}


def compiled(
    model: Any,  # noqa: ANN401 - Keras has no types
    before: Callable[[Any], Any],
    after: Callable[[Any], Mapping[str, Any]],
    shape: tuple[int, ...],
    precision: str,
) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """Return ``after(model(before(images)))`` as one function, compiled by the backend for one input shape.

    ``precision`` is that of `products`.
    """
    backend = load_keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow

        concrete = traced(model, before, after, shape)

        def run(images: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - Keras has no types
            return concrete(tensorflow.constant(images))
    elif backend == "jax":
        import jax

        state = (
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
        )
        jitted = jax.jit(lambda state, images: after(model.stateless_call(*state, before(images), training=False)[0]))
        try:
            with products(precision):
                program = jitted.lower(state, np.zeros(shape, np.uint8)).compile()
        except ValueError as e:  # such as attention in float16 on a CPU
            why = f"JAX cannot compute the network in {precision} precision here ({in_short(e)})"
            raise EngineError(f"{why}; set KERAS_BACKEND=tensorflow") from e

        def run(images: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - Keras has no types
            return program(state, images)
    else:
        import torch

        def run(images: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - Keras has no types
            with torch.no_grad():
                return after(model(before(images), training=False))

    to_numpy = load_keras().ops.convert_to_numpy

    def forward(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        with products(precision):
            return {tap: to_numpy(output) for tap, output in run(images).items()}

    return forward


def traced(
    model: Any,  # noqa: ANN401 - Keras has no types
    before: Callable[[Any], Any],
    after: Callable[[Any], Mapping[str, Any]],
    shape: tuple[int | None, ...],
) -> Any:  # noqa: ANN401 - TensorFlow has no types
    """Return ``after(model(before(images)))`` as a function of TensorFlow for one input shape; None is any length."""
    import tensorflow

    function = tensorflow.function(lambda images: after(model(before(images), training=False)), autograph=False)
    return function.get_concrete_function(tensorflow.TensorSpec(shape, tensorflow.uint8))


def require_tensorflow() -> None:
    """Raise `EngineFault` if Keras runs on another backend."""
    backend = load_keras().backend.backend()
    if backend != "tensorflow":
        raise EngineFault(f"Keras runs on {backend} here, and OpenVINO converts what TensorFlow runs")


def rows_of_pass(batch_size: int) -> int:
    """Return the number of rows to compute for a batch on a CPU, so that images get the same bits at every place.

    Matrix products of some libraries round the last rows otherwise, depending on the number of rows: Eigen's with AVX2
    do so in 32 rows, but not in 34. So a product of equal rows is tried.

    Returns
    -------
    int
        The least number from `batch_size` on whose first `batch_size` rows agree; `batch_size` if none is found.
    """
    ops, generator = load_keras().ops, np.random.default_rng(0)
    row = generator.standard_normal((1, 1024), np.float32)
    weights = ops.convert_to_tensor(generator.standard_normal((1024, 1000), np.float32))
    for rows in range(batch_size, batch_size + _SPARE_ROWS + 1):
        product = ops.convert_to_numpy(ops.matmul(ops.convert_to_tensor(row.repeat(rows, axis=0)), weights))
        if (product[:batch_size] == product[0]).all():
            return rows
    return batch_size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether TensorFlow, JAX or PyTorch raised this error because the device ran out of memory."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"ResourceExhaustedError", "OutOfMemoryError"}) or "RESOURCE_EXHAUSTED" in str(error)


@contextmanager
def without_chatter() -> Iterator[None]:
    """Delay what native code writes to standard error inside the block, and drop start-up messages."""
    sys.stderr.flush()
    kept = os.dup(2)
    with memory_file() as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            stream.seek(0)
            for line in stream:
                if not _START_UP_CHATTER.match(line):
                    os.write(2, line)


@contextmanager
def without_collection() -> Iterator[None]:
    """Let Python's garbage collector rest inside the block, and take what is there after it for old.

    An import makes half a million objects that stay. To look through them again and again takes a fifth of its time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()  # into the oldest generation, which is looked at most rarely
            gc.enable()


def _has_gpu(backend: str) -> bool:
    return bool(_models_of_gpus(backend))


def _models_of_gpus(backend: str) -> list[str]:
    """Return the names of the GPUs' models, in the order of their numbers."""
    if backend == "tensorflow":
        config = import_module("tensorflow").config
        found = config.list_physical_devices("GPU")
        return [str(config.experimental.get_device_details(gpu).get("device_name", "")) for gpu in found]
    if backend == "jax":
        return [str(device.device_kind) for device in import_module("jax").local_devices() if device.platform == "gpu"]
    cuda = import_module("torch").cuda
    return [cuda.get_device_name(number) for number in range(cuda.device_count())]

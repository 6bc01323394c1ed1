"""Runs the VGG networks on a CPU with ncnn, without Keras: Winograd convolutions, an image a thread.

ncnn computes 3x3 convolutions by Winograd's minimal filtering (Lavin and Gray 2016), with fewer multiplications than
the sum has. One extractor a thread beats one extractor with many threads, and the dense layers, whose weights are far
larger than what they see of an image, are matrix products over the whole batch in NumPy.
"""

import atexit
import os
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.ahead import ahead
from featurecache.backbones.catalog import BGR_MEAN, Application
from featurecache.backbones.protocol import require_images
from featurecache.backbones.vgg import Weighted, layers_of, weights_of
from featurecache.backbones.weights import Weights
from featurecache.errors import EngineError

_ROW_MULTIPLE = 16  # batches are padded to it: BLAS then treats all rows alike
_INPUT = "data"
_PARAM_MAGIC = 7767517  # what ncnn's network descriptions begin with
_RAW_FLOAT32 = struct.pack("<I", 0)  # what stands before float32 weights in ncnn's model files


class _Running:
    """The passes through ncnn that are under way; the interpreter does not end before they have.

    A thread that comes back from ncnn into an interpreter that has ended aborts the process. Python waits for its
    threads, but not for those that a second Ctrl-C kept it from joining.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._count = 0
        self._ending = False
        atexit.register(self.end)

    def __enter__(self) -> None:
        with self._changed:
            if self._ending:
                raise RuntimeError("the interpreter ends")
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Let no further pass begin, and return when there is none, whoever is impatient."""
        while True:
            try:
                with self._changed:
                    self._ending = True
                    self._changed.wait_for(lambda: self._count == 0)
            except KeyboardInterrupt:
                continue
            return


_RUNNING = _Running()


class NcnnBackbone:
    """A VGG network with its weights and preprocessing, on the processors that this process may use.

    Parameters
    ----------
    application
        The catalogue's row, of the VGG family.
    weights
        Weights for it, from `featurecache.backbones.weights.resolve_weights`.
    taps
        The layers to return; the network's default ones if not given. Nothing beyond the highest is computed.
    batch_size
        Images in a pass of the dense layers; fewer are padded.

    Raises
    ------
    UnknownNameError
        If a tap does not exist.
    WeightsError
        If the weights are another network's.
    EngineError
        If ncnn is not there.
    """

    def __init__(
        self, application: Application, weights: Weights, *, taps: tuple[str, ...] | None = None, batch_size: int = 32
    ) -> None:
        self.spec = application.spec(weights.identity, taps)
        self._ncnn = _load_ncnn()
        self._batch_size = batch_size
        self._threads = min(_processors(), batch_size)
        order = list(application.taps)
        top = max(map(order.index, self.spec.taps))
        layers = layers_of(application)
        used = [layer for layer in layers if order.index(layer.tap) <= top]
        depth = sum(layer.kind == "conv2d" for layer in used)
        blobs = order[: order.index("flatten")][: top + 1]
        with closing(weights_of(application, weights, len(used))) as loaded:
            self._net = _network(self._ncnn, application, blobs, islice(loaded, depth))
            self._dense = [(layer.tap, *weighted) for layer, weighted in zip(used[depth:], loaded, strict=True)]
        # what is taken from ncnn, from the input on, so that nothing is computed twice
        self._spatial = [tap for tap in order if tap in self.spec.taps and order.index(tap) <= order.index("flatten")]
        self._rows = (-(-batch_size // _ROW_MULTIPLE) * _ROW_MULTIPLE, application.taps["flatten"])
        self.provenance: Mapping[str, str] = {
            "engine": "ncnn",
            "ncnn": self._ncnn.__version__,
            "device": "cpu",
            "threads": str(self._threads),
            "batch_size": str(batch_size),
        }

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every tap's activations in one pass; see `Backbone.forward`."""
        require_images(images, self.spec.input_size)
        out = {tap: np.empty((len(images), width), np.float32) for tap, width in self.spec.taps.items()}
        for start in range(0, len(images), self._batch_size):
            part = slice(start, start + self._batch_size)
            self._forward_batch(images[part], {tap: values[part] for tap, values in out.items()})
        return out

    def _forward_batch(self, images: NDArray[np.uint8], out: dict[str, NDArray[np.float32]]) -> None:
        """Write every tap's activations of at most one batch to where they belong."""
        wanted = {tap: out[tap] for tap in self._spatial}
        if self._dense:
            rows = np.zeros(self._rows, np.float32)
            wanted["flatten"] = rows

        def convolve(index: int) -> None:
            self._convolve(images[index], {tap: values[index] for tap, values in wanted.items()})

        with closing(ahead(convolve, range(len(images)), workers=self._threads, window=len(images))) as done:
            deque(done, maxlen=0)
        if not self._dense:
            return
        if "flatten" in out:
            out["flatten"][:] = rows[: len(images)]
        for tap, values in self._densely(rows):
            if tap in out:
                out[tap][:] = values[: len(images)]

    def _convolve(self, image: NDArray[np.uint8], wanted: Mapping[str, NDArray[np.float32]]) -> None:
        """Write what layers below the dense ones make of an image, flattened as Keras does: row by row."""
        pixels = _preprocessed(image)  # ncnn works on this memory, and does not own it
        extractor = self._net.create_extractor()
        extractor.input(_INPUT, self._ncnn.Mat(pixels))
        for tap, row in wanted.items():
            with _RUNNING:
                status, blob = extractor.extract("block5_pool" if tap == "flatten" else tap)
            if status != 0:
                raise MemoryError(f"ncnn has not the memory for {tap}")
            channels_last = np.moveaxis(np.asarray(blob), 0, -1)
            row.reshape(channels_last.shape)[:] = channels_last

    def _densely(self, rows: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield the taps from the first dense layer on, with their activations of a batch."""
        for tap, kernel, bias in self._dense:
            rows = rows @ kernel
            rows += bias
            if tap != "logits":
                np.maximum(rows, 0, out=rows)
            yield tap, rows
        if "predictions" in self.spec.taps:
            yield "predictions", _softmax(rows)


def _processors() -> int:
    """Return how many processors this process may use: a container's share is less than what the kernel shows."""
    from joblib import cpu_count

    return int(cpu_count())


def _load_ncnn() -> Any:  # noqa: ANN401 - ncnn has no types
    try:
        import ncnn
    except ImportError as e:
        raise EngineError(
            f"ncnn cannot be loaded ({e}); pip install 'featurecache[fast]', or use --engine keras"
        ) from e
    return ncnn


def _network(ncnn: Any, application: Application, blobs: Sequence[str], weights: Iterator[Weighted]) -> Any:  # noqa: ANN401
    """Return the network up to the last of these blobs, ready to run on one thread."""
    net = ncnn.Net()
    net.opt.num_threads = 1  # of each extractor
    net.opt.use_vulkan_compute = False
    for half in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, half, False)
    with _model_file(weights) as path:
        if net.load_param_mem(_description(application, blobs)) != 0 or net.load_model(path) != 0:
            raise MemoryError(f"ncnn has not the memory for {application.name}")
    return net


def _description(application: Application, blobs: Sequence[str]) -> str:
    """Return the layers from the input to the last blob in ncnn's language: kind, name, numbers and names of blobs.

    Of a convolution 0 is the number of units, 1 the field, 4 the padding, 5 whether there is a bias, 6 the size of the
    kernel, and 9 the activation (1 is ReLU); of a pooling layer 0 is its kind (0 is the maximum), 1 the field, 2 the
    stride. https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
    """
    height, width = application.input_size
    kernels = {layer.tap: layer.kernel for layer in layers_of(application)}
    lines = [f"Input {_INPUT} 0 1 {_INPUT} 0={width} 1={height} 2=3"]
    for below, name in zip((_INPUT, *blobs), blobs, strict=False):
        if name in kernels:
            kernel = kernels[name]
            options = f"0={kernel[-1]} 1=3 4=1 5=1 6={np.prod(kernel)} 9=1"
            lines.append(f"Convolution {name} 1 1 {below} {name} {options}")
        else:
            lines.append(f"Pooling {name} 1 1 {below} {name} 0=0 1=2 2=2")
    return "\n".join([str(_PARAM_MAGIC), f"{len(lines)} {len(lines)}", *lines, ""])


@contextmanager
def _model_file(weights: Iterator[Weighted]) -> Iterator[str]:
    """Give the path of a file in memory with the convolutions' weights, (units, inputs, height, width) each.

    ncnn copies what it reads from a file, but keeps pointing into memory that it is handed.
    """
    descriptor = os.memfd_create("weights")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            for kernel, bias in weights:
                file.write(_RAW_FLOAT32)
                file.write(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)).data)
                file.write(bias.data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _preprocessed(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an image, (height, width, RGB), as Keras's mode "caffe" has it: BGR minus the mean, channels first."""
    mean = np.array(BGR_MEAN, np.float32)[:, np.newaxis, np.newaxis]
    pixels: NDArray[np.float32] = np.subtract(image.transpose(2, 0, 1)[::-1], mean, dtype=np.float32, order="C")
    return pixels


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers

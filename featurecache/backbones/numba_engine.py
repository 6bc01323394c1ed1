"""Runs the VGG networks on a CPU without Keras: Winograd convolutions in threads, dense layers over whole batches.

A thread takes a group of images through the convolutions. In the lower layers an image has enough tiles for fast matrix
products, so images are computed one by one. In the upper layers, where kernels are much larger than the image, the
group shares matrix products. The dense layers are matrix products over the batch.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Lock

import numba
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from featurecache.backbones import winograd
from featurecache.backbones.catalog import BGR_MEAN, NetworkSpec
from featurecache.backbones.protocol import require_images
from featurecache.backbones.vgg import layers_of, weights_of
from featurecache.backbones.weights import Weights
from featurecache.prefetch import ahead
from featurecache.processors import processor_count
from featurecache.provenance import environment_settings

if getattr(numba.config, "DISABLE_JIT", 0):
    raise ImportError("NUMBA_DISABLE_JIT is set, and uncompiled it would take hours")

Floats = NDArray[np.float32]
_Dense = tuple[str, Floats, Floats]  # tap, kernel (inputs, units), bias (units,)

_LARGE = 784  # an image with fewer tiles shares matrix products with others
_ALONE, _TOGETHER = 196, 392  # tiles of a product in the two cases: fast, and small enough for the processor's caches
_GROUP = 16  # largest number of images that share the upper convolutions
_ROWS = 64  # rows of a product with a dense layer's weights
_TRIED_INPUTS = 2048  # of a dense layer: how rows are rounded follows from rows and units; all inputs take a second
_ALL = 128  # largest number of images in all threads together; an image takes about 18 MB
_ONE_THREAD = Lock()  # held while BLAS is limited to one thread, so that the limits nest
_FEW_ROWS = 16  # the same where BLAS rounds rows differently in large products; in products of 16 rows none does


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A convolution with its ReLU, the same with the pooling layer that follows, or a pooling layer alone.

    Parameters
    ----------
    tap
        The name of its output.
    size
        Height and width of its input.
    channels
        Channels of its output.
    pools
        Whether it pools.
    kernel, bias
        The transformed kernel of the convolution, shape (36, inputs, channels), and its bias, shape (channels,).
    """

    tap: str
    size: int
    channels: int
    pools: bool = False
    kernel: Floats | None = None
    bias: Floats | None = None

    @property
    def out_size(self) -> int:
        """Height and width of its output."""
        return self.size // 2 if self.pools else self.size

    @property
    def tiles(self) -> int:
        """Number of tiles of its input, for one image."""
        return winograd.tiles(self.size) ** 2

    @property
    def is_lower(self) -> bool:
        """Whether images are computed one by one."""
        return self.tiles >= _LARGE

    @property
    def block(self) -> int:
        """Largest number of tiles in one of its matrix products."""
        return _ALONE if self.is_lower else _TOGETHER


class _Workspace:
    """Memory for the activations of a group of images, and the computation of the layers in it.

    Parameters
    ----------
    layers
        The layers, from the input on.
    group
        Largest number of images.
    """

    def __init__(self, layers: Sequence[_Layer], group: int) -> None:
        lower = sum(layer.is_lower for layer in layers)
        self._lower, self._upper = layers[:lower], layers[lower:]
        self._pixels = winograd.zeros(1, layers[0].size, 3)
        counts = [1] * (lower - 1) + [group] * (len(layers) - lower + 1)  # the last lower layer collects the group
        self._out = {
            layer.tap: winograd.zeros(count, layer.out_size, layer.channels)
            for count, layer in zip(counts, layers, strict=True)
        }
        sizes = [winograd.memory(layer.block, layer.kernel) for layer in layers if layer.kernel is not None]
        self._memory = (
            np.empty(max(taken for taken, _ in sizes), np.float32),
            np.empty(max(made for _, made in sizes), np.float32),
        )

    def convolve(self, images: NDArray[np.uint8], out: Mapping[str, Floats]) -> None:
        """Write the activations of the taps in ``out`` for a group of images, flattened with channels last."""
        for index, image in enumerate(images):
            np.subtract(
                image[..., ::-1], np.array(BGR_MEAN, np.float32), out=winograd.inside(self._pixels, len(image))[0]
            )
            values, place = self._pixels, slice(index, index + 1)
            for layer in self._lower:
                room = self._out[layer.tap]
                values = self._apply(layer, values, room[place] if layer is self._lower[-1] else room, place, out)
        place = slice(len(images))
        values = self._out[self._lower[-1].tap][place]
        for layer in self._upper:
            values = self._apply(layer, values, self._out[layer.tap][place], place, out)

    def _apply(self, layer: _Layer, values: Floats, room: Floats, place: slice, out: Mapping[str, Floats]) -> Floats:
        """Compute a layer into ``room`` and return that; copy the activations to ``out`` if it has the layer's tap."""
        if layer.kernel is None or layer.bias is None:
            winograd.pool(values, layer.size, room)
        else:
            winograd.convolve(
                values,
                layer.size,
                layer.kernel,
                layer.bias,
                room,
                pooled=layer.pools,
                block=layer.block,
                memory=self._memory,
            )
        if layer.tap in out:
            activations = winograd.inside(room, layer.out_size)
            out[layer.tap][place].reshape(activations.shape)[:] = activations
        return room


class NumbaBackbone:
    """A VGG network with its weights and preprocessing, run on the processors that this process may use.

    Parameters
    ----------
    network_spec
        A VGG network of the catalogue.
    weights
        Weights for it, from `featurecache.backbones.weights.resolve_weights`.
    taps
        The layers to return; the network's default ones if not given. Layers after the last of them are not computed.
    batch_size
        Images in a pass of the dense layers; a smaller batch is padded.
    precision
        ``"float32"``, or ``"tf32"``, which is float32 on a CPU.

    Raises
    ------
    UnknownNameError
        If a tap or the precision does not exist.
    WeightsError
        If the weights belong to another network.
    """

    def __init__(
        self,
        network_spec: NetworkSpec,
        weights: Weights,
        *,
        taps: tuple[str, ...] | None = None,
        batch_size: int = 64,
        precision: str = "float32",
    ) -> None:
        self.spec = network_spec.spec(weights.identity, taps, precision)
        self._blas = ThreadpoolController()
        with _ONE_THREAD, self._blas.limit(limits=1, user_api="blas"):
            self._layers, self._dense = _loaded(network_spec, weights, self.spec.taps)
        self._most = self._images_together()
        self.resize(batch_size)

    def resize(self, batch_size: int) -> None:
        """Set the batch size."""
        self.batch_size = batch_size
        self._rows = self._rows_together()
        self._threads = min(processor_count(), batch_size)
        self._group = min(self._most, -(-batch_size // self._threads), max(1, _ALL // self._threads))
        self._workspaces: SimpleQueue[_Workspace] = SimpleQueue()
        for _ in range(self._threads):
            self._workspaces.put(_Workspace(self._layers, self._group))

    @property
    def passes_at_once(self) -> int:
        """One: a pass uses all processors."""
        return 1

    @property
    def provenance(self) -> Mapping[str, str]:
        """The engine, its versions, the device, the number of threads, the batch size, and the settings."""
        return {
            "engine": "numba",
            "numba": numba.__version__,
            "blas": _name_of(self._blas),
            "device": "cpu",
            "threads": str(self._threads),
            "batch_size": str(self.batch_size),
            **environment_settings(),
        }

    def forward(self, images: NDArray[np.uint8]) -> dict[str, Floats]:
        """Return every tap's activations in one pass; see `Backbone.forward`."""
        require_images(images, self.spec.input_size)
        out = {tap: np.empty((len(images), width), np.float32) for tap, width in self.spec.taps.items()}
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            self._forward_batch(images[part], {tap: values[part] for tap, values in out.items()})
        return out

    def _forward_batch(self, images: NDArray[np.uint8], out: Mapping[str, Floats]) -> None:
        """Write the activations of every tap for at most one batch of images into ``out``."""
        last = self._layers[-1]
        wanted = {layer.tap: out[layer.tap] for layer in self._layers if layer.tap in out}
        if not self._dense and "flatten" not in out:
            self._convolve(images, wanted)
            return
        rows = np.zeros((-(-self.batch_size // self._rows) * self._rows, last.out_size**2 * last.channels), np.float32)
        self._convolve(images, wanted | {last.tap: rows})
        for tap in out.keys() & {last.tap, "flatten"}:
            out[tap][:] = rows[: len(images)]
        for start in range(0, len(images), self._rows):
            for tap, values in self._densely(rows[start : start + self._rows]):
                if tap in out:
                    room = out[tap][start : start + self._rows]
                    room[:] = values[: len(room)]

    def _convolve(self, images: NDArray[np.uint8], wanted: Mapping[str, Floats]) -> None:
        """Write the activations of the convolutional layers for a batch; each thread computes groups of images."""
        size = min(self._group, -(-len(images) // self._threads))  # gives every thread work
        groups = [slice(start, start + size) for start in range(0, len(images), size)]

        def convolve(group: slice) -> None:
            space = self._workspaces.get()
            try:
                space.convolve(images[group], {tap: values[group] for tap, values in wanted.items()})
            finally:
                self._workspaces.put(space)

        with (
            _ONE_THREAD,
            self._blas.limit(limits=1, user_api="blas"),
            closing(ahead(convolve, groups, workers=self._threads, window=len(groups))) as done,
        ):
            deque(done, maxlen=0)

    def _densely(self, rows: Floats) -> Iterator[tuple[str, Floats]]:
        """Yield the taps of the dense layers with their activations for rows of ``flatten``."""
        for tap, kernel, bias in self._dense:
            rows = rows @ kernel
            rows += bias
            if tap != "logits":
                np.maximum(rows, 0, out=rows)
            yield tap, rows
        if "predictions" in self.spec.taps:
            yield "predictions", _softmax(rows)

    def _images_together(self) -> int:
        """Return how many images can share matrix products without a change in the row of any image."""
        with self._blas.limit(limits=1, user_api="blas"):
            alike = all(
                _are_alike(layer.kernel[0], range(layer.tiles, layer.block + 1, layer.tiles))
                for layer in self._layers
                if layer.kernel is not None and not layer.is_lower
            )
        return _GROUP if alike else 1

    def _rows_together(self) -> int:
        """Return how many rows can share a product with a dense layer's weights without a change in any row."""
        more = min(_ROWS, -(-self.batch_size // _FEW_ROWS) * _FEW_ROWS)
        tried = (kernel[:_TRIED_INPUTS] for _, kernel, _ in self._dense)
        return more if all(_are_alike(kernel, (_FEW_ROWS, more)) for kernel in tried) else _FEW_ROWS


def _are_alike(kernel: Floats, counts: Sequence[int]) -> bool:
    """Whether BLAS computes a row equally at every position, in products of each of these numbers of rows.

    Some of OpenBLAS's kernels round differently from row to row.
    """
    rows = np.repeat(kernel[np.newaxis, :, 0], max(counts), axis=0)
    products = [rows[:count] @ kernel for count in counts]
    return all(bool((product == products[0][0]).all()) for product in products)


def _loaded(network_spec: NetworkSpec, weights: Weights, taps: Collection[str]) -> tuple[list[_Layer], list[_Dense]]:
    """Return the convolutional and pooling layers, and the dense ones, up to the last of the taps.

    While they are read, threads load machine code and transform kernels.
    """
    order = list(network_spec.taps)
    top = max(map(order.index, taps))
    used = [layer for layer in layers_of(network_spec) if order.index(layer.tap) <= top]
    layers: list[_Layer] = []
    size = network_spec.input_size[0]
    with closing(weights_of(network_spec, weights, len(used))) as loaded, ThreadPoolExecutor(processor_count()) as pool:
        kernels: dict[str, tuple[Future[Floats], Floats]] = {}
        dense: list[_Dense] = []
        code = pool.submit(winograd.load)
        for layer, (kernel, bias) in zip(used, loaded, strict=True):
            if layer.kind == "conv2d":
                kernels[layer.tap] = pool.submit(winograd.transformed, kernel), bias
            else:
                dense.append((layer.tap, kernel, bias))
    code.result()
    for tap in order[: order.index("flatten")][: top + 1]:
        if tap in kernels:
            transformed, bias = kernels[tap]
            layers.append(_Layer(tap, size, len(bias), kernel=transformed.result(), bias=bias))
        elif layers[-1].tap in taps:
            layers.append(_Layer(tap, size, layers[-1].channels, pools=True))
        else:  # the activations before pooling are not requested
            layers[-1] = replace(layers[-1], tap=tap, pools=True)
        size = layers[-1].out_size
    return layers, dense


def _name_of(blas: ThreadpoolController) -> str:
    """Return the name and version of NumPy's BLAS, and the processor whose code it uses."""
    libraries = [library for library in blas.info() if library["user_api"] == "blas"]
    of_numpy = [library for library in libraries if "numpy" in library["filepath"]]  # SciPy's wheels bring another
    for library in of_numpy or libraries:
        return " ".join(str(library[key]) for key in ("internal_api", "version", "architecture") if library.get(key))
    return "unknown"


def _softmax(logits: Floats) -> Floats:
    powers: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers

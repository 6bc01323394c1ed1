"""Runs the VGG networks on a CPU without Keras: Winograd convolutions in threads, dense layers over whole batches.

A group of images goes through the convolutions in one thread: one by one where an image has tiles enough to make matrix
products fast, and together above, where kernels are far larger than what they see of an image. The dense layers are
matrix products over the batch.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Lock

import numba
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from featurecache.ahead import ahead
from featurecache.backbones import winograd
from featurecache.backbones.catalog import BGR_MEAN, Application
from featurecache.backbones.protocol import require_images
from featurecache.backbones.vgg import layers_of, weights_of
from featurecache.backbones.weights import Weights

Floats = NDArray[np.float32]
_Dense = tuple[str, Floats, Floats]  # tap, kernel (inputs, units), bias (units,)

_LARGE = 784  # tiles of an image that has enough for itself; below, images share matrix products
_ALONE, _TOGETHER = 196, 392  # tiles of a product then and now: fast, and not larger than caches like
_GROUP = 16  # images that go through the upper convolutions together
_ROWS = 64  # of a product with a dense layer's weights
_ALL = 128  # images that all threads together hold at most, each in some 18 MB
_ONE_THREAD = Lock()  # of those who take BLAS's threads away and give them back, in order
_FEW_ROWS = 16  # the same where BLAS rounds differently from row to row, which in so many none was seen to do


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A convolution with its ReLU, with the pooling layer above it as well, or that pooling layer alone.

    Parameters
    ----------
    tap
        The name of its output.
    size
        Height and width of its input.
    channels
        Of its output.
    pools
        Whether it pools.
    kernel, bias
        Of a convolution: shapes (36, inputs, channels), transformed, and (channels,).
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
        """Tiles of an image of its input."""
        return winograd.tiles(self.size) ** 2

    @property
    def is_lower(self) -> bool:
        """Whether it sees images one by one."""
        return self.tiles >= _LARGE

    @property
    def block(self) -> int:
        """Tiles of one of its matrix products, if there are as many."""
        return _ALONE if self.is_lower else _TOGETHER


class _Workspace:
    """Memory for what a group of images becomes, and their way through the layers in it.

    Parameters
    ----------
    layers
        From the input on.
    group
        How many images at most.
    """

    def __init__(self, layers: Sequence[_Layer], group: int) -> None:
        lower = sum(layer.is_lower for layer in layers)
        self._lower, self._upper = layers[:lower], layers[lower:]
        self._pixels = winograd.zeros(1, layers[0].size, 3)
        counts = [1] * (lower - 1) + [group] * (len(layers) - lower + 1)  # what leaves the lower layers is collected
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
        """Write what the layers named make of a group of images, flattened as Keras does: row by row, channels last."""
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
        """Return a layer's activations, in the room for them, and copy them to their place if they are wanted."""
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
    """

    def __init__(
        self, application: Application, weights: Weights, *, taps: tuple[str, ...] | None = None, batch_size: int = 64
    ) -> None:
        self.spec = application.spec(weights.identity, taps)
        self._layers, self._dense = _loaded(application, weights, self.spec.taps)
        self._blas = ThreadpoolController()
        self._most = self._images_together()
        self.resize(batch_size)

    def resize(self, batch_size: int) -> None:
        """Take batches of another size from now on."""
        self.batch_size = batch_size
        self._rows = self._rows_together()
        self._threads = min(_processors(), batch_size)
        self._group = min(self._most, -(-batch_size // self._threads), max(1, _ALL // self._threads))
        self._workspaces: SimpleQueue[_Workspace] = SimpleQueue()
        for _ in range(self._threads):
            self._workspaces.put(_Workspace(self._layers, self._group))

    @property
    def passes_at_once(self) -> int:
        """One, which takes all processors."""
        return 1

    @property
    def provenance(self) -> Mapping[str, str]:
        """What runs it."""
        return {
            "engine": "numba",
            "numba": numba.__version__,
            "blas": _name_of(self._blas),
            "device": "cpu",
            "threads": str(self._threads),
            "batch_size": str(self.batch_size),
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
        """Write every tap's activations of at most one batch to where they belong."""
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
        """Write what the convolutional layers make of a batch, in groups, a thread each."""
        size = min(self._group, -(-len(images) // self._threads))  # so that no thread is without work
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
        """Yield the taps from the first dense layer on, with what they make of rows of ``flatten``."""
        for tap, kernel, bias in self._dense:
            rows = rows @ kernel
            rows += bias
            if tap != "logits":
                np.maximum(rows, 0, out=rows)
            yield tap, rows
        if "predictions" in self.spec.taps:
            yield "predictions", _softmax(rows)

    def _images_together(self) -> int:
        """Return how many images may share matrix products, so that the row of each is the same as when it is alone."""
        with self._blas.limit(limits=1, user_api="blas"):
            alike = all(
                _are_alike(layer.kernel[0], range(layer.tiles, layer.block + 1, layer.tiles))
                for layer in self._layers
                if layer.kernel is not None and not layer.is_lower
            )
        return _GROUP if alike else 1

    def _rows_together(self) -> int:
        """Return how many rows may share a product with a dense layer's weights, for the same reason."""
        more = min(_ROWS, -(-self.batch_size // _FEW_ROWS) * _FEW_ROWS)
        return more if all(_are_alike(kernel, (_FEW_ROWS, more)) for _, kernel, _ in self._dense) else _FEW_ROWS


def _are_alike(kernel: Floats, counts: Sequence[int]) -> bool:
    """Whether BLAS computes the same row wherever it stands, in products of so many rows with a kernel.

    Some of OpenBLAS's kernels round differently from row to row.
    """
    rows = np.repeat(kernel[np.newaxis, :, 0], max(counts), axis=0)
    products = [rows[:count] @ kernel for count in counts]
    return all(bool((each == products[0][0]).all()) for each in products)


def _loaded(application: Application, weights: Weights, taps: Collection[str]) -> tuple[list[_Layer], list[_Dense]]:
    """Return the convolutional and pooling layers, and the dense ones, up to the highest of some taps."""
    order = list(application.taps)
    top = max(map(order.index, taps))
    used = [layer for layer in layers_of(application) if order.index(layer.tap) <= top]
    layers: list[_Layer] = []
    size = application.input_size[0]
    with closing(weights_of(application, weights, len(used))) as loaded:
        weighted = dict.fromkeys(layer.tap for layer in used if layer.kind == "conv2d")
        for tap in order[: order.index("flatten")][: top + 1]:
            if tap in weighted:
                kernel, bias = next(loaded)
                layers.append(_Layer(tap, size, len(bias), kernel=winograd.transformed(kernel), bias=bias))
            elif layers[-1].tap in taps:
                layers.append(_Layer(tap, size, layers[-1].channels, pools=True))
            else:  # nobody asks for what is pooled
                layers[-1] = replace(layers[-1], tap=tap, pools=True)
            size = layers[-1].out_size
        names = [layer.tap for layer in used if layer.kind == "dense"]
        dense = [(tap, kernel, bias) for tap, (kernel, bias) in zip(names, loaded, strict=True)]
    return layers, dense


def _processors() -> int:
    """Return how many processors this process may use: a container's share is less than what the kernel shows."""
    from joblib import cpu_count

    return int(cpu_count())


def _name_of(blas: ThreadpoolController) -> str:
    """Return which BLAS NumPy multiplies with, and for which processors the code is that it has chosen."""
    found = [each for each in blas.info() if each["user_api"] == "blas"]
    of_numpy = [each for each in found if "numpy" in each["filepath"]]  # SciPy's wheels bring another
    for each in of_numpy or found:
        return " ".join(str(each[key]) for key in ("internal_api", "version", "architecture") if each.get(key))
    return "unknown"


def _softmax(logits: Floats) -> Floats:
    powers: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers

"""3x3 convolutions by Winograd's minimal filtering, F(4x4, 3x3), with a quarter of the multiplications.

For each tile of 4 x 4 outputs, the 6 x 6 inputs and the 3 x 3 kernel are transformed and multiplied, and the products
are transformed back (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks"): 36 multiplications
instead of 144 for each pair of channels. For all tiles and channels together these are 36 matrix products, which
NumPy's BLAS computes; numba compiles the transformations. The points of the transformation are 0, infinity, and the
square roots of 1/2 and of 2 with both signs; their rounding errors are smaller than those of 1 and 2.

Images are stored with channels last and a border of zeros: (n, side, side, channels) with ``side = padded(size)``.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from featurecache.backbones.protocol import EngineFault
from featurecache.text import in_short

Floats = NDArray[np.float32]

TILE = 4  # height and width of a tile's outputs
FIELD = TILE + 2  # height and width of the inputs that they depend on

_PLACES = 8192  # of a kernel that are transformed together, each for one input and one unit

_NEAR, _FAR = 0.5**0.5, 2**0.5  # the points, without their signs
_HALF, _TWO, _BOTH = (
    np.float32(0.5),
    np.float32(2),
    np.float32(2.5),
)  # the squares of the points, and the sum of the squares
_A, _B = np.float32(_NEAR), np.float32(_FAR)
_A_CUBED, _B_CUBED = np.float32(_NEAR**3), np.float32(_FAR**3)
_ZERO = np.float32(0)


_COMPILED: list[Any] = []


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, and keep the machine code on disk for later processes."""
    try:
        compiled: Callable[..., Any] = njit(function, nogil=True, fastmath={"contract"}, cache=True)
    except RuntimeError:  # there is no folder that numba can write to
        compiled = njit(function, nogil=True, fastmath={"contract"})
    _COMPILED.append(compiled)
    return compiled


def tiles(size: int) -> int:
    """Return how many tiles cover this height or width."""
    return -(-size // TILE)


def padded(size: int) -> int:
    """Return the height or width in memory: whole tiles and the border."""
    return tiles(size) * TILE + 2


def transformed(kernel: Floats) -> Floats:
    """Transform a kernel, shape (3, 3, inputs, units), for `convolve`: shape (36, inputs, units).

    The sums are float64, and made in parts that fit into a processor's cache.
    """
    near, far = 2 * _NEAR**2 * (_NEAR**2 - _FAR**2), 2 * _FAR**2 * (_FAR**2 - _NEAR**2)
    rows = [[1.0, 0, 0]]
    rows += [[1 / scale, p / scale, p * p / scale] for p, scale in ((_NEAR, near), (-_NEAR, near))]
    rows += [[1 / scale, p / scale, p * p / scale] for p, scale in ((_FAR, far), (-_FAR, far))]
    matrix = np.array([*rows, [0, 0, 1]])
    places = kernel.reshape(3, 3, -1)
    products = np.empty((FIELD, FIELD, places.shape[2]), np.float32)
    for first in range(0, places.shape[2], _PLACES):
        part = places[:, :, first : first + _PLACES].astype(np.float64)
        half = (matrix @ part.reshape(3, -1)).reshape(FIELD, *part.shape[1:])
        products[:, :, first : first + _PLACES] = matrix @ half
    return products.reshape(FIELD**2, *kernel.shape[2:])


def zeros(count: int, size: int, channels: int) -> Floats:
    """Return zeroed memory for images; ``size`` is their height and width without the border."""
    return np.zeros((count, padded(size), padded(size), channels), np.float32)


def inside(values: Floats, size: int) -> Floats:
    """Return a view of images without their border, (n, size, size, channels)."""
    return values[:, 1 : size + 1, 1 : size + 1]


def memory(block: int, kernel: Floats) -> tuple[int, int]:
    """Return how many floats `convolve` needs for the inputs of a block, and for its products."""
    inputs, units = kernel.shape[1:]
    return FIELD**2 * block * inputs, FIELD**2 * block * units


def convolve(
    values: Floats,
    size: int,
    kernel: Floats,
    bias: Floats,
    out: Floats,
    *,
    pooled: bool,
    block: int,
    memory: tuple[Floats, Floats],
) -> None:
    """Write the ReLU of a convolution with stride 1 and zero padding; if ``pooled``, the maximum of each 2 x 2 values.

    Parameters
    ----------
    values
        Images, shape (n, padded(size), padded(size), inputs), with a border of zeros.
    size
        Their height and width without border.
    kernel, bias
        Shape (36, inputs, units), from `transformed`, and shape (units,).
    out
        Shape (n, side, side, units) with ``side = padded(size)``, or half the size if ``pooled``; the border stays.
    pooled
        Whether to apply 2 x 2 max pooling.
    block
        Tiles of one matrix product.
    memory
        Two flat arrays, at least as large as `memory` says.
    """
    inputs, units = kernel.shape[1:]
    total = len(values) * tiles(size) ** 2
    for first in range(0, total, block):
        count = min(block, total - first)
        taken, made = (
            buffer[: FIELD**2 * count * channels].reshape(FIELD**2, count, channels)
            for buffer, channels in zip(memory, (inputs, units), strict=True)
        )
        _take_tiles(values, size, first, taken)
        np.matmul(taken, kernel, out=made)
        _put_tiles(made, bias, size, first, out, pooled)


def load() -> None:
    """Load the machine code of `convolve` and `pool`, or compile it if there is none on disk or it cannot be read.

    Other damage is not found: numba keeps no digest of its files.

    Raises
    ------
    EngineFault
        If numba can do neither.
    """
    try:
        _call()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - numba unpickles files, so that a damaged one may raise anything
        try:
            for function in _COMPILED:
                function._cache.flush()
            _call()
        except MemoryError:
            raise
        except Exception as e:
            raise EngineFault(
                f"numba can neither load nor compile its code ({in_short(e)})",
                f"remove the files that end in .nbi in {_COMPILED[0]._cache.cache_path}",
            ) from e


def _call() -> None:
    """Call `convolve` and `pool` with little."""
    kernel = transformed(np.zeros((3, 3, 1, 1), np.float32))
    values, out, half = zeros(1, TILE, 1), zeros(1, TILE, 1), zeros(1, TILE // 2, 1)
    taken, made = memory(1, kernel)
    buffers = (np.empty(taken, np.float32), np.empty(made, np.float32))
    convolve(values, TILE, kernel, np.zeros(1, np.float32), out, pooled=False, block=1, memory=buffers)
    pool(out, TILE, half)


@_compiled
def pool(values: Floats, size: int, out: Floats) -> None:
    """Write the maximum of each 2 x 2 values into images of half the size; both have borders."""
    for image in range(values.shape[0]):
        for row in range(size // 2):
            for column in range(size // 2):
                i, j = 2 * row + 1, 2 * column + 1
                for c in range(values.shape[3]):
                    upper = _larger(values[image, i, j, c], values[image, i, j + 1, c])
                    lower = _larger(values[image, i + 1, j, c], values[image, i + 1, j + 1, c])
                    out[image, row + 1, column + 1, c] = _larger(upper, lower)


@_compiled
def _larger(a: Any, b: Any) -> Any:  # noqa: ANN401 - numba infers it
    return b if a < b or b != b else a  # noqa: PLR0124 - what is not a number stays so  # fmt: skip


@_compiled
def _take_tiles(values: Floats, size: int, first: int, taken: Floats) -> None:
    """Transform the inputs of tiles from number ``first`` on: taken[:, t] is tile ``first + t``."""
    across, channels = (size + TILE - 1) // TILE, values.shape[3]
    half = np.empty((FIELD, FIELD, channels), np.float32)
    for t in range(taken.shape[1]):
        image, place = divmod(first + t, across * across)
        i, j = place // across * TILE, place % across * TILE
        for a in range(FIELD):
            for c in range(channels):
                (half[a, 0, c], half[a, 1, c], half[a, 2, c], half[a, 3, c], half[a, 4, c], half[a, 5, c]) = _taken(
                    values[image, i + a, j, c],
                    values[image, i + a, j + 1, c],
                    values[image, i + a, j + 2, c],
                    values[image, i + a, j + 3, c],
                    values[image, i + a, j + 4, c],
                    values[image, i + a, j + 5, c],
                )
        for b in range(FIELD):
            for c in range(channels):
                (
                    taken[b, t, c],
                    taken[6 + b, t, c],
                    taken[12 + b, t, c],
                    taken[18 + b, t, c],
                    taken[24 + b, t, c],
                    taken[30 + b, t, c],
                ) = _taken(half[0, b, c], half[1, b, c], half[2, b, c], half[3, b, c], half[4, b, c], half[5, b, c])


@_compiled
def _taken(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any) -> Any:  # noqa: ANN401, PLR0917 - numba infers types
    """Transform six inputs in a row: the polynomials that vanish at all points but one."""
    near, near_odd = d4 - _TWO * d2, _A * (d3 - _TWO * d1)
    far, far_odd = d4 - _HALF * d2, _B * (d3 - _HALF * d1)
    return (
        d0 - _BOTH * d2 + d4,
        near + near_odd,
        near - near_odd,
        far + far_odd,
        far - far_odd,
        d1 - _BOTH * d3 + d5,
    )


@_compiled
def _put_tiles(made: Floats, bias: Floats, size: int, first: int, out: Floats, pooled: bool) -> None:  # noqa: FBT001, PLR0917
    """Transform products back, and write the ReLU of the tiles into the images, with pooling if ``pooled``."""
    across, units = (size + TILE - 1) // TILE, made.shape[2]
    half = np.empty((TILE, FIELD, units), np.float32)
    whole = np.empty((TILE, TILE, units), np.float32)
    for t in range(made.shape[1]):
        image, place = divmod(first + t, across * across)
        i, j = place // across * TILE, place % across * TILE
        for b in range(FIELD):
            for c in range(units):
                half[0, b, c], half[1, b, c], half[2, b, c], half[3, b, c] = _made(
                    made[b, t, c],
                    made[6 + b, t, c],
                    made[12 + b, t, c],
                    made[18 + b, t, c],
                    made[24 + b, t, c],
                    made[30 + b, t, c],
                )
        for a in range(TILE):
            for c in range(units):
                whole[a, 0, c], whole[a, 1, c], whole[a, 2, c], whole[a, 3, c] = _made(
                    half[a, 0, c], half[a, 1, c], half[a, 2, c], half[a, 3, c], half[a, 4, c], half[a, 5, c]
                )
        if pooled:
            _place_pooled(whole, bias, size, out, image, i, j)
        else:
            _place(whole, bias, size, out, image, i, j)


@_compiled
def _place(whole: Floats, bias: Floats, size: int, out: Floats, image: int, i: int, j: int) -> None:  # noqa: PLR0917
    """Write the part of a tile that lies in the image; its first output is (i, j)."""
    for a in range(min(TILE, size - i)):
        for b in range(min(TILE, size - j)):
            for c in range(whole.shape[2]):
                out[image, i + a + 1, j + b + 1, c] = _relu(whole[a, b, c] + bias[c])


@_compiled
def _place_pooled(whole: Floats, bias: Floats, size: int, out: Floats, image: int, i: int, j: int) -> None:  # noqa: PLR0917
    """Write the maximum of each 2 x 2 values of a tile."""
    for a in range(min(TILE, size - i) // 2):
        for b in range(min(TILE, size - j) // 2):
            for c in range(whole.shape[2]):
                upper = _larger(whole[2 * a, 2 * b, c], whole[2 * a, 2 * b + 1, c])
                lower = _larger(whole[2 * a + 1, 2 * b, c], whole[2 * a + 1, 2 * b + 1, c])
                out[image, i // 2 + a + 1, j // 2 + b + 1, c] = _relu(_larger(upper, lower) + bias[c])


@_compiled
def _relu(value: Any) -> Any:  # noqa: ANN401 - numba infers it
    return _ZERO if value < _ZERO else value  # keeps NaN


@_compiled
def _made(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> Any:  # noqa: ANN401, PLR0917 - numba infers types
    """Transform six products in a row back: the sums of powers of the points."""
    near, near_odd = m1 + m2, m1 - m2
    far, far_odd = m3 + m4, m3 - m4
    return (
        m0 + near + far,
        _A * near_odd + _B * far_odd,
        _HALF * near + _TWO * far,
        _A_CUBED * near_odd + _B_CUBED * far_odd + m5,
    )

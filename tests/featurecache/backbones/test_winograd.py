"""Winograd's convolutions beside the sum of products, in double precision."""

import numpy as np
import pytest

from featurecache.backbones import winograd

TOLERANCE = 5e-6  # of the largest value


def convolved(images, kernel, bias):
    """Return the ReLU of a convolution, term by term."""
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    size = images.shape[1]
    terms = (
        padded[:, i : i + size, j : j + size] @ kernel[i, j].astype(np.float64) for i in range(3) for j in range(3)
    )
    return np.maximum(sum(terms) + bias, 0)


def pooled(values):
    """Return the largest of each 2 x 2 values."""
    n, size, _, channels = values.shape
    return values.reshape(n, size // 2, 2, size // 2, 2, channels).max(axis=(2, 4))


def bordered(images):
    values = winograd.zeros(len(images), images.shape[1], images.shape[3])
    winograd.inside(values, images.shape[1])[:] = images
    return values


def drawn(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def run(images, kernel, bias, *, pools=False, block=7):
    """Return what `winograd.convolve` makes of images, and the whole of its memory for it."""
    size, transformed = images.shape[1], winograd.transformed(kernel)
    out = winograd.zeros(len(images), size // 2 if pools else size, kernel.shape[3])
    memory = tuple(np.full(n, np.nan, np.float32) for n in winograd.memory(block, transformed))
    winograd.convolve(bordered(images), size, transformed, bias, out, pooled=pools, block=block, memory=memory)
    return winograd.inside(out, size // 2 if pools else size), out


@pytest.mark.parametrize("size", [1, 2, 4, 5, 7, 8, 14, 19])
@pytest.mark.parametrize(("inputs", "units"), [(3, 16), (20, 5)])
def test_it_is_the_sum_of_products(size, inputs, units):
    images, kernel, bias = drawn((3, size, size, inputs)), drawn((3, 3, inputs, units), 1), drawn(units, 2)
    found, _ = run(images, kernel, bias)
    expected = convolved(images, kernel, bias)
    assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("size", [2, 4, 6, 14, 16])
def test_pooled_at_once_it_is_what_it_is_pooled_afterwards_to_the_byte(size):
    images, kernel, bias = drawn((2, size, size, 8)), drawn((3, 3, 8, 16), 1), drawn(16, 2)
    whole, memory = run(images, kernel, bias)
    after = winograd.zeros(2, size // 2, 16)
    winograd.pool(memory, size, after)
    found, _ = run(images, kernel, bias, pools=True)
    np.testing.assert_array_equal(found, pooled(whole))
    np.testing.assert_array_equal(found, winograd.inside(after, size // 2))


@pytest.mark.parametrize("pools", [False, True])
def test_the_border_and_what_fills_up_the_last_tiles_stay_zero(pools):
    _, memory = run(drawn((2, 14, 14, 4)), drawn((3, 3, 4, 4), 1), np.ones(4, np.float32), pools=pools)
    size = 7 if pools else 14
    winograd.inside(memory, size)[:] = 0
    assert not memory.any()


def test_blocks_of_any_size_give_nearly_the_same():
    images, kernel, bias = drawn((2, 16, 16, 6)), drawn((3, 3, 6, 8), 1), drawn(8, 2)
    one, all_at_once = (run(images, kernel, bias, block=block)[0] for block in (1, 32))
    np.testing.assert_allclose(one, all_at_once, rtol=1e-4, atol=1e-5)


def test_what_is_not_a_number_stays_so():
    kernel = drawn((3, 3, 4, 4))
    kernel[1, 1, 0, 2] = np.nan
    for pools in (False, True):
        found, _ = run(drawn((1, 8, 8, 4), 1), kernel, np.zeros(4, np.float32), pools=pools)
        assert np.isnan(found[..., 2]).all()
        assert np.isfinite(found[..., [0, 1, 3]]).all()


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_pooling_keeps_what_is_not_a_number_wherever_it_stands(place):
    values = bordered(np.ones((1, 2, 2, 1), np.float32))
    winograd.inside(values, 2)[0][place] = np.nan
    out = winograd.zeros(1, 1, 1)
    winograd.pool(values, 2, out)
    assert np.isnan(winograd.inside(out, 1)).all()


def test_without_a_folder_for_machine_code_it_is_compiled_every_time(run_python):
    program = """
import numba.core.caching
import numpy as np
numba.core.caching.CacheImpl._locator_classes = []
from featurecache.backbones import winograd
out = winograd.zeros(1, 1, 1)
winograd.pool(np.ones((1, 6, 6, 1), np.float32), 2, out)
print(out.sum())
"""
    done = run_python(program)
    assert (done.stdout.strip(), done.stderr) == ("1.0", "")


def test_kernels_of_any_number_of_places_are_transformed_as_one():
    kernel = drawn((3, 3, 130, 70))  # more than fit into one part, and no multiple of it
    assert kernel[0, 0].size > winograd._PLACES
    whole = winograd.transformed(kernel)
    for inputs, units in ((slice(0, 1), slice(0, 1)), (slice(129, 130), slice(69, 70)), (slice(50, 80), slice(None))):
        np.testing.assert_array_equal(whole[:, inputs, units], winograd.transformed(kernel[:, :, inputs, units]))


LOAD = """
from featurecache.backbones import winograd
winograd._call = lambda: winograd.pool(winograd.zeros(1, 2, 1), 2, winograd.zeros(1, 1, 1))  # all takes long
winograd.load()
print(sum(sum(function.stats.cache_misses.values()) for function in winograd._COMPILED))
"""


@pytest.mark.slow
def test_damaged_machine_code_is_compiled_again(run_python, tmp_path):
    code = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first = run_python(LOAD, **code)
    assert int(first.stdout) > 0, first.stderr
    indices, files = sorted(tmp_path.rglob("*.nbi")), sorted(tmp_path.rglob("*.nbc"))
    indices[0].write_bytes(b"garbage\n")
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    again = run_python(LOAD, **code)
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
    last = run_python(LOAD, **code)
    assert (last.stdout, last.stderr) == ("0\n", "")

"""The picture of filters: its grid, its colours, and what is left grey."""

import numpy as np
import pytest

from heads import figures
from heads.figures.filters import as_colours, grid_shape, is_live


@pytest.fixture
def drawn():
    return np.random.default_rng(0).normal(size=(3, 3, 3, 32)).astype(np.float32)


def pictures(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


@pytest.mark.parametrize(
    ("count", "shape"), [(64, (8, 8)), (32, (4, 8)), (96, (8, 12)), (1, (1, 1)), (2, (1, 2)), (7, (3, 3)), (13, (4, 4))]
)
def test_a_grid_has_a_place_for_each_filter_and_a_fair_shape(count, shape):
    assert grid_shape(count) == shape


@pytest.mark.parametrize(("count", "rows", "columns"), [(64, 8, 8), (32, 4, 8)])
def test_cells_of_equal_size_stand_in_the_grid_with_white_between_them(count, rows, columns):
    (picture,) = pictures(figures.filter_grid({"a": np.ones((3, 3, 3, count))}))
    height, width, _ = picture.shape
    assert (height + 3) % rows == (width + 3) % columns == 0
    assert (height + 3) // rows == (width + 3) // columns == 27
    # where weights are all the largest there is, only what lies between filters is also white: so use the negative
    (picture,) = pictures(figures.filter_grid({"a": -np.ones((3, 3, 3, count))}))
    assert np.count_nonzero((picture == 0).all(axis=2)) == count * 24 * 24
    assert (picture[24:27] == 1).all()
    assert (picture[:, 24:27] == 1).all()


def test_every_filter_is_where_it_belongs_with_all_its_weights(drawn):
    (picture,) = pictures(figures.filter_grid({"a": drawn}))
    colours = 0.5 + drawn / (2 * np.abs(drawn).max(axis=(0, 1, 2)))
    for number in range(32):
        top, left = 27 * (number // 8), 27 * (number % 8)
        cell = picture[top : top + 24, left : left + 24]
        np.testing.assert_allclose(cell[4::8, 4::8], colours[..., number], atol=1e-6)
        np.testing.assert_array_equal(cell, cell[::8, ::8].repeat(8, 0).repeat(8, 1))


def test_a_weight_of_0_is_grey_and_the_largest_is_full_or_none_of_its_colour():
    filters = np.zeros((1, 1, 3, 2))
    filters[0, 0, :, 0] = (4, 0, -2)
    filters[0, 0, :, 1] = (0, -0.1, 0)
    np.testing.assert_allclose(as_colours(filters)[0, 0].T, [[1, 0.5, 0.25], [0.5, 0, 0.5]])


def test_filters_have_scales_of_their_own(drawn):
    stronger = drawn * np.where(np.arange(32) % 2, 100, 1)
    np.testing.assert_allclose(as_colours(stronger), as_colours(drawn), atol=1e-6)


def test_filters_without_weight_are_grey(drawn):
    drawn[..., 5] = 0
    drawn[..., 6] *= 1e-5
    assert np.flatnonzero(~is_live(drawn)).tolist() == [5, 6]
    assert np.abs(as_colours(drawn)[..., 5:7] - 0.5).max() == 0
    assert "32 of them, 30 not grey" in figures.filter_grid({"a": drawn}).alt


def test_nothing_but_zeros_is_grey():
    assert (as_colours(np.zeros((3, 3, 3, 4))) == 0.5).all()


def test_sets_stand_side_by_side_below_their_names(drawn):
    figure = figures.filter_grid({"learned $1$": drawn, "random": drawn[..., :16]})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["learned $1$", "random"]
    assert [picture.shape[0] for picture in pictures(figure)] == [4 * 27 - 3, 4 * 27 - 3]

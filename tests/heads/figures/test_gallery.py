"""The picture of galleries: which images stand where, what stands below them, and what stands in for a missing one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.images.sources import FolderSource
from heads import Originals, figures
from heads.evaluation import galleries
from heads.evaluation.predictions import PredictionsTable
from heads.figures.style import BLUE, VERMILION

COLOURS = {"a.png": (200, 10, 10), "b.png": (10, 200, 10), "c.png": (10, 10, 200), "d.png": (90, 90, 90)}


@pytest.fixture
def originals(tmp_path):
    """Images of one colour each: a is 40 wide and 20 high, all others are squares."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 20 if name == "a.png" else 40), colour).save(folder / name)
    return Originals.from_cache(extract(folder, tmp_path / "c.h5", backbone=FakeBackbone()))


@pytest.fixture
def table():
    """Cats a and b, dogs c and d; b and c are wrong."""
    return PredictionsTable(
        np.array(list(COLOURS), dtype=object),
        np.array(["valid"] * 4, dtype=object),
        np.array([0, 0, 1, 1]),
        np.array([[0.9, 0.1], [0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]),
        ("cats", "dogs"),
    )


def drawn(figure):
    """Return the mean colour of each picture, in order."""
    images = [axes.images[0] for axes in figure.axes if axes.images]
    return [tuple(np.asarray(image.get_array()).reshape(-1, 3).mean(axis=0).round().astype(int)) for image in images]


def written(figure):
    return [text for axes in figure.axes for text in axes.texts]


def close(found, names):
    np.testing.assert_allclose(found, [COLOURS[name] for name in names], atol=3)  # JPEG


def test_images_stand_in_the_order_of_the_choice_below_its_title(table, originals):
    choice = galleries.Choice("x", "Some of them", "", (3, 0, 1))
    figure = figures.gallery(table, [choice], originals)
    close(drawn(figure), ["d.png", "a.png", "b.png"])
    assert figure.axes[0].get_title(loc="left") == "Some of them"
    assert figure.alt == "3 images: Some of them (3)."


def test_below_an_image_stands_what_was_predicted_and_what_it_is_if_that_is_wrong(table, originals):
    figure = figures.gallery(table, [galleries.Choice("x", "x", "", (0, 1, 2, 3))], originals)
    assert [text.get_text() for text in written(figure)] == [
        "cats: 0.900",
        "dogs: 0.750\nlabelled cats",
        "cats: 0.500\nlabelled dogs",
        "dogs: 1.000",
    ]
    assert [text.get_color() for text in written(figure)] == [BLUE, VERMILION, VERMILION, BLUE]


def test_an_image_without_a_label_is_neither_right_nor_wrong(table, originals):
    table.true[1] = -1
    figure = figures.gallery(table, [galleries.Choice("x", "x", "", (1,))], originals)
    assert [text.get_text() for text in written(figure)] == ["dogs: 0.750"]


def test_images_keep_their_shape(table, originals):
    figure = figures.gallery(table, [galleries.Choice("x", "x", "", (0, 1))], originals)
    wide, square = (axes.images[0].get_extent() for axes in figure.axes)
    assert tuple(wide) == (0, 1, 0, 0.5)
    assert tuple(square) == (0, 1, 0, 1)
    assert {axes.get_aspect() for axes in figure.axes} == {1.0}


def test_lines_hold_six_images_and_each_choice_begins_a_line(make_table):
    table = make_table([0] * 20, [[1.0, 0.0]] * 20)
    choices = [galleries.Choice("x", "first", "", tuple(range(8))), galleries.Choice("y", "second", "", (9, 10))]
    figure = figures.gallery(table, choices, None)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == 3 * 6
    assert [titles[0], titles[6], titles[12]] == ["first", " ", "second"]
    names = [[text.get_text() for text in axes.texts][:1] for axes in figure.axes]
    assert names[6:9] == [["000006.jpg"], ["000007.jpg"], []]
    assert names[12:15] == [["000009.jpg"], ["000010.jpg"], []]


def test_in_the_place_of_a_missing_image_stand_its_name_and_why(table, originals, tmp_path):
    (tmp_path / "photos" / "a.png").unlink()
    figure = figures.gallery(table, [galleries.Choice("x", "x", "", (0, 1))], originals)
    close(drawn(figure), ["b.png"])
    assert written(figure)[0].get_text() == "a.png\nthe file is not\nthere"
    gone = Originals(FolderSource(Path("/nowhere")), originals.sha256)
    assert drawn(figures.gallery(table, [galleries.Choice("x", "x", "", (0, 1))], gone)) == []


def test_choices_without_images_have_no_line_and_nothing_at_all_is_said(table, originals):
    none = galleries.Choice("x", "Most incorrect: cats", "", ())
    figure = figures.gallery(table, [none, galleries.Choice("y", "y", "", (0,))], originals)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["y"]
    assert figures.gallery(table, [none], originals).alt == "Most incorrect: cats: no images."
    assert figures.gallery(table, [], originals).alt == "Chosen: no images."


def test_no_name_breaks_the_picture(hostile_table, tmp_path):
    figure = figures.gallery(hostile_table, galleries.choose(hostile_table, count=3), None)
    figure.savefig(tmp_path / "g.png")
    assert all("\x00" not in text.get_text() for text in written(figure))

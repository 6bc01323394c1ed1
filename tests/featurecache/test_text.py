"""Text from strangers is safe to show, and counts and lists read as English."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.text import counted, did_you_mean, in_short, listed, printable, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cats/cat 1.jpg", "cats/cat 1.jpg"),
        ("Füße/猫.jpg", "Füße/猫.jpg"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),  # the same in one byte
        ("\u202egpj.exe", "\\u202egpj.exe"),  # reverses the direction of text
        ("\udcff.jpg", "\\udcff.jpg"),  # an undecodable byte
        ("\x07\x00", "\\x07\\x00"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    assert shown.isprintable()


def test_what_keras_adds_to_an_error_is_left_out():
    said = "Wrong call.\n\n\x1b[1mToo small.\x1b[0m\n\nArguments received by Conv2D.call():\n  • x"
    assert in_short(ValueError(said)) == "Wrong call. Too small."


@given(st.text())
def test_visible_differs_from_printable_by_typographic_spaces_only(text):
    assert printable(text).isprintable()
    spaces = "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}"
    assert visible(f"{text}{spaces}") == visible(text) + spaces
    assert visible(text.translate(dict.fromkeys(map(ord, spaces)))) == printable(
        text.translate(dict.fromkeys(map(ord, spaces)))
    )


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1000, "1,000 rows"), (2500000, "2,500,000 rows")]
)
def test_counted(count, text):
    assert counted(count, "row") == text


def test_five_names_are_listed_and_the_others_are_counted():
    assert listed([]) == ""
    assert listed(iter("cba")) == "'a', 'b', 'c'"
    assert listed(iter("edcba"), sort=False) == "'e', 'd', 'c', 'b', 'a'"
    assert listed("abcdef") == "'a', 'b', 'c', 'd', 'e' and 1 more"
    assert listed(["a"] * 1006, quoted=False) == "a, a, a, a, a and 1,001 more"


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("MobileNetV2", ["mobilenet", "mobilenet_v2", "efficientnet_b0"], "mobilenet_v2"),
        ("VGG-16", ["vgg16", "vgg19"], "vgg16"),
        ("EfficientNet B0", ["efficientnet_b0"], "efficientnet_b0"),
        ("AvgPool", ["avg_pool", "predictions"], "avg_pool"),
        ("Naive-Bayes", ["naive_bayes", "majority"], "naive_bayes"),
        ("N_Neighbors", ["n_neighbors", "metric"], "n_neighbors"),
        ("TRAIN", ["train", "valid", "test"], "train"),
        ("resnet5O", ["resnet50", "vgg16"], "resnet50"),
    ],
)
def test_a_hint_ignores_case_blanks_underscores_and_hyphens(name, known, meant):
    assert did_you_mean(name, known) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize(("name", "known"), [("dog", ["mobilenet"]), ("", ["vgg16"]), ("x", [])])
def test_there_is_no_hint_without_a_similar_name(name, known):
    assert did_you_mean(name, known) == ""

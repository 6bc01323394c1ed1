"""Names of classes: their order, what is one class, and what is hardly one."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.errors import ManifestError
from featurecache.images.classes import class_warnings, numbers_are_sorted_as_text, ordered, same_classes
from featurecache.images.splits import split_named

NFC, NFD = "caf\u00e9", "cafe\u0301"


def codes(*classes):
    return [warning.code for warning in class_warnings(classes)]


@pytest.mark.parametrize(
    "name",
    [
        "nan",
        "NaN",
        "None",
        "null",
        "N/A",
        "#N/A",
        "<NA>",
        "-1",
        "?",
        " nan ",
        "Unlabelled",
        "(null)",
        "n.a.",
        "-999",
        "_",
    ],
)
def test_placeholders_are_suspicious(name):
    (warning,) = class_warnings(["cat", name])
    assert warning.code == "suspicious_class"
    assert repr(name) in warning.message
    assert "leave the label empty" in warning.message


def test_names_of_several_labels_are_hardly_classes():
    (warning,) = class_warnings(["cat", "cat|indoors", "|"])
    assert warning.code == "suspicious_class"
    assert "'cat|indoors', '|'" in warning.message
    assert "train with --target labels" in warning.message


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("0.5", "1", "-2.25", "1e-3"), ["suspicious_class"]),
        (("0.5", "1", "cat"), []),
        (("1", "2", "10"), []),
        (("v1.5", "v2.0"), []),
        ((), []),
    ],
)
def test_numbers_that_are_not_whole_are_hardly_classes(names, expected):
    warnings = list(class_warnings(names))
    assert [warning.code for warning in warnings] == expected
    assert all("train with --target number" in warning.message for warning in warnings)


@pytest.mark.parametrize("name", ["test", "Training", "val", "hold-out"])
def test_names_of_splits_are_suspicious(name):
    assert codes("cat", name) == ["suspicious_class"]


@pytest.mark.parametrize(
    "names", [("Public-Test", "train_1"), ("images_train", "images_val"), ("PublicTest", "PrivateTrain", "cat")]
)
def test_names_with_words_for_several_splits_are_suspicious(names):
    (warning,) = class_warnings(names)
    assert warning.code == "suspicious_class"
    assert "names of splits" in warning.message


@pytest.mark.parametrize(
    "names",
    [
        ("road test", "crash test"),
        ("cat", "dog"),
        ("banana", "nanny", "1", "0"),
        ("natural", "testament", "no", "none of these"),
    ],
)
def test_other_names_are_not_suspicious(names):
    assert codes(*names) == []


@pytest.mark.parametrize(
    "names",
    [
        ("Red", "red"),
        ("a b", "a  b"),
        ("a b", "a\u00a0b"),
        ("ab", "a\u200bb"),
        ("\ufb01sh", "fish"),
        ("STRASSE", "Straße"),
    ],
)
def test_names_that_look_alike_are_said(names):
    (warning,) = class_warnings(names)
    assert warning.code == "similar_classes"
    assert warning.message.isprintable()


def test_names_that_cannot_be_told_apart_are_written_with_escapes():
    (warning,) = class_warnings(["ab", "a\u200bb"])
    assert r"'a\u200bb'" in warning.message


def test_names_that_differ_in_unicode_form_or_outer_blanks_are_one_class():
    assert same_classes([NFC, NFD, "red", "red ", "Red"]) == {NFC: NFC, NFD: NFC, "red": "red", "red ": "red"}


def test_such_a_name_on_its_own_stays_as_it_is():
    assert same_classes([NFD, " red", "blue"]) == {}
    assert unicodedata.normalize("NFC", NFD) == NFC


@pytest.mark.parametrize(
    ("order", "classes"),
    [("name", ("-1", "1", "10", "2", "a10", "a9")), ("natural", ("-1", "1", "2", "10", "a9", "a10"))],
)
def test_orders(order, classes):
    assert ordered({"10", "2", "1", "-1", "a10", "a9"}, order) == classes


@given(st.sets(st.text(max_size=5)))
def test_every_order_has_each_class_once(names):
    assert sorted(ordered(names, "natural")) == sorted(names) == list(ordered(names, "name"))


def test_an_order_from_a_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\ufeff cat \r\n\r\nnever seen\r\ndog\r\nant\r\n", encoding="utf-8")
    assert ordered({"ant", "dog", "cat"}, str(path)) == ("cat", "dog", "ant")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog\n", "lacks 'cat'; add one line for each class"),
        ("cat\ndog\ncat\n", "has 'cat' twice"),
        (None, r"cannot be read: no such file or directory; expected name, natural, or a text file"),
    ],
)
def test_orders_that_cannot_be(tmp_path, text, message):
    path = tmp_path / "classes.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ManifestError, match=message):
        ordered({"cat", "dog"}, str(path))


@pytest.mark.parametrize(
    ("known", "names", "classes"),
    [
        ((), ("10", "2"), ("10", "2")),
        (("10", "2"), ("1", "10", "2"), ("1", "10", "2")),
        (("2", "10"), ("10", "2", "3"), ("2", "3", "10")),
        (("dog", "cat"), ("ant", "cat", "dog"), ("dog", "cat", "ant")),
        (("dog", "cat", "ant"), ("cat", "dog"), ("dog", "cat")),
    ],
)
def test_a_known_order_goes_on(known, names, classes):
    assert ordered(names, None, known) == classes


@pytest.mark.parametrize(
    ("classes", "are"),
    [
        (("1", "10", "2"), True),
        (("class1", "class10", "class2"), True),
        (("1", "2", "10"), False),
        (("1", "2", "3"), False),
        (("a10", "b2"), False),
        ((), False),
    ],
)
def test_numbers_that_are_sorted_as_text_are_noticed(classes, are):
    assert numbers_are_sorted_as_text(classes) is are


@pytest.mark.parametrize(("name", "split"), [("训练集", "train"), ("验证 集", "valid"), ("测试", "test"), ("集", None)])
def test_chinese_names_of_splits_are_known(name, split):
    assert split_named(name) == split


@pytest.mark.parametrize("name", ["train2017", "01_train", "2-Training set"])
def test_numbers_around_the_name_of_a_split_do_not_count(name):
    assert split_named(name) == "train"


@pytest.mark.parametrize("name", ["train20170", "trains", "2017", "01", "train1x"])
def test_other_names_with_numbers_are_no_splits(name):
    assert split_named(name) is None


@pytest.mark.parametrize("names", [("10_dog", "1_cat", "2_bird"), ("1", "10", "2", "other"), ("c1", "c10", "c2")])
def test_names_with_numbers_are_sorted_as_text_or_by_value(names):
    assert numbers_are_sorted_as_text(sorted(names))
    assert not numbers_are_sorted_as_text(ordered(set(names), "natural"))

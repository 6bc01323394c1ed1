"""Names of classes read as several labels, or as numbers."""

import numpy as np
import pytest
from sklearn.preprocessing import MultiLabelBinarizer

from featurecache import join_flags, read_labels
from featurecache.errors import ManifestError, UnknownNameError
from featurecache.targets import is_labelled, read_targets, require_target


def test_several_labels_are_those_of_scikit_learn():
    classes = ["indoors|dog", "dog", "|", " cat | dog ", "night"]
    y = np.array([3, 0, -1, 2, 1, 0])
    values = read_targets("labels", y, classes)
    sets = [{"cat", "dog"}, {"indoors", "dog"}, set(), {"dog"}, {"indoors", "dog"}]
    binarizer = MultiLabelBinarizer()
    expected = binarizer.fit_transform(sets)
    assert values.names == tuple(binarizer.classes_), "a label that no row has is none"
    np.testing.assert_array_equal(values.y[y >= 0], expected)
    assert (values.y[2] == -1).all()
    assert is_labelled("labels", values.y).tolist() == [True, True, False, True, True, True]


def test_numbers_are_those_of_python():
    texts = ["1e3", "-2.5", "7", " 0.1 "]
    values = read_targets("number", np.array([0, 3, -1, 2, 1]), texts)
    np.testing.assert_array_equal(values.y, [1000.0, 0.1, np.nan, 7.0, -2.5])
    assert values.names == ()
    assert is_labelled("number", values.y).tolist() == [True, True, False, True, True]


def test_a_name_in_two_forms_of_unicode_is_one_label():
    values = read_targets("labels", np.array([0, 1]), ["caf\u00e9|x", "cafe\u0301"])
    assert len(values.names) == 2
    assert values.y[:, [name != "x" for name in values.names]].tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("target", "classes", "message"),
    [
        ("labels", ["a|", "b"], "1 of 2 different texts of labels name an empty label: 'a|'"),
        ("labels", ["a||b", "|a", "b"], "2 of 3 different texts"),
        ("labels", ["a|b|a", "b"], "the labels 'a|b|a' name a label twice"),
        ("labels", ["|", "|"], "no row has any of several labels"),
        ("number", ["1", "two"], "1 of 2 labels are no numbers from -1e100 to 1e100: 'two'; give a column of numbers"),
        ("number", ["1", "-1e200"], "1 of 2 labels are no numbers from -1e100 to 1e100: '-1e200'"),
        ("number", ["nan", "inf"], "2 of 2 labels are no numbers from -1e100 to 1e100: 'nan', 'inf'"),
    ],
)
def test_texts_that_are_no_targets(target, classes, message):
    with pytest.raises(ManifestError) as raised:
        read_targets(target, np.arange(2), classes)
    assert message in str(raised.value)


def test_classes_are_left_as_they_are():
    y = np.array([1, -1, 0])
    values = read_targets("class", y, ["a|b", "2"])
    assert values.names == ("a|b", "2")
    assert values.y is y


def test_rows_of_which_none_has_a_label_have_no_names():
    values = read_targets("labels", np.array([-1, -1]), ["a|b"])
    assert values.names == ()
    assert not is_labelled("labels", values.y).any()


def test_the_largest_number():
    assert read_targets("number", np.array([0, 1]), ["1e100", "-1e100"]).y.tolist() == [1e100, -1e100]


def test_a_text_that_no_row_has_is_not_read():
    assert read_targets("number", np.array([0]), ["1", "two"]).y.tolist() == [1.0]


def test_an_unknown_target():
    with pytest.raises(UnknownNameError, match=r"unknown target 'numbers'; did you mean 'number'"):
        require_target("numbers")


def test_columns_of_flags_become_texts_that_are_read_as_labels():
    columns = {"dog": ["1", "0", "", "TRUE"], "night": ["no", "0.0", " ", "yes"]}
    texts = join_flags(columns)
    assert texts.tolist() == ["dog", "|", "", "dog|night"]
    classes = sorted(set(texts) - {""})
    y = np.array([classes.index(text) if text else -1 for text in texts])
    assert read_targets("labels", y, classes).y.tolist() == [[1, 0], [0, 0], [-1, -1], [1, 1]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"dog": ["2"], "night": ["1"]}, "the column dog has '2', expected 1 or 0"),
        ({"dog": ["1"], "night": [""]}, "the column night has '', expected 1 or 0 for every label of an image"),
        ({"dog|cat": ["1"], "night": ["1"]}, "the label 'dog|cat' has '|' in its name"),
    ],
)
def test_columns_that_are_no_flags(columns, message):
    with pytest.raises(ManifestError) as raised:
        join_flags(columns)
    assert message in str(raised.value)


def test_a_table_of_flags(tmp_path):
    table = tmp_path / "tags.csv"
    table.write_text("path,dog,Night,weight\na.png,1,0,3\nb.png,0,0,4\nc.png,,,5\n")
    labels = read_labels(table, "dog, Night")
    assert labels == {"a.png": "dog", "b.png": "|", "c.png": None}
    assert labels.columns == {"weight": ("3", "4", "5")}
    with pytest.raises(ManifestError, match=r"has 0 columns 'cat', expected one"):
        read_labels(table, "dog,cat")
    table.write_text("path,dog,night\na.png,1,0\nb.png,maybe,0\n")
    with pytest.raises(ManifestError, match=r"tags.csv, line 3: the column dog has 'maybe'"):
        read_labels(table, "dog,night")

"""Tables of labels, and a cache that is seen with other labels."""

import hashlib
import pickle

import numpy as np
import pytest

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, OptionError, UnknownNameError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("labels")
    for number in range(12):
        path = folder / "images" / ("cats", "dogs")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * number, 10, 80)).save(path)
    return featurecache.extract(folder / "images", folder / "c.h5", backbone=FakeBackbone())


def written(folder, text, name="labels.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,label\na.png,cat\n", {"a.png": "cat"}),
        ("\ufeffLabel , Path\ncat,./x//a.png\n", {"x/a.png": "cat"}),
        ('path,label\n"a, b.png"," white cat "\n', {"a, b.png": "white cat"}),
        ("path,label,note\na.png,,looked at\nb.png,cat,\n", {"a.png": None, "b.png": "cat"}),
        ("path,label\r\na.png,cat\r\n\r\na.png,cat\r\n", {"a.png": "cat"}),
        ("path,label\n", {}),
        ("sha256,label\n 0AB1 ,cat\n", {"0ab1": "cat"}),
        ("sha256,path,label\n0ab1,a.png,cat\n", {"a.png": "cat"}),
    ],
)
def test_labels_are_read(tmp_path, text, expected):
    assert featurecache.read_labels(written(tmp_path, text)) == expected


def test_another_column_and_tabs(tmp_path):
    table = written(tmp_path, "path\tlabel\tColour\na.png\tcat\tblack\n", "labels.tsv")
    assert featurecache.read_labels(table, "colour") == {"a.png": "black"}


def test_the_column_that_names_the_image_can_be_chosen(tmp_path):
    table = written(tmp_path, "path,sha256,label\na.png,0ab1,cat\n")
    assert featurecache.read_labels(table, key="sha256") == {"0ab1": "cat"}
    with pytest.raises(ManifestError, match="0 columns 'path'"):
        featurecache.read_labels(written(tmp_path, "sha256,label\n"), key="path")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "0 columns 'path'"),
        ("path\na.png\n", "0 columns 'label', expected one; found 'path'"),
        ("file,label\na.png,cat\n", "0 columns 'path'"),
        ("path,label,label\na.png,cat,dog\n", "2 columns 'label'"),
        ("path,label\na.png\n", "line 2: 1 fields, but the header has 2"),
        ("path,label\na.png,cat\n./a.png,dog\n", "line 3: path 'a.png' has the labels 'cat' and 'dog'"),
        (b"path,label\na.png,\xff\n", "not UTF-8 in line 2"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(ManifestError, match=words) as caught:
        featurecache.read_labels(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ManifestError, match="no such file"):
        featurecache.read_labels(tmp_path / "none.csv")


def test_labels_change_and_nothing_else_does(cache):
    before = cache.path.read_bytes()
    labels = {"cats/00.png": "ant", "dogs/01.png": None, "dogs/03.png": "cats", "elsewhere.png": "bee"}
    changed = cache.with_labels(labels)
    ours, theirs = cache.features("features"), changed.features("features")

    assert changed.classes == ("ant", "cats", "dogs")
    names = [None if index < 0 else changed.classes[index] for index in theirs.y]
    expected = {path: path.split("/")[0] for path in ours.paths} | labels
    assert names == [expected[path] for path in ours.paths]
    assert changed.class_counts == {"ant": 1, "cats": 6, "dogs": 4}
    assert np.array_equal(ours.X, theirs.X)
    assert ours.paths.tolist() == theirs.paths.tolist()
    assert changed.recipe == cache.recipe
    assert (cache.classes, cache.class_counts) == (("cats", "dogs"), {"cats": 6, "dogs": 6})
    assert cache.path.read_bytes() == before


def test_a_class_without_rows_is_gone(cache):
    labels = dict.fromkeys(cache.features("features").paths, "dogs")
    assert cache.with_labels(labels).classes == ("dogs",)
    assert cache.with_labels(dict.fromkeys(labels)).classes == ()


def test_a_class_is_one_whatever_its_form(cache):
    changed = cache.with_labels({"cats/00.png": "caf\u00e9", "cats/02.png": "cafe\u0301 "})
    assert changed.class_counts == {"caf\u00e9": 2, "cats": 4, "dogs": 6}


def test_classes_keep_their_order(tmp_path, cache):
    (tmp_path / "order.txt").write_text("dogs\ncats\n")
    ordered = featurecache.extract(
        cache.made_by.images, tmp_path / "o.h5", backbone=FakeBackbone(), class_order=str(tmp_path / "order.txt")
    )
    assert ordered.with_labels({"cats/00.png": "ant"}).classes == ("dogs", "cats", "ant")


def test_a_cache_with_labels_is_pickled_with_them(cache):
    changed = cache.with_labels({"cats/00.png": "ant"}).with_labels({"cats/02.png": None})
    again = pickle.loads(pickle.dumps(changed))  # noqa: S301 - our own
    assert again.class_counts == changed.class_counts == {"ant": 1, "cats": 4, "dogs": 6}


def test_contents_give_labels_to_every_row_that_has_them(tmp_path):
    from PIL import Image

    for name in ("a", "b", "c"):
        Image.new("RGB", (32, 32), (10 * (name == "c"), 0, 0)).save(tmp_path / f"{name}.png")
    cache = featurecache.extract(tmp_path, tmp_path / "c.h5", backbone=FakeBackbone())
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    changed = cache.with_labels({digest: "black", "b.png": "night", "0" * 64: "none"})
    rows = changed.features("features")
    assert [*rows.paths] == ["a.png", "b.png", "c.png"]
    assert [changed.classes[label] for label in rows.y[:2]] == ["black", "night"]
    assert rows.y[2] == -1
    assert changed.given_labels == {"a.png": "black", "b.png": "night", "0" * 64: "none"}

    again = changed.with_labels({digest: "dark"})
    assert again.class_counts == pickle.loads(pickle.dumps(again)).class_counts == {"dark": 2}  # noqa: S301 - our own


def test_a_cache_with_labels_outlives_the_first(cache):
    first = featurecache.FeatureCache.open(cache.path)
    changed = first.with_labels({})
    X = first.features("features").X.copy()
    del first
    assert np.array_equal(changed.features("features").X, X)
    assert np.array_equal(changed.read("features", 0, 12), X)
    assert changed.problems() == []


TABLE = """path,label,Split,age,note , colour
cats/00.png,cat,x,3,"a, b
c",black
dogs/01.png,dog,,,, white
elsewhere.png,dog,,9,lost,
"""


def test_further_columns_of_a_table_are_texts_as_they_stand(tmp_path):
    table = featurecache.read_labels(written(tmp_path, TABLE))
    assert table == {"cats/00.png": "cat", "dogs/01.png": "dog", "elsewhere.png": "dog"}
    assert table.columns == {
        "age": ("3", "", "9"),
        "note": ("a, b\nc", "", "lost"),
        "colour": ("black", " white", ""),
    }
    by_age = featurecache.read_labels(written(tmp_path, TABLE), "age")
    assert [*by_age.columns] == ["note", "colour"]
    assert pickle.loads(pickle.dumps(table)).columns == table.columns  # noqa: S301 - our own


def test_a_cache_has_the_further_columns_of_its_labels(tmp_path, cache):
    assert cache.columns == ()
    changed = cache.with_labels(featurecache.read_labels(written(tmp_path, TABLE)))
    assert changed.columns == ("age", "note", "colour")
    ages = dict(zip(changed.paths, changed.column("age"), strict=True))
    assert ages == {path: "3" if path == "cats/00.png" else "" for path in cache.paths}
    assert changed.column("age").dtype == object
    with pytest.raises(UnknownNameError, match=r"unknown column 'Colour'; did you mean 'colour'\?"):
        changed.column("Colour")
    with pytest.raises(UnknownNameError, match="unknown column 'age'"):
        cache.column("age")

    digest = hashlib.sha256((cache.path.parent / "images/cats/02.png").read_bytes()).hexdigest()
    later = written(tmp_path, f"sha256,label,age,zoo\n{digest},cat,7,\n{'0' * 64},cat,8,x\n")
    again = changed.with_labels(featurecache.read_labels(later))
    assert again.columns == ("age", "note", "colour", "zoo")
    assert dict(zip(again.paths, again.column("age"), strict=True)) == ages | {"cats/02.png": "7"}
    unpickled = pickle.loads(pickle.dumps(again))  # noqa: S301 - our own
    for name in again.columns:
        assert unpickled.column(name).tolist() == again.column(name).tolist()


def test_a_column_becomes_the_labels(tmp_path, cache):
    changed = cache.with_labels(featurecache.read_labels(written(tmp_path, TABLE)))
    coloured = changed.with_labels(changed.column("colour"))
    assert coloured.class_counts == {"black": 1, "white": 1}
    assert coloured.columns == changed.columns
    assert cache.with_labels(["cats", " ", *[""] * 10]).class_counts == {"cats": 1}
    with pytest.raises(OptionError, match="got 2 labels for 12 rows"):
        cache.with_labels(["cats", "dogs"])


def test_a_column_with_two_texts_for_one_image_is_left_out(tmp_path):
    table = featurecache.read_labels(written(tmp_path, "path,label,box,by\na.png,cat,1,x\n./a.png,cat,2,x\n"))
    assert table == {"a.png": "cat"}
    assert (table.columns, table.ambiguous) == ({"by": ("x",)}, ("box",))


def test_two_further_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="has 2 columns 'age'; expected one; rename the other"):
        featurecache.read_labels(written(tmp_path, "path,label,age, AGE \na.png,cat,1,2\n"))
    assert featurecache.read_labels(written(tmp_path, "path,label,,\na.png,cat,1,2\n")).columns == {}

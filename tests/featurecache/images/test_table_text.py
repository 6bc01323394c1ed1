"""Tables as programs write them: other separators, lists, compressed files, other encodings, DataFrames."""

import csv
import gzip
import io
import re

import numpy as np
import pandas as pd
import pytest

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, NoImagesError, OptionError
from featurecache.images.manifest import read_manifest
from tests.featurecache.conftest import write_image
from tests.featurecache.images.test_manifest import make, rows, table

ROWS = [("a.jpg", "cat", "train"), ("dogs, big/b; c.jpg", "dog", "valid"), ('say "x".jpg', None, "")]
EXPECTED = [ROWS[0], ROWS[1], ROWS[2]]


def written(separator, line_end="\r\n"):
    """Return `ROWS` as Python's csv module writes them."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, lineterminator=line_end)
    writer.writerows([("path", "label", "split"), *((path, label or "", split) for path, label, split in ROWS)])
    return stream.getvalue()


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "LIST.CSV"])
def test_the_names_of_columns_show_the_separator(tmp_path, name, separator, line_end):
    assert rows(read_manifest(table(tmp_path, written(separator, line_end), name))) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings_that_programs_mark(tmp_path, encoding):
    text = "path;label\ncafé.jpg;thé\n"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "list.csv").write_bytes((mark + text).encode(encoding))
    assert rows(read_manifest(tmp_path / "list.csv")) == [("café.jpg", "thé", "")]


def test_a_compressed_table_and_one_that_is_damaged(tmp_path):
    packed = gzip.compress(written(",").encode())
    path = tmp_path / "list.csv.gz"
    path.write_bytes(packed)
    assert rows(read_manifest(path)) == EXPECTED
    assert featurecache.read_labels(path) == {path: label for path, label, _ in ROWS}
    for damaged in (packed[:-9], packed[:20], b"path,label\n", packed[:-8] + b"\0" * 8, packed[:12] + b"\xff" * 30):
        path.write_bytes(damaged)
        with pytest.raises(ManifestError, match=r"list\.csv\.gz is not a whole gzip file: .*; copy it again") as caught:
            read_manifest(path)
        assert "\n" not in str(caught.value)


def test_further_columns_of_a_table_with_semicolons_are_kept(tmp_path):
    manifest = read_manifest(table(tmp_path, "path;label;weight\na.jpg;cat;0,5\n"))
    assert manifest.columns == {"weight": ("0,5",)}


# Lists


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("n01440764/a.JPEG 65", "n01440764/a.JPEG", "65"),
        ("n01440764/a.JPEG", "n01440764/a.JPEG", None),
        ("./my photos/a b.jpg 3", "my photos/a b.jpg", "3"),
        ("my photos/a b.jpg", "my photos/a b.jpg", None),
        ("a.jpg\tgolden retriever", "a.jpg", "golden retriever"),
        ("my a.jpg\t", "my a.jpg", None),
        ("n0144/img17 65", "n0144/img17", "65"),
        ("n0144/img17", "n0144/img17", None),
        ("  a.jpg   65  ", "a.jpg", "65"),
        ("a,b;c.jpg x", "a,b;c.jpg", "x"),
        ("a\u2028b.jpg 1", "a\u2028b.jpg", "1"),
    ],
)
def test_a_line_of_a_list_is_a_path_and_perhaps_a_label(tmp_path, line, path, label):
    assert rows(read_manifest(table(tmp_path, f"{line}\r\n\r\n", "val.txt"))) == [(path, label, "")]


def test_a_list_gives_labels_too_and_names_its_faults(tmp_path):
    path = table(tmp_path, "a.jpg 1\nb.jpg 10\nc.jpg 2\n", "val.txt")
    assert featurecache.read_labels(path) == {"a.jpg": "1", "b.jpg": "10", "c.jpg": "2"}
    assert read_manifest(path, class_order="natural").classes == ("1", "2", "10")
    for text, message in {
        "path,label\na.jpg,1\n": "the list {} begins with the names of columns, 'path,label'; give it the extension",
        "label\tpath\n1\ta.jpg\n": "give it the extension .csv or .tsv",
        "path label\na.jpg 1\n": "begins with the names of columns, 'path label'",
        "filename class\na.jpg 1\n": "begins with the names of columns, 'filename class'",
        "a.jpg\tcat\ttrain\n": "the list {}, line 1: 3 fields with tabs between them, expected a path and a label",
        "a.jpg 1\nb.jpg 0 1\n": "the list {}, line 2: more than one word follows the path in 'b.jpg 0 1'; put a tab",
        "a.jpg 1\n./a.jpg 1\n": "the list {} has 1 fault: line 2: path 'a.jpg' is already in line 1",
    }.items():
        with pytest.raises(ManifestError, match=re.escape(message.format(path))):
            read_manifest(table(tmp_path, text, "val.txt"))
    with pytest.raises(ManifestError, match="no column 'file'; found 'path', 'label', separated by blanks"):
        read_manifest(table(tmp_path, "a.jpg 1\n", "val.txt"), path_column="file")
    with pytest.raises(NoImagesError, match=r"the list .*val\.txt has no rows"):
        read_manifest(table(tmp_path, "\n", "val.txt"))


def test_comments_of_a_list_are_no_images(tmp_path):
    assert rows(read_manifest(table(tmp_path, "# path and label\n#1.jpg 5\n#\n", "val.txt"))) == [("#1.jpg", "5", "")]


# Windows paths


def test_backslashes_stand_for_slashes_unless_a_file_has_them(tmp_path):
    make(tmp_path, "train/red/0.jpg", "train/red/1.jpg", r"odd\2.jpg", "odd/2.jpg")
    lines = [r"train\red\0.jpg", r".\train\red\1.jpg", r"odd\2.jpg", r"none\3.jpg"]
    manifest = read_manifest(table(tmp_path, "\n".join(["path", *lines])))
    assert {entry.path for entry in manifest.entries} == {
        "train/red/0.jpg", "train/red/1.jpg", r"odd\2.jpg", r"none\3.jpg"
    }  # fmt: skip


def test_one_file_in_both_spellings_is_one_too_many(tmp_path):
    make(tmp_path, "red/0.jpg")
    with pytest.raises(ManifestError, match=r"line 3: path 'red/0\.jpg' is already in line 2"):
        read_manifest(table(tmp_path, "path\nred/0.jpg\nred\\0.jpg\n"))


def test_labels_of_windows_paths_find_their_rows(tmp_path):
    for number, name in enumerate(["red/0.png", "red/1.png", r"odd\2.png"]):
        write_image(tmp_path / "images" / name, number)
    listed = table(tmp_path, "path\nred/0.png\nred/1.png\nodd\\2.png\n")
    cache = featurecache.extract(listed, tmp_path / "c.h5", backbone=FakeBackbone(), root=tmp_path / "images")
    text = "path,label,room\nred\\0.png,cat,a\nred/1.png,dog,b\nodd\\2.png,cow,c\nred\\7.png,emu,d\n"
    given = cache.with_labels(featurecache.read_labels(table(tmp_path, text, "labels.csv")))
    labels = given.index.images["label"]
    found = {
        path: (given.classes[label], room)
        for path, label, room in zip(given.paths, labels, given.column("room"), strict=True)
    }
    assert found == {"red/0.png": ("cat", "a"), "red/1.png": ("dog", "b"), r"odd\2.png": ("cow", "c")}


# DataFrames of pandas


def test_a_frame_is_read_as_the_table_that_it_would_be_saved_as(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    frame = pd.DataFrame(
        {
            "file": ["b.jpg", "a.jpg", "c.jpg"],
            "label": pd.Categorical(["dog", None, "cat, small"]),
            "split": ["valid", "train", None],
            "age": [3, 4, 5],
            "note": [np.nan, 'say "x"', "two\nlines"],
        },
        index=[7, 8, 9],
    )
    manifest = read_manifest(frame, root=tmp_path, path_column="file")
    path = tmp_path / "saved.csv"
    frame.to_csv(path, index=False)
    saved = read_manifest(path, path_column="file")
    assert (
        rows(manifest)
        == rows(saved)
        == [("a.jpg", None, "train"), ("b.jpg", "dog", "valid"), ("c.jpg", "cat, small", "")]
    )
    assert manifest.columns == saved.columns == {"age": ("4", "3", "5"), "note": ('say "x"', "", "two\nlines")}


@pytest.mark.parametrize("images", [["a.png"], None, 3, {"path": ["a.png"]}])
def test_other_things_are_no_images(images):
    with pytest.raises(OptionError, match="expected a path, a manifest or a DataFrame of pandas: make manifests with"):
        read_manifest(images)


def test_text_that_no_file_can_hold(tmp_path):
    with pytest.raises(ManifestError, match=r"the DataFrame has text that is not UTF-8, .*udcff.*; remove it"):
        read_manifest(pd.DataFrame({"path": pd.Series(["a\udcff.jpg"], dtype=object)}), root=tmp_path)


def test_faults_of_a_frame_are_those_of_a_table(tmp_path, monkeypatch):
    with pytest.raises(ManifestError, match="the DataFrame has no column 'path'; found 'picture', 'label'"):
        read_manifest(pd.DataFrame({"picture": ["a.jpg"], "label": [1]}))
    with pytest.raises(NoImagesError, match="the DataFrame has no rows"):
        read_manifest(pd.DataFrame({"path": []}))
    with pytest.raises(ManifestError, match=r"the root .*nowhere of the DataFrame is neither"):
        read_manifest(pd.DataFrame({"path": ["a.jpg"]}), root=tmp_path / "nowhere")
    make(tmp_path, "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert rows(read_manifest(pd.DataFrame({"path": ["a.jpg"]}))) == [("a.jpg", None, "")]

"""Columns of tables under other names, and paths that are written in other ways."""

import pytest

from featurecache.errors import ManifestError, NoImagesError
from featurecache.images.manifest import manifest_of, read_manifest
from featurecache.options import ImageOptions
from tests.featurecache.images.test_manifest import make, rows, table


def refused(path, **options):
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("header", "value", "proposal"),
    [
        ("path,label,subset", "test", "--split-column subset"),
        ("path,label,Partition", "Training", "--split-column Partition"),
        ("path,label,my part", "dev", "--split-column 'my part'"),
        ("path,label,usage", "holdout", "--split-column usage"),
    ],
)
def test_a_column_of_splits_under_another_name_is_refused(tmp_path, header, value, proposal):
    path = table(tmp_path, f"{header}\na.jpg,cat,train\nb.jpg,dog,{value}\nc.jpg,dog,\n")
    assert f"give {proposal}, or rename it" in refused(path)
    column = header.split(",")[-1]
    assert {split for _, _, split in rows(read_manifest(path, split_column=column))} >= {"train", ""}


@pytest.mark.parametrize(
    ("header", "proposal"),
    [
        ("path,class", "--label-column class"),
        ("path,Class_Name", "--label-column Class_Name"),
        ("path,ground truth", "--label-column 'ground truth'"),
        ("path,lable", "--label-column lable"),
        ("path,classes", "--label-column classes"),
        ("path,breed", "--label-column breed"),
        ("path,category", "--label-column category"),
    ],
)
def test_a_column_of_labels_under_another_name_is_refused(tmp_path, header, proposal):
    path = table(tmp_path, f"{header}\na.jpg,cat\n")
    assert f"rename it to 'label' or give {proposal}" in refused(path)
    assert read_manifest(path, label_column=header.split(",")[1]).classes == ("cat",)


def test_a_column_with_one_value_that_is_the_name_of_a_split_is_just_not_read(tmp_path):
    path = table(tmp_path, "path,label,vehicle,lab\na.jpg,cat,train,x\nb.jpg,dog,train,y\n")
    assert read_manifest(path).classes == ("cat", "dog")


def test_a_column_of_paths_under_another_name(tmp_path):
    path = table(tmp_path, "label,File_Name\ncat,a.jpg\n")
    assert refused(path).endswith("expected path[,label][,split], or --path-column File_Name")
    assert rows(read_manifest(path, path_column="file_name")) == [("a.jpg", "cat", "")]


def test_a_column_of_flags_is_no_column_of_splits_but_refused(tmp_path):
    message = refused(table(tmp_path, "path,label,is_valid\na.jpg,cat,True\nb.jpg,dog,False\n"))
    assert "'is_valid' with 'false', 'true'; write a column split with train, valid or test" in message


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split,subset\na.jpg,cat,train,test\n",
        "path,label,subset\na.jpg,cat,first\n",
        "path,label,set\na.jpg,cat,7\n",
        "path,label,note\na.jpg,cat,\n",
        "path,label,class\na.jpg,cat,feline\n",
        "path,label,valid\na.jpg,cat,unsure\n",
    ],
)
def test_other_columns_are_further_columns_and_that_is_said(tmp_path, text):
    said = []
    manifest_of(table(tmp_path, text), notify=said.append)
    *_, column = text.partition("\n")[0].split(",")
    assert said[0].endswith(f"further columns: {column}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_column": "part"}, "has no column 'part'; found 'path', 'label', 'split', separated by commas"),
        ({"label_column": "split"}, "has one column for two of path, label, split"),
    ],
)
def test_columns_that_cannot_be(tmp_path, options, message):
    assert message in refused(table(tmp_path, "path,label,split\na.jpg,cat,train\n"), **options)


def test_a_folder_has_no_columns(tmp_path):
    message = refused(make(tmp_path, "cat/a.jpg"), label_column="class")
    assert "is not a table, so it has no column 'class'" in message


def test_labels_from_names_need_no_column(tmp_path):
    path = table(tmp_path, "path,class\ncat.1.jpg,x\n")
    assert read_manifest(path, label_from_name=True).classes == ("cat",)


# Paths


def test_blanks_around_a_path_do_not_count_unless_the_file_has_them(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg ", " c.jpg")
    manifest = read_manifest(table(tmp_path, "path\n a.jpg \nb.jpg \n c.jpg\nd.jpg\t\n"))
    assert sorted(entry.path for entry in manifest.entries) == [" c.jpg", "a.jpg", "b.jpg ", "d.jpg"]


def test_a_path_in_another_unicode_form_is_the_same_file(tmp_path):
    make(tmp_path, "cafe\u0301.jpg", "th\u00e9.jpg", "na\u00efve.jpg", "nai\u0308ve.jpg")
    manifest = read_manifest(table(tmp_path, "path\ncaf\u00e9.jpg\nthe\u0301.jpg\nna\u00efve.jpg\nnai\u0308ve.jpg\n"))
    assert {entry.path for entry in manifest.entries} == {
        "cafe\u0301.jpg", "th\u00e9.jpg", "na\u00efve.jpg", "nai\u0308ve.jpg"
    }  # fmt: skip
    assert all(manifest.source.stat(entry.path) for entry in manifest.entries)


@pytest.mark.parametrize(
    ("path", "guess"),
    [
        (r"images\train\red\0.jpg", "it has backslashes: there is train/red/0.jpg; write the paths like this"),
        (r"C:\data\train\red\0.jpg", "it begins with the letter of a Windows drive: there is train/red/0.jpg"),
        ("~/data/train/red/0.jpg", "~ does not stand for the home folder: there is train/red/0.jpg"),
        ("train/red/0", "there is train/red/0.jpg; write the paths like this"),
        ("data/train/red/0.jpg", "there is train/red/0.jpg; write the paths like this"),
        ("Train/Red/0.JPG", "there is train/red/0.jpg; write the paths like this"),
        ("red/0.jpg", "there is {root}/train/red/0.jpg; give the folder with --root {root}/train"),
        ("other/x.jpg", "there is {parent}/other/x.jpg; give the folder with --root {parent}"),
        ("az://host/0.jpg", "addresses that are read begin with s3://, gs://"),
        ("nowhere/77", "it has no extension of an image"),
        ("nowhere/77.jpg", "give the folder that the paths are relative to with --root"),
        (r"nowhere\77.jpg", "it has backslashes; write paths relative to the folder, with /"),
    ],
)
def test_what_is_wrong_with_a_path_is_guessed(tmp_path, path, guess):
    root = make(tmp_path / "images", "train/red/0.jpg")
    make(tmp_path, "other/x.jpg")
    source = read_manifest(table(root, f"path\n{path}\n")).source
    assert guess.format(root=root, parent=tmp_path) in source.guess(path)


def test_no_guess_where_there_is_a_file(tmp_path):
    source = read_manifest(make(tmp_path, "a%20b.jpg")).source
    assert source.guess("a%2520b.jpg") == ""


# What is said


def said_of(images, **options):
    lines = []
    manifest_of(images, ImageOptions(**options), notify=lines.append)
    return lines


def test_what_was_understood_is_said_in_one_line(tmp_path):
    text = "path,label,split,note\n1.jpg,red,Training,\n2.jpg,blue,dev,\n3.jpg,,TEST,\n4.jpg,red,,\n"
    assert said_of(table(tmp_path, text)) == [
        "found 4 images: 2 classes (blue, red), 1 image without a label; train 1, valid 1, test 1, in no split 1; "
        "Training is read as train, dev is read as valid; further columns: note"
    ]


def test_folders_are_said_as_tables_are(tmp_path):
    make(tmp_path / "a", "Training/red/0.jpg", "Testing/blue/0.jpg")
    make(tmp_path / "b", *(f"{number}/0.jpg" for number in (1, 2, 10)))
    make(tmp_path / "c", "0.jpg")
    assert said_of(tmp_path / "a") == [
        "found 2 images: 2 classes (blue, red); train 1, test 1; Testing is read as test, Training is read as train"
    ]
    order = "sorted as text: sort by number with --class-order natural"
    assert said_of(tmp_path / "b") == [f"found 3 images: 3 classes (1, 10, 2), {order}; no splits"]
    assert said_of(tmp_path / "b", class_order="natural") == ["found 3 images: 3 classes (1, 2, 10); no splits"]
    assert said_of(tmp_path / "c") == ["found 1 image: no labels; no splits"]


@pytest.mark.parametrize(("name", "split"), [
    ("Training", "train"), ("TRAIN", "train"), ("train_set", "train"), ("Validation", "valid"), ("dev", "valid"),
    ("Eval", "valid"), ("testing", "test"), ("Holdout", "test"), ("hold-out", "test"), ("Test Images", "test"),
    ("train2017", "train"), ("02_val", "valid"),
])  # fmt: skip
def test_splits_have_many_names(tmp_path, name, split):
    make(tmp_path, f"{name}/cat/a.jpg")
    assert rows(read_manifest(tmp_path)) == [(f"{name}/cat/a.jpg", "cat", split)]
    assert rows(read_manifest(table(tmp_path, f"path,split\na.jpg,{name}\n"))) == [("a.jpg", None, split)]


def test_spellings_of_one_class_are_one_class_and_that_is_said(tmp_path):
    make(tmp_path, "train/caf\u00e9/a.jpg", "test/cafe\u0301/b.jpg", "test/red /c.jpg", "train/red/d.jpg")
    (line,) = said_of(tmp_path)
    assert "2 classes (caf\u00e9, red); train 2, test 2" in line
    assert line.endswith("spelled in several ways: caf\u00e9, red")


def test_class_folders_are_named_as_they_are(tmp_path):
    make(tmp_path, "a%20b/1.jpg", "c%41.1.jpg/2.jpg")
    assert read_manifest(tmp_path).classes == ("a%20b", "c%41.1.jpg")
    flat = make(tmp_path / "flat", "x%20y.1.jpg")
    assert read_manifest(flat, label_from_name=True).classes == ("x%20y",)


def test_class_folders_that_would_look_alike_keep_their_escapes(tmp_path):
    make(tmp_path, b"caf\xe9/1.jpg", "caf%E9/2.jpg")
    assert read_manifest(tmp_path).classes == ("caf%25E9", "caf%E9")


def test_warnings_and_what_is_left_out_follow(tmp_path):
    make(tmp_path, "nan/a.jpg", "cat/b.jpg", "elsewhere/c.jpg")
    (tmp_path / "elsewhere").rename(tmp_path.with_name("elsewhere"))
    (tmp_path / "dog%20").symlink_to(tmp_path.with_name("elsewhere"))
    found, left_out, warning = said_of(tmp_path)
    assert found == "found 2 images: 2 classes (cat, nan); no splits"
    assert left_out == "left out: a symbolic link to a folder, which is not followed: dog%20"
    assert warning.startswith("warning: the class 'nan' looks like a placeholder")


def test_messages_show_names_as_they_are(tmp_path):
    make(tmp_path, "red/a.jpg", "b%20c.jpg")
    assert "'b%20c.jpg'" in refused(tmp_path)
    with pytest.raises(NoImagesError, match=r"'x%20y\.txt'"):
        read_manifest(make(tmp_path / "none", "x%20y.txt"))

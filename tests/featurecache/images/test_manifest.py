import os
import random
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurecache.errors import ManifestError, NoImagesError
from featurecache.images.failures import Ignored
from featurecache.images.manifest import (
    SPLITS,
    ImageEntry,
    Manifest,
    from_files,
    read_manifest,
)
from featurecache.images.names import decode_name, encode_name
from featurecache.images.sources import FolderSource


def make(root: Path, *paths: str | bytes) -> Path:
    for path in paths:
        file = root / os.fsdecode(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def rows(manifest: Manifest) -> list[tuple[str, str | None, str]]:
    return [
        (entry.path, None if entry.label < 0 else manifest.classes[entry.label], entry.split)
        for entry in manifest.entries
    ]


def there(manifest: Manifest) -> list[bool]:
    return [manifest.source.stat(entry.path) is not None for entry in manifest.entries]


def table(folder: Path, text: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read anything; be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# Folders


def test_splits_and_classes(tmp_path):
    make(tmp_path, "valid/dogs/b.jpg", "train/dogs/a.jpg", "train/cats/c.jpg", "test/cats/d.jpg")

    manifest = read_manifest(tmp_path)

    assert rows(manifest) == [
        ("train/cats/c.jpg", "cats", "train"),
        ("train/dogs/a.jpg", "dogs", "train"),
        ("valid/dogs/b.jpg", "dogs", "valid"),
        ("test/cats/d.jpg", "cats", "test"),
    ]
    assert manifest.entries[1] == ImageEntry("train/dogs/a.jpg", 1, "train")
    assert manifest.classes == ("cats", "dogs")
    assert manifest.ignored == ()
    assert manifest.source == FolderSource(tmp_path)
    assert len(manifest) == 4


def test_a_split_without_classes_is_unlabelled(tmp_path):
    make(tmp_path, "train/cats/a.jpg", "test/1.jpg", "test/2.jpg")

    assert rows(read_manifest(tmp_path)) == [
        ("train/cats/a.jpg", "cats", "train"),
        ("test/1.jpg", None, "test"),
        ("test/2.jpg", None, "test"),
    ]


def test_classes_alone(tmp_path):
    make(tmp_path, "dogs/b.jpg", "cats/a.jpg")

    assert rows(read_manifest(tmp_path)) == [("cats/a.jpg", "cats", ""), ("dogs/b.jpg", "dogs", "")]


def test_a_flat_folder_is_unlabelled(tmp_path):
    make(tmp_path, "b.jpg", "a.png")

    manifest = read_manifest(tmp_path)

    assert rows(manifest) == [("a.png", None, ""), ("b.jpg", None, "")]
    assert manifest.classes == ()


def test_images_may_lie_deeper_in_a_class(tmp_path):
    make(tmp_path / "one", "train/cats/tabby/2019/a.jpg", "train/cats/b.jpg")
    make(tmp_path / "two", "cats/tabby/a.jpg")

    assert {label for _, label, _ in rows(read_manifest(tmp_path / "one"))} == {"cats"}
    assert rows(read_manifest(tmp_path / "two")) == [("cats/tabby/a.jpg", "cats", "")]


@pytest.mark.parametrize(
    ("paths", "is_said"),
    [
        (("pets/cats/a.jpg", "pets/dogs/b.jpg"), True),
        (("pets/cats/a.jpg", "pets/cats/b.jpg"), False),
        (("pets/cats/a.jpg", "pets/dogs/b.jpg", "pets/c.jpg"), False),
        (("pets/cats/a.jpg", "pets/dogs/b.jpg", "birds/c.jpg"), False),
        (("train/pets/cats/a.jpg", "train/pets/dogs/b.jpg"), False),
        (("train/cats/1/a.jpg", "train/dogs/2/b.jpg"), False),
    ],
)
def test_one_folder_around_the_class_folders_is_said(tmp_path, paths, is_said):
    place = tmp_path / "photos"
    said = read_manifest(make(place, *paths)).notes

    assert said == ((f"for the classes 'cats', 'dogs' give {place}/pets",) if is_said else ())


@pytest.mark.parametrize("spelling", ["valid", "validation", "val", "Validation", "VAL"])
def test_spellings_of_valid(tmp_path, spelling):
    make(tmp_path, "Train/cats/a.jpg", f"{spelling}/cats/b.jpg")

    assert [split for _, _, split in rows(read_manifest(tmp_path))] == ["train", "valid"]


def test_two_spellings_of_one_split_are_an_error(tmp_path):
    make(tmp_path, "val/cats/a.jpg", "valid/cats/b.jpg")

    with pytest.raises(ManifestError, match=r"several folders for the split valid: 'val', 'valid'; put"):
        read_manifest(tmp_path)


def test_an_empty_folder_of_another_spelling_does_no_harm(tmp_path):
    make(tmp_path, "val/.gitkeep", "valid/cats/b.jpg")

    assert len(read_manifest(tmp_path)) == 1


def test_splits_beside_other_folders_are_an_error(tmp_path):
    make(tmp_path, "train/cats/a.jpg", "plane/b.jpg", "car/c.jpg")

    with pytest.raises(ManifestError, match=r"splits \('train'\) and others are not \('car', 'plane'\); move"):
        read_manifest(tmp_path)


def test_folders_without_images_do_not_count(tmp_path):
    make(tmp_path, "train/cats/a.jpg", "docs/readme.txt", "train/empty/.gitkeep")

    manifest = read_manifest(tmp_path)

    assert manifest.classes == ("cats",)
    assert [item.path for item in manifest.ignored] == ["docs/readme.txt", "train/empty/.gitkeep"]


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (("cats/a.jpg", "b.jpg"), "1 image ('b.jpg') directly beside the class folders ('cats')"),
        (("train/cats/a.jpg", "b.jpg"), "1 image ('b.jpg') directly beside the split folders ('train')"),
        (("train/cats/a.jpg", "train/b.jpg"), "1 image ('train/b.jpg') directly beside the class folders ('cats')"),
    ],
)
def test_images_beside_folders_are_an_error_with_a_remedy(tmp_path, paths, found):
    make(tmp_path, *paths)

    with pytest.raises(ManifestError, match=re.escape(found) + ".*; move them into a (class|split) folder, or list"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("paths", [("data/train/cats/a.jpg",), ("cats/train/a.jpg", "cats/test/b.jpg")])
def test_splits_below_the_top_are_an_error(tmp_path, paths):
    make(tmp_path, *paths)

    with pytest.raises(ManifestError, match=r"split folder '\w+/\w+' below .* give the folder that holds them"):
        read_manifest(tmp_path)


def test_images_are_known_by_extension(tmp_path):
    images = ["a.jpg", "b.JPG", "c.jpeg", "d.jpe", "e.jfif", "f.png", "g.webp", "h.bmp", "i.gif", "j.tif", "k.TIFF"]
    others = ["l.txt", "m.jpg.part", "n", "o.svg", "p.npy", "jpg"]
    hidden = ["._a.jpg", ".DS_Store", ".jpg", ".thumbnails/a.jpg"]
    make(tmp_path, *images, *others, *hidden)

    manifest = read_manifest(tmp_path)

    assert [entry.path for entry in manifest.entries] == sorted(images)
    assert manifest.ignored == tuple(
        sorted(
            [Ignored(path, "not an image file by its extension") for path in others]
            + [Ignored(path, "hidden") for path in ("._a.jpg", ".DS_Store", ".jpg", ".thumbnails")],
            key=lambda item: item.path,
        )
    )


def test_a_directory_named_like_an_image_is_a_directory(tmp_path):
    make(tmp_path, "cats/x.jpg/y.jpg")

    assert rows(read_manifest(tmp_path)) == [("cats/x.jpg/y.jpg", "cats", "")]


def test_what_cannot_be_read_is_an_entry_all_the_same(tmp_path, monkeypatch):
    make(tmp_path, "file.jpg")
    (tmp_path / "link.jpg").symlink_to("file.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        manifest = read_manifest(tmp_path)

    assert [entry.path for entry in manifest.entries] == [
        "dangling.jpg", "file.jpg", "link.jpg", "loop.jpg", "pipe.jpg", "socket.jpg"
    ]  # fmt: skip


def test_links_to_folders_are_not_followed(tmp_path):
    root = make(tmp_path / "root", "cats/a.jpg")
    make(tmp_path / "elsewhere", "b.jpg")
    (root / "dogs").symlink_to(tmp_path / "elsewhere")
    (root / "cats" / "again").symlink_to(root)
    (root / "cats" / "x.jpg").symlink_to(root)

    manifest = read_manifest(root)

    assert rows(manifest) == [("cats/a.jpg", "cats", "")]
    reason = "a symbolic link to a folder, which is not followed"
    assert manifest.ignored == tuple(Ignored(path, reason) for path in ("cats/again", "cats/x.jpg", "dogs"))


def test_the_root_may_be_a_link(tmp_path):
    make(tmp_path / "real", "cats/a.jpg")
    (tmp_path / "link").symlink_to("real")

    manifest = read_manifest(tmp_path / "link")

    assert rows(manifest) == [("cats/a.jpg", "cats", "")]
    assert there(manifest) == [True]


def test_a_folder_that_cannot_be_seen_is_an_error():
    with tempfile.TemporaryDirectory() as name:
        root = make(Path(name), "cats/a.jpg", "dogs/b.jpg")
        root.chmod(0o755)
        (root / "dogs").chmod(0)
        with (
            without_privileges(),
            pytest.raises(ManifestError, match=r"cannot list the folder '.*': permission denied"),
        ):
            read_manifest(root)
        (root / "dogs").chmod(0o755)


def test_names_of_any_bytes(tmp_path):
    odd = [
        b"caf\xe9/\xff\xfe.jpg",
        "café/ü 100%.jpg".encode(),
        b"caf\xe9/%41.jpg",
        b"x" * 251 + b"/" + b"y" * 251 + b".jpg",
    ]
    make(tmp_path, *odd)

    manifest = read_manifest(tmp_path)

    assert manifest.classes == tuple(sorted(["caf%E9", "café", "x" * 251]))
    assert {entry.path for entry in manifest.entries} >= {"caf%E9/%FF%FE.jpg", "café/ü 100%.jpg", "caf%E9/%2541.jpg"}
    files = {os.fsencode(manifest.source.locate(entry.path)) for entry in manifest.entries}
    assert files == {os.fsencode(tmp_path) + b"/" + name for name in odd}
    assert all(there(manifest))


@given(st.binary().map(lambda name: name.replace(b"/", b"").replace(b"\0", b"")))
def test_encoding_of_names_is_reversible(name):
    text = encode_name(name)

    assert decode_name(text) == name
    text.encode("utf-8")  # and fit for HDF5 and JSON


@given(st.lists(st.sampled_from([b"%", b"2", b"5", b"F", b"f", b"\xff", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"g"])))
def test_encoding_of_names_made_of_escapes_is_reversible(parts):
    assert decode_name(encode_name(b"".join(parts))) == b"".join(parts)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"cat.jpg", "cat.jpg"),
        ("Kätzchen.jpg".encode(), "Kätzchen.jpg"),
        (b"100%.jpg", "100%.jpg"),
        (b"%zz", "%zz"),
        (b"%ff", "%25ff"),
        (b"\xff", "%FF"),
        (b"%\xff", "%%FF"),
        (b"\xc3\xa9\xc3", "é%C3"),
    ],
)
def test_ordinary_names_stay_as_they_are(name, text):
    assert encode_name(name) == text


PATHS = [
    f"{split}/{name}/{number}.jpg"
    for split in ("train", "val", "test")
    for name in ("b", "B", "ä", "a b")
    for number in (1, 10, 2)
]


@given(st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_does_not_depend_on_the_order_of_creation(generator: random.Random):
    paths = list(PATHS)
    generator.shuffle(paths)
    with tempfile.TemporaryDirectory() as name:
        manifest = read_manifest(make(Path(name), *paths))

    assert [entry.path for entry in manifest.entries] == [
        path for split in ("train", "val", "test") for path in sorted(PATHS) if path.startswith(split)
    ]
    assert manifest.classes == ("B", "a b", "b", "ä")


def test_rows_of_a_split_are_contiguous_in_the_order_of_splits(tmp_path):
    text = "path,split\n" + "".join(f"{n}.jpg,{('test', '', 'train', 'val')[n % 4]}\n" for n in range(40))

    splits = [entry.split for entry in read_manifest(table(tmp_path, text)).entries]

    assert splits == [split for split in SPLITS for _ in range(10)]


@pytest.mark.parametrize("paths", [(), ("readme.txt", ".DS_Store"), ("train/cats/notes.txt",)])
def test_a_folder_without_images(tmp_path, paths):
    make(tmp_path, *paths)

    with pytest.raises(NoImagesError, match=rf"no image files in {tmp_path}.*looked for \.avif, \.bmp, .*\.webp in it"):
        read_manifest(tmp_path)


def test_what_is_neither_folder_nor_table(tmp_path):
    make(tmp_path, "photo.jpg")
    os.mkfifo(tmp_path / "pipe.csv")

    with pytest.raises(ManifestError, match=r"nowhere does not exist; expected a folder of images, a \.csv"):
        read_manifest(tmp_path / "nowhere")
    for name in ("photo.jpg", "pipe.csv"):
        with pytest.raises(ManifestError, match=rf"{name} is neither a folder of images nor a \.csv, \.tsv,"):
            read_manifest(tmp_path / name)


def test_a_place_that_cannot_be_seen_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match="cannot be accessed: file name too long"):
        read_manifest(tmp_path / ("x" * 300))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ManifestError, match="cannot be accessed: too many levels of symbolic links"):
        read_manifest(tmp_path / "loop")
    (tmp_path / "shut").mkdir(mode=0)
    tmp_path.chmod(0o755)
    with without_privileges(), pytest.raises(ManifestError, match="cannot be accessed: permission denied"):
        read_manifest(tmp_path / "shut" / "images")
    with without_privileges():
        assert len(from_files([tmp_path / "shut" / "x.jpg"])) == 1  # reading it will say why not
    (tmp_path / "shut").chmod(0o755)


def test_a_root_for_a_folder_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match="leave out the root"):
        read_manifest(make(tmp_path, "a.jpg"), root=tmp_path)


# Labels from names


def test_labels_from_names(tmp_path):
    make(tmp_path / "flat", "dog.2.jpg", "cat.10.jpg", "cat.9.jpg", "3.jpg", "cat.jpg", "cat.x.jpg", "a.b.1.jpg")
    make(tmp_path / "split", "train/cat.1.jpg", "train/dog.1.jpg", "test/1.jpg")

    assert rows(read_manifest(tmp_path / "flat", label_from_name=True)) == [
        ("3.jpg", None, ""),
        ("a.b.1.jpg", None, ""),
        ("cat.10.jpg", "cat", ""),
        ("cat.9.jpg", "cat", ""),
        ("cat.jpg", None, ""),
        ("cat.x.jpg", None, ""),
        ("dog.2.jpg", "dog", ""),
    ]
    assert rows(read_manifest(tmp_path / "split", label_from_name=True)) == [
        ("train/cat.1.jpg", "cat", "train"),
        ("train/dog.1.jpg", "dog", "train"),
        ("test/1.jpg", None, "test"),
    ]
    assert read_manifest(tmp_path / "flat").classes == ()


def test_labels_from_names_and_from_folders_are_an_error(tmp_path):
    make(tmp_path, "cats/cat.1.jpg")

    with pytest.raises(ManifestError, match=r"already has labels \('cats/cat\.1\.jpg' is 'cats'\)"):
        read_manifest(tmp_path, label_from_name=True)


def test_labels_from_names_that_have_none_are_an_error(tmp_path):
    make(tmp_path, "1.jpg", "2.jpg")

    with pytest.raises(ManifestError, match=r"no file name .* form LABEL\.NUMBER\.EXTENSION.*found '1\.jpg', '2\.jpg'"):
        read_manifest(tmp_path, label_from_name=True)


def test_labels_from_names_in_a_table(tmp_path):
    assert rows(read_manifest(table(tmp_path, "path\nx/cat.1.jpg\ndog.1.jpg\n"), label_from_name=True)) == [
        ("dog.1.jpg", "dog", ""),
        ("x/cat.1.jpg", "cat", ""),
    ]


# Tables


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\nb.jpg,dog,valid\na.jpg,cat,train\nc.jpg,,\n",
        "\ufeffpath,label,split\r\nb.jpg,dog,valid\r\n\r\na.jpg,cat,train\r\nc.jpg,,\r\n",
        "Split, Label ,PATH\nval,dog,b.jpg\n TRAIN , cat ,a.jpg\n,,c.jpg",
        'note,label,split,path\n"x, ""y""\n",dog,validation,./b.jpg\nn,cat,train,"a.jpg"\nn,,,x/../c.jpg\n',
    ],
    ids=["plain", "bom, crlf, blank line", "any order and case", "quotes and further columns"],
)
def test_a_csv_table(tmp_path, text):
    manifest = read_manifest(table(tmp_path, text))

    assert rows(manifest) == [("a.jpg", "cat", "train"), ("b.jpg", "dog", "valid"), ("c.jpg", None, "")]
    assert manifest.source == FolderSource(tmp_path)
    assert manifest.ignored == ()


def test_a_tsv_table_and_a_table_of_paths_alone(tmp_path):
    tsv = table(tmp_path, "path\tlabel\na, b.jpg\tcat\n", "list.TSV")

    assert rows(read_manifest(tsv)) == [("a, b.jpg", "cat", "")]
    assert rows(read_manifest(table(tmp_path, "path\na\nb.xyz\n"))) == [("a", None, ""), ("b.xyz", None, "")]


def test_paths_are_relative_to_the_root(tmp_path):
    images = make(tmp_path / "images", "cats/a.jpg")
    (tmp_path / "link").symlink_to("images")
    lists = tmp_path / "lists"
    lists.mkdir()
    for text in ("path\ncats/a.jpg\n", f"path\n{images}/cats/a.jpg\n"):
        for root in (images, tmp_path / "link"):
            manifest = read_manifest(table(lists, text), root=root)
            assert [entry.path for entry in manifest.entries] == ["cats/a.jpg"]
            assert there(manifest) == [True]


@pytest.mark.parametrize("path", ["/elsewhere/a.jpg", "../a.jpg", "x/../../a.jpg", ".."])
def test_paths_that_leave_the_root_are_an_error(tmp_path, path):
    with pytest.raises(ManifestError, match=rf"line 2: path '{path}' .* {tmp_path}; give .* with --root"):
        read_manifest(table(tmp_path, f"path\n{path}\n"))


def test_paths_in_a_table_may_be_literal_or_encoded(tmp_path):
    make(tmp_path, b"\xff.jpg", "a%20b.jpg", "a b.jpg", "A.jpg")

    manifest = read_manifest(table(tmp_path, "path\n%FF.jpg\na%20b.jpg\n%41.jpg\nmissing%42.jpg\n"))

    assert [entry.path for entry in manifest.entries] == ["%FF.jpg", "A.jpg", "a%2520b.jpg", "missing%2542.jpg"]
    assert there(manifest) == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.jpg,cat\n", "has no column 'path'; found 'file', 'label', separated by commas; expected path["),
        ("file;label\na.jpg;cat\n", "has no column 'path'; found 'file', 'label', separated by semicolons; expected"),
        ("file\tlabel\na.jpg\tcat\n", "separated by tabs; expected"),
        ("path,path\na.jpg,b.jpg\n", "has 2 columns 'path'; expected one"),
        ("path,labels\na.jpg,cat\n", "has a column 'labels'; rename it to 'label'"),
        ("path,split\na.jpg,trian\n", "line 2: split 'trian' is unknown (expected train, valid, test or nothing)"),
        ("path,label\na.jpg\n", "line 2: 1 fields, but the header has 2"),
        ("path,label\na.jpg,cat,\n", "line 2: 3 fields, but the header has 2"),
        ("path,label\n,cat\n", "line 2: path '' names no file"),
        ("path,label\n.,cat\n", "line 2: path '.' names no file"),
        ("path\na.jpg\n\nb.jpg\n./a.jpg\n", "line 5: path 'a.jpg' is already in line 2; keep one of the two lines"),
        ('path,label\n"a\nb.jpg",cat\nc.jpg\n', "line 4: 1 fields"),
        ('path\n"a.jpg\n', "cannot be read in line 2: unexpected end of data"),
        ("path,label\n" + "x" * 200_000 + ",cat\n", "cannot be read in line 2: field larger"),
        ("path\na\0b.jpg\n", "line 2"),
    ],
)
def test_faults_of_tables_name_the_line_and_what_was_found(tmp_path, text, message):
    path = table(tmp_path, text)

    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_faults_are_reported_at_once(tmp_path):
    lines = ["path,split"] + [f"{number}.jpg,wrong" for number in range(9)]

    with pytest.raises(ManifestError) as caught:
        read_manifest(table(tmp_path, "\n".join(lines)))
    message = str(caught.value)
    assert "has 9 faults: line 2: " in message
    assert message.endswith("; and 4 more")
    assert message.count("line ") == 5


@pytest.mark.parametrize("text", ["", "\n\n", "path,label\n", "path\n\n"])
def test_an_empty_table(tmp_path, text):
    with pytest.raises(NoImagesError, match=r"list\.csv (is empty|has no rows); expected"):
        read_manifest(table(tmp_path, text))


def test_a_table_that_is_not_utf8(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"path\na.jpg\ncaf\xe9.jpg\n")

    with pytest.raises(ManifestError, match="is not UTF-8 in line 3; save it as UTF-8"):
        read_manifest(tmp_path / "list.csv")


def test_a_table_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        path = table(Path(name), "path\na.jpg\n")
        path.chmod(0)
        with without_privileges(), pytest.raises(ManifestError, match=r"cannot read the table .*: permission denied"):
            read_manifest(path)


def test_a_root_that_is_no_folder(tmp_path):
    with pytest.raises(ManifestError, match=r"the root .*nowhere of .*list\.csv is neither a folder nor an archive"):
        read_manifest(table(tmp_path, "path\na.jpg\n"), root=tmp_path / "nowhere")


# Loose files


def test_loose_files_are_shown_as_they_were_given(tmp_path, monkeypatch):
    make(tmp_path, "z.jpg", "pictures/b.jpg", "pictures/sub/a.png", "pictures/notes.txt", "empty/.keep")
    monkeypatch.chdir(tmp_path)

    paths = [
        Path("z.jpg"),
        Path("pictures"),
        tmp_path / "z.jpg",
        Path("gone"),
        Path("../x.jpg"),
        Path("z.jpg"),
        Path("empty"),
    ]
    manifest = from_files(paths)

    shown = ["z.jpg", "pictures/b.jpg", "pictures/sub/a.png", f"{tmp_path}/z.jpg", "gone", "../x.jpg"]
    assert [entry.path for entry in manifest.entries] == shown
    assert {(entry.label, entry.split) for entry in manifest.entries} == {(-1, "")}
    assert manifest.source.locate(manifest.entries[1].path) == str(tmp_path / "pictures/b.jpg")
    assert manifest.source.locate(manifest.entries[3].path) == str(tmp_path / "z.jpg")
    assert manifest.ignored == (
        Ignored("empty", "a folder without image files"),
        Ignored("empty/.keep", "hidden"),
        Ignored("pictures/notes.txt", "not an image file by its extension"),
    )


def test_the_current_folder_as_a_loose_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path, "a.jpg", b"\xff.jpg"))

    manifest = from_files([Path()])

    assert [entry.path for entry in manifest.entries] == ["%FF.jpg", "a.jpg"]
    assert all(there(manifest))


@pytest.mark.parametrize("path", ["%2E%2E/a.jpg", "%2e./a.jpg", "{root}%2Fa.jpg"])
def test_an_escaped_path_of_a_table_never_leads_out_of_the_folder(path, tmp_path):
    path = path.replace("{root}", str(tmp_path).replace("/", "%2F"))
    make(tmp_path, "a.jpg", "images/b.jpg")
    manifest = read_manifest(table(tmp_path / "images", f"path\n{path}\nb.jpg\n"))

    found = dict(zip((entry.path for entry in manifest.entries), there(manifest), strict=True))
    assert found.pop("b.jpg")
    assert list(found.values()) == [False]
    assert not any(name.startswith(("../", "/")) for name in found)


def test_no_loose_files(tmp_path):
    with pytest.raises(NoImagesError, match="no image files in an empty list"):
        from_files([])
    with pytest.raises(NoImagesError, match=rf"no image files in {tmp_path}; looked for"):
        from_files([tmp_path])


# The value itself


@pytest.mark.parametrize("entry", [ImageEntry("a", 1, ""), ImageEntry("a", -2, ""), ImageEntry("a", 0, "val")])
def test_a_manifest_is_checked_when_built(entry):
    with pytest.raises(ManifestError, match=r"'a' has label .* expected a label from -1 to 0 and a split"):
        Manifest(FolderSource(Path()), (entry,), ("cat",))


@pytest.mark.real_data
def test_real_folders(shared_data):
    manifest = read_manifest(shared_data / "catsdogs")

    assert manifest.classes == ("cats", "dogs")
    assert len(manifest) == 1500
    assert [split for split in SPLITS if any(entry.split == split for entry in manifest.entries)] == ["train", "valid"]

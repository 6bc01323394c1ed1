"""Samples and shards as WebDataset has them: labels, texts and records beside images, in one archive or many."""

import hashlib
import io
import json
import pickle
import re
import tarfile
import zipfile

import pytest

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, NoImagesError
from featurecache.images.manifest import manifest_of, read_manifest
from tests.featurecache.conftest import CountingBackbone, write_image
from tests.featurecache.images.test_manifest import rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the bytes of twelve images."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(12):
        write_image(folder / f"{number}.png", number)
    return [(folder / f"{number}.png").read_bytes() for number in range(12)]


def write_tar(path, members, mode="w"):
    """Write a TAR file of these members as Python's tarfile does."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def sample(key, image, label=None, text=None, record=None):
    """Return the members of a sample."""
    files = {".png": image, ".cls": label, ".txt": text, ".json": record}
    return {f"{key}{suffix}": content for suffix, content in files.items() if content is not None}


def contents(manifest):
    """Return the SHA-256 of each entry's bytes."""
    return [manifest.source.read(entry.path, max_bytes=10**6).sha256 for entry in manifest.entries]


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_labels_texts_and_records_beside_images(tmp_path, data, kind):
    record = json.dumps({"age": 3, "ok": True, "caption": "ein Hund", "box": [1, 2], "none": None, "path": "/a/b.png"})
    members = {
        **sample("00", data[0], b"7\n", b"a dog", record.encode()),
        **sample("01", data[1], b"12"),
        **sample("02.left", data[2], text="\ufeffthé".encode()),
    }
    if kind == ".zip":
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        write_tar(tmp_path / f"photos{kind}", members, "w:gz" if kind == ".tar.gz" else "w")
    manifest = read_manifest(tmp_path / f"photos{kind}")
    assert rows(manifest) == [("00.png", "7", ""), ("01.png", "12", ""), ("02.left.png", None, "")]
    assert manifest.columns == {
        "age": ("3", "", ""),
        "ok": ("True", "", ""),
        "caption": ("ein Hund", "", ""),
        "original_path": ("/a/b.png", "", ""),
        "txt": ("a dog", "", "thé"),
    }
    assert "columns not read: box" in manifest.summary()
    assert manifest.ignored == ()


def test_shards_are_one_source_with_splits_by_name(tmp_path, data):
    for number in range(4):
        members = {}
        for place in range(3):
            members |= sample(f"{place:04d}", data[3 * number + place], b"cat" if place % 2 else b"dog")
        write_tar(tmp_path / "data" / f"{('train', 'valid')[number == 3]}-{number % 3:03d}.tar", members)
    folder = read_manifest(tmp_path / "data")
    assert [entry.path for entry in folder.entries][::3] == [
        *(f"train-00{number}.tar/0000.png" for number in range(3)),
        "valid-000.tar/0000.png",
    ]
    assert [entry.split for entry in folder.entries] == ["train"] * 9 + ["valid"] * 3
    assert folder.classes == ("cat", "dog")
    assert contents(folder) == [hashlib.sha256(image).hexdigest() for image in data]
    train = read_manifest(tmp_path / "data" / "train-{000..002}.tar")
    assert train.entries == folder.entries[:9]
    both = read_manifest(tmp_path / "data" / "{train,valid}-000.tar")
    assert [entry.path.partition("/")[0] for entry in both.entries] == ["train-000.tar"] * 3 + ["valid-000.tar"] * 3
    source = pickle.loads(pickle.dumps(train.source.anywhere()))  # noqa: S301
    assert source.read(train.entries[4].path, max_bytes=10**6).data == data[4]


def test_photographs_in_shards_are_known_from_their_folder_and_verified(tmp_path, data, monkeypatch):
    for number, image in enumerate(data):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / f"{number:02d}.png").write_bytes(image)
        write_tar(tmp_path / "data" / f"s-{number // 4}.tar", {f"{number:02d}.png": image}, "a")
    featurecache.extract(tmp_path / "files", tmp_path / "c.h5", backbone=FakeBackbone())
    never = CountingBackbone(stop_after=0)
    monkeypatch.chdir(tmp_path)
    for images in ("data", "data/s-{0..2}.tar"):
        cache = featurecache.extract(images, tmp_path / "c.h5", backbone=never)
        assert (never.seen, len(cache), cache.failures) == (0, 12, {})
        monkeypatch.chdir(tmp_path / "files")
        assert featurecache.verify(tmp_path / "c.h5", recompute=12, backbone=FakeBackbone()).recomputed == 12
        monkeypatch.chdir(tmp_path)


def test_records_give_labels_by_their_own_name(tmp_path, data):
    members = sample("0", data[0], record=b'{"breed": "pug", "split": "val"}') | sample(
        "1", data[1], record=b'{"breed": "cat"}'
    )
    path = write_tar(tmp_path / "photos.tar", members)
    with pytest.raises(
        ManifestError, match=r"the archive .*photos\.tar has a column 'breed'; rename it to 'label' or give"
    ):
        read_manifest(path)
    assert rows(read_manifest(path, label_column="breed")) == [("0.png", "pug", "valid"), ("1.png", "cat", "")]


def test_images_with_dots_in_their_names_have_their_own_files(tmp_path, data):
    members = sample("IMG.001", data[0], b"cat") | sample("IMG.002", data[1], b"dog") | sample("IMG.003", data[2])
    assert [label for _, label, _ in rows(read_manifest(write_tar(tmp_path / "a.tar", members)))] == [
        "cat",
        "dog",
        None,
    ]
    members = {"7.left.png": data[0], "7.right.png": data[1], "7.cls": b"cat", "7.right.json": b'{"side": 1}'}
    manifest = read_manifest(write_tar(tmp_path / "b.tar", members))
    assert rows(manifest) == [("7.left.png", "cat", ""), ("7.right.png", "cat", "")]
    assert (manifest.columns, manifest.ignored) == ({"side": ("", "1")}, ())


def test_many_images_of_one_beginning_read_each_file_once(tmp_path, data, monkeypatch):
    from featurecache.images import archives

    members = {}
    for number in range(200):
        members |= sample(f"cat.{number}", data[0], text=b"x")
    path = write_tar(tmp_path / "photos.tar", members)
    reads = []
    read = archives._Tar.read
    monkeypatch.setattr(archives._Tar, "read", lambda self, place, size: reads.append(place) or read(self, place, size))
    assert len(read_manifest(path)) == len(reads) == 200


@pytest.mark.parametrize(
    "content", [b"a\0b", b'{"caption": "a\\u0000b"}', b'{"caption": "\\ud83d"}', b'{"a\\ud83d": "b"}']
)
def test_texts_that_no_cache_can_store_are_listed(tmp_path, data, content):
    kind = {"record": content} if content.startswith(b"{") else {"text": content}
    manifest = read_manifest(write_tar(tmp_path / "photos.tar", sample("0", data[0], b"cat", **kind)))
    assert rows(manifest) == [("0.png", "cat", "")]
    assert [item.reason for item in manifest.ignored] == ["neither text in UTF-8 nor a JSON object, as its name says"]


def test_shards_with_folders_and_no_labels_are_refused(tmp_path, data):
    write_tar(tmp_path / "data" / "s-0.tar", {"cats/0.png": data[0]})
    with pytest.raises(
        ManifestError, match=r"the TAR shards .* have images in folders, such as cats/0\.png, and no labels"
    ):
        read_manifest(tmp_path / "data")


def test_folders_give_classes_whatever_lies_beside_their_images(tmp_path, data):
    members = {f"train/cats/{key}": content for key, content in sample("0", data[0], record=b'{"label": "x"}').items()}
    manifest = read_manifest(write_tar(tmp_path / "photos.tar", members))
    assert rows(manifest) == [("train/cats/0.png", "cats", "train")]
    assert [item.path for item in manifest.ignored] == ["train/cats/0.json"]


def test_what_is_beside_an_image_and_cannot_be_read_is_listed(tmp_path, data):
    members = {
        **sample("0", data[0], b"cat", record=b"no JSON"),
        **sample("1", data[1], b"\xff\xfe\xff", record=b"[1]"),
        **sample("2", data[2], b"dog", text=b"x" * 2**21, record=b"[" * 100_000),
        "readme.txt": b"hello",
        "../3.cls": b"x",
    }
    said = []
    manifest = manifest_of(write_tar(tmp_path / "photos.tar", members), notify=said.append)
    assert rows(manifest) == [("0.png", "cat", ""), ("1.png", None, ""), ("2.png", "dog", "")]
    assert {item.path: item.reason for item in manifest.ignored} == {
        "0.json": "neither text in UTF-8 nor a JSON object, as its name says",
        "1.cls": "neither text in UTF-8 nor a JSON object, as its name says",
        "1.json": "neither text in UTF-8 nor a JSON object, as its name says",
        "2.json": "neither text in UTF-8 nor a JSON object, as its name says",
        "2.txt": "not an image file by its extension",
        "readme.txt": "not an image, and beside none",
        "../3.cls": "a name that leads out of the archive",
    }
    assert any("neither text in UTF-8 nor a JSON object" in line and "and 3 more" in line for line in said)


def test_a_cut_shard_gives_what_is_whole(tmp_path, data):
    whole = write_tar(tmp_path / "data" / "s-0.tar", sample("0", data[0], b"cat") | sample("1", data[1], b"dog"))
    write_tar(tmp_path / "data" / "s-1.tar", sample("2", data[2], b"cow"))
    whole.write_bytes(whole.read_bytes()[: 512 * 4 + len(data[0])])
    manifest = read_manifest(tmp_path / "data")
    assert ("s-1.tar/2.png", "cow", "") in rows(manifest)
    assert any(item.path.startswith("s-0.tar/byte") for item in manifest.ignored)


@pytest.mark.parametrize(
    "path",
    ["s-0.tar", "s-0.tar/none.png", "none.tar/0.png", "../data/s-0.tar/0.png", "x/0.png", "", "..%2Fs-0.tar/0.png"],
)
def test_no_other_path_is_read(tmp_path, data, path):
    write_tar(tmp_path / "data" / "s-0.tar", sample("0", data[0]))
    source = featurecache.open_source(tmp_path / "data")
    assert isinstance(source.read(path, max_bytes=10**6), featurecache.Failure)
    assert source.stat(path) is None


def test_patterns_and_folders_that_are_none(tmp_path, data):
    write_tar(tmp_path / "data" / "s-0.tar", sample("0", data[0]))
    with pytest.raises(
        ManifestError, match=r"2 TAR shards of 3 does? not exist, first .*s-1\.tar; s-\{0\.\.2\}\.tar stands"
    ):
        read_manifest(tmp_path / "data" / "s-{0..2}.tar")
    with pytest.raises(ManifestError, match=r"stands for 100,000,000 files; expected 1 to 1,000,000"):
        read_manifest(tmp_path / "data" / "s-{00000000..99999999}.tar")
    with pytest.raises(ManifestError, match=r"stands for 10,000,000,000 files; expected 1 to 1,000,000"):
        read_manifest(tmp_path / "data" / "s-{00000..99999}-{00000..99999}.tar")
    with pytest.raises(ManifestError, match=r"stands for 0 files; expected 1 to 1,000,000"):
        read_manifest(tmp_path / "data" / "s-{9..0}.tar")
    write_image(tmp_path / "data" / "cats" / "0.png", 1)
    assert rows(read_manifest(tmp_path / "data")) == [("cats/0.png", "cats", "")]
    write_tar(tmp_path / "empty" / "s-0.tar", {"readme.txt": b"x"})
    with pytest.raises(NoImagesError, match=re.escape("has no rows")):
        read_manifest(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "s.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(ManifestError, match=r"s\.tar is neither a ZIP nor a TAR file"):
        read_manifest(tmp_path / "bad")

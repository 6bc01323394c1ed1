"""Sources of images: folders, loose files, and a source in memory that the whole program can use."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

import heads
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, NoImagesError, OptionError
from featurecache.images import sources
from featurecache.images.failures import Failure, Ignored
from featurecache.images.files import Stat, content_of
from featurecache.images.image_source import ImageSource
from featurecache.images.manifest import Manifest, from_source, read_manifest
from featurecache.images.sources import FolderSource, open_source
from featurecache.planning import why
from featurecache.verification import verify

LIMIT = 1 << 20
OUTSIDE = Failure("outside", "its path leads out of the folder of the images")


class Memory(ImageSource):
    """Images in a dict of bytes, each with a time; counts the reads."""

    name = "memory://photos"

    def __init__(self, files):
        self.files = dict(files)
        self.times = dict.fromkeys(files, 1)
        self.reads = []

    def stat(self, path):
        return Stat(len(self.files[path]), self.times[path]) if path in self.files else None

    def read(self, path, *, max_bytes):
        self.reads.append(path)
        if path not in self.files:
            return Failure("not_found", "no such image in memory")
        return content_of(self.files[path], max_bytes=max_bytes, mtime_ns=self.times[path])


@pytest.fixture
def memory(photos):
    """Return the images of `photos` in memory, and one invalid image; the folder is removed."""
    files = {str(file.relative_to(photos)): file.read_bytes() for file in photos.rglob("*.png")}
    for file in photos.rglob("*.png"):
        file.unlink()
    return Memory(files | {"train/cats/bad.png": b"no image"})


def listed(source):
    """Return a manifest of the classes and splits that paths begin with."""
    return from_source(source, [(path, path.split("/")[1], path.split("/")[0]) for path in source.files])


@pytest.fixture
def cache(memory, tmp_path):
    return extract(listed(memory), tmp_path / "c.h5", backbone=FakeBackbone())


def test_a_cache_of_a_source_in_memory_has_the_features_of_the_same_files(memory, cache, tmp_path):
    for path, data in memory.files.items():
        (tmp_path / "disk" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "disk" / path).write_bytes(data)
    found = cache.features("features")
    expected = extract(tmp_path / "disk", tmp_path / "d.h5", backbone=FakeBackbone())
    on_disk = expected.features("features")
    np.testing.assert_array_equal(found.X, on_disk.X)
    assert found.paths.tolist() == on_disk.paths.tolist()
    assert found.sha256.tolist() == on_disk.sha256.tolist()
    assert found.classes == on_disk.classes
    assert cache.failures == expected.failures
    assert cache.provenance["images"] == "memory://photos"


def test_what_a_source_says_is_unchanged_is_not_read_again(memory, cache, tmp_path):
    memory.reads.clear()
    plan = why(listed(memory), tmp_path / "c.h5", backbone=FakeBackbone())
    assert {reason: len(paths) for reason, paths in plan.reasons.items()} == {"failed before": 1, "unchanged": 20}
    assert memory.reads == []

    memory.times["valid/dogs/0.png"] = 2
    memory.files["valid/dogs/1.png"] = memory.files["valid/dogs/2.png"] + b"more"
    del memory.files["valid/dogs/3.png"]
    plan = why(listed(memory), tmp_path / "c.h5", backbone=FakeBackbone())
    assert plan.reasons["touched"] == ["valid/dogs/0.png"]
    assert plan.reasons["changed"] == ["valid/dogs/1.png"]
    assert plan.gone == ["valid/dogs/3.png"]
    assert sorted(memory.reads) == ["valid/dogs/0.png", "valid/dogs/1.png"]


def test_rows_of_a_source_in_memory_are_verified(memory, cache, tmp_path):
    path = tmp_path / "c.h5"
    found = verify(path, recompute=20, backbone=FakeBackbone(), images=memory)
    assert (found.ok, found.recomputed, found.skipped) == (True, 20, 0)
    with pytest.raises(ManifestError, match="all 20 chosen images"):
        verify(path, recompute=20, backbone=FakeBackbone())  # nothing is at the folder of that name


def test_thumbnails_show_images_of_a_source_in_memory(memory, cache):
    originals = heads.Originals.from_cache(cache, memory)
    shown = originals.thumbnail("valid/dogs/0.png", 16)
    assert (shown.width, shown.height, shown.missing) == (16, 16, "")
    del memory.files["valid/dogs/0.png"]
    assert originals.thumbnail("valid/dogs/0.png").missing == "the file is not there"


def test_a_head_classifies_images_of_a_source_in_memory(memory, cache):
    head = heads.train(cache, "logreg", tap="features", holdout=0)
    manifest = from_source(memory, [("valid/dogs/0.png", None, ""), ("train/cats/bad.png", None, ""), ("x", None, "")])
    found = heads.predict(head, manifest, backbone=FakeBackbone())
    features = cache.features("features")
    (row,) = np.flatnonzero(features.paths == "valid/dogs/0.png")
    np.testing.assert_allclose(found.table.probabilities, head.predict_proba(features.X[[row]]))
    assert {path: failure.code for path, failure in found.failures.items()} == {
        "train/cats/bad.png": "not_an_image",
        "x": "not_found",
    }


def test_a_manifest_of_a_source_is_sorted_and_numbered(memory):
    manifest = from_source(memory, [("b", "dog", "test"), ("c", None, "train"), ("a", "cat", "test"), ("d", None, "")])
    assert [entry.path for entry in manifest.entries] == ["c", "a", "b", "d"]
    assert [entry.label for entry in manifest.entries] == [-1, 0, 1, -1]
    assert manifest.classes == ("cat", "dog")
    assert manifest.source is memory


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", None, ""), ("a", None, "train")], "'a' occurs in two rows"),
        ([("a", None, "val")], "'a' has split 'val'; expected one of"),
        ([("a\0b", None, "")], "is not text that a cache can store"),
        ([("a\udcff", None, "")], "is not text that a cache can store"),
        ([("", None, "")], "is not text that a cache can store"),
        ([("a", "c\0t", "")], r"'a' has the class 'c\\x00t', which is not text that a cache can store"),
        ([("a", "c\ud800t", "")], "which is not text that a cache can store"),
    ],
)
def test_rows_that_no_cache_can_hold_are_refused(memory, rows, message):
    with pytest.raises(ManifestError, match=message):
        from_source(memory, rows)


def test_a_source_without_images_is_refused(memory, tmp_path):
    with pytest.raises(NoImagesError, match="no images in memory://photos"):
        from_source(memory, [])
    with pytest.raises(NoImagesError, match="the manifest has no images"):
        extract(Manifest(memory, (), ()), tmp_path / "c.h5", backbone=FakeBackbone())


def test_a_manifest_that_is_not_sorted_is_refused_before_anything_is_read(memory, tmp_path):
    manifest = listed(memory)
    for entries in (manifest.entries[::-1], manifest.entries[:1] * 2):
        with pytest.raises(ManifestError, match="expected entries sorted by split and path"):
            extract(Manifest(memory, entries, manifest.classes), tmp_path / "c.h5", backbone=FakeBackbone())
    with pytest.raises(OptionError, match="leave out root and label_from_name"):
        extract(manifest, tmp_path / "c.h5", backbone=FakeBackbone(), root=tmp_path)
    assert memory.reads == []


def test_a_folder_reads_its_files_whatever_bytes_their_names_have(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9 100%41.jpg")).write_bytes(b"content")
    source, path = FolderSource(tmp_path), "caf%E9 100%2541.jpg"

    content = source.read(path, max_bytes=LIMIT)
    assert content.data == b"content"
    assert source.stat(path) == Stat(content.size, content.mtime_ns)
    assert os.fsencode(source.locate(path)) == os.fsencode(tmp_path) + b"/caf\xe9 100%41.jpg"


PATHS_OUT = ["../a.jpg", "b/../../a.jpg", "..", "%2E%2E/a.jpg", "%2e./a.jpg", "/{root}/a.jpg", "%2F{root}/a.jpg"]


@pytest.mark.parametrize("path", PATHS_OUT)
def test_a_folder_follows_no_path_that_leads_out_of_it(path, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"content")
    (tmp_path / "images" / "b").mkdir(parents=True)
    path = path.replace("/{root}", str(tmp_path)).replace("{root}", str(tmp_path)[1:])
    source = FolderSource(tmp_path / "images")

    assert source.read(path, max_bytes=LIMIT) == OUTSIDE
    assert source.stat(path) is None
    assert source.locate(path) == path


@pytest.mark.parametrize("path", PATHS_OUT)
def test_no_path_of_a_cache_leads_verification_out_of_the_folder(path, photos, tmp_path, monkeypatch):
    path = path.replace("/{root}", str(tmp_path)).replace("{root}", str(tmp_path)[1:])
    cache = extract(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    (tmp_path / "a.jpg").write_bytes((photos / cache.index.images["path"][0]).read_bytes())
    cache.index.images["path"][0] = path
    monkeypatch.setattr("featurecache.verification.FeatureCache.open", lambda _: cache)
    monkeypatch.setattr("featurecache.verification._disorder", lambda _: [])

    found = verify(tmp_path / "c.h5", recompute=20, backbone=FakeBackbone())
    assert (found.problems, found.recomputed, found.skipped) == ((), 19, 1)


def test_loose_files_may_lie_anywhere(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"content")
    (tmp_path / "here").mkdir()
    source = FolderSource(tmp_path / "here", confined=False)

    for path in ("../a.jpg", str(tmp_path / "a.jpg")):
        assert source.read(path, max_bytes=LIMIT).data == b"content"
        assert source.stat(path).size == 7


@pytest.mark.timeout(10)
@pytest.mark.parametrize("confined", [True, False])
def test_a_folder_waits_for_no_pipe_and_reads_within_the_limit(confined, tmp_path):
    source = FolderSource(tmp_path, confined=confined)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345678")

    assert source.read("pipe", max_bytes=LIMIT).code == "not_a_file"
    assert source.read("large", max_bytes=7).code == "too_many_bytes"
    assert source.read("gone", max_bytes=7).code == "not_found"
    for path in ("nul\0", "x" * 300, "lone \ud800", "%00"):
        assert source.read(path, max_bytes=LIMIT).code == "bad_name"
        assert source.stat(path) is None


class Bag(ImageSource):
    """A ZIP file of images, as a source that a new module of `featurecache.images` could hold."""

    name = ""

    def __init__(self, file):
        self.file = file
        self.name = str(file.absolute())

    def stat(self, path):
        return None

    def read(self, path, *, max_bytes):
        with zipfile.ZipFile(self.file) as archive:
            return content_of(archive.read(path), max_bytes=max_bytes)

    def list_images(self):
        names = zipfile.ZipFile(self.file).namelist()
        images = [name for name in names if name.endswith(".png")]
        return images, [Ignored(name, "not an image file by its extension") for name in set(names) - set(images)]


@pytest.fixture
def bag(photos, tmp_path, monkeypatch):
    """Return a file of the images of `photos`, of a kind that `open_source` knows; the folder is gone."""
    monkeypatch.setitem(sources._SOURCES, ".bag", Bag)
    with zipfile.ZipFile(tmp_path / "photos.BAG", "w") as archive:
        for file in sorted(photos.rglob("*.png")):
            archive.write(file, file.relative_to(photos))
            file.unlink()
        archive.writestr("notes.txt", "none")
    return tmp_path / "photos.BAG"


def test_a_new_kind_of_file_is_one_class_that_open_source_knows(bag, tmp_path):
    manifest = read_manifest(bag)
    assert isinstance(manifest.source, Bag)
    assert manifest.classes == ("cats", "dogs")
    assert {entry.split for entry in manifest.entries} == {"train", "valid"}
    assert [item.path for item in manifest.ignored] == ["notes.txt"]
    cache = extract(bag, tmp_path / "c.h5", backbone=FakeBackbone())
    assert cache.index.images["path"].tolist() == [entry.path for entry in manifest.entries]
    assert cache.provenance["images"] == str(bag)
    assert why(bag, cache.path, backbone=FakeBackbone()).count(["unchanged"]) == 20
    assert verify(cache.path, recompute=20, backbone=FakeBackbone()).recomputed == 20
    with pytest.raises(ManifestError, match=r"the images of .*photos\.BAG are in it; leave out the root"):
        extract(bag, tmp_path / "d.h5", backbone=FakeBackbone(), root=tmp_path)


def test_a_folder_is_a_folder_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sources._SOURCES, ".bag", Bag)
    (tmp_path / "x.bag").mkdir()
    assert open_source(tmp_path / "x.bag") == FolderSource(tmp_path / "x.bag")


def test_a_source_that_cannot_be_listed_names_from_source(memory):
    with pytest.raises(ManifestError, match=r"^memory://photos cannot list its images; .* featurecache\.from_source$"):
        memory.list_images()


def test_a_location_opens_a_folder_and_a_source_stays_itself(tmp_path, memory):
    assert open_source(tmp_path) == open_source(str(tmp_path)) == FolderSource(tmp_path)
    assert open_source(memory) is memory
    assert (open_source(tmp_path).exists(), open_source(tmp_path / "gone").exists()) == (True, False)
    assert memory.exists()
    assert memory.locate("a.png") == "memory://photos/a.png"


def test_the_name_of_a_folder_is_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert FolderSource(Path("images")).name == str(tmp_path / "images")

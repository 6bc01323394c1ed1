import fcntl
import gc
import hashlib
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from featurecache import FeatureCache, extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import CacheFormatError, UnknownNameError
from featurecache.format import header
from featurecache.verification import verify


def test_h5py_alone_reads_the_file(cache, photos):
    with h5py.File(cache.path) as file:
        assert dict(file.attrs) == {
            "format": "featurecache",
            "format_version": 1,
            "fingerprint": cache.recipe.fingerprint,
        }
        assert file["recipe"].asstr()[()] == cache.recipe.to_json()
        assert json.loads(file["provenance"].asstr()[()])["engine"] == {"engine": "numpy", "device": "cpu"}
        assert list(file["classes"].asstr()) == ["cats", "dogs"]
        paths = list(file["images/path"].asstr())
        assert paths == sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
        assert list(file["images/label"]) == ([0] * 5 + [1] * 5) * 2
        assert list(file["images/split"]) == [b"train"] * 10 + [b"valid"] * 10
        for path, sha256, size, mtime_ns in zip(
            paths, file["images/sha256"], file["images/size"], file["images/mtime_ns"], strict=True
        ):
            data = (photos / path).read_bytes()
            assert sha256.decode() == hashlib.sha256(data).hexdigest()
            assert size == len(data)
            assert mtime_ns == (photos / path).stat().st_mtime_ns
        assert len(file["failures/path"]) == len(file["failures/reason"]) == 0
        for tap, width in {"features": 16, "predictions": 4}.items():
            data = file["features"][tap]
            assert data.shape == (20, width)
            assert data.dtype == np.float32
            assert data.chunks is None
            assert data.compression is None
            assert data.id.get_offset() % 8 == 0
            assert list(file["checksums"][tap]) == [hashlib.sha256(data[()].tobytes()).hexdigest().encode()]
        np.testing.assert_allclose(file["features/predictions"][()].sum(axis=1), 1, rtol=1e-6)


def test_locks_are_not_asked_for(cache):
    """HDF5 itself refuses a file that another process has locked, like one on a file system without locks."""
    with cache.path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="unable to lock file"):
            h5py.File(cache.path, "r", locking=True)
        np.testing.assert_array_equal(
            FeatureCache.open(cache.path).features("features").X, cache.features("features").X
        )


def test_large_features_begin_at_a_page(photos, tmp_path):
    cache = extract(photos, tmp_path / "wide.h5", backbone=FakeBackbone({"wide": 1024}))
    with h5py.File(cache.path) as file:
        assert file["features/wide"].id.get_offset() % 4096 == 0
        offset = file["features/wide"].id.get_offset()
        mapped = np.memmap(cache.path, np.float32, "r", offset, (20, 1024))
        np.testing.assert_array_equal(mapped, file["features/wide"][()])


def test_a_feature_set_keeps_rows_together(cache):
    features = cache.features("features", split="valid")
    everything = cache.features("features")
    assert features.X.shape == (10, 16)
    assert features.X.dtype == np.float32
    assert features.y.dtype == np.int64
    assert not features.X.flags.writeable
    assert not features.X.flags.owndata
    assert set(features.splits) == {"valid"}
    assert features.fingerprint == cache.recipe.fingerprint
    np.testing.assert_array_equal(features.X, everything.X[10:])
    for name in ("y", "paths", "splits", "sha256"):
        np.testing.assert_array_equal(getattr(features, name), getattr(everything, name)[10:])
    some = everything.take(np.array([19, 3]))
    assert list(some.paths) == [everything.paths[19], everything.paths[3]]
    np.testing.assert_array_equal(some.X, everything.X[[19, 3]])
    assert len(everything.take(everything.y == 1)) == 10


def test_the_same_content_in_two_splits_is_a_leak(photos, tmp_path):
    shutil.copy(photos / "train" / "cats" / "0.png", photos / "valid" / "dogs" / "leak.png")
    shutil.copy(photos / "train" / "cats" / "1.png", photos / "train" / "dogs" / "twin.png")
    cache = extract(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert cache.leaks == [("train/cats/0.png", "valid/dogs/leak.png")]


def test_a_cache_that_an_earlier_version_wrote_stays_readable():
    cache = FeatureCache.open(Path(__file__).parents[1] / "data" / "cache-v1.h5")
    assert verify(cache.path).ok
    assert cache.taps == {"features": 16, "predictions": 4}
    assert cache.classes == ("cats", "dogs")
    assert cache.splits == {"train": 4, "valid": 2}
    assert list(cache.failures) == ["train/cats/broken.jpg"]
    assert cache.recipe.fingerprint == "51aa318b4ae21b1252fba83bd7360966f9d94aeb1338c3eb176e0bf5d8ad12cf"
    digest = hashlib.sha256(cache.features("features").X.tobytes()).hexdigest()
    assert digest == "8bf049914ab5cfb2c7d551acb9f0d44c1ef4b5408d5e4d4f5ca4dd6a0e5d8d8a"


def test_a_file_with_further_columns_stays_readable():
    cache = FeatureCache.open(Path(__file__).parents[1] / "data" / "cache-v3.h5")
    assert verify(cache.path).ok
    assert cache.splits == {"train": 3, "valid": 1}
    assert cache.columns == ("breed", "owner/id")
    assert cache.column("breed").tolist() == ["tabby", "", "tabby", "pug"]
    assert cache.column("owner/id").tolist() == ["a, b", "ü", "", "two\nlines"]
    digest = hashlib.sha256(cache.features("features").X.tobytes()).hexdigest()
    assert digest == "367c90e207fce5069b5d37e62a834e18f3e03d315eeb0a79ec03e047311e5c3c"


def test_names_that_do_not_exist_are_refused(cache):
    with pytest.raises(UnknownNameError, match="did you mean 'features'"):
        cache.features("feature")
    with pytest.raises(UnknownNameError, match="train, valid"):
        cache.features("features", split="test")
    with pytest.raises(UnknownNameError, match="features, predictions"):
        cache.features()


def test_a_replaced_cache_goes_on_showing_what_it_showed(cache, photos, tmp_path):
    before = cache.features("features")
    values = before.X.copy()
    shutil.rmtree(photos / "train" / "cats")
    fresh = extract(photos, cache.path, backbone=FakeBackbone())
    assert len(fresh) == 15
    np.testing.assert_array_equal(cache.features("features").X, values)
    np.testing.assert_array_equal(cache.read("features", 0, 20), values)
    assert cache.problems() == []
    cache.path.unlink()
    np.testing.assert_array_equal(before.X, values)


@pytest.mark.parametrize("part_rows", [None, 8])
def test_what_was_taken_from_a_released_cache_stays(photos, tmp_path, part_rows):
    cache = extract(photos, tmp_path / "c.h5", backbone=FakeBackbone(), part_rows=part_rows)
    X = cache.features("features", split="valid").X
    values, positions = np.array(X), None if part_rows is None else cache.index.places.positions.tolist()
    cache.release()
    if part_rows is None:
        np.testing.assert_array_equal(X, values)
    else:
        assert cache.index.places.positions.tolist() == positions
    assert cache.paths[0] == "train/cats/0.png"


def test_a_cache_holds_no_file_open_when_it_is_gone(cache, photos, tmp_path):
    def count():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    path, before = cache.path, count()
    opened = [FeatureCache.open(path) for _ in range(5)]
    assert count() > before
    del opened
    assert count() == before


def test_float16_is_stored_where_asked_and_read_as_float32(photos, tmp_path):
    full = extract(photos, tmp_path / "a.h5", backbone=FakeBackbone())
    half = extract(photos, tmp_path / "b.h5", backbone=FakeBackbone(), dtype="float16")
    with h5py.File(half.path) as file:
        assert file["features/features"].dtype == np.float16
        assert file["features/predictions"].dtype == np.float32
    assert half.features("features").X.dtype == np.float32
    np.testing.assert_allclose(half.features("features").X, full.features("features").X, rtol=1e-3)
    assert half.problems() == []


def test_every_flipped_feature_bit_is_found(cache):
    data = bytearray(cache.path.read_bytes())
    with h5py.File(cache.path) as file:
        start = file["features/features"].id.get_offset()
    for position in range(start, start + 20 * 16 * 4, 97):
        data[position] ^= 4
        cache.path.write_bytes(data)
        (problem,) = FeatureCache.open(cache.path).problems()
        assert problem.startswith("features/features: rows 0 to 19 are damaged")
        data[position] ^= 4


def test_what_is_no_cache_is_refused_in_one_line(cache, tmp_path):
    cases = {
        "nothing": None,
        "empty": b"",
        "text": b"hello, I am no cache",
        "truncated": cache.path.read_bytes()[:-1],
        "half": cache.path.read_bytes()[: cache.path.stat().st_size // 2],
    }
    for name, data in cases.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(CacheFormatError) as caught:
            FeatureCache.open(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(CacheFormatError, match="directory"):
        FeatureCache.open(tmp_path)


def change_version(file):
    file.attrs["format_version"] = 2


def change_format(file):
    file.attrs["format"] = "other"


def remove_dataset(file):
    del file["images/size"]


def add_dataset(file):
    file["images/extra"] = [1]


def add_group(file):
    file.create_group("extra")


def add_attribute(file):
    file.attrs["extra"] = 1


def link_softly(file):
    file.move("features/features", "features/hidden")
    file["features/features"] = h5py.SoftLink("/features/hidden")


def link_outside(file):
    del file["features/features"]
    file["features/features"] = h5py.ExternalLink("secret.h5", "/data")


def store_outside(file):
    del file["features/features"]
    file.create_dataset("features/features", (20, 16), "f4", external=[("secret.bin", 0, 20 * 16 * 4)])


def make_virtual(file):
    del file["features/features"]
    layout = h5py.VirtualLayout((20, 16), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "data", (20, 16), "f4")
    file.create_virtual_dataset("features/features", layout)


def compress(file):
    values = file["features/features"][()]
    del file["features/features"]
    file.create_dataset("features/features", data=values, compression="gzip")


def chunk(file):
    values = file["features/features"][()]
    del file["features/features"]
    file.create_dataset("features/features", data=values, chunks=(20, 16))


def declare_much(file):
    del file["features/features"]
    file.create_dataset("features/features", (1 << 32, 1 << 10), "f4")


def declare_many_labels(file):
    del file["images/label"]
    file.create_dataset("images/label", (1 << 40,), "<i4")


def leave_out_labels(file):
    values = file["images/label"][1:]
    del file["images/label"]
    file["images/label"] = values


def classes_in_a_table(file):
    del file["classes"]
    file.create_dataset("classes", data=[["cats", "dogs"]], dtype=h5py.string_dtype())


def place_beyond_the_end(file):
    data = file["features/features"].id
    place = [data.get_offset() - header.HEADER_BYTES, data.get_storage_size()]  # as HDF5 writes it, after the header
    file.flush()
    path = Path(file.filename)
    content = path.read_bytes()
    before, after = (b"".join(n.to_bytes(8, "little") for n in (start, place[1])) for start in (place[0], len(content)))
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))


def change_type(file):
    values = file["features/features"][()]
    del file["features/features"]
    file["features/features"] = values.astype("f8")


def change_text(file):
    del file["classes"]
    file["classes"] = np.array([b"a", b"b"])


def text_in_ascii(file):
    values = file["classes"].asstr()[()]
    del file["classes"]
    file.create_dataset("classes", data=values, dtype=h5py.string_dtype("ascii"))


def change_recipe(file):
    text = file["recipe"].asstr()[()].replace("squash", "crop")
    del file["recipe"]
    file["recipe"] = text


def change_label(file):
    file["images/label"][0] = 1


def change_path(file):
    file["images/path"][0] = "other.png"


def change_split(file):
    file["images/split"][0] = b"tra\xe9n"


def change_hash(file):
    file["images/sha256"][0] = b"\xff" * 64


def change_provenance(file):
    del file["provenance"]
    file["provenance"] = "{}"


def provenance_that_is_none(file):
    del file["provenance"]
    file["provenance"] = '{"a": NaN}'


def provenance_that_is_a_list(file):
    del file["provenance"]
    file["provenance"] = "[]"


def inflate_text(file):
    del file["classes"]
    file.create_dataset("classes", data=["x" * 1000, "y"], dtype=h5py.string_dtype())
    offset = file["classes"].id.get_offset()
    file.flush()
    with open(file.filename, "r+b") as stream:  # noqa: PTH123 - beside HDF5
        stream.seek(offset + 16)
        stream.write((1 << 30).to_bytes(4, "little"))


def declare_unstored(file):
    del file["images/size"]
    file.create_dataset("images/size", (20,), "<i8")


def label_without_class(file):
    file["images/label"][0] = 7


def overlap_features(file):
    del file["features/features"]
    file["features/features"] = file["features/predictions"]


def group_for_dataset(file):
    del file["images/size"]
    file.create_group("images/size")


def dataset_for_group(file):
    del file["failures"]
    file["failures"] = [1]


ALTERATIONS = [change_label, change_path, change_provenance]
ATTACKS = {
    change_version: "its format version is 2, expected 1",
    change_format: "its format is 'other', expected 'featurecache'",
    remove_dataset: "/images holds ['label', 'mtime_ns', 'path', 'sha256', 'split'], expected",
    add_dataset: "/images holds ['extra', 'label', 'mtime_ns', 'path', 'sha256', 'size', 'split'], expected",
    add_group: "/ holds ['checksums', 'classes', 'extra', 'failures', 'features', 'images', 'provenance', 'recipe']",
    add_attribute: "its attributes are ['extra', 'fingerprint', 'format', 'format_version']",
    link_softly: "/features holds ['features', 'hidden', 'predictions'], expected ['features', 'predictions']",
    link_outside: "/features/features is a soft or external link",
    store_outside: "features/features is not contiguous and uncompressed in this file",
    make_virtual: "features/features is not contiguous and uncompressed in this file",
    compress: "features/features is not contiguous and uncompressed in this file",
    chunk: "features/features is not contiguous and uncompressed in this file",
    declare_much: "features/features has the shape (4294967296, 1024)",
    declare_many_labels: "images/label has the shape (1099511627776,)",
    leave_out_labels: "images/label has the shape (19,)",
    classes_in_a_table: "classes has the shape (1, 2)",
    declare_unstored: "images/size declares 20 values, and 0 are stored",
    place_beyond_the_end: "",  # HDF5 refuses it in its own words
    provenance_that_is_none: "its provenance is not a JSON object",
    provenance_that_is_a_list: "its provenance is not a JSON object",
    inflate_text: "classes declares 1073742824 bytes of text, the file has",
    change_type: "features/features is of type float64, expected float32",
    change_text: "classes is of type text in ascii, length 1, expected text in utf-8",
    text_in_ascii: "classes is of type text in ascii, expected text in utf-8",
    change_recipe: "the fingerprint does not belong to the recipe",
    change_split: "images/split has a value that is not a split",
    change_hash: "a sha256 is not 64 hexadecimal digits",
    label_without_class: "images/label has a value that is neither -1 nor the index of a class",
    group_for_dataset: "images/size is not a dataset",
    dataset_for_group: "a dataset is in the place of a group",
    overlap_features: "features/features has the shape (20, 4)",
}
"""Changes of a cache file to the fault that is named when the header belongs to the changed file."""


def seal(path, version=header.FORMAT_VERSION, further_spans=()):
    """Write the header that belongs to an altered file, as its forger would; it may leave out further bytes."""
    with h5py.File(path) as file:
        groups = [file[name] for name in ("features", "checksums") if name in file]
        data = [d for group in groups for d in group.values() if isinstance(d, h5py.Dataset)]
        spans = [[d.id.get_offset(), d.id.get_storage_size()] for d in data if d.id.get_offset()]
        spans = sorted(spans + [[d.id.get_offset(), d.id.get_storage_size()] for d in map(file.get, further_spans)])
    content = path.read_bytes()

    def read_into(buffer, offset):
        part = content[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    digest = header.structure_digest(read_into, len(content), spans)
    head = header.encode_header({"sha256": digest, "size": len(content), "spans": spans}, version)
    path.write_bytes(head + content[header.HEADER_BYTES :])


def test_sealing_an_unaltered_file_changes_nothing(cache):
    before = cache.path.read_bytes()
    seal(cache.path)
    assert cache.path.read_bytes() == before


@pytest.mark.parametrize(("label", "is_valid"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_labels_range_from_none_to_the_last_class(cache, label, is_valid):
    with h5py.File(cache.path, "r+") as file:
        file["images/label"][0] = label
    seal(cache.path)
    if is_valid:
        assert FeatureCache.open(cache.path).index.images["label"][0] == label
    else:
        with pytest.raises(CacheFormatError, match="images/label"):
            FeatureCache.open(cache.path)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("attack", "fault"), ATTACKS.items())
def test_a_forged_file_is_refused_and_no_other_file_is_read(cache, tmp_path, attack, fault, sealed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File(cache.path, "r+") as file:
        attack(file)
    if sealed:
        seal(cache.path)
    for name in ("secret.h5", "secret.bin"):
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)  # whoever opens it waits for ever
    with pytest.raises(CacheFormatError, match="is not a cache that can be read") as caught:
        FeatureCache.open(cache.path)
    assert not sealed or f": {fault}" in str(caught.value)


@pytest.mark.parametrize(
    ("group", "digest", "is_valid"),
    [
        ("images", b"0f" * 32, True),
        ("images", b"", False),
        ("failures", b"0f" * 32, True),
        ("failures", b"", True),
        ("failures", b"0F" * 32, False),
        ("failures", b"0f", False),
    ],
)
def test_only_files_without_features_may_have_no_hash(photos, tmp_path, group, digest, is_valid):
    (photos / "train" / "cats" / "bad.png").write_bytes(b"no image")
    cache = extract(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    with h5py.File(cache.path, "r+") as file:
        file[f"{group}/sha256"][0] = digest
    seal(cache.path)
    if is_valid:
        assert getattr(FeatureCache.open(cache.path).index, group)["sha256"][0] == digest
    else:
        with pytest.raises(CacheFormatError, match="a sha256 is not 64 hexadecimal digits"):
            FeatureCache.open(cache.path)


@pytest.mark.parametrize("without", ["images/label", "images/sha256"])
def test_a_header_protects_all_but_features(cache, without):
    seal(cache.path, further_spans=[without])
    with pytest.raises(CacheFormatError, match="its features are not at the places that its header says"):
        FeatureCache.open(cache.path)


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_altered_index_is_refused(cache, alteration):
    with h5py.File(cache.path, "r+") as file:
        alteration(file)
    with pytest.raises(CacheFormatError, match="is not a cache that can be read"):
        FeatureCache.open(cache.path)


@pytest.mark.parametrize(
    "forged",
    [b"", b"{}", b"[]", b"null", b'{"format": "featurecache"}', b"\xff" * 100, b"[" * 16384, b'{"format": {}, ' * 900],
)
def test_a_forged_header_is_refused(cache, forged):
    data = cache.path.read_bytes()
    cache.path.write_bytes(forged.ljust(header.HEADER_BYTES, b"\0") + data[header.HEADER_BYTES :])
    with pytest.raises(CacheFormatError, match="header"):
        FeatureCache.open(cache.path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spans", []),
        ("spans", [[-5, 3]]),
        ("spans", [[0, 1 << 60]]),
        ("spans", [[1, 2, 3]]),
        ("spans", "x"),
        ("size", 10),
        ("size", 1e300),
        ("sha256", ""),
        ("format_version", 2),
    ],
)
def test_a_header_that_lies_is_refused(cache, field, value):
    data = cache.path.read_bytes()
    fields = json.loads(data[: header.HEADER_BYTES].rstrip(b"\0")) | {field: value}
    text = json.dumps(fields).encode().ljust(header.HEADER_BYTES, b"\0")
    cache.path.write_bytes(text + data[header.HEADER_BYTES :])
    with pytest.raises(CacheFormatError):
        FeatureCache.open(cache.path)

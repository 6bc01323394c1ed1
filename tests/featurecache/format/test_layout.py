"""The files of caches and shards, written and read without a run."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import CacheFormatError
from featurecache.format import checks, layout
from featurecache.format.layout import CacheIndex, Part, Places, encode_cache, encode_shard, read_cache, read_shard
from featurecache.images.decode import DecodeRules
from featurecache.named_backbone import recipe_of
from featurecache.storage.publish import publishing
from tests.featurecache.test_cache import seal

TAPS = {"features": 16, "predictions": 4}


def recipe(taps=TAPS, **options):
    spec = FakeBackbone(taps, **options).spec
    return recipe_of(spec, DecodeRules(spec.input_size), "float32")


def texts(n, length=12):
    return np.array([f"{number:0{length}}" for number in range(n)], dtype=object)


def index_of(n, *, failures=2, length=12, taps=TAPS, **options):
    """Return the index of a cache of n images."""
    digests = np.array([f"{number:064x}" for number in range(n + failures)], dtype=layout.SHA256)
    numbers = np.arange(n + failures)
    images = {
        "path": texts(n, length),
        "label": (numbers[:n] % 3 - 1).astype(layout.LABEL),
        "split": np.array(["train"] * (n - n // 2) + ["valid"] * (n // 2), dtype=layout.SPLIT),
        "sha256": digests[:n],
        "size": numbers[:n] + 100,
        "mtime_ns": numbers[:n] * 1_000_000_007,
    }
    failed = {
        "path": texts(failures, length + 1),
        "reason": np.array(["broken"] * failures, dtype=object),
        "sha256": digests[n:],
        "size": numbers[n:],
        "mtime_ns": numbers[n:],
    }
    return CacheIndex(recipe(taps), "{}", ("cats", "dogs"), images, failed, **options)


def in_parts(index, rows=1):
    """Return an index with its rows, in the reverse order, in parts of so many rows; the parts are not there."""
    n = len(index)
    parts = []
    for start in range(0, n, rows):
        blocks = {}
        for tap, width in index.recipe.taps.items():
            blocks[tap] = checks.FeatureBlock(20_000, min(rows, n - start), width, index.recipe.stored_dtype(tap))
            blocks[f"checksums/{tap}"] = checks.FeatureBlock(17_000, -(-blocks[tap].rows // 1024), 1, layout.SHA256)
        parts.append(Part(f"{start:06}.h5", blocks[tap].rows, 1 << 40, f"{start:064x}", blocks))
    return replace(index, places=Places(tuple(parts), np.arange(n)[::-1]))


def with_columns(index):
    return replace(index, columns={"age": np.array(["7", "", "70"] * len(index), object)[: len(index)]})


def written(index, path):
    """Write a file with an index and without features; return the places of those."""
    with publishing(path, durable=False) as draft:
        return encode_cache(draft, index)


FORMS = {
    "one file": lambda index: index,
    "parts": lambda index: in_parts(index, 3),
    "columns": with_columns,
    "parts and columns": lambda index: in_parts(with_columns(index), 3),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("n", [0, 1, 20, 1024, 1025])
def test_what_was_written_is_read(form, n, tmp_path):
    index = form(index_of(n))
    blocks = written(index, tmp_path / "c.h5")
    with (tmp_path / "c.h5").open("rb") as stream:
        found, places = read_cache(stream)
    assert found.holds_same_as(index)
    assert (found.recipe, found.provenance, len(found)) == (index.recipe, "{}", n)
    if index.places is None:
        assert places == blocks
        assert {tap: (blocks[tap].rows, blocks[f"checksums/{tap}"].rows) for tap in TAPS} == dict.fromkeys(
            TAPS, (n, {0: 0, 1025: 2}.get(n, 1))
        )
    else:
        assert (blocks, found.places.parts) == ({}, index.places.parts)
        np.testing.assert_array_equal(found.places.positions, index.places.positions)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("rows", [1, 7, 20])
def test_columns_are_the_same_however_many_rows_are_written_and_read_at_a_time(form, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "_COLUMN_ROWS", rows)
    monkeypatch.setattr(checks, "_READ_ROWS", rows)
    index = form(index_of(20))
    written(index, tmp_path / "c.h5")
    with (tmp_path / "c.h5").open("rb") as stream:
        assert read_cache(stream)[0].holds_same_as(index)


MANY_TAPS = {f"tap{number}": 1 for number in range(100)}
SIZES = {
    "few rows": lambda: index_of(1),
    "wide features": lambda: index_of(300, taps={"features": 25_088}),
    "narrow features": lambda: index_of(40_000, taps={"features": 1}),
    "long paths": lambda: index_of(3_000, length=1_000),
    "failures": lambda: index_of(10, failures=20_000, length=200),
    "many taps": lambda: index_of(5_000, taps=MANY_TAPS),
    "few rows of many taps": lambda: index_of(1, taps=MANY_TAPS),
    "parts": lambda: in_parts(index_of(40_000, taps={"features": 25_088}), 10_000),
    "many parts": lambda: in_parts(index_of(20_000)),
    "many parts of many taps": lambda: in_parts(index_of(500, taps=MANY_TAPS)),
    "long columns": lambda: replace(index_of(2_000), columns={name: texts(2_000, 1_000) for name in "abc"}),
    "short columns": lambda: replace(index_of(20_000), columns={str(name): texts(20_000, 0) for name in range(4)}),
    "many columns": lambda: replace(index_of(1), columns={str(name): texts(1) for name in range(500)}),
    "columns of few texts": lambda: replace(
        index_of(20_000), columns=dict.fromkeys(map(str, range(100)), np.full(20_000, "x", object))
    ),
}


@pytest.mark.parametrize("make_index", SIZES.values(), ids=SIZES)
def test_room_is_reserved_for_the_whole_file_and_not_for_many(make_index, tmp_path):
    index = make_index()
    with publishing(tmp_path / "c.h5", durable=False) as draft:
        encode_cache(draft, index)
    size, reserved = (tmp_path / "c.h5").stat().st_size, draft.size  # the most that was reserved or written
    objects = len(index.recipe.taps) + len(index.columns)  # may need a page or more each
    assert size < reserved <= 3 * size + (1 << 20) + 20_000 * objects


@pytest.mark.parametrize(("rows", "width"), [(15, 16), (16, 16), (64, 4), (1, 256), (3, 255), (20, 300)])
def test_features_of_a_kilobyte_begin_at_a_page(rows, width, tmp_path):
    taps = {"small": 1, "features": width, "other": 2}
    blocks = written(index_of(rows, taps=taps), tmp_path / "c.h5")
    assert blocks["features"].size == rows * width * 4
    assert (blocks["features"].offset % 4096 == 0) == (blocks["features"].size >= 1024)


def test_an_index_differs_by_what_it_holds():
    index = index_of(5)
    assert index.holds_same_as(index_of(5))
    assert index.holds_same_as(replace(in_parts(index_of(5)), provenance='{"a": 1}'))
    others = [
        index_of(6),
        index_of(5, failures=1),
        replace(index, classes=("cats", "birds")),
        replace(index, images=index.images | {"label": index.images["label"] + 1}),
        replace(index, failures=index.failures | {"reason": texts(2)}),
        with_columns(index),
    ]
    for other in others:
        assert not index.holds_same_as(other)
        assert not other.holds_same_as(index)
    assert not with_columns(index).holds_same_as(replace(index, columns={"age": texts(5)}))


# Forged indexes of caches in parts


def altered(name, number, value):
    """Return a function that alters one value of an index."""

    def forge(file):
        file[name][number] = value

    forge.__name__ = f"{name}-{value}"
    return forge


def add_group(file):
    file.create_group("features")


def add_to_parts(file):
    file["parts/extra"] = [1]


def add_tap_to_parts(file):
    file["parts/checksums/extra"] = [17_000] * 3


def remove_tap_from_parts(file):
    del file["parts/features/predictions"]


def shorten_positions(file):
    del file["positions"]
    file["positions"] = np.zeros(19, "<i8")


def shorten_places(file):
    del file["parts/features/features"]
    file["parts/features/features"] = np.full(2, 20_000)


LAST_PLACE = (1 << 40) - 4 * 16 * 4  # of the features of the last part, which has four rows
ALLOWED = [
    altered("parts/features/features", 2, LAST_PLACE),
    altered("parts/features/features", 2, 0),
    altered("parts/checksums/features", 2, (1 << 40) - 64),
    altered("parts/file", 0, "parts_1.of-all.h5"),
    altered("positions", 3, 0),
    altered("positions", 3, 19),
]
PLACES_FORGERIES = {
    altered("parts/file", 1, "000000.h5"): "parts/file has a name that is no file of a part, or one twice",
    altered("parts/file", 1, "../secret.h5"): "parts/file has a name that is no file of a part, or one twice",
    altered("parts/sha256", 1, b"A" * 64): "parts/sha256 has a value that is no SHA-256",
    altered("parts/sha256", 1, b"\xff" * 64): "parts/sha256 has a value that is no SHA-256",
    altered("parts/sha256", 1, b"0" * 63): "parts/sha256 has a value that is no SHA-256",
    altered("parts/rows", 1, 0): "parts/rows has a part without rows",
    altered("parts/features/features", 2, LAST_PLACE + 1): "parts/features or parts/checksums has a place beyond",
    altered("parts/checksums/features", 2, (1 << 40) - 63): "parts/features or parts/checksums has a place beyond",
    altered("parts/features/features", 2, -1): "parts/features or parts/checksums has a place beyond",
    altered("parts/checksums/features", 2, -1): "parts/features or parts/checksums has a place beyond",
    altered("parts/size", 1, 17_000): "parts/features or parts/checksums has a place beyond",
    altered("positions", 3, -1): "positions has a value that is no row of a part",
    altered("positions", 3, 20): "positions has a value that is no row of a part",
    add_group: r"/ holds \['classes', 'failures', 'features', ",
    add_to_parts: r"/parts holds \['checksums', 'extra', 'features', ",
    add_tap_to_parts: r"/parts/checksums holds \['extra', 'features', 'predictions'\]",
    remove_tap_from_parts: r"/parts/features holds \['features'\], expected \['features', 'predictions'\]",
    shorten_positions: r"positions has the shape \(19,\)",
    shorten_places: r"parts/features/features has the shape \(2,\)",
}


def forged_places(forge, path):
    """Write the index of a cache of 20 rows in parts of 8 rows, alter it, and open it."""
    written(in_parts(index_of(20), 8), path)
    with h5py.File(path, "r+") as file:
        forge(file)
    seal(path, 2)
    return path.open("rb")


@pytest.mark.parametrize("change", ALLOWED, ids=lambda change: change.__name__)
def test_an_index_may_name_any_place_in_its_parts(change, tmp_path):
    with forged_places(change, tmp_path / "c.h5") as stream:
        assert len(read_cache(stream)[0]) == 20


@pytest.mark.parametrize(("forge", "fault"), PLACES_FORGERIES.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_forged_index_of_parts_is_refused(forge, fault, tmp_path):
    with (
        forged_places(forge, tmp_path / "c.h5") as stream,
        pytest.raises(CacheFormatError, match=f"is not a cache that can be read: {fault}"),
    ):
        read_cache(stream)


# Shards


def batches(*sizes):
    """Return batches of so many contents with features that tell them apart."""
    start, made = 0, []
    for size in sizes:
        numbers = np.arange(start, start + size)
        features = {tap: (numbers[:, None] * 10 + np.arange(width)).astype(np.float32) for tap, width in TAPS.items()}
        made.append(([f"{number:064x}" for number in numbers], features))
        start += size
    return made


@pytest.mark.parametrize("sizes", [(1,), (3,), (2, 3, 1), (2, 0, 2)])
def test_a_shard_holds_its_batches_in_order(sizes, tmp_path):
    path = tmp_path / "s.h5"
    path.write_bytes(encode_shard(recipe(), batches(*sizes)))
    with path.open("rb") as stream:
        contents, blocks = read_shard(stream, recipe())
        assert contents == [content for batch, _ in batches(*sizes) for content in batch]
        assert blocks.keys() == TAPS.keys()
        for tap, block in blocks.items():
            expected = np.concatenate([features[tap] for _, features in batches(*sizes)])
            np.testing.assert_array_equal(block.read(stream.fileno(), 0, sum(sizes)), expected)


@pytest.mark.parametrize("shape", [(2, 16), (3, 15)])
def test_a_shard_takes_no_features_of_another_shape(shape):
    ((contents, features),) = batches(3)
    with pytest.raises(ValueError, match=rf"features has the shape \({shape[0]}, {shape[1]}\), expected \(3, 16\)"):
        encode_shard(recipe(), [(contents, features | {"features": np.zeros(shape, np.float32)})])


def add(file):
    file["extra"] = [1]


def add_tap(file):
    file["features/extra"] = [1]


def remove_tap(file):
    del file["features/predictions"]


def shorten(file):
    values = file["features/features"][:2]
    del file["features/features"]
    file["features/features"] = values


def no_hash(file):
    file["sha256"][2] = b"A" * 64


def short_hash(file):
    file["sha256"][2] = b"0" * 63


def cache_for_shard(file):
    file.attrs["format"] = "featurecache"


def later_version(file):
    file.attrs["format_version"] = 2


def add_attribute(file):
    file.attrs["extra"] = 1


SHARD_FORGERIES = {
    later_version: "its format version is 2, expected 1",
    add_attribute: r"its attributes are \['extra', 'fingerprint', 'format', 'format_version'\]",
    add: r"/ holds \['extra', 'features', 'sha256'\], expected \['features', 'sha256'\]",
    add_tap: r"/features holds \['extra', 'features', 'predictions'\]",
    remove_tap: r"/features holds \['features'\], expected",
    shorten: r"features/features has the shape \(2, 16\)",
    no_hash: "a sha256 is not 64 hexadecimal digits",
    short_hash: "a sha256 is not 64 hexadecimal digits",
    cache_for_shard: "its format is 'featurecache', expected 'featurecache-shard'",
}


@pytest.mark.parametrize("rows", [1, 2, 1 << 16])
@pytest.mark.parametrize(("forge", "fault"), SHARD_FORGERIES.items())
def test_a_forged_shard_is_refused(forge, fault, rows, tmp_path, monkeypatch):
    path = tmp_path / "s.h5"
    path.write_bytes(encode_shard(recipe(), batches(3)))
    with h5py.File(path, "r+") as file:
        forge(file)
    monkeypatch.setattr(layout, "_COLUMN_ROWS", rows)
    with path.open("rb") as stream, pytest.raises(CacheFormatError, match=f"is not a shard that can be read: {fault}"):
        read_shard(stream, recipe())


def test_a_shard_of_another_recipe_is_refused(tmp_path):
    path = tmp_path / "s.h5"
    path.write_bytes(encode_shard(recipe(), batches(3)))
    with path.open("rb") as stream, pytest.raises(CacheFormatError, match="it belongs to another recipe"):
        read_shard(stream, recipe(seed=1))

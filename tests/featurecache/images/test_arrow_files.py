"""Images in Parquet and Arrow files: written by pyarrow, pandas and datasets."""

import hashlib
import json
import os
import pickle
import re

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, NoImagesError, OptionError
from featurecache.images.manifest import read_manifest
from tests.featurecache.conftest import CountingBackbone, write_image
from tests.featurecache.images.test_manifest import rows

CLASSES = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with ten images."""
    folder = tmp_path_factory.mktemp("arrow") / "files"
    for number in range(10):
        write_image(folder / f"{number}.png", number)
    return folder


@pytest.fixture(scope="module")
def data(files):
    """Return the bytes of the images."""
    return [path.read_bytes() for path in sorted(files.iterdir())]


def with_classes(table):
    return table.replace_schema_metadata({"huggingface": json.dumps(CLASSES)})


def as_hub(data, labels=None):
    """Return a table as Hugging Face's hub has it."""
    structs = [{"bytes": image, "path": f"cat.{number}.png"} for number, image in enumerate(data)]
    return with_classes(pa.table({"image": structs, "label": pa.array(labels or [n % 2 for n in range(len(data))])}))


def contents(manifest):
    """Return the SHA-256 of each entry's bytes."""
    return [manifest.source.read(entry.path, max_bytes=10**6).sha256 for entry in manifest.entries]


def test_a_parquet_file_has_paths_classes_further_columns_and_bytes(tmp_path, data):
    table = as_hub(data, [0, 1, -1, None, *[1] * 6]).append_column("age", pa.array([*range(9), None]))
    table = table.append_column("box", pa.array([[1, 2]] * 10))
    parquet.write_table(table, tmp_path / "photos.parquet", row_group_size=3)
    manifest = read_manifest(tmp_path / "photos.parquet")
    assert rows(manifest) == [
        (f"{number:08d}", ["cat", "dog", None, None, *["dog"] * 6][number], "") for number in range(10)
    ]
    assert manifest.columns == {
        "age": (*map(str, range(9)), ""),
        "original_path": tuple(f"cat.{number}.png" for number in range(10)),
    }
    assert "columns not read: box" in manifest.summary()
    assert contents(manifest) == [hashlib.sha256(image).hexdigest() for image in data]


@pytest.mark.parametrize("form", ["parquet", "arrow file", "arrow stream"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_columns_of_plain_bytes(tmp_path, data, form, kind):
    table = pa.table({"jpg": pa.array(data, kind), "label": [f"l{n % 3}" for n in range(10)]})
    path = tmp_path / f"photos.{form.partition(' ')[0]}"
    if form == "parquet":
        parquet.write_table(table, path)
    else:
        make = pa.ipc.new_file if form == "arrow file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as stream, make(stream, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    manifest = read_manifest(path)
    assert manifest.classes == ("l0", "l1", "l2")
    assert contents(manifest) == [hashlib.sha256(image).hexdigest() for image in data]


def test_images_alone(tmp_path, data):
    table = pa.table({"image": data})
    parquet.write_table(table, tmp_path / "photos.parquet", row_group_size=4)
    with pa.OSFile(str(tmp_path / "photos.arrow"), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    for name in ("photos.parquet", "photos.arrow"):
        manifest = read_manifest(tmp_path / name)
        assert contents(manifest) == [hashlib.sha256(image).hexdigest() for image in data]
        assert manifest.summary() == "10 images: no labels; no splits"


def test_what_pandas_writes(tmp_path, data):
    frame = pd.DataFrame({"image": data, "label": pd.Categorical(["b", "a"] * 5), "split": ["train", "val"] * 5})
    frame.to_parquet(tmp_path / "photos.parquet")
    assert (
        read_manifest(tmp_path / "photos.parquet").summary()
        == "10 images: 2 classes (a, b); train 5, valid 5; val is read as valid"
    )


def test_splits_come_from_the_names_of_files_and_rows_are_known_from_the_files(tmp_path, files, data):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, part in {
        "train-00000-of-00002": data[:4],
        "train-00001-of-00002": data[4:7],
        "test-00000-of-00001": data[7:],
    }.items():
        parquet.write_table(as_hub(part), folder / f"{name}.parquet", row_group_size=2)
    manifest = read_manifest(folder)
    assert [entry.path for entry in manifest.entries][::4] == [
        "train-00000-of-00002.parquet/00000000",
        "train-00001-of-00002.parquet/00000000",
        "test-00000-of-00001.parquet/00000001",
    ]
    assert [entry.split for entry in manifest.entries] == ["train"] * 7 + ["test"] * 3
    featurecache.extract(files, tmp_path / "c.h5", backbone=FakeBackbone())
    never = CountingBackbone(stop_after=0)
    cache = featurecache.extract(folder, tmp_path / "c.h5", backbone=never)
    assert (never.seen, len(cache), cache.failures) == (0, 10, {})
    found = featurecache.verify(tmp_path / "c.h5", recompute=10, backbone=FakeBackbone())
    assert (found.ok, found.recomputed) == (True, 10)


def test_a_source_is_pickled_and_read_by_threads(tmp_path, data):
    from concurrent.futures import ThreadPoolExecutor

    parquet.write_table(as_hub(data), tmp_path / "photos.parquet", row_group_size=2)
    source = pickle.loads(pickle.dumps(featurecache.open_source(tmp_path / "photos.parquet").anywhere()))  # noqa: S301
    order = [7, 0, 3, 9, 1, 1, 8, 2, 6, 4, 5] * 5
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: source.read(f"{row:08d}", max_bytes=10**6).data, order))
    assert found == [data[row] for row in order]


@pytest.mark.slow
def test_what_datasets_saves(tmp_path, files, data):
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "n": datasets.Value("int64")}
    )
    paths = [str(path) for path in sorted(files.iterdir())]
    whole = datasets.Dataset.from_dict(
        {"image": paths, "label": [n % 2 for n in range(10)], "n": list(range(10))}, features=features
    )
    splits = datasets.DatasetDict({"train": whole.select(range(6)), "test": whole.select(range(6, 10))})
    splits.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    datasets.load_from_disk(str(tmp_path / "saved"))["test"].to_parquet(tmp_path / "photos.parquet")
    expected = [hashlib.sha256(image).hexdigest() for image in data]
    saved = read_manifest(tmp_path / "saved")
    assert rows(saved)[:3] == [
        (f"train/data-00000-of-00002.arrow/{n:08d}", ["cat", "dog"][n % 2], "train") for n in range(3)
    ]
    assert contents(saved) == expected
    assert saved.columns["n"] == tuple(map(str, range(10)))
    assert contents(read_manifest(tmp_path / "photos.parquet")) == expected[6:]
    assert len(read_manifest(tmp_path / "saved" / "test")) == 4


def test_rows_without_bytes_are_failures_with_a_reason(tmp_path, data):
    structs = [
        {"bytes": data[0], "path": None},
        {"bytes": None, "path": "/far/x.png"},
        None,
        {"bytes": b"", "path": ""},
    ]
    parquet.write_table(pa.table({"image": structs}), tmp_path / "photos.parquet")
    cache = featurecache.extract(tmp_path / "photos.parquet", tmp_path / "c.h5", backbone=FakeBackbone())
    assert cache.paths.tolist() == ["00000000"]
    assert cache.failures == {
        "00000001": "the row has no bytes but the path '/far/x.png'; save the table with its images in it",
        "00000002": "the row has no bytes",
        "00000003": "an empty file (0 bytes)",
    }


@pytest.mark.parametrize(
    "path", ["00000010", "x", "", "-1", "none.parquet/00000000", "../photos.parquet/00000000", "%2E%2E/0", "/0"]
)
def test_no_other_path_is_read(tmp_path, data, path):
    parquet.write_table(as_hub(data), tmp_path / "photos.parquet")
    source = featurecache.open_source(tmp_path / "photos.parquet")
    assert isinstance(source.read(path, max_bytes=10**6), featurecache.Failure)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, _: path.write_text("no Parquet"), "photos.parquet cannot be read: "),
        (lambda path, _: path.write_bytes(b""), "photos.parquet cannot be read: "),
        (
            lambda path, data: parquet.write_table(pa.table({"n": [1]}), path),
            "has no column of bytes, only 'n'; expected one",
        ),
        (
            lambda path, data: parquet.write_table(pa.table({"a": data, "b": data}), path),
            "has several columns of bytes, 'a', 'b'; expected one with the images, such as 'image'",
        ),
        (
            lambda path, data: parquet.write_table(pa.table({"image": data, "breed": ["x"] * 10}), path),
            "has a column 'breed'; rename it to 'label' or give --label-column breed",
        ),
    ],
)
def test_files_without_images_are_refused_in_one_line(tmp_path, data, write, message):
    path = tmp_path / "photos.parquet"
    write(path, data)
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)


def test_options_that_do_not_fit(tmp_path, data):
    path = tmp_path / "photos.parquet"
    parquet.write_table(pa.table({"image": data, "kind": ["x"] * 10}), path)
    assert read_manifest(path, label_column="kind").classes == ("x",)
    with pytest.raises(ManifestError, match="has no column 'nope'; found 'path', 'kind'; expected"):
        read_manifest(path, label_column="nope")
    with pytest.raises(ManifestError, match=r"paths in .* are the numbers of its rows; leave out 'kind'"):
        read_manifest(path, path_column="kind")
    with pytest.raises(ManifestError, match=r"the images of .* are in it; leave out the root"):
        read_manifest(path, root=tmp_path)
    parquet.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "none.parquet")
    with pytest.raises(NoImagesError, match="has no rows"):
        read_manifest(tmp_path / "none.parquet")
    with pytest.raises(ManifestError, match=r"nowhere\.parquet does not exist; expected a Parquet or Arrow file"):
        read_manifest(tmp_path / "nowhere.parquet")


def test_what_datasets_keeps_beside_its_rows_is_no_row(tmp_path, data):
    table = as_hub(data[:3])
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    for name in ("data-00000-of-00001.arrow", "cache-0123.arrow", "tmpabc.arrow"):
        with (
            pa.OSFile(str(tmp_path / "saved" / name), "wb") as stream,
            pa.ipc.new_stream(stream, table.schema) as writer,
        ):
            writer.write_table(table)
    assert len(read_manifest(tmp_path / "saved")) == 3


def test_folders_as_the_hub_has_them_and_folders_of_images_with_such_names(tmp_path, data):
    for name in ("data/train-00000-of-00001.parquet", ".cache/x.parquet", "data/test/0.parquet"):
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(as_hub(data), tmp_path / "repo" / name)
    (tmp_path / "repo" / "README.md").write_text("x")
    manifest = read_manifest(tmp_path / "repo")
    assert {(entry.path.rpartition("/")[0], entry.split) for entry in manifest.entries} == {
        ("data/train-00000-of-00001.parquet", "train"),
        ("data/test/0.parquet", "test"),
    }
    write_image(tmp_path / "photos" / "cats" / "0.png", 1)
    (tmp_path / "photos" / "state.json").write_text("{}")
    assert rows(read_manifest(tmp_path / "photos")) == [("cats/0.png", "cats", "")]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (pa.array(["x", "y"]), ["x", "y"]),
        (pa.array([1.0, float("nan")]), ["1.0", None]),
        (pa.array([1, -1]), ["dog", None]),
        (pa.array([1, 5]), "has the class 5 in the column 'label', but names for 2 classes alone"),
    ],
)
def test_columns_that_were_classes(tmp_path, data, label, expected):
    table = with_classes(pa.table({"image": data[:2], "label": label}))
    parquet.write_table(table, tmp_path / "photos.parquet")
    if isinstance(expected, list):
        assert [found for _, found, _ in rows(read_manifest(tmp_path / "photos.parquet"))] == expected
        return
    with pytest.raises(ManifestError, match=expected):
        read_manifest(tmp_path / "photos.parquet")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"image": [{"bytes": "text", "path": "x"}]}, "has no column of bytes"),
        ({"image": [{"bytes": 10**11, "path": "x"}]}, "has no column of bytes"),
        (
            {"image": [b"x"], "day": pa.array([10**7], pa.date32())},
            "has values that cannot be read in the column 'day'",
        ),
    ],
)
def test_odd_columns_are_refused_in_one_line(tmp_path, table, message):
    parquet.write_table(pa.table(table), tmp_path / "photos.parquet")
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(tmp_path / "photos.parquet")
    assert "\n" not in str(caught.value)


def test_classes_beside_features_of_other_forms_and_names_in_capitals(tmp_path, data):
    features = {"captions": [{"dtype": "string"}], **CLASSES["info"]["features"]}
    structs = [{"bytes": data[0], "path": "x"}]
    table = pa.table({"image": structs, "label": [1], "Path": ["y"]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "photos.parquet")
    manifest = read_manifest(tmp_path / "photos.parquet")
    assert (manifest.classes, manifest.columns) == (("dog",), {"original_path": ("y",)})


def test_listing_an_arrow_file_reads_no_image(tmp_path, data, monkeypatch):
    table = as_hub(data)
    with pa.OSFile(str(tmp_path / "photos.arrow"), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    from featurecache.images import arrow_files

    own, read = arrow_files._values, []
    monkeypatch.setattr(arrow_files, "_values", lambda *arguments: read.append(arguments[2].type) or own(*arguments))
    assert read_manifest(tmp_path / "photos.arrow").columns["original_path"][9] == "cat.9.png"
    assert set(map(str, read)) == {"int64", "string"}


def test_paths_of_images_that_are_no_text_are_not_read(tmp_path, data):
    parquet.write_table(pa.table({"image": [{"bytes": data[0], "path": 7}]}), tmp_path / "photos.parquet")
    assert read_manifest(tmp_path / "photos.parquet").columns == {}


def test_no_escape_leads_out_of_the_folder(tmp_path, data):
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    for name in ("out/s.parquet", "in/s.parquet"):
        parquet.write_table(as_hub(data), tmp_path / name)
    source = featurecache.open_source(tmp_path / "in")
    outside = str(tmp_path / "out" / "s.parquet" / "0")
    for path in (outside, outside.replace("/", "%2F", 1), "%2E%2E/out/s.parquet/0"):
        assert source.read(path, max_bytes=10**6) == featurecache.Failure("not_found", "no such row")
        assert not source.has_file(path.encode())
    assert not source.has_file(outside.encode())


def test_two_row_groups_are_in_memory_whatever_the_files(tmp_path, data):
    from featurecache.images import arrow_files

    (tmp_path / "data").mkdir()
    for number in range(4):
        parquet.write_table(as_hub(data), tmp_path / "data" / f"{number}.parquet", row_group_size=5)
    source = featurecache.open_source(tmp_path / "data")
    for number in range(4):
        assert source.read(f"{number}.parquet/00000007", max_bytes=10**6).data == data[7]
    assert arrow_files._images_of.cache_info().currsize == 2


def test_files_of_other_columns_and_folders_with_images_beside(tmp_path, data):
    folder = tmp_path / "data"
    folder.mkdir()
    parquet.write_table(pa.table({"image": data}), folder / "a.parquet")
    parquet.write_table(pa.table({"image": data, "label": ["x"] * 10}), folder / "b.parquet")
    with pytest.raises(ManifestError, match=r"b\.parquet has the columns 'label', but a\.parquet has none"):
        read_manifest(folder)
    write_image(folder / "cats" / "0.png", 1)
    assert rows(read_manifest(folder)) == [("cats/0.png", "cats", "")]


def test_a_file_that_is_damaged_later_gives_failures(tmp_path, data):
    path = tmp_path / "photos.parquet"
    parquet.write_table(as_hub(data), path, row_group_size=5, compression="none", use_dictionary=False)
    whole = bytearray(path.read_bytes())
    place = whole.index(data[7])
    start = whole.rindex(b"\x15", 0, place)
    whole[start:place] = b"\xff" * (place - start)
    path.write_bytes(whole)
    source = featurecache.open_source(path)
    results = [source.read(f"{row:08d}", max_bytes=10**6) for row in range(10)]
    assert [getattr(result, "data", None) for result in results[:5]] == data[:5]
    assert any(
        isinstance(result, featurecache.Failure) or result.data != image
        for result, image in zip(results[5:], data[5:], strict=True)
    )


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    import sys

    (tmp_path / "photos.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match=r"Parquet and Arrow files need pyarrow: pip install 'featurecache\[data\]'"):
        read_manifest(tmp_path / "photos.parquet")
    assert os.listdir(tmp_path) == ["photos.parquet"]

"""Features in other formats, read back by the packages that people read them with."""

import csv
import io
import sys
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import featurecache
from featurecache import feature_export
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, OptionError, OutputError, UnknownNameError
from tests.featurecache.conftest import write_image

TAPS = ["features", "predictions"]


@pytest.fixture(scope="module", params=["float32", "float16", "parts"])
def cache(request, tmp_path_factory):
    """Return a cache of 21 images, one without a label, with a further column; as one file, or in parts."""
    folder = tmp_path_factory.mktemp("export")
    lines = ["path,label,split,room"]
    for number in range(21):
        name = f"{number:02d}, “x”.png"
        write_image(folder / "images" / name, number)
        label = ["cat", "dog", ""][min(number % 7, 2) if number == 2 else number % 2]
        lines.append(f'"{name}",{label},{("train", "valid")[number % 3 == 0]},"a ""room""\nof {number}"')
    (folder / "images" / "table.csv").write_text("\n".join(lines) + "\n")
    parts = {"part_rows": 8} if request.param == "parts" else {"dtype": request.param}
    options = {"backbone": FakeBackbone(), **parts}
    return featurecache.extract(folder / "images" / "table.csv", folder / "c.h5", **options)


def expected(cache):
    """Return the text columns of a cache by its own index."""
    names = (*cache.classes, "")
    return {
        "path": cache.paths.tolist(),
        "label": [names[label] for label in cache.index.images["label"]],
        "split": [split.decode() for split in cache.index.images["split"]],
        "sha256": [sha256.decode() for sha256 in cache.index.images["sha256"]],
        "room": cache.column("room").tolist(),
    }


def test_views_name_their_image(tmp_path):
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}.png", number)
    (tmp_path / "images" / "table.csv").write_text("path,label\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(4)))
    cache = featurecache.extract(
        tmp_path / "images" / "table.csv", tmp_path / "c.h5", backbone=FakeBackbone(), views="2:crop"
    )
    images = [f"{number}.png" for number in range(4) for _ in range(3)]
    [path] = featurecache.export_features(cache, tmp_path / "f.parquet")
    assert parquet.read_table(path).column_names == ["path", "label", "split", "sha256", "image", *TAPS]
    assert parquet.read_table(path)["image"].to_pylist() == images
    [path] = featurecache.export_features(cache, tmp_path / "f.csv", tap="features")
    assert pd.read_csv(path)["image"].tolist() == images
    assert cache.to_pandas("features")["image"].tolist() == images


def test_parquet_holds_every_bit_and_the_order_of_classes(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_export, "_BLOCK_BYTES", 500)
    [path] = featurecache.export_features(cache, tmp_path / "f.parquet")
    table = parquet.read_table(path)
    assert table.column_names == [*expected(cache), *TAPS]
    assert parquet.ParquetFile(path).num_row_groups > 1
    for name, column in expected(cache).items():
        assert [text or "" for text in table[name].to_pylist()] == column, name
    assert table["label"].null_count == 1
    frame = pd.read_parquet(path)
    assert frame["label"].cat.categories.tolist() == list(cache.classes)
    for tap in TAPS:
        X = np.stack(frame[tap].to_list())
        assert X.dtype == cache.recipe.stored_dtype(tap)
        assert np.array_equal(X, np.asarray(cache.mapped(tap)))
    assert table.schema.metadata[b"featurecache.fingerprint"].decode() == cache.recipe.fingerprint


def test_an_array_and_the_table_beside_it(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_export, "_BLOCK_BYTES", 500)
    array, table = featurecache.export_features(cache, tmp_path / "f.npy", tap="features")
    X = np.load(array, mmap_mode="r")
    assert X.dtype == cache.recipe.stored_dtype("features")
    assert np.array_equal(X, np.asarray(cache.mapped("features")))
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {name: [row[name] for row in rows] for name in rows[0]} == expected(cache)


def test_numbers_of_a_csv_table_are_the_same_numbers(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_export, "_BLOCK_BYTES", 500)
    [path] = featurecache.export_features(cache, tmp_path / "f.csv", tap="features", split="valid")
    with path.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    valid = cache.features("features", "valid")
    assert header == [*expected(cache), *(f"features_{number}" for number in range(16))]
    assert [row[0] for row in rows] == valid.paths.tolist()
    X = np.array([row[5:] for row in rows]).astype(np.float32)
    assert np.array_equal(X, np.asarray(valid.X))


def test_the_projector_reads_its_folder_and_shows_the_images(cache, tmp_path):
    from google.protobuf import text_format
    from tensorboard.plugins.projector import ProjectorConfig, projector_plugin

    [folder] = featurecache.export_features(cache, tmp_path / "logs", form="projector", tap="features")
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    [embedding] = config.embeddings
    tensor = projector_plugin._read_tensor_tsv_file(str(folder / embedding.tensor_path))
    assert np.array_equal(tensor, np.asarray(cache.features("features").X))
    lines = (folder / embedding.metadata_path).read_text().split("\n")
    assert lines[0].split("\t") == [*expected(cache)]
    assert [line.split("\t")[0] for line in lines[1:]] == cache.paths.tolist()
    assert {len(line.split("\t")) for line in lines} == {5}
    sheet = Image.open(io.BytesIO((folder / embedding.sprite.image_path).read_bytes()))
    side = embedding.sprite.single_image_dim[0]
    assert sheet.size == (5 * side, 5 * side)  # 21 images in a square
    images = featurecache.open_source(cache.made_by.images)
    for row in (0, 7, 20):
        y, x = divmod(row, 5)
        small = sheet.crop((x * side, y * side, (x + 1) * side, (y + 1) * side))
        left = (side - 24) // 2  # images of 24 pixels are not enlarged
        pixels = Image.open(io.BytesIO(images.read(cache.index.images["path"][row], max_bytes=10**6).data))
        assert np.array_equal(np.asarray(small)[left : left + 24, left : left + 24], np.asarray(pixels.convert("RGB")))


def test_a_projector_without_images_has_no_thumbnails(cache, tmp_path, monkeypatch):
    with pytest.raises(ManifestError, match=r"no image of the cache is in .*; give the folder that holds them"):
        featurecache.export_features(cache, tmp_path / "logs", form="projector", tap="features", images=tmp_path)
    monkeypatch.setattr(feature_export, "recorded_source", lambda _: featurecache.FolderSource(tmp_path))
    [folder] = featurecache.export_features(cache, tmp_path / "logs", form="projector", tap="features")
    assert {path.name for path in folder.iterdir()} == {"tensors.tsv", "metadata.tsv", "projector_config.pbtxt"}


def test_memory_of_texts_does_not_grow_with_the_rows(cache, tmp_path, monkeypatch):
    asked = []
    own = cache.text_columns
    monkeypatch.setattr(feature_export, "_TEXT_NUMBERS", 40)
    monkeypatch.setattr(cache, "text_columns", lambda rows: asked.append(rows) or own(rows))
    featurecache.export_features(cache, tmp_path / "f.csv", tap="features")
    assert max(rows.stop - rows.start for rows in asked) == 2
    assert len((tmp_path / "f.csv").read_text().splitlines()) > len(cache)


def test_tables_of_arrow_share_the_bytes_of_the_cache(cache):
    table = cache.to_arrow(["features"])
    [chunk] = table["features"].chunks
    values = chunk.values.to_numpy(zero_copy_only=True).reshape(len(cache), -1)
    mapped = cache.mapped("features")
    assert np.array_equal(values, np.asarray(mapped))
    assert isinstance(mapped, np.ndarray) == np.shares_memory(values, mapped)
    assert table.schema.field("label").type == pa.dictionary(pa.int32(), pa.string())


def test_a_frame_has_texts_categories_and_numbers(cache):
    frame = cache.to_pandas("features")
    texts = expected(cache)
    for name in ("path", "split", "sha256", "room"):
        assert frame[name].tolist() == texts[name]
    assert frame["label"].cat.categories.tolist() == list(cache.classes)
    assert frame["label"].isna().sum() == 1
    X = frame[[f"features_{number}" for number in range(16)]].to_numpy()
    assert np.array_equal(X, np.asarray(cache.features("features").X))


def test_labels_of_a_table_are_exported(cache, tmp_path):
    relabelled = cache.with_labels(dict.fromkeys(cache.paths, "bird"))
    [path] = featurecache.export_features(relabelled, tmp_path / "f.parquet", tap="features")
    assert set(parquet.read_table(path)["label"].to_pylist()) == {"bird"}


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("f.xyz", {}, OptionError, "unknown format 'f.xyz'; expected one of parquet, npy, csv, projector"),
        ("f.csv", {"form": "feather"}, OptionError, "unknown format 'feather'"),
        ("f.npy", {}, UnknownNameError, r"unknown tap .* \(known: features, predictions\)"),
        ("f.npy", {"tap": "fc2"}, UnknownNameError, "unknown tap 'fc2'"),
        ("f.npy", {"tap": "features", "split": "test"}, UnknownNameError, "unknown split 'test'"),
        ("f", {"tap": "features"}, OptionError, "unknown format 'f'; expected one of"),
        (
            "there.csv",
            {"tap": "features", "form": "npy", "images": "x"},
            OptionError,
            "images are shown by the projector",
        ),
        ("none/f.npy", {"tap": "features"}, OutputError, "none"),
        ("there.npy", {"tap": "features"}, OutputError, r"there\.csv exists; choose another path, or remove it"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(cache, tmp_path, name, options, error, message):
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(error, match=message):
        featurecache.export_features(cache, tmp_path / name, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_a_column_with_the_name_of_a_tap_and_too_many_points(photos, tmp_path, monkeypatch):
    (photos / "t.csv").write_text("path,features\ntrain/cats/0.png,x\n")
    cache = featurecache.extract(photos / "t.csv", tmp_path / "c.h5", backbone=FakeBackbone())
    with pytest.raises(OptionError, match="the further column 'features' has the name of a tap; rename it"):
        featurecache.export_features(cache, tmp_path / "f.parquet")
    monkeypatch.setattr(feature_export, "_POINTS", 0)
    with pytest.raises(OptionError, match="the projector shows at most 0 images, not 1; choose a split"):
        featurecache.export_features(cache, tmp_path / "logs", form="projector", tap="predictions")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "c.h5"}


def test_an_array_of_any_name_has_its_table_beside_it(cache, tmp_path):
    files = featurecache.export_features(cache, tmp_path / "v1.csv", form="npy", tap="features")
    assert [file.name for file in files] == ["v1.csv", "v1.csv.csv"]
    assert np.load(tmp_path / "v1.csv").shape == (21, 16)


def test_columns_with_the_names_of_numbers_are_refused(photos, tmp_path):
    (photos / "t.csv").write_text("path,features_3\ntrain/cats/0.png,x\n")
    cache = featurecache.extract(photos / "t.csv", tmp_path / "c.h5", backbone=FakeBackbone())
    for export in (cache.to_pandas, partial(featurecache.export_features, cache, tmp_path / "f.csv")):
        with pytest.raises(OptionError, match="the further column 'features_3' has the name of a number of the tap"):
            export(tap="features")


@pytest.mark.parametrize("package", ["pyarrow", "pandas"])
def test_a_missing_package_is_named(cache, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    export = (
        cache.to_pandas if package == "pandas" else partial(featurecache.export_features, cache, tmp_path / "f.parquet")
    )
    with pytest.raises(OptionError, match=rf"{package}: pip install 'featurecache\[data\]'"):
        export(tap="features")
    assert not list(tmp_path.iterdir())

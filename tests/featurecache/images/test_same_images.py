"""The same photographs from everywhere: the same contents and features, and no pass after the first one."""

import gzip
import io
import shutil
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import featurecache
from featurecache.images import remote_stores
from tests.conftest import SHARED_DATA
from tests.featurecache.conftest import CountingBackbone
from tests.featurecache.images.web import s3

COUNT = 60


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Return a folder with 60 photographs, valid/CLASS/NAME.jpg."""
    folder = tmp_path_factory.mktemp("same") / "photos"
    for label in ("cats", "dogs"):
        for path in sorted((SHARED_DATA / "catsdogs" / "valid" / label).iterdir())[: COUNT // 2]:
            (folder / "valid" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "valid" / label)
    return folder


@pytest.fixture(scope="module")
def listed(photographs):
    """Return path, label and split of every photograph."""
    paths = sorted(path.relative_to(photographs).as_posix() for path in photographs.rglob("*.jpg"))
    return pd.DataFrame({"path": paths, "label": [path.split("/")[1] for path in paths], "split": "valid"})


def as_tables(photographs, listed, folder):
    """Yield tables and lists of the photographs, with the options that they need."""
    listed.to_csv(folder / "comma.csv", index=False)
    listed.to_csv(folder / "semicolon.csv", index=False, sep=";", encoding="utf-16")
    windows = listed.assign(path=listed["path"].str.replace("/", "\\"))
    (folder / "windows.tsv.gz").write_bytes(gzip.compress(windows.to_csv(index=False, sep="\t").encode()))
    (folder / "list.txt").write_text(
        "".join(f"{path} {label}\n" for path, label in zip(listed["path"], listed["label"], strict=True))
    )
    for name in ("comma.csv", "semicolon.csv", "windows.tsv.gz", "list.txt"):
        yield folder / name, {"root": photographs}
    yield listed, {"root": photographs}


def as_archives(photographs, folder):
    """Yield archives of the photographs."""
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in photographs.rglob("*.jpg"):
            archive.write(path, path.relative_to(photographs))
    for name, mode in {"photos.tar": "w", "photos.tar.gz": "w:gz"}.items():
        with tarfile.open(folder / name, mode) as archive:
            archive.add(photographs / "valid", "valid")
    yield from ((folder / name, {}) for name in ("photos.zip", "photos.tar", "photos.tar.gz"))
    (folder / "shards").mkdir()
    for number, path in enumerate(sorted(photographs.rglob("*.jpg"))):
        with tarfile.open(folder / "shards" / f"valid-{number // 20:03d}.tar", "a") as archive:
            archive.add(path, f"{number:04d}.jpg")
            label = tarfile.TarInfo(f"{number:04d}.cls")
            label.size = len(path.parent.name)
            archive.addfile(label, io.BytesIO(path.parent.name.encode()))
    yield folder / "shards", {}
    yield folder / "shards" / "valid-{000..002}.tar", {}


def as_files_with_bytes(photographs, listed, folder):
    """Yield Parquet and Arrow files of the photographs, and the photographs in memory."""
    data = [(photographs / path).read_bytes() for path in listed["path"]]
    table = pa.table({"image": data, "label": listed["label"], "split": listed["split"]})
    parquet.write_table(table, folder / "photos.parquet", row_group_size=17)
    yield folder / "photos.parquet", {}
    (folder / "many").mkdir()
    for number in range(3):
        parquet.write_table(table.slice(20 * number, 20), folder / "many" / f"valid-0000{number}-of-00003.parquet")
    yield folder / "many", {}
    with pa.OSFile(str(folder / "photos.arrow"), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    yield folder / "photos.arrow", {}
    yield featurecache.from_memory(data, listed["label"], splits="valid"), {}


def as_objects(photographs, listed, folder, client):
    """Yield a bucket with the photographs, and lists of its objects."""
    client.create_bucket(Bucket="photographs")
    for path in listed["path"]:
        client.upload_file(str(photographs / path), "photographs", path)
    yield "s3://photographs", {}
    objects = listed.assign(path="s3://photographs/" + listed["path"])
    objects.to_csv(folder / "objects.csv", index=False)
    yield folder / "objects.csv", {}
    yield listed, {"root": "s3://photographs"}


@pytest.fixture
def client(monkeypatch):
    remote_stores._made.cache_clear()
    with s3(monkeypatch) as (client, _):
        yield client
    remote_stores._made.cache_clear()


@pytest.mark.real_data
def test_photographs_are_known_wherever_they_are(photographs, listed, client, tmp_path):
    cache_path = tmp_path / "c.h5"
    first = CountingBackbone(input_size=(64, 64))
    expected = featurecache.extract(photographs, cache_path, backbone=first).features("features")
    assert first.seen == COUNT
    order = np.argsort(expected.sha256)
    for images, options in [
        *as_tables(photographs, listed, tmp_path),
        *as_archives(photographs, tmp_path),
        *as_files_with_bytes(photographs, listed, tmp_path),
        *as_objects(photographs, listed, tmp_path, client),
    ]:
        again = CountingBackbone(input_size=(64, 64), stop_after=0)
        cache = featurecache.extract(images, cache_path, backbone=again, **options)
        rows = cache.features("features")
        here = np.argsort(rows.sha256)
        assert (again.seen, cache.failures) == (0, {}), images
        assert np.array_equal(rows.sha256[here], expected.sha256[order]), images
        assert np.array_equal(np.asarray(rows.X)[here], np.asarray(expected.X)[order]), images
        labels, wanted = np.array(rows.classes)[rows.y[here]], np.array(expected.classes)[expected.y[order]]
        assert np.array_equal(labels, wanted), images

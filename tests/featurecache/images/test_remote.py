"""Images in buckets and on the web: what is unchanged, what is tried again, what fails, and what is never stored."""

import json
import pickle
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from typer import BadParameter

import heads
from featurecache import (
    Failure,
    FeatureCache,
    extract,
    features_of,
    from_source,
    open_source,
    read_labels,
    read_manifest,
    verify,
    why,
)
from featurecache.backbones.fake import FakeBackbone
from featurecache.cli.commands.similar import _given
from featurecache.cli.console.reports import ReportFile
from featurecache.errors import ManifestError, NoImagesError
from featurecache.images import remote_stores
from featurecache.images.addresses import address_of
from featurecache.images.failures import UnusableImageError
from featurecache.images.remote import RemoteSource
from featurecache.prefetch import ahead, pause
from tests.featurecache.conftest import CountingBackbone, write_image
from tests.featurecache.images.web import s3, serving

fsspec = pytest.importorskip("fsspec.asyn")  # the extra `remote`
registry = pytest.importorskip("fsspec.registry")
for package in ("s3fs", "moto", "flask"):
    pytest.importorskip(package)

LIMIT = 1 << 20


@pytest.fixture
def photos(tmp_path):
    """Return a folder with 8 images, train and valid, cats and dogs."""
    for number, folder in enumerate(("train/cats", "train/dogs", "valid/cats", "valid/dogs") * 2):
        write_image(tmp_path / "photos" / folder / f"{number // 4}.png", number)
    return tmp_path / "photos"


@pytest.fixture
def pauses(monkeypatch):
    """Return the pauses between tries, which are not waited for."""
    found = []
    monkeypatch.setattr(remote_stores, "_pause", found.append)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return found


@pytest.fixture
def new_stores():
    """Let a test open connections of its own."""
    remote_stores._made.cache_clear()
    yield
    remote_stores._made.cache_clear()


@pytest.fixture
def web(pauses):
    with serving() as web:
        yield web


@pytest.fixture(scope="module")
def server():
    """Return a client of an S3 server with the bucket "photos", and the faults of the server."""
    remote_stores._made.cache_clear()
    with pytest.MonkeyPatch.context() as environment, s3(environment) as (client, faults):
        environment.setenv("NO_PROXY", "127.0.0.1")
        client.create_bucket(Bucket="photos")
        yield client, faults
        client.delete_bucket(Bucket="photos")
    remote_stores._made.cache_clear()


@pytest.fixture
def bucket(pauses, server):
    """Return the server's client and faults; the bucket is empty."""
    client, faults = server
    yield server
    faults.always, faults.faults = {}, {}
    for item in client.list_objects_v2(Bucket="photos").get("Contents", ()):
        client.delete_object(Bucket="photos", Key=item["Key"])
    faults.requests.clear()


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def upload(client, folder, prefix=""):
    for path, data in files_of(folder).items():
        client.put_object(Bucket="photos", Key=prefix + path, Body=data)


@pytest.fixture
def listed(web, photos, tmp_path):
    """Return a list of the addresses of 8 images with their classes."""
    web.files = {f"/{path}": data for path, data in files_of(photos).items()}
    return write_list(tmp_path / "list.txt", web)


def write_list(file, web):
    file.write_text("".join(f"{web.address}{path} {path.split('/')[2]}\n" for path in web.files))
    return file


def same_features(one, other):
    a, b = one.features("features"), other.features("features")
    order, other_order = np.argsort(a.sha256), np.argsort(b.sha256)
    return np.array_equal(np.asarray(a.X)[order], np.asarray(b.X)[other_order])


def test_a_list_of_addresses_gives_the_rows_of_the_files(web, listed, photos, tmp_path):
    cache = extract(listed, tmp_path / "c.h5", backbone=FakeBackbone())
    assert same_features(cache, extract(photos, tmp_path / "d.h5", backbone=FakeBackbone()))
    rows = cache.features("features")
    assert rows.classes == ("cats", "dogs")
    assert rows.paths.tolist() == [web.address + path for path in web.files]
    assert cache.provenance["images"] == "http://"
    assert web.asked("HEAD") == []
    assert sorted(web.asked()) == sorted(web.files)
    assert all(headers["User-Agent"].startswith("featurecache/") for headers in web.headers)


def test_unchanged_files_of_the_web_are_not_read_again(web, listed, tmp_path):
    extract(listed, tmp_path / "c.h5", backbone=FakeBackbone())
    web.requests.clear()
    again = CountingBackbone(stop_after=0)
    extract(listed, tmp_path / "c.h5", backbone=again)
    assert (again.seen, web.asked(), len(web.asked("HEAD"))) == (0, [], 8)
    web.files["/train/cats/0.png"] = web.files["/valid/dogs/1.png"] + b"."
    web.requests.clear()
    backbone = CountingBackbone()
    extract(listed, tmp_path / "c.h5", backbone=backbone)
    assert (backbone.seen, web.asked()) == (1, ["/train/cats/0.png"])


def test_files_without_a_tag_are_read_again_and_known_by_content(web, listed, tmp_path):
    web.tags = False
    cache = extract(listed, tmp_path / "c.h5", backbone=FakeBackbone())
    assert set(cache.index.images["mtime_ns"]) == {-1}
    again = CountingBackbone(stop_after=0)
    extract(listed, tmp_path / "c.h5", backbone=again)
    assert (again.seen, len(web.asked())) == (0, 16)


def test_what_is_over_the_next_time_is_tried_again(web, listed, pauses, tmp_path):
    first, second, third, fourth = list(web.files)[:4]
    web.faults = {
        first: [500, (503, {}), (502, {})],
        second: [(429, {"Retry-After": "7"})],
        third: ["cut", "cut"],
        fourth: [(429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), (429, {"Retry-After": "9999"})],
    }
    cache = extract(listed, tmp_path / "c.h5", backbone=FakeBackbone())
    assert (len(cache), cache.failures) == (8, {})
    assert sorted(pauses) == [0.25, 0.25, 0.25, 0.5, 0.5, 1.0, 7.0, 30.0]


def test_a_server_that_falls_silent_is_asked_again(new_stores, web, monkeypatch):
    monkeypatch.setattr(remote_stores, "_SILENT_SECONDS", 1)
    web.files = {"/a.png": b"12345678"}
    web.faults = {"/a.png": ["silent"]}
    assert open_source("http://").read(f"{web.address}/a.png", max_bytes=LIMIT).data == b"12345678"


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (500, "unreadable", "the server answered 500, 5 times"),
        ((429, {}), "unreadable", "the server answered 429, 5 times"),
        ("cut", "unreadable", "the connection failed (ClientPayloadError), 5 times"),
        ("closed", "unreadable", "the connection failed (ServerDisconnectedError), 5 times"),
        (404, "not_found", "no such file"),
        (410, "not_found", "no such file"),
        (401, "no_permission", "the server answered 401"),
        (403, "no_permission", "the server answered 403"),
        (400, "unreadable", "the server answered 400"),
    ],
)
def test_failures_of_the_web_have_a_code_and_a_reason(web, pauses, fault, code, words):
    web.files = {"/a.png": b"12345678"}
    web.always = {"/a.png": fault}
    failure = open_source("http://").read(f"{web.address}/a.png", max_bytes=LIMIT)
    assert failure.code == code
    assert failure.reason.startswith(words)
    assert not failure.is_permanent
    assert pauses == ([0.25, 0.5, 1.0, 2.0] if "5 times" in words else [])


def test_what_failed_is_tried_again_in_the_next_run(web, listed, tmp_path):
    web.always = {"/train/cats/0.png": 503}
    cache = extract(listed, tmp_path / "c.h5", backbone=FakeBackbone())
    reason = "the server answered 503, 5 times; it is tried again in the next run"
    assert cache.failures == {f"{web.address}/train/cats/0.png": reason}
    web.always = {}
    web.requests.clear()
    backbone = CountingBackbone()
    cache = extract(listed, tmp_path / "c.h5", backbone=backbone)
    assert (len(cache), cache.failures, backbone.seen) == (8, {}, 1)
    assert web.asked() == ["/train/cats/0.png"]


@pytest.mark.parametrize("rehash", [False, True])
def test_no_row_is_lost_while_a_host_is_out_of_reach(web, listed, rehash, tmp_path):
    path = tmp_path / "c.h5"
    extract(listed, path, backbone=FakeBackbone())
    before = path.read_bytes()
    web.always = dict.fromkeys(web.files, "closed")
    assert why(listed, path, backbone=FakeBackbone(), rehash=rehash).to_dict()["reasons"] == {"unchanged": 8}

    cache = extract(listed, path, backbone=FakeBackbone(), rehash=rehash, progress=(found := []).append)

    assert (len(cache), cache.failures, path.read_bytes()) == (8, {}, before)
    [warning] = found[-1].warnings
    assert warning.code == "unread_images"
    assert str(warning) == (
        f"8 known images could not be read, the first {web.address}{min(web.files)} (the connection failed "
        "(ServerDisconnectedError), 5 times; it is tried again in the next run), and stay as an earlier run found them"
    )
    web.always = {}
    assert not extract(listed, path, backbone=FakeBackbone(), rehash=rehash).failures


def test_a_host_that_is_out_of_reach_gives_failures_for_what_is_new_or_has_changed(web, listed, photos, tmp_path):
    write_image(photos / "new.png", 50)
    path, names = tmp_path / "c.h5", sorted(web.files)
    extract(listed, path, backbone=FakeBackbone())
    listed.write_text(listed.read_text() + f"{web.address}/new.png cats\n")
    web.files[names[0]] = (photos / "new.png").read_bytes()
    web.always = dict.fromkeys([*names, "/new.png"], "closed")
    web.faults[names[0]] = [None]  # the server gives another tag, but not the file

    cache = extract(listed, path, backbone=FakeBackbone())

    assert sorted(cache.failures) == sorted([web.address + names[0], f"{web.address}/new.png"])
    assert len(cache) == 7


def test_redirects_are_followed(web):
    web.files = {"/b.png": b"123"}
    web.always = {"/a.png": (302, {"Location": "/b.png"}), "/circle.png": (302, {"Location": "/circle.png"})}
    source = open_source("http://")
    assert source.read(f"{web.address}/a.png", max_bytes=LIMIT).data == b"123"
    web.always["/file.png"] = (302, {"Location": "file:///etc/passwd"})
    assert source.read(f"{web.address}/file.png", max_bytes=LIMIT).code == "bad_name"
    assert source.read(f"{web.address}/circle.png", max_bytes=LIMIT).code == "unreadable"


def test_limits_hold_before_bytes_come(web):
    web.files = {"/large.png": b"1" * 1000, "/empty.png": b""}
    source = open_source("http://")
    assert source.read(f"{web.address}/large.png", max_bytes=999).code == "too_many_bytes"
    assert source.read(f"{web.address}/large.png", max_bytes=1000).size == 1000
    assert source.read(f"{web.address}/empty.png", max_bytes=999).code == "empty"


def test_names_reach_the_web_as_they_are(web, tmp_path):
    web.files = {"/a%20b.png": b"1", "/q.png?size=1&name=%C3%A4": b"2", "/100%25.png": b"3", "/a%23b.png": b"4"}
    source = open_source(f"{web.address}/")
    assert source.read("a b.png", max_bytes=LIMIT).data == b"1"
    assert source.read("100%.png", max_bytes=LIMIT).data == b"3"
    assert source.read("a#b.png", max_bytes=LIMIT).data == b"4"
    table = tmp_path / "t.csv"
    table.write_text(f"path\n{web.address}/a%20b.png\n{web.address}/a b.png\n{web.address}/q.png?size=1&name=%C3%A4\n")
    manifest = read_manifest(table)
    read = [manifest.source.read(entry.path, max_bytes=LIMIT).data for entry in manifest.entries]
    assert sorted(read) == [b"1", b"1", b"2"]


def test_a_table_may_be_relative_to_an_address(web, listed, tmp_path):
    table = tmp_path / "t.csv"
    lines = [path.removeprefix("/train/") for path in web.files if path.startswith("/train/")]
    lines[0] = f"{web.address}/train/{lines[0]}"
    table.write_text("path,label\n" + "".join(f" {line}, {line[-10:-6]}\n" for line in lines))
    cache = extract(table, tmp_path / "c.h5", backbone=FakeBackbone(), root=f"{web.address}/train/")
    expected = [f"{label}/{number}.png" for label in ("cats", "dogs") for number in range(2)]
    assert sorted(cache.features("features").paths) == expected
    assert cache.provenance["images"] == f"{web.address}/train"


def test_labels_and_corrections_know_addresses(web, listed, tmp_path):
    cache = extract(listed, tmp_path / "c.h5", backbone=FakeBackbone())
    labels = tmp_path / "labels.csv"
    labels.write_text(f"path,label\n{web.address}/train/cats/0.png,wolf\n")
    rows = cache.with_labels(read_labels(labels)).features("features")
    assert [rows.classes[label] for label in rows.y].count("wolf") == 1


def test_reports_verify_and_predict_read_addresses(web, listed, monkeypatch, tmp_path):
    cache = extract(listed, tmp_path / "c.h5", backbone=FakeBackbone())
    path = f"{web.address}/train/cats/0.png"
    web.requests.clear()
    assert "is an address" in heads.Originals.from_cache(cache).thumbnail(path).missing
    assert web.requests == []  # nobody has named the host
    found = heads.similar(cache, path, tap="features", backbone=FakeBackbone())
    assert _given(found).thumbnail(path).jpeg
    web.requests.clear()
    originals = heads.Originals.from_cache(cache, "http://")
    assert originals.thumbnail(path).jpeg is not None
    with monkeypatch.context() as patched:
        patched.setattr(RemoteSource, "_place", lambda *_: remote_stores.store_of("gopher"))
        assert "gopher:// cannot be opened" in originals.thumbnail(path).missing
    assert verify(cache.path, recompute=3, backbone=FakeBackbone()).recomputed == 3
    assert why(listed, tmp_path / "c.h5", backbone=FakeBackbone()).to_dict()["reuse"] == 8
    head = heads.train(cache, "centroid", tap="features")
    prediction = heads.predict(head, [path, Path(f"{web.address}/gone.png")], backbone=FakeBackbone())
    assert prediction.table.paths.tolist() == [path]
    assert prediction.failures[f"{web.address}/gone.png"].code == "not_found"
    with heads.Predictor(head, backbone=FakeBackbone()) as predictor:
        assert not isinstance(predictor.predict(path)[0], Failure)
    with pytest.raises(ManifestError, match=r"some images are at addresses, such as http://.*, others are not"):
        features_of(cache, [path, "local.png"], "features", backbone=FakeBackbone())


def test_messages_of_reports_show_addresses_as_they_were_given(bucket, photos, tmp_path, capsys):
    client, _ = bucket
    upload(client, photos / "train")
    cache = extract("s3://photos/cats", tmp_path / "c.h5", backbone=FakeBackbone())
    given = {"path": tmp_path / "r.html", "form": None, "thumbnails": True}
    with pytest.raises(BadParameter, match="--images s3://photos/typo is neither a folder nor an archive"):
        ReportFile.planned(root=Path("s3://photos/typo"), **given)

    file = ReportFile.planned(root=Path("s3://photos/dogs"), **given)
    found = heads.similar(cache, rows=["1.png"], tap="features")
    client.delete_object(Bucket="photos", Key="dogs/1.png")
    file.write(heads.similar_report(found, originals=file.originals(cache)), {})

    assert "the first is 1.png: the file is not there; looked in s3://photos/dogs\n" in capsys.readouterr().err


CREDENTIALS = [
    ("https://user:hush@host/a.png", "host has a user or password in it"),
    ("https://hush@host/a.png", "host has a user or password in it"),
    ("s3://AKIA:hush@photos/a.png", "photos has a user or password in it"),
    ("https://host/a.png?X-Amz-Credential=hush&X-Amz-Signature=hush", "host has 'X-Amz-Credential' in its query"),
    ("https://host/a.png?sv=2022&sig=hush", "host has 'sig' in its query"),
    ("https://host/a.png?AWSAccessKeyId=hush", "host has 'AWSAccessKeyId' in its query"),
    ("https://host/a.png?access_token=hush", "host has 'access_token' in its query"),
    ("https://[host/a.png?key=hush", "has 'key' in its query"),
    ("HTTP://host/a.png?X-Amz-Signature=hush", "host has 'X-Amz-Signature' in its query"),
    ("Https://host?token=hush", "an address at host has 'token' in its query"),
    ("HTTPS://user:hush@host/a.png", "host has a user or password in it"),
    ("https://host/a.png?sas=hush", "host has 'sas' in its query"),
    ("https://host/a.png?jwt=hush", "host has 'jwt' in its query"),
    ("https://host/a.png?x;sig=hush", "host has 'sig' in its query"),
    ("https://host/a.png?oauth=hush", "host has 'oauth' in its query"),
]


@pytest.mark.parametrize(("address", "words"), CREDENTIALS)
def test_addresses_with_credentials_are_refused_without_showing_them(address, words, tmp_path):
    (tmp_path / "list.txt").write_text(f"{address}\n")
    for images in (tmp_path / "list.txt", address):
        with pytest.raises(ManifestError) as error:
            read_manifest(images)
        assert words in str(error.value)
        assert "hush" not in str(error.value)
    failure = RemoteSource("https://").read(address, max_bytes=LIMIT)
    assert (failure.code, failure.reason) == ("bad_name", "the address has credentials in it")


@pytest.mark.parametrize("end", ["#access_token=hush", "#", "#2#token", "?page=1#2#sig=hush"])
def test_what_reaches_no_server_is_not_recorded(end, tmp_path):
    (tmp_path / "list.txt").write_text(f"https://host/a.png{end}\n")
    with pytest.raises(ManifestError, match=r"an address at host has a #; what follows reaches no server") as error:
        read_manifest(tmp_path / "list.txt")
    assert "hush" not in str(error.value)
    assert RemoteSource("https://").read(f"https://host/a.png{end}", max_bytes=LIMIT).code == "not_found"


def test_addresses_without_credentials_are_taken_as_they_are_but_for_the_case_of_the_scheme(tmp_path):
    place = "://Host/a.png?size=large&monkey=1&author=bob"
    assert address_of("https" + place) == address_of("HTTPS" + place) == "https" + place
    (tmp_path / "list.txt").write_text(f"Https{place}\n")
    assert [entry.path for entry in read_manifest(tmp_path / "list.txt").entries] == ["https" + place]
    assert address_of("https://host/scan.tif#2#1:flip,crop") == "https://host/scan.tif#2#1:flip,crop"
    (tmp_path / "labels.csv").write_text(f"path,label\nHTTPS{place},bob\n")
    assert read_labels(tmp_path / "labels.csv") == {"https" + place: "bob"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path\nhttp://h/a.png\nb.png\n", "has addresses and other paths, such as http://h/a.png and b.png; write two"),
        ("path\nhttp://h/a.png\nhttp://h/a.png\n", "is already in line 2"),
    ],
)
def test_tables_with_doubtful_addresses_are_refused(text, words, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ManifestError, match=words):
        read_manifest(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("https://host/photos/", "cannot be listed, as nothing on the web can; list the addresses of its images"),
        ("https://host/photos.zip", "photos.zip is read as a whole; copy it to this machine"),
        ("s3://photos/list.csv", "s3://photos/list.csv is read as a whole; copy it"),
        ("s3://", "s3:// names no bucket; expected s3://BUCKET/FOLDER"),
        ("az://container/photos", "does not exist; expected .* or an address such as s3://BUCKET/FOLDER"),
    ],
)
def test_addresses_that_cannot_be_listed_say_what_to_do(location, words):
    for images in (location, Path(location)):
        with pytest.raises(ManifestError, match=words):
            read_manifest(images)


def test_addresses_outside_the_root_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("path\nhttp://other/a.png\n")
    with pytest.raises(ManifestError, match=r"not below http://host/photos, first http://other/a\.png"):
        read_manifest(tmp_path / "t.csv", root="http://host/photos")
    source = open_source("http://host/photos")
    assert source.read("../a.png", max_bytes=LIMIT).code == "outside"
    assert source.read("%FF.png", max_bytes=LIMIT).code == "bad_name"
    assert source.stat("../a.png") is None
    assert open_source("http://").read("a.png", max_bytes=LIMIT).code == "bad_name"


def test_a_bucket_is_read_as_a_folder_is(bucket, photos, tmp_path):
    client, faults = bucket
    upload(client, photos, "set/")
    expected = extract(photos, tmp_path / "d.h5", backbone=FakeBackbone())
    faults.requests.clear()
    cache = extract(Path("s3://photos/set/"), tmp_path / "c.h5", backbone=FakeBackbone())
    for column in ("path", "sha256", "label", "split", "size"):
        assert np.array_equal(cache.index.images[column], expected.index.images[column]), column
    assert cache.provenance["images"] == "s3://photos/set"
    assert sum("/photos/set" in path for _, path in faults.requests) == 8
    faults.requests.clear()
    again = CountingBackbone(stop_after=0)
    assert extract("s3://photos/set", tmp_path / "c.h5", backbone=again).failures == {}
    assert (again.seen, {path for _, path in faults.requests}) == (0, {"/photos"})
    client.put_object(
        Bucket="photos", Key="set/train/cats/0.png", Body=(photos / "valid/dogs/0.png").read_bytes() + b"."
    )
    client.delete_object(Bucket="photos", Key="set/train/cats/1.png")
    backbone = CountingBackbone()
    cache = extract("s3://photos/set", tmp_path / "c.h5", backbone=backbone)
    assert (len(cache), backbone.seen) == (7, 1)
    assert "secret" not in json.dumps(cache.provenance)


def test_objects_of_a_bucket_are_tried_again_and_then_fail(bucket, photos, pauses, tmp_path):
    client, faults = bucket
    upload(client, photos / "train")
    for name in ("dogs/2.png", "cats/2.png"):
        client.put_object(Bucket="photos", Key=name, Body=(photos / "valid" / name.replace("2", "0")).read_bytes())
    faults.faults = {"/photos/cats/0.png": [503, 500], "/photos/cats/1.png": ["cut"], "/photos": [503]}
    faults.always = {"/photos/dogs/0.png": 503, "/photos/dogs/1.png": "cut", "/photos/dogs/2.png": 403}
    cache = extract("s3://photos", tmp_path / "c.h5", backbone=FakeBackbone())
    again = "5 times; it is tried again in the next run"
    failures = dict(cache.failures)
    assert failures.pop("dogs/1.png").startswith("the connection failed")
    assert failures == {
        "dogs/0.png": f"the server answered 503 (SlowDown), {again}",
        "dogs/2.png": "the server answered 403 (AccessDenied)",
    }
    assert len(pauses) == 1 + 2 + 1 + 4 + 4
    faults.always = {}
    backbone = CountingBackbone()
    cache = extract("s3://photos", tmp_path / "c.h5", backbone=backbone)
    assert (len(cache), cache.failures, backbone.seen) == (6, {}, 3)


def test_a_bucket_that_does_not_answer_ends_the_run_and_what_is_finished_is_kept(bucket, photos, monkeypatch, tmp_path):
    client, faults = bucket
    upload(client, photos)
    monkeypatch.setattr(remote_stores, "_SILENT_IMAGES", 2)
    faults.always = {f"/photos/valid/dogs/{number}.png": 500 for number in range(2)}
    with pytest.raises(
        ManifestError, match=r"2 images of photos one after another could not be read \(the server answered 500"
    ):
        extract("s3://photos", tmp_path / "c.h5", backbone=FakeBackbone(), batch_size=2, workers=1)
    faults.always = {}
    backbone = CountingBackbone()
    cache = extract("s3://photos", tmp_path / "c.h5", backbone=backbone, batch_size=2)
    assert (len(cache), cache.failures) == (8, {})
    assert backbone.seen < 8


@pytest.mark.parametrize("name", ["NoCredentialsError", "RefreshError"])
def test_credentials_that_end_in_a_run_end_it_and_no_row_is_lost(bucket, photos, monkeypatch, tmp_path, name):
    upload(bucket[0], photos / "train")
    cache = extract("s3://photos", tmp_path / "c.h5", backbone=FakeBackbone())
    upload(bucket[0], photos / "valid")

    async def ended(*_):
        raise type(name, (Exception,), {})

    with monkeypatch.context() as patched:
        patched.setattr(remote_stores.store_of("s3"), "_get", ended)
        with pytest.raises(ManifestError, match=rf"no credentials were found \({name}\); what is finished is kept"):
            extract("s3://photos", tmp_path / "c.h5", backbone=FakeBackbone())
    assert len(FeatureCache.open(tmp_path / "c.h5")) == len(cache) == 4


def test_a_bucket_without_permission_ends_the_run(bucket, photos, monkeypatch, tmp_path):
    client, faults = bucket
    upload(client, photos)
    monkeypatch.setattr(remote_stores, "_SILENT_IMAGES", 4)
    faults.always = {f"/photos/{path}": 403 for path in files_of(photos)}
    with pytest.raises(ManifestError, match=r"4 images of photos one after another .*answered 403"):
        extract("s3://photos", tmp_path / "c.h5", backbone=FakeBackbone(), workers=1)


def test_a_host_that_is_overloaded_ends_the_run_and_one_that_is_gone_does_not(web, listed, monkeypatch, tmp_path):
    monkeypatch.setattr(remote_stores, "_SILENT_IMAGES", 4)
    web.always = dict.fromkeys(list(web.files)[:6], "closed")
    assert len(extract(listed, tmp_path / "c.h5", backbone=FakeBackbone(), workers=1).failures) == 6
    web.always = dict.fromkeys(web.files, 503)
    with pytest.raises(
        ManifestError, match=r"4 images of 127\.0\.0\.1:[0-9]+ one after another .*answered 503, 5 times"
    ):
        extract(listed, tmp_path / "c.h5", backbone=FakeBackbone(), workers=1, rehash=True)
    assert len(FeatureCache.open(tmp_path / "c.h5")) == 2


def test_pauses_end_with_the_run(web, monkeypatch):
    monkeypatch.setattr(remote_stores, "_pause", pause)
    web.files = {"/a.png": b"123"}
    web.always = {"/b.png": (429, {"Retry-After": "30"})}
    source = open_source("http://")
    asked = threading.Event()

    def read(path):
        if path == "/b.png":
            asked.set()
        return source.read(web.address + path, max_bytes=LIMIT)

    results = ahead(read, ["/a.png", "/b.png"], workers=2, window=2)
    assert next(results).data == b"123"
    assert asked.wait(60)
    results.close()
    assert web.asked().count("/b.png") == 1


def test_a_file_that_never_ends_is_not_asked_for_again(web, pauses, monkeypatch):
    monkeypatch.setattr(remote_stores, "_WHOLE_SECONDS", 0.2)
    web.files = {"/a.png": b"12345678"}
    web.always = {"/a.png": "silent"}
    failure = open_source("http://").read(f"{web.address}/a.png", max_bytes=LIMIT)
    assert failure == Failure("unreadable", "it did not come within 0.2 s; it is tried again in the next run")
    assert pauses == []


def test_listing_takes_all_pages_of_all_folders(bucket, photos, monkeypatch):
    upload(bucket[0], photos)
    store = remote_stores.store_of("s3")
    call = store._fs.call_s3
    monkeypatch.setattr(store._fs, "call_s3", lambda *given, **more: call(*given, **more, MaxKeys=2))
    for levels, most in ((0, 9), (1, 9), (2, 9), (2, 1), (9, 9)):
        monkeypatch.setattr(remote_stores, "_LEVELS", levels)
        monkeypatch.setattr(remote_stores, "_MOST_FOLDERS", most)
        assert sorted(open_source("s3://photos").list_images()[0]) == sorted(files_of(photos))


def test_names_that_no_folder_can_have_are_left_out(bucket, photos):
    client, _ = bucket
    data = (photos / "train/cats/0.png").read_bytes()
    good = ["x/a/é ü#?versionId=1.png", "x/a/%41.png", "x/b/" + "n" * 200 + ".png"]
    strange = ["x/a//1.png", "x/a/../2.png", "x/./3.png", "x//4.png"]
    for key in [*good, *strange, "x/a/.hidden.png", "x/a/notes.txt", "x/", "x/a/", "xy.png"]:
        client.put_object(Bucket="photos", Key=key, Body=data)
    manifest = read_manifest("s3://photos/x")
    assert manifest.classes == ("a", "b")
    assert sorted(manifest.source.locate(entry.path) for entry in manifest.entries) == sorted(
        f"s3://photos/{key}" for key in good
    )
    for entry in manifest.entries:
        assert manifest.source.read(entry.path, max_bytes=LIMIT).data == data
    reasons = {item.path: item.reason for item in manifest.ignored}
    assert {path for path, reason in reasons.items() if "empty part" in reason} == {key[2:] for key in strange}
    assert reasons.keys() == {*(key[2:] for key in strange), "a/.hidden.png", "a/notes.txt"}


def test_a_bucket_that_cannot_be_listed_says_why(bucket, photos, monkeypatch):
    client, faults = bucket
    upload(client, photos)
    for address, words in {
        "s3://nowhere": "s3://nowhere does not exist: there is no such bucket$",
        "s3://photos/typo": "s3://photos/typo does not exist: no name begins with it",
        "s3://photos/train/cats/0.png": "0.png is one object, not a folder; expected a folder",
    }.items():
        with pytest.raises(ManifestError, match=words):
            read_manifest(address)
    faults.always = {"/photos": 403}
    with pytest.raises(ManifestError, match=r"answered 403 \(AccessDenied\); credentials are taken from") as error:
        read_manifest("s3://photos")
    assert "secret" not in str(error.value)
    faults.always = {"/photos": 500}
    with pytest.raises(ManifestError, match=r"answered 500 \(InternalError\), 5 times$"):
        read_manifest("s3://photos")


def test_an_empty_bucket_has_no_images(bucket):
    with pytest.raises(NoImagesError, match="no image files in s3://photos;"):
        read_manifest("s3://photos")


def test_missing_credentials_are_named(new_stores, bucket, photos, monkeypatch, tmp_path):
    upload(bucket[0], photos)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ManifestError, match=r"no credentials were found \(NoCredentialsError\); credentials are taken"):
        read_manifest("s3://photos")


def test_a_table_of_objects_asks_for_each_tag(bucket, photos, tmp_path):
    client, faults = bucket
    upload(client, photos / "train")
    table = tmp_path / "t.csv"
    table.write_text("path\ns3://photos/cats/0.png\ns3://photos/dogs/0.png\ns3://photos/gone.png\n")
    cache = extract(table, tmp_path / "c.h5", backbone=FakeBackbone())
    assert cache.failures == {"s3://photos/gone.png": "no such file"}
    faults.requests.clear()
    again = CountingBackbone(stop_after=0)
    extract(table, tmp_path / "c.h5", backbone=again)
    assert sorted(faults.requests) == [
        ("GET", "/photos/gone.png"),
        ("HEAD", "/photos/cats/0.png"),
        ("HEAD", "/photos/dogs/0.png"),
    ]
    table.write_text("path,label\ncats/0.png,cat\n")
    assert len(extract(table, tmp_path / "d.h5", backbone=FakeBackbone(), root="s3://photos")) == 1
    with pytest.raises(ManifestError, match=r"the root s3://photos/typo of .* is neither a folder nor an archive"):
        extract(table, tmp_path / "e.h5", backbone=FakeBackbone(), root=Path("s3://photos/typo"))


def test_predict_takes_objects_and_folders_of_buckets(bucket, photos, tmp_path):
    client, _ = bucket
    upload(client, photos / "train")
    cache = extract("s3://photos", tmp_path / "c.h5", backbone=FakeBackbone())
    places = ["s3://photos/cats", "s3://photos/dogs/0.png"]
    rows, failures = features_of(cache, places, "features", backbone=CountingBackbone(stop_after=0))
    assert rows.paths.tolist() == [*(f"s3://photos/cats/{n}.png" for n in range(2)), "s3://photos/dogs/0.png"]
    assert failures == {}


def test_predict_takes_frames_of_objects(bucket, photos, tmp_path):
    client, _ = bucket
    upload(client, photos / "train")
    pages = [Image.new("RGB", (8, 8), (40 * n, 0, 0)) for n in range(2)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    client.upload_file(str(tmp_path / "scan.tif"), "photos", "scan.tif")
    cache = extract("s3://photos/cats", tmp_path / "c.h5", backbone=FakeBackbone())

    rows, failures = features_of(cache, ["s3://photos/scan.tif#2"], "features", backbone=FakeBackbone())

    assert rows.paths.tolist() == ["s3://photos/scan.tif#2"]
    assert failures == {}


def test_a_changed_object_is_noticed_between_listing_and_reading(bucket, photos):
    client, _ = bucket
    upload(client, photos / "train")
    source = open_source("s3://photos")
    source.list_images()
    listed = source.stat("cats/0.png")
    assert source.stat("cats/0.png") == listed
    client.put_object(Bucket="photos", Key="cats/0.png", Body=b"other")
    content = source.read("cats/0.png", max_bytes=LIMIT)
    assert content.data == b"other"
    source._listing.until = 0.0  # later
    assert (content.size, content.mtime_ns) != (listed.size, listed.mtime_ns)
    now = source.stat("cats/0.png")
    assert (content.size, content.mtime_ns) == (now.size, now.mtime_ns)


def test_sources_travel_to_workers_without_what_they_have_listed(bucket, photos):
    upload(bucket[0], photos / "train")
    source = open_source("s3://photos")
    source.list_images()
    there = pickle.loads(pickle.dumps(source.anywhere()))  # noqa: S301 - our own
    assert there == source
    assert there._listing.images == {}
    assert there.read("cats/0.png", max_bytes=LIMIT).data == (photos / "train/cats/0.png").read_bytes()


class FakeGoogle(fsspec.AsyncFileSystem):
    """Objects in memory in the place of Google's, with generations."""

    protocol = "gs"
    files: ClassVar = {}
    generation = "1"
    cut = 0

    def _described(self, name):
        return {"name": name, "size": len(self.files[name]), "type": "file", "generation": self.generation}

    async def _info(self, path, **_):
        if path not in self.files:
            raise FileNotFoundError(path)
        return self._described(path)

    async def _cat_file(self, path, **_):
        return self.files[path][self.cut :]

    async def _ls(self, path, **_):
        below = {name: name[len(path) + 1 :].split("/") for name in self.files if name.startswith(path + "/")}
        folders = {f"{path}/{parts[0]}" for parts in below.values() if len(parts) > 1}
        files = [self._described(name) for name, parts in below.items() if len(parts) == 1]
        return files + [{"name": name, "size": 0, "type": "directory"} for name in folders]


def test_other_buckets_are_read_by_what_fsspec_knows_of_them(new_stores, pauses, photos, monkeypatch, tmp_path):
    registry.register_implementation("gs", FakeGoogle, clobber=True)
    monkeypatch.setattr(FakeGoogle, "files", {f"photos/{path}": data for path, data in files_of(photos).items()})
    cache = extract("gs://photos", tmp_path / "c.h5", backbone=FakeBackbone())
    assert same_features(cache, extract(photos, tmp_path / "d.h5", backbone=FakeBackbone()))
    again = CountingBackbone(stop_after=0)
    monkeypatch.setattr(FakeGoogle, "cut", 1)
    assert extract("gs://photos", tmp_path / "c.h5", backbone=again).failures == {}
    monkeypatch.setattr(FakeGoogle, "generation", "2")
    with pytest.raises(NoImagesError, match=r"1,[0-9]+ of 1,[0-9]+ bytes came, 2 times"):
        extract("gs://photos", tmp_path / "c.h5", backbone=again)
    assert open_source("gs://photos").read("gone.png", max_bytes=LIMIT).code == "not_found"


def test_a_missing_package_is_named(new_stores, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        ManifestError, match=r"s3:// needs s3fs, which is not installed: pip install 'featurecache\[remote\]'"
    ):
        read_manifest("s3://photos")


def test_many_images_are_read_at_the_same_time(web, listed, tmp_path):
    web.barrier = threading.Barrier(8)  # no answer before all eight are asked for
    assert extract(listed, tmp_path / "c.h5", backbone=FakeBackbone()).failures == {}


def test_threads_that_want_one_image_share_a_request(web, monkeypatch):
    web.files = {"/a.png": b"1"}
    source, address, read = open_source("http://"), f"{web.address}/a.png", remote_stores.Store.read
    waiting = threading.Event()
    result = Future.result

    def read_once_another_waits(store, *arguments):
        others.append(pool.submit(source.read, address, max_bytes=LIMIT))
        assert waiting.wait(60)
        return read(store, *arguments)

    def wait(future):
        waiting.set()
        return result(future)

    others = []
    monkeypatch.setattr(remote_stores.Store, "read", read_once_another_waits)
    monkeypatch.setattr("featurecache.images.remote.Future.result", wait)
    with ThreadPoolExecutor(2) as pool:
        content = result(pool.submit(source.read, address, max_bytes=LIMIT))
        assert result(others[0]) is content
    assert web.asked() == ["/a.png"]
    assert len(others) == 1


def test_addresses_can_be_given_in_python(web):
    web.files = {"/a.png": b"123"}
    source = RemoteSource("http://")
    manifest = from_source(source, [(f"{web.address}/a.png", "cat", "train")])
    assert manifest.source.read(manifest.entries[0].path, max_bytes=LIMIT).size == 3


def test_frames_of_a_file_on_the_web_are_images_of_their_own(web, tmp_path):
    frames = [Image.new("RGB", (8, 8), (40 * number, 0, 0)) for number in range(3)]
    frames[0].save(tmp_path / "scan.tif", save_all=True, append_images=frames[1:])
    web.files = {"/scan.tif": (tmp_path / "scan.tif").read_bytes()}
    (tmp_path / "list.txt").write_text(f"{web.address.upper().replace('HTTP', 'http')}/scan.tif\n")
    cache = extract(tmp_path / "list.txt", tmp_path / "c.h5", backbone=FakeBackbone(), frames="all")
    assert (len(cache), len(set(cache.features("features").sha256)), cache.failures) == (3, 3, {})
    again = CountingBackbone(stop_after=0)
    assert len(extract(tmp_path / "list.txt", tmp_path / "c.h5", backbone=again, frames="all")) == 3


def test_a_store_of_the_web_says_that_it_has_no_list():
    with pytest.raises(UnusableImageError) as error:
        remote_stores.store_of("http").find("host/folder")
    assert error.value.failure.reason == "nothing on the web can be listed"

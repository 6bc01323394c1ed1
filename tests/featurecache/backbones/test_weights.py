"""Finding, downloading and identifying weights; no framework is needed."""

import errno
import hashlib
import os
import re
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from http.client import BadStatusLine
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from featurecache.backbones import weights as weights_module
from featurecache.backbones.catalog import find_network
from featurecache.backbones.weights import Weights, resolve_weights
from featurecache.errors import WeightsError

BODY = b"\x89HDF\r\n\x1a\n" + bytes(range(248)) + bytes(range(256)) * 4999


@pytest.fixture
def keras_home(tmp_path, monkeypatch):
    """Keras's own folder, empty; nothing can be fetched unless a test opens a server."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "models"


@pytest.fixture
def no_network(monkeypatch):
    def urlopen(url, **_):
        raise urllib.error.URLError(OSError(101, "Network is unreachable"))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def error_of(text, row, **options):
    """Return the one-line message of the error."""
    with pytest.raises(WeightsError) as caught:
        resolve_weights(text, row, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextmanager
def serving(respond):
    """Serve every GET with ``respond(handler)``, on this machine; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            respond(self)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/weights.h5"
        finally:
            server.shutdown()
            thread.join()


def sends(body, *, length=None, status=200, headers=()):
    def respond(handler):
        handler.send_response(status)
        for name, value in headers or [("Content-Length", str(len(body) if length is None else length))]:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


@pytest.mark.parametrize(("text", "seed"), [("random:0", 0), ("random:42", 42), ("random:007", 7)])
def test_random_weights_are_identified_by_their_seed(text, seed):
    assert resolve_weights(text, find_network("vgg16")) == Weights(f"random:{seed}", f"random:{seed}", seed=seed)


@pytest.mark.parametrize("text", ["random", "random:", "random:-1", "random:x", "random:1.5", "random:²"])
def test_random_weights_need_a_seed(text):
    message = error_of(text, find_network("vgg16"))
    assert repr(text) in message
    assert "random:0" in message


@pytest.mark.parametrize("name", ["mine.weights.h5", "mine.h5", "mine.hdf5", "mine.keras", "mine"])
def test_a_file_is_identified_by_its_bytes(tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_bytes(BODY)
    identity = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
    assert resolve_weights(str(path), find_network("vgg16")) == Weights(str(path), identity, path=path)
    monkeypatch.chdir(tmp_path)
    assert resolve_weights(path.name, find_network("vgg16")).source == str(path)


@pytest.mark.parametrize("size", [512, 1024, 4096])
def test_hdf5_may_begin_after_a_block_of_the_user(tmp_path, size):
    (tmp_path / "mine.h5").write_bytes(b"{}".ljust(size, b"\0") + BODY)
    assert resolve_weights(str(tmp_path / "mine.h5"), find_network("vgg16")).path == tmp_path / "mine.h5"


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.h5").write_bytes(BODY)
    assert resolve_weights("~/mine.h5", find_network("vgg16")).path == tmp_path / "mine.h5"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a pointer of Git LFS: .* git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>", "it is a web page: download the file itself"),
        (b"PK\x03\x04 as a .keras or .pt file", r"it is a zip archive, .*save_weights\('NAME.weights.h5'\)"),
        (b"\x1f\x8b\x08\x00", "it is compressed with gzip: unpack it"),
        (b"\x80\x05\x95 as a pickle", r"it begins with b'\\x80\\x05\\x95 as a'"),
        (b"0" * 100 + BODY, "it begins with b'00000000'"),
    ],
)
@pytest.mark.parametrize("name", ["model.weights.h5", "model.pt"])
def test_a_file_of_another_kind_is_named(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    message = error_of(str(tmp_path / name), find_network("vgg16"))
    assert re.search(rf"{re.escape(name)} is not an HDF5 file, as Keras's weight files are: {what}", message)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "folder.h5").mkdir()
    missing = error_of(str(tmp_path / "missing.h5"), find_network("vgg16"))
    assert "missing.h5 cannot be read: no such file" in missing
    assert missing.endswith("expected imagenet, random:SEED, or the path of a weight file")
    assert "folder.h5 cannot be read: is a directory" in error_of(str(tmp_path / "folder.h5"), find_network("vgg16"))
    assert "no such file" in error_of("~nobody-of-this-name/w.h5", find_network("vgg16"))


@pytest.mark.parametrize("text", ["ImageNet", "imagenett", "image-net"])
def test_a_word_close_to_imagenet_is_recognised(text):
    assert error_of(text, find_network("vgg16")).endswith("weight file (did you mean 'imagenet'?)")


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = tmp_path / "mine.h5"
    path.write_bytes(BODY)

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    path.chmod(0)
    if os.geteuid() == 0:  # may read everything
        monkeypatch.setattr("featurecache.storage.files.os.open", refuse)
    message = error_of(str(path), find_network("vgg16"))
    assert "mine.h5 cannot be read: permission denied; make it readable" in message


def test_imagenet_weights_that_are_there_are_used(keras_home, no_network):
    row = find_network("mobilenet_v2")
    keras_home.mkdir(parents=True)
    (keras_home / row.weights_file).write_bytes(BODY)
    found = resolve_weights("imagenet", row)
    assert found.source == "imagenet"
    assert found.path == keras_home / row.weights_file
    assert found.identity == f"sha256:{hashlib.sha256(BODY).hexdigest()}"


def test_without_a_setting_keras_folder_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / ".keras" / "models" / "mobilenet_1_0_224_tf.h5") in error_of(
        "imagenet", find_network("mobilenet"), download=False
    )


def test_a_user_without_a_home_folder_may_use_weights(tmp_path, monkeypatch):
    """As in a container that runs under a number which no user has."""

    def nobody(_):
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "KERAS_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.h5").write_bytes(BODY)
    assert resolve_weights("mine.h5", find_network("vgg16")).path == tmp_path / "mine.h5"
    assert "are not available" in error_of("imagenet", find_network("vgg16"), download=False)


def test_a_damaged_imagenet_file_is_refused(keras_home, no_network):
    row = find_network("vgg16")
    keras_home.mkdir(parents=True)
    (keras_home / row.weights_file).write_bytes(BODY)
    message = error_of("imagenet", row)
    assert str(keras_home / row.weights_file) in message
    assert row.weights_md5 in message
    assert hashlib.md5(BODY, usedforsecurity=False).hexdigest() in message
    assert "delete it" in message


@pytest.mark.parametrize("download", [True, False])
def test_unavailable_weights_say_which_file_from_where_and_what_else_there_is(keras_home, no_network, download):
    row = find_network("vgg16")
    message = error_of("imagenet", row, download=download)
    for part in ("vgg16", row.weights_url, str(keras_home / row.weights_file), "--weights PATH", "--weights random:0"):
        assert part in message
    assert ("unreachable" in message) == download


def test_a_download_is_announced_and_lies_where_keras_looks(keras_home):
    told = []
    with serving(sends(BODY)) as url:
        row = replace(find_network("mobilenet"), weights_url=url)
        found = resolve_weights("imagenet", row, notify=told.append)
    assert found.path == keras_home / row.weights_file
    assert found.path.read_bytes() == BODY
    assert [each.name for each in keras_home.iterdir()] == [row.weights_file]
    assert told == [f"downloading {url} (1 MB) to {found.path}"]


def test_a_download_is_checked_where_keras_pins_its_md5(keras_home):
    with serving(sends(BODY)) as url:
        row = replace(find_network("vgg16"), weights_url=url)
        assert row.weights_md5 in error_of("imagenet", row)
        assert list(keras_home.iterdir()) == []
        good = replace(row, weights_md5=hashlib.md5(BODY, usedforsecurity=False).hexdigest())
        assert resolve_weights("imagenet", good).path.read_bytes() == BODY


@pytest.mark.parametrize(
    ("respond", "why"),
    [
        pytest.param(sends(BODY, length=len(BODY) + 1), "1280000 of 1280001 bytes", id="truncated"),
        pytest.param(sends(b"", length=10), "0 of 10 bytes", id="nothing"),
        pytest.param(sends(b"not here", status=404), "Not Found", id="404"),
        pytest.param(sends(b"", status=500), "Internal Server Error", id="500"),
        pytest.param(
            sends(b"5\r\nabc", headers=[("Transfer-Encoding", "chunked")]), "downloading failed", id="broken chunks"
        ),
        pytest.param(lambda handler: handler.connection.close(), "downloading failed", id="hung up"),
    ],
)
def test_a_download_that_breaks_leaves_nothing_behind(keras_home, respond, why):
    with serving(respond) as url:
        message = error_of("imagenet", replace(find_network("mobilenet"), weights_url=url))
    assert why in message
    assert "cannot write" not in message
    assert "--weights PATH" in message
    assert list(keras_home.iterdir()) == []


def test_an_answer_that_is_not_http_is_an_error_of_one_line(keras_home, monkeypatch):
    def urlopen(url, **_):
        raise BadStatusLine("nonsense\r\n")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert "nonsense" in error_of("imagenet", find_network("mobilenet"))


def test_a_server_that_falls_silent_is_given_up(keras_home, monkeypatch):
    monkeypatch.setattr(weights_module, "DOWNLOAD_TIMEOUT", 0.2)
    done = threading.Event()

    def respond(handler):
        sends(BODY[:1000], length=len(BODY))(handler)
        done.wait(60)

    with serving(respond) as url:
        message = error_of("imagenet", replace(find_network("mobilenet"), weights_url=url))
        done.set()
    assert "timed out" in message
    assert list(keras_home.iterdir()) == []


def test_a_keras_folder_that_cannot_be_made_is_an_error_of_the_weights(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with serving(sends(BODY)) as url:
        assert "--weights PATH" in error_of("imagenet", replace(find_network("mobilenet"), weights_url=url))


def test_the_official_file_of_a_network_that_keras_builds_by_name_is_refused_as_a_path(tmp_path, keras_home):
    path = tmp_path / "efficientnetb0.h5"
    path.write_bytes(BODY)
    row = replace(find_network("efficientnet_b0"), weights_md5=hashlib.md5(BODY, usedforsecurity=False).hexdigest())
    message = error_of(str(path), row)
    assert f"put it at {keras_home / row.weights_file}" in message
    assert "--weights imagenet" in message
    assert resolve_weights(str(path), find_network("efficientnet_b0")).path == path

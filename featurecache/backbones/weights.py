"""Which weights a network gets, where they lie, and what identifies them; no framework is imported."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from featurecache.backbones.catalog import Application
from featurecache.errors import WeightsError
from featurecache.memory import Digests, digests
from featurecache.publish import publishing

DOWNLOAD_TIMEOUT = 5.0
_SUFFIXES = (".weights.h5", ".h5", ".hdf5")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that are there.

    Parameters
    ----------
    source
        What to ask for to get them again: ``"imagenet"``, an absolute path, or ``"random:SEED"``.
    identity
        ``"sha256:…"`` of the file's bytes, or ``"random:SEED"``.
    path
        The file; None if they are random.
    seed
        What random weights are drawn with; None if they are read from a file.
    """

    source: str
    identity: str
    path: Path | None = None
    seed: int | None = None


def resolve_weights(
    text: str,
    application: Application,
    *,
    download: bool = True,
    rehash: bool = False,
    notify: Callable[[str], None] = lambda _: None,
) -> Weights:
    """Find the weights that ``text`` names.

    Parameters
    ----------
    text
        ``"imagenet"``, the path of a Keras weight file, or ``"random:SEED"``.
    application
        The network that they are for.
    download
        Whether ImageNet weights that are not there are fetched.
    rehash
        Hash the weight file even if it looks as it did when it was hashed before.
    notify
        Is told, in one line, when a download begins.

    Raises
    ------
    WeightsError
        If they cannot be had; the message says which file, from where, and how to pass one.
    """
    if text == "random" or text.startswith("random:"):
        return _random(text)
    if text == "imagenet":
        return _imagenet(application, download=download, rehash=rehash, notify=notify)
    path = Path(text).expanduser().absolute()
    if not path.name.endswith(_SUFFIXES):
        raise WeightsError(
            f"weights {text!r} are neither 'imagenet' nor 'random:SEED' nor a weight file ({', '.join(_SUFFIXES)})"
        )
    found = _digests(path, rehash=rehash)
    if application.imagenet_by_name_only and found.md5 == application.weights_md5:
        raise WeightsError(
            f"{path} is Keras's own ImageNet file, and Keras builds {application.name} differently for it: "
            f"put it at {_keras_folder() / application.weights_file} and pass --weights imagenet"
        )
    return Weights(source=str(path), identity=f"sha256:{found.sha256}", path=path)


def not_of_this_network(path: Path | None, application: Application, why: str) -> WeightsError:
    """Return the error that says that a file holds other weights than those of this network, or none."""
    return WeightsError(
        f"{path} is not a weight file of {application.name} ({why}); "
        "pass that network's file, or the --backbone that this file belongs to"
    )


def _random(text: str) -> Weights:
    digits = text.removeprefix("random").removeprefix(":")
    if not digits.isascii() or not digits.isdigit():
        raise WeightsError(f"weights {text!r} have no seed; write random:0, or another whole number from 0 on")
    seed = int(digits)
    return Weights(source=f"random:{seed}", identity=f"random:{seed}", seed=seed)


def _imagenet(application: Application, *, download: bool, rehash: bool, notify: Callable[[str], None]) -> Weights:
    path = _keras_folder() / application.weights_file
    if not path.exists():
        if not download:
            raise _unavailable(application, path, "it is not there")
        _download(application, path, notify)
    found = _digests(path, rehash=rehash)
    if application.weights_md5 not in {None, found.md5}:
        raise WeightsError(
            f"{path} is damaged or incomplete: its MD5 is {found.md5}, expected {application.weights_md5}; "
            "delete it and run the same command again"
        )
    return Weights(source="imagenet", identity=f"sha256:{found.sha256}", path=path)


def _keras_folder() -> Path:
    """Return where Keras keeps downloaded weights."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models"


def _download(application: Application, path: Path, notify: Callable[[str], None]) -> None:
    """Fetch a weight file to where Keras looks for it; whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        request = urllib.request.urlopen(application.weights_url, timeout=DOWNLOAD_TIMEOUT)  # noqa: S310 - https
        with closing(request) as response, publishing(path, replace=True) as draft:
            size = int(response.headers.get("Content-Length", 0))
            notify(f"downloading {application.weights_url} ({size / 1e6:.0f} MB) to {path}")
            offset = 0
            for chunk in _received(response, size, application, path):
                draft.write(chunk, offset)
                offset += len(chunk)
    except (OSError, HTTPException) as e:
        if isinstance(e, urllib.error.HTTPError):
            e.close()
        raise _unavailable(application, path, f"downloading failed: {getattr(e, 'reason', e)}") from e


def _received(response: HTTPResponse, size: int, application: Application, path: Path) -> Iterator[bytes]:
    """Yield what comes over the network; raise `WeightsError` at the end unless it is the whole file, undamaged."""
    md5, received = hashlib.md5(usedforsecurity=False), 0
    try:
        while chunk := response.read(_CHUNK):
            md5.update(chunk)
            received += len(chunk)
            yield chunk
    except (OSError, HTTPException) as e:
        raise _unavailable(application, path, f"downloading failed after {received} of {size} bytes: {e}") from e
    if received != size:
        raise _unavailable(
            application, path, f"downloading failed: the connection broke after {received} of {size} bytes"
        )
    if application.weights_md5 not in {None, md5.hexdigest()}:
        raise _unavailable(application, path, f"what came has the MD5 {md5.hexdigest()}, not {application.weights_md5}")


def _unavailable(application: Application, path: Path, why: str) -> WeightsError:
    why = " ".join(why.split())
    return WeightsError(
        f"the ImageNet weights of {application.name} are not available ({why}); fetch {application.weights_url} "
        f"and save it as {path}, or pass --weights PATH, or --weights random:0 for untrained ones"
    )


def _digests(path: Path, *, rehash: bool) -> Digests:
    try:
        return digests(path, rehash=rehash)
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise WeightsError(f"the weight file {path} cannot be read: {reason}; give the path of another one") from e

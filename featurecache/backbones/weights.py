"""Finds the weights of a network, downloads them if needed, and identifies them; imports no framework."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from featurecache.backbones.catalog import NetworkSpec
from featurecache.errors import WeightsError
from featurecache.options import OWN_MODEL_PREFIX
from featurecache.storage.digests import Digests, digests
from featurecache.storage.files import home_folder, open_regular
from featurecache.storage.publish import publishing
from featurecache.text import did_you_mean

DOWNLOAD_TIMEOUT = 5.0
_CHUNK = 1 << 20

_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # of HDF5, at byte 0, 512, 1024, 2048, ...
_USER_BLOCK = 512
_OTHER_FILES = (
    ((b"version https://git-lfs",), "it is a pointer of Git LFS: fetch the file itself with git lfs pull"),
    ((b"<!doctype", b"<html", b"<?xml"), "it is a web page: download the file itself"),
    ((b"\x1f\x8b",), "it is compressed with gzip: unpack it"),
    (
        (b"pk\x03\x04",),
        "it is a zip archive, as of a .keras model or of PyTorch: save the weights alone with Keras's "
        "model.save_weights('NAME.weights.h5')",
    ),
)
"""The beginnings of other files, in lower case, and what to do."""

PRESET_CONFIG, PRESET_CONVERTER, PRESET_WEIGHTS = "config.json", "image_converter.json", "model.weights.h5"
"""The files that determine the features of a preset of KerasHub; the second one may be missing."""

_BELOW_TOP = ("avg_pool", "flatten")  # taps that are the input of a top


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that were found.

    Parameters
    ----------
    source
        The text that names them: ``"imagenet"``, an absolute path, or ``"random:SEED"``.
    identity
        ``"sha256:…"`` of the file's bytes, or ``"random:SEED"``.
    path
        The file; None for random weights.
    seed
        The seed of random weights; None for a file.
    """

    source: str
    identity: str
    path: Path | None = None
    seed: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the file, or of that of a preset; 0 for random weights."""
        if self.path is None:
            return 0
        return (self.path / PRESET_WEIGHTS if self.path.is_dir() else self.path).stat().st_size


def resolve_weights(
    text: str,
    network_spec: NetworkSpec,
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
    network_spec
        The network that they are for.
    download
        Whether missing ImageNet weights are downloaded.
    rehash
        Hash the weight file even if its size and modification time have not changed.
    notify
        Called with a one-line message when a download begins.

    Raises
    ------
    WeightsError
        If they are not available; the message names the file, its address, and the option to pass another one.

    Examples
    --------
    >>> featurecache.resolve_weights("random:7", featurecache.find_network("vgg16")).identity
    'random:7'
    """
    if network_spec.is_own_model:
        return _of_model(text, rehash=rehash)
    if text == "random" or text.startswith("random:"):
        return _random(text)
    if text == "imagenet":
        return _imagenet(network_spec, download=download, rehash=rehash, notify=notify)
    path = Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - pathlib raises an error for an unknown user
    found = _digests(path, rehash=rehash)
    if network_spec.imagenet_by_name_only and found.md5 == network_spec.weights_md5:
        raise WeightsError(
            f"{path} is Keras's own ImageNet file, and Keras builds {network_spec.name} differently for it: "
            f"put it at {_keras_folder() / network_spec.weights_file} and pass --weights imagenet"
        )
    return Weights(source=str(path), identity=f"sha256:{found.sha256}", path=path)


def unreadable(path: Path, error: OSError) -> WeightsError:
    """Return the error for a file that the operating system does not let us read."""
    remedy = "give the path of another one"
    if isinstance(error, FileNotFoundError):
        hint = did_you_mean(path.name, ("imagenet", "random:0")).removeprefix("; ")
        remedy = f"expected imagenet, random:SEED, or the path of a weight file{hint and f' ({hint})'}"
    elif isinstance(error, PermissionError):
        remedy = "make it readable for this user, or give the path of another one"
    reason = (error.strerror or str(error)).lower()
    return WeightsError(f"the weight file {path} cannot be read: {reason}; {remedy}")


def damaged(path: Path, network_spec: NetworkSpec, why: str) -> WeightsError:
    """Return the error for a file that HDF5 cannot read."""
    is_keras_own = path == _keras_folder() / network_spec.weights_file
    remedy = "delete it and pass --weights imagenet" if is_keras_own else "copy or download it again"
    return WeightsError(f"the weight file {path} is damaged or incomplete ({why}); {remedy}")


def lacks_top(path: Path, network_spec: NetworkSpec, why: str) -> WeightsError:
    """Return the error for a file of this network without the classifier that a tap needs."""
    below = [tap for tap in network_spec.taps if tap in _BELOW_TOP]
    remedy = f", or --taps {below[-1]}, for which the file suffices" if below else ""
    return WeightsError(
        f"{path} lacks the top of {network_spec.name}, its ImageNet classifier ({why}); "
        f"pass a file that was saved with include_top=True{remedy}"
    )


def not_of_this_network(path: Path, network_spec: NetworkSpec, why: str) -> WeightsError:
    """Return the error for a file that does not hold the weights of this network."""
    return WeightsError(
        f"{path} is not a weight file of {network_spec.name} ({why}); "
        "pass that network's file, or the --backbone that this file belongs to"
    )


def _of_model(text: str, *, rehash: bool) -> Weights:
    """Return the weights of a model file or a preset, which are identified by the whole file or its files."""
    path = Path(os.path.expanduser(text.removeprefix(OWN_MODEL_PREFIX))).absolute()  # noqa: PTH111 - as above
    try:
        found = _of_preset(path, rehash=rehash) if path.is_dir() else digests(path, rehash=rehash).sha256
    except OSError as e:
        what = "preset" if path.is_dir() else "model file"
        file = f" ({Path(str(e.filename)).name})" if path.is_dir() else ""
        reason = (e.strerror or str(e)).lower()
        raise WeightsError(f"the {what} {path} cannot be read: {reason}{file}; give its path with --weights") from e
    return Weights(source=str(path), identity=f"sha256:{found}", path=path)


def _of_preset(folder: Path, *, rehash: bool) -> str:
    """Return the SHA-256 of the names and digests of the files that determine the features of a preset."""
    names = [PRESET_CONFIG, *([PRESET_CONVERTER] if (folder / PRESET_CONVERTER).exists() else []), PRESET_WEIGHTS]
    lines = [f"{name} {digests(folder / name, rehash=rehash).sha256}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _random(text: str) -> Weights:
    digits = text.removeprefix("random").removeprefix(":")
    if not digits.isascii() or not digits.isdigit():
        raise WeightsError(f"weights {text!r} have no seed; write random:0, or another whole number from 0 on")
    seed = int(digits)
    return Weights(source=f"random:{seed}", identity=f"random:{seed}", seed=seed)


def _imagenet(network_spec: NetworkSpec, *, download: bool, rehash: bool, notify: Callable[[str], None]) -> Weights:
    path = _keras_folder() / network_spec.weights_file
    if not path.exists():
        if not download:
            raise _unavailable(network_spec, path, "it is not there")
        _download(network_spec, path, notify)
    found = _digests(path, rehash=rehash)
    if fault := _pinned_fault(network_spec, found):
        raise WeightsError(f"{path} is damaged or incomplete: its {fault}; delete it and run the same command again")
    return Weights(source="imagenet", identity=f"sha256:{found.sha256}", path=path)


def _pinned_fault(network_spec: NetworkSpec, found: Digests) -> str:
    """Return how the digest of a file differs from the one that Keras pins for the ImageNet weights; else nothing."""
    for name, digest, expected in (
        ("MD5", found.md5, network_spec.weights_md5),
        ("SHA-256", found.sha256, network_spec.weights_sha256),
    ):
        if expected not in {None, digest}:
            return f"{name} is {digest}, expected {expected}"
    return ""


def _keras_folder() -> Path:
    """Return where Keras keeps downloaded weights."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else home_folder() / ".keras") / "models"


def _download(network_spec: NetworkSpec, path: Path, notify: Callable[[str], None]) -> None:
    """Download a weight file to the folder where Keras looks for it; nothing stays if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        request = urllib.request.urlopen(network_spec.weights_url, timeout=DOWNLOAD_TIMEOUT)  # noqa: S310 - https
        with closing(request) as response, publishing(path, replace=True) as draft:
            size = int(response.headers.get("Content-Length", 0))
            notify(f"downloading {network_spec.weights_url} ({size / 1e6:.0f} MB) to {path}")
            offset = 0
            for chunk in _received(response, size, network_spec, path):
                draft.write(chunk, offset)
                offset += len(chunk)
    except (OSError, HTTPException) as e:
        if isinstance(e, urllib.error.HTTPError):
            e.close()
        raise _unavailable(network_spec, path, f"downloading failed: {getattr(e, 'reason', e)}") from e


def _received(response: HTTPResponse, size: int, network_spec: NetworkSpec, path: Path) -> Iterator[bytes]:
    """Yield the received bytes; raise `WeightsError` at the end if the file is incomplete or damaged."""
    md5, sha256, received = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    try:
        while chunk := response.read(_CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
            received += len(chunk)
            yield chunk
    except (OSError, HTTPException) as e:
        raise _unavailable(network_spec, path, f"downloading failed after {received} of {size} bytes: {e}") from e
    if received != size:
        raise _unavailable(
            network_spec, path, f"downloading failed: the connection broke after {received} of {size} bytes"
        )
    if fault := _pinned_fault(network_spec, Digests(sha256.hexdigest(), md5.hexdigest())):
        raise _unavailable(network_spec, path, f"the received file is another one: its {fault}")


def _unavailable(network_spec: NetworkSpec, path: Path, why: str) -> WeightsError:
    why = " ".join(why.split())
    return WeightsError(
        f"the ImageNet weights of {network_spec.name} are not available ({why}); fetch {network_spec.weights_url} "
        f"and save it as {path}, or pass --weights PATH, or --weights random:0 for untrained ones"
    )


def _digests(path: Path, *, rehash: bool) -> Digests:
    """Return the digests of a file; raise `WeightsError` if it cannot be read, or is no HDF5 file."""
    try:
        found = digests(path, rehash=rehash)
        with open_regular(path) as stream:
            _require_hdf5(path, stream)
    except OSError as e:
        raise unreadable(path, e) from e
    return found


def _require_hdf5(path: Path, stream: BinaryIO) -> None:
    """Raise `WeightsError`, which names what the file is instead, unless it has the signature of HDF5."""
    beginning = stream.read(_USER_BLOCK)
    size = stream.seek(0, os.SEEK_END)
    offset = 0
    while offset < size:
        stream.seek(offset)
        if stream.read(len(_SIGNATURE)) == _SIGNATURE:
            return
        offset = 2 * offset or _USER_BLOCK
    start = beginning.lstrip().lower()
    known = [what for beginnings, what in _OTHER_FILES if start.startswith(beginnings)]
    what = known[0] if known else f"it begins with {beginning[:8]!r}" if beginning else "it is empty"
    raise WeightsError(f"{path} is not an HDF5 file, as Keras's weight files are: {what}")

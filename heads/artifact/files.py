"""The two files of a head as bytes: ``head.json`` has the SHA-256 of both, ``head.safetensors`` the arrays."""

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.text import in_units
from heads.artifact.description import DESCRIPTION, checksum, parse
from heads.errors import ArtifactError

TENSORS = "head.safetensors"
_LIMITS = {DESCRIPTION: 16 * 2**20, TENSORS: 2**30}  # bytes


def encoded(description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    """Return the bytes of both files, by name.

    Parameters
    ----------
    description
        What ``head.json`` has; both hashes are added.
    arrays
        The arrays, by name.

    Raises
    ------
    ArtifactError
        If a file would be too large to be read again.
    """
    from safetensors.numpy import save

    # safetensors copies the memory of an array, and would scramble an array in Fortran order.
    tensors = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    described = {**description, "tensors_sha256": hashlib.sha256(tensors).hexdigest()}
    described["sha256"] = checksum(described)
    text = json.dumps(described, indent=2, allow_nan=False)
    files = {DESCRIPTION: f"{text}\n".encode("ascii"), TENSORS: tensors}
    for name, limit in _LIMITS.items():
        if len(files[name]) > limit:
            raise ArtifactError(
                f"{name} would have {in_units(len(files[name]))}, but {in_units(limit)} are allowed; "
                "train on fewer rows or a narrower tap, or choose another head"
            )
    return files


def read(directory: Path) -> tuple[bytes, bytes]:
    """Return the bytes of both files in a directory; raise `ArtifactError` unless they can be read."""
    description, tensors = (bytes_of(directory / name, limit) for name, limit in _LIMITS.items())
    return description, tensors


def described(description: bytes, tensors: bytes) -> dict[str, Any]:
    """Return the content of ``head.json``; raise `ArtifactError` unless it belongs to these tensors."""
    data = parse(description)
    if hashlib.sha256(tensors).hexdigest() != data["tensors_sha256"]:
        raise ArtifactError(
            f"{TENSORS} is damaged, or belongs to another head: its SHA-256 is not the one recorded; "
            "copy or train the head again"
        )
    return data


def arrays(tensors: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays in ``head.safetensors``, by name; raise `ArtifactError` if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found: dict[str, NDArray[Any]] = load(tensors)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise ArtifactError(f"{TENSORS} is damaged: {str(e).partition(chr(10))[0]}") from e
    return found


def bytes_of(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path.name} is not a regular file")
        with path.open("rb") as stream:
            data = stream.read(limit + 1) if status.st_size <= limit else b""
    except FileNotFoundError as e:
        raise ArtifactError(f"{path.name} is missing; give the directory of a head") from e
    except OSError as e:
        raise ArtifactError(f"{path.name} cannot be read: {(e.strerror or str(e)).lower()}") from e
    if status.st_size > limit or len(data) > limit:
        raise ArtifactError(f"{path.name} has {status.st_size} bytes, expected at most {limit}")
    return data

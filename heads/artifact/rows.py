"""The rows that trained a head, in a file beside it: contents and labels, and, if they were kept, their features."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featurecache.text import in_units
from heads.errors import ArtifactError
from heads.rows import finite, float32_bytes
from heads.splits import rows_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from featurecache.feature_set import FeatureSet
    from featurecache.targets import Target

ROWS = "rows.safetensors"
MAX_ROWS_BYTES = 2**30
_DIGEST = 32  # bytes of a SHA-256
_KEPT = ("X", "weights", "groups")  # with the features alone
_NEEDED = ("sha256", "y", "valid", "checksum")
_LABELS: dict[str, tuple[type[np.generic], int]] = {
    "class": (np.int64, 1),
    "labels": (np.int8, 2),
    "number": (np.float64, 1),
}  # dtype and dimensions of y


@dataclass(frozen=True, slots=True, eq=False)
class HeadRows:
    """The rows that trained a head, in their order, and the valid rows after them.

    Parameters
    ----------
    sha256
        The content of each row, 64 hexadecimal digits, shape (n,), `str` objects.
    y
        The labels, as in `featurecache.FeatureSet`, in the classes of the head.
    valid
        Which are valid rows, shape (n,).
    X
        The features, shape (n, d), float32; None if they were not kept.
    weights, groups
        The weight of each row, shape (n,), float64, and the name of its group, shape (n,), `str` objects; None if there
        were none, or features were not kept.
    is_view
        Which rows are augmented views, shape (n,); None if none is.
    """

    sha256: NDArray[np.object_]
    y: NDArray[Any]
    valid: NDArray[np.bool_]
    X: NDArray[np.float32] | None = None
    weights: NDArray[np.float64] | None = None
    groups: NDArray[np.object_] | None = None
    is_view: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, train: FeatureSet, valid: FeatureSet, *, keep: bool) -> Self:
        """Take the rows of a training, with or without features."""

        def joined(name: str) -> Any:  # noqa: ANN401 - an array, or None
            parts = [getattr(rows, name) for rows in (train, valid)]
            return None if parts[0] is None else np.concatenate([np.asarray(part) for part in parts])

        views = joined("is_view")
        found = cls(
            joined("sha256"),
            joined("y"),
            np.repeat([False, True], [len(train), len(valid)]),
            is_view=views if views.any() else None,
        )
        return replace(found, **{name: joined(name) for name in _KEPT}) if keep else found

    @property
    def trained(self) -> set[str]:
        """The contents of the rows that trained the head."""
        return set(self.sha256[~self.valid])

    def contents(self, *, valid: bool) -> NDArray[np.object_]:
        """Return the contents of the valid rows, or of those that trained the head."""
        chosen: NDArray[np.object_] = self.sha256[self.valid == valid]
        return chosen

    def require_digest(self, digest: str) -> None:
        """Raise `ArtifactError` unless the rows that trained the head have this digest; see `rows_digest`."""
        if rows_digest(self.sha256[~self.valid], self.y[~self.valid]) != digest:
            raise ArtifactError("it belongs to another head: its rows did not train this one")

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        from safetensors.numpy import save

        arrays: dict[str, NDArray[Any]] = {"sha256": _as_bytes(self.sha256), "y": self.y, "valid": self.valid}
        arrays |= {name: array for name in ("X", "weights", "is_view") if (array := getattr(self, name)) is not None}
        if self.groups is not None:
            arrays["groups"] = np.frombuffer(json.dumps(self.groups.tolist()).encode("ascii"), np.uint8)
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        data = save(arrays | {"checksum": _checksum(arrays)})
        if len(data) > MAX_ROWS_BYTES:
            raise ArtifactError(f"{ROWS} would have {in_units(len(data))}, but {in_units(MAX_ROWS_BYTES)} are allowed")
        return data

    @classmethod
    def decode(cls, data: bytes, *, target: Target, classes: int, width: int) -> Self:
        """Read the bytes of a file.

        Parameters
        ----------
        data
            The bytes, which may be damaged or forged.
        target, classes, width
            The target of the head, its number of classes, and of features.

        Raises
        ------
        ArtifactError
            If they are not as they must be.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            found = load(data)
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as e:
            raise ArtifactError(f"it is damaged: {str(e).partition(chr(10))[0]}") from e
        _require_rows(found, target, classes=classes, width=width)
        return cls(
            sha256=_as_texts(found["sha256"]),
            y=found["y"],
            valid=found["valid"],
            X=found.get("X"),
            weights=found.get("weights"),
            groups=_groups(found["groups"], len(found["y"])) if "groups" in found else None,
            is_view=found.get("is_view"),
        )


def rows_bytes(X: NDArray[Any] | Any) -> int:  # noqa: ANN401 - features of any kind
    """Return how many bytes the file takes for features (n, d) that are kept, without their labels."""
    return float32_bytes(X) + len(X) * _DIGEST


def _groups(stored: NDArray[np.uint8], n: int) -> NDArray[np.object_]:
    """Return the names of the groups of n rows."""
    try:
        names = json.loads(stored.tobytes())
    except (ValueError, RecursionError) as e:
        raise ArtifactError(f"its groups are no JSON: {e}") from e
    if not isinstance(names, list) or len(names) != n or not all(isinstance(name, str) for name in names):
        raise ArtifactError(f"its groups are not {n} texts")
    return np.array(names, dtype=object)


def _require_rows(found: Mapping[str, NDArray[Any]], target: Target, *, classes: int, width: int) -> None:
    """Raise `ArtifactError` unless arrays are those of a head's rows."""
    unknown = set(found) - {*_NEEDED, *_KEPT, "is_view"}
    if unknown or not set(_NEEDED) <= set(found):
        raise ArtifactError(f"it has the arrays {', '.join(sorted(found))}")
    n, y = found["valid"].size, found["y"]
    kind, dimensions = _LABELS[target]
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "sha256": (np.uint8, (n, _DIGEST)),
        "y": (kind, (n, classes)[:dimensions]),
        "valid": (np.bool_, (n,)),
        "X": (np.float32, (n, width)),
        "weights": (np.float64, (n,)),
        "groups": (np.uint8, (found["groups"].size if "groups" in found else 0,)),
        "is_view": (np.bool_, (n,)),
        "checksum": (np.uint8, (_DIGEST,)),
    }
    for name, array in found.items():
        dtype, shape = shapes[name]
        if array.dtype != dtype or array.shape != shape:
            raise ArtifactError(f"{name} has dtype {array.dtype} and shape {array.shape}, expected {dtype} and {shape}")
    if not np.array_equal(_checksum(found), found["checksum"]):
        raise ArtifactError("it is damaged: its checksum is another one")
    largest = {"class": classes - 1, "labels": 1, "number": np.inf}[target]
    low = -np.inf if target == "number" else 0
    numbers = [found[name] for name in ("X", "weights") if name in found]
    if not (((y >= low) & (y <= largest)).all() and all(map(finite, numbers))):
        raise ArtifactError("it holds labels that the head does not have, or numbers that are not finite")


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    digest = hashlib.sha256()
    for name in sorted(arrays.keys() - {"checksum"}):
        digest.update(arrays[name].tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _as_bytes(digests: NDArray[np.object_]) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, _DIGEST)


def _as_texts(digests: NDArray[np.uint8]) -> NDArray[np.object_]:
    text = digests.tobytes().hex()
    return np.array([text[start : start + 2 * _DIGEST] for start in range(0, len(text), 2 * _DIGEST)], dtype=object)

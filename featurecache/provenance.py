"""Provenance of a cache: stored in ``/provenance`` and in commit records, never compared."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from featurecache.options import PIXEL_LIMIT

_UNRECORDED_LIMIT = 89_478_485  # the largest max_pixels of the versions that did not record it
_CHANGE_ROUNDING = (
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "NVIDIA_TF32_OVERRIDE",
    "TF_CUDNN_DETERMINISTIC",
    "TF_DETERMINISTIC_OPS",
    "TF_CONV2D_USE_FP16_ACCUMULATE",
    "JAX_ENABLE_X64",
    "OPENBLAS_CORETYPE",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "NUMBA_ENABLE_AVX",
    "NUMBA_OPT",
)
"""Environment variables with which libraries choose other machine code, which rounds otherwise."""

_DEFAULTS = {"TF_ENABLE_ONEDNN_OPTS": "1"}
"""What `featurecache.backbones.keras_runtime.load_keras` sets where the user does not."""

EARLIER_RUNS = 100
"""The number of earlier runs and environments that a cache keeps; older ones are dropped."""


def environment_settings() -> dict[str, str]:
    """Return the environment variables that are set and may change the rounding of features, as one field of an engine.

    Empty if none has another value than this project gives it, else ``{"environment": "OPENBLAS_CORETYPE=Haswell …"}``.
    """
    found = [
        f"{name}={os.environ[name]}"
        for name in _CHANGE_ROUNDING
        if name in os.environ and os.environ[name] != _DEFAULTS.get(name)
    ]
    return {"environment": " ".join(found)} if found else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The environment that computed features, in addition to the recipe.

    A field that the file lacks is None. Files of other versions may have members with other names or types; ``other``
    keeps them, so that `to_dict` returns the input of `from_dict`.

    Parameters
    ----------
    engine
        The network's engine: framework, version, device, batch size.
    runner
        A text on how images were read and decoded, such as the number of threads.
    versions
        Maps package names to versions.
    weights_source
        The value of the option ``weights`` that gives the same weights again.
    max_pixels
        The limit for images in pixels: the option ``max_pixels``, or the largest of several runs. No image of the cache
        has more.
    processor
        The processor's architecture and the instructions with which libraries compute.
    part
        The part of the images, such as ``"2/4"``; None for all images.
    views
        The augmented views of images, such as ``"5:crop,flip"``; None if there are none.
    frames
        ``"all"`` if further frames of files are images; else None.
    other
        Further members.

    Examples
    --------
    >>> Environment.from_dict({"runner": "2 decoding threads", "host": "a"}).to_dict()
    {'runner': '2 decoding threads', 'host': 'a'}
    """

    engine: Mapping[str, Any] | None = None
    runner: str | None = None
    versions: Mapping[str, Any] | None = None
    weights_source: str | None = None
    max_pixels: int | None = None
    processor: str | None = None
    part: str | None = None
    views: str | None = None
    frames: str | None = None
    other: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, members: Mapping[str, Any]) -> Self:
        """Read the members of a JSON object; all are accepted."""
        types = _member_types(cls)
        known: dict[str, Any] = {
            name: value for name, value in members.items() if name in types and isinstance(value, types[name])
        }
        if not 1 <= known.get("max_pixels", 1) <= PIXEL_LIMIT:
            del known["max_pixels"]
        return cls(**known, other={name: value for name, value in members.items() if name not in known})

    @property
    def pixel_limit(self) -> int:
        """A number of pixels that no image of the cache exceeds, whether or not ``max_pixels`` is recorded."""
        return max(self.max_pixels or 0, _UNRECORDED_LIMIT)

    @property
    def cpu_engine(self) -> str:
        """The name of the engine if it computed on a CPU; empty if not, or if none is recorded."""
        engine = self.engine or {}
        return str(engine.get("engine", "")) if engine.get("device") == "cpu" else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the members of the JSON object."""
        known = {name: getattr(self, name) for name in _member_types(type(self))}
        return {name: value for name, value in known.items() if value is not None} | dict(self.other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance(Environment):
    """The provenance of a cache: the environment of its last run, that run, and earlier runs.

    Parameters
    ----------
    created
        Time in UTC, ISO 8601.
    images
        The source of the images.
    manifest
        The list of images that this is a part of: its number of ``images``, and its ``sha256`` with labels and splits.
    run
        The counts of the run, as `Progress.to_dict` returns them.
    earlier
        Environments of earlier runs and of interrupted parts of this run, the latest last.
    merged
        For a merged cache, the path and provenance of each joined cache.
    part_rows
        For a cache in parts, the largest number of rows of a part.
    """

    created: str | None = None
    images: str | None = None
    manifest: Mapping[str, Any] | None = None
    run: Mapping[str, Any] | None = None
    earlier: Sequence[Mapping[str, Any]] | None = None
    merged: Sequence[Mapping[str, Any]] | None = None
    part_rows: int | None = None

    def with_earlier(self, before: Mapping[str, Any] | None, unfinished: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the JSON object for a cache that continues an older cache and an unfinished run.

        Parameters
        ----------
        before
            The provenance of the older cache, or None.
        unfinished
            The environments of the unfinished run.
        """
        older = dict(before or {})
        earlier = [*older.pop("earlier", []), *([older] if older else []), *unfinished]
        return self.to_dict() | {"earlier": earlier[-EARLIER_RUNS:]}


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "engine": Mapping,
    "versions": Mapping,
    "max_pixels": int,
    "manifest": Mapping,
    "run": Mapping,
    "part_rows": int,
    "earlier": (list, tuple),
    "merged": (list, tuple),
}


def _member_types(cls: type[Environment]) -> dict[str, type | tuple[type, ...]]:
    """Map the fields that are members of the JSON object to the types of their values."""
    return {item.name: _TYPES.get(item.name, str) for item in fields(cls) if item.name != "other"}

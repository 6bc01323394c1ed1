"""What ``head.json`` must look like, and the reading of one that nobody vouches for."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from heads.errors import ArtifactError

FORMAT, FORMAT_VERSION = "featurecache-head", 1
DESCRIPTION = "head.json"

# What head.json must hold. A type stands for a value of exactly that type, a list for any number of such values, a
# tuple for alternatives, a dictionary for exactly these names; dict alone is checked by what reads it.
_SCHEMA: dict[str, Any] = {
    "format": str,
    "format_version": int,
    "head": str,
    "params": dict,
    "tap": str,
    "width": int,
    "classes": [str],
    "trained_classes": [int],
    "recipe": dict,
    "fingerprint": str,
    "weights_source": str,
    "training": {
        "n_train": int,
        "n_valid": int,
        "n_unlabelled": int,
        "class_counts": [int],
        "seed": int,
        "holdout": ({"fraction": float, "seed": int}, type(None)),
        "rows_sha256": str,
        "continues": (str, type(None)),
        "epochs": [
            {
                "epoch": int,
                "loss": float,
                "accuracy": float,
                "valid_loss": (float, type(None)),
                "valid_accuracy": (float, type(None)),
            }
        ],
        "kept_epoch": (int, type(None)),
        "train_accuracy": float,
        "valid_accuracy": (float, type(None)),
        "seconds": float,
        "versions": dict,
        "warnings": [str],
    },
    "tensors_sha256": str,
    "sha256": str,
}


def checksum(description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of everything but ``sha256`` itself."""
    content = {name: value for name, value in description.items() if name != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def parse(description: bytes) -> dict[str, Any]:
    """Return the content of ``head.json``, of the exact structure that this version writes, and undamaged.

    Raises
    ------
    ArtifactError
        Naming the first thing that is wrong.
    """
    try:
        data = json.loads(description, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as e:
        raise ArtifactError(f"{DESCRIPTION} is damaged, it is not JSON: {e}") from e
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ArtifactError(f"{DESCRIPTION} does not describe a head: its format is not {FORMAT!r}")
    if data.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{DESCRIPTION} has format_version {data.get('format_version')!r}, this program reads {FORMAT_VERSION}; "
            "use the version of featurecache that wrote it"
        )
    fault = _fault(data, _SCHEMA, "")
    if fault:
        raise ArtifactError(f"{DESCRIPTION}: {fault}")
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise ArtifactError(f"{DESCRIPTION}: a text in it is no Unicode") from e
    if checksum(data) != data["sha256"]:
        raise ArtifactError(f"{DESCRIPTION} was changed after it was written: its SHA-256 is not the one recorded")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _fault(value: object, schema: Any, where: str) -> str | None:  # noqa: ANN401 - see _SCHEMA
    """Return what is wrong with a value, by its place in the file; None if nothing is."""
    if isinstance(schema, tuple):
        faults = [_fault(value, alternative, where) for alternative in schema]
        return None if None in faults else faults[0]
    expected = schema if isinstance(schema, type) else type(schema)
    if type(value) is not expected:
        return f"{where} is {type(value).__name__}, expected {expected.__name__}"
    parts: list[tuple[object, Any, str]] = []
    if isinstance(value, list):
        parts = [(each, schema[0], f"{where}[{number}]") for number, each in enumerate(value)]
    elif isinstance(value, dict) and isinstance(schema, dict):
        if value.keys() != schema.keys():
            missing, extra = sorted(schema.keys() - value.keys()), sorted(value.keys() - schema.keys())
            return f"{where or 'the file'} lacks {missing or 'nothing'} and has {extra or 'nothing'} besides"
        parts = [(value[name], schema[name], f"{where}.{name}".lstrip(".")) for name in schema]
    return next(filter(None, (_fault(*part) for part in parts)), None)

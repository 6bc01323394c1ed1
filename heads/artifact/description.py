"""The structure of ``head.json``, and the parser that checks an untrusted file."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from heads.errors import ArtifactError

FORMAT, FORMAT_VERSION = "featurecache-head", 1
DESCRIPTION = "head.json"

# The structure of head.json. A type stands for a value of exactly this type, a list for any number of such values, a
# tuple for alternatives, a dictionary for exactly these names. The reader checks the content of a plain dict.
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
        "warnings": [({"code": str, "message": str}, str)],  # a plain text was written before notices had codes
    },
    "tensors_sha256": str,
    "sha256": str,
}
# Members by their place, missing from older heads, and from those with the default.
_OPTIONAL: dict[str, Any] = {
    "max_pixels": int,
    "training.groups": {"column": str, "n_train": int, "n_valid": int},
    "training.weight": str,
    "training.growth": {"n_known": int, "n_new": int, "n_kept": int, "n_relabelled": int, "new_classes": [str]},
    "calibration": {
        "method": str,
        "folds": int,
        "n_rows": int,
        "rows_sha256": str,
        "log_loss_before": float,
        "log_loss_after": float,
    },
    "target": str,
    "thresholds": [float],
    "number_range": {"mean": float, "low": float, "high": float},
}


def checksum(description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of all members except ``sha256``."""
    content = {name: value for name, value in description.items() if name != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def parse(description: bytes) -> dict[str, Any]:
    """Return the content of ``head.json`` after checking its structure and checksum.

    Raises
    ------
    ArtifactError
        If the file is damaged or has another structure; the message names the first fault.
    """
    try:
        data = json.loads(description, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as e:
        raise ArtifactError(f"{DESCRIPTION} is damaged, it is not JSON: {e}; copy or train the head again") from e
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
        raise ArtifactError(f"{DESCRIPTION}: a text in it is not valid Unicode") from e
    if checksum(data) != data["sha256"]:
        raise ArtifactError(
            f"{DESCRIPTION} was changed after it was written: its SHA-256 is not the one recorded; "
            "copy or train the head again"
        )
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
    """Return the first fault of a value with its place in the file; None if there is none."""
    if isinstance(schema, tuple):
        faults = [_fault(value, alternative, where) for alternative in schema]
        return None if None in faults else faults[0]
    expected = schema if isinstance(schema, type) else type(schema)
    if type(value) is not expected:
        return f"{where} is {type(value).__name__}, expected {expected.__name__}"
    parts: list[tuple[object, Any, str]] = []
    if isinstance(value, list):
        parts = [(item, schema[0], f"{where}[{number}]") for number, item in enumerate(value)]
    elif isinstance(value, dict) and isinstance(schema, dict):
        optional = {name: _OPTIONAL.get(f"{where}.{name}".lstrip(".")) for name in value.keys() - schema.keys()}
        schema = schema | {name: kind for name, kind in optional.items() if kind}
        if value.keys() != schema.keys():
            missing, extra = sorted(schema.keys() - value.keys()), sorted(value.keys() - schema.keys())
            return f"{where or 'the file'} lacks {missing or 'nothing'} and has {extra or 'nothing'} in addition"
        parts = [(value[name], schema[name], f"{where}.{name}".lstrip(".")) for name in schema]
    return next(filter(None, (_fault(*part) for part in parts)), None)

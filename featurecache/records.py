"""Commit records: what a run has made durable so far, one JSON file for each shard."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from featurecache.errors import CacheFormatError
from featurecache.files import open_regular
from featurecache.sightings import Sighting


@dataclass(frozen=True, slots=True)
class Record:
    """A commit record; `docs/format.md` says what its fields are."""

    number: int
    file: str | None
    sha256: str
    size: int
    rows: int
    circumstances: dict[str, Any]
    sightings: tuple[Sighting, ...]

    def to_json(self) -> bytes:
        """Return the record's bytes."""
        return json.dumps(asdict(self), sort_keys=True).encode("ascii")

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a record; raise `ValueError`, `TypeError` or `KeyError` if it is none."""
        fields = json.loads(text)
        sightings = tuple(Sighting(**sighting) for sighting in fields.pop("sightings"))
        record = cls(**fields, sightings=sightings)
        checks: list[tuple[type, list[object]]] = [
            (int, [record.number, record.size, record.rows, *(n for s in sightings for n in (s.size, s.mtime_ns))]),
            (str, [record.sha256, *(text for s in sightings for text in (s.path, s.sha256, s.reason))]),
            (dict, [record.circumstances]),
        ]
        if not all(type(value) is kind for kind, values in checks for value in values):
            raise TypeError("a field has the wrong type")
        if record.file not in {None, f"{record.sha256[:32]}.h5"} or "/" in record.sha256:
            raise ValueError("its shard does not bear its hash")
        return record


def record_name(text: bytes) -> str:
    """Return the file name of a record with these bytes."""
    return f"{hashlib.sha256(text).hexdigest()[:32]}.json"


def read_record(path: Path) -> Record:
    """Read a record's file; raise `CacheFormatError`, naming the remedy, if it is not as it was committed."""
    try:
        with open_regular(path) as stream:
            text = stream.read()
        record = Record.from_json(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as e:
        raise CacheFormatError(
            f"the commit record {path} is damaged ({e}); remove it to compute its images again"
        ) from e
    if record_name(text) != path.name:
        raise CacheFormatError(f"the commit record {path} is damaged; remove it to compute its images again")
    return record

"""Commits: what a run has made durable so far, a shard and a JSON file for each."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from featurecache.errors import CacheFormatError
from featurecache.format import layout
from featurecache.format.file_records import FileRecord
from featurecache.provenance import Environment
from featurecache.recipe import Recipe
from featurecache.run.units import unit_name
from featurecache.storage.files import open_regular
from featurecache.storage.publish import publish_once

MEMBER_NAMES = {"environment": "circumstances", "file_records": "sightings"}
"""Fields whose member of the JSON object, fixed by format version 1, has another name."""

_CHECKSUM = "record_sha256"

FeatureBatch = tuple[list[str], dict[str, NDArray[Any]]]
"""Hashes of m contents, and the features of every tap as they are stored, shape (m, d)."""


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """A commit record; `docs/format.md` says what its fields are."""

    number: int
    file: str | None
    sha256: str
    size: int
    rows: int
    environment: Environment
    file_records: tuple[FileRecord, ...]
    unit: str | None = None

    def to_json(self) -> bytes:
        """Return the record's bytes."""
        values = asdict(self) | {"environment": self.environment.to_dict()}
        fields: dict[str, Any] = {MEMBER_NAMES.get(name) or name: value for name, value in values.items()}
        return _encoded(fields | {_CHECKSUM: _digest(_encoded(fields))})

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a record; raise `ValueError`, `TypeError` or `KeyError` if it is none.

        The checksum is not compared: `read_record` does.
        """
        members = {"unit": None} | json.loads(text)
        members.pop(_CHECKSUM, None)
        fields = {name: members.pop(MEMBER_NAMES.get(name, name)) for name in cls.__slots__}
        if members:
            raise ValueError(f"unknown members {', '.join(members)}")
        _check_types(fields, {"number": int, "size": int, "rows": int, "sha256": str, "environment": dict})
        for found in fields["file_records"]:
            _check_types(found, {"path": str, "size": int, "mtime_ns": int, "sha256": str, "reason": str})
            if len(bytes.fromhex(found["sha256"])) not in {0, 32}:
                raise ValueError(f"{found['sha256']!r} is no SHA-256")
        fields["file_records"] = tuple(FileRecord(**found) for found in fields["file_records"])
        fields["environment"] = Environment.from_dict(fields["environment"])
        record = cls(**fields)
        if record.file not in {None, f"{record.sha256[:32]}.h5"} or "/" in record.sha256:
            raise ValueError("its shard does not bear its hash")
        return record


@dataclass(frozen=True, slots=True)
class CommittedRows:
    """A number of rows that an unfinished run committed in one environment."""

    environment: Environment
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Return the environment's members, and the number of rows."""
        return self.environment.to_dict() | {"rows": self.rows}


def _check_types(members: Mapping[str, object], types: Mapping[str, type]) -> None:
    """Raise `TypeError` if a member has another type, and `KeyError` if it is missing."""
    for name, kind in types.items():
        if type(members[name]) is not kind:
            raise TypeError(f"{name} has the wrong type")


def publish_commit(
    directory: Path,
    recipe: Recipe,
    *,
    number: int,
    batches: Sequence[FeatureBatch],
    file_records: Iterable[FileRecord],
    environment: Environment,
) -> str:
    """Publish a shard, if there are features, and then its commit record; return the name of the record's file.

    If another process was faster with the same unit, its record stays, and nothing else is written.

    Parameters
    ----------
    directory
        The work directory, with ``shards`` and ``commits``.
    number
        The place in the order of the commits.
    batches
        The features of a unit, batch by batch.
    file_records
        What was found at paths.
    environment
        What the features were computed with.

    Raises
    ------
    OutputError
        If writing fails.
    """
    contents = [batch for batch, _ in batches if batch]
    data = layout.encode_shard(recipe, batches) if contents else b""
    digest = hashlib.sha256(data).hexdigest()
    record = CommitRecord(
        number=number,
        file=f"{digest[:32]}.h5" if contents else None,
        sha256=digest,
        size=len(data),
        rows=sum(map(len, contents)),
        environment=environment,
        file_records=tuple(file_records),
        unit=unit_name(recipe, contents) if contents else None,
    )
    text = record.to_json()
    name = record_name(text)
    if record.file:
        publish_once(directory / "shards" / record.file, data)  # a taken name is the hash of the same bytes
    publish_once(directory / "commits" / name, text)
    return name


def record_name(text: bytes) -> str:
    """Return the file name of a record: its unit's, or else the hash of what it says.

    Raises
    ------
    ValueError
        If the record does not have its checksum.
    """
    members = json.loads(text)
    checksum = members.pop(_CHECKSUM, None)
    if checksum is None:  # of a version that did not know units
        return f"{_digest(text)[:32]}.json"
    if checksum != _digest(_encoded(members)):
        raise ValueError("it does not have its checksum")
    return f"{members['unit'] or checksum[:32]}.json"


def _encoded(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, sort_keys=True).encode("ascii")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_record(path: Path) -> CommitRecord:
    """Read a record's file; raise `CacheFormatError`, naming the remedy, if it is not as it was committed."""
    try:
        with open_regular(path) as stream:
            text = stream.read()
        record = CommitRecord.from_json(text)
        name = record_name(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as e:
        raise CacheFormatError(
            f"the commit record {path} is damaged ({e}); remove it to compute its images again"
        ) from e
    if name != path.name:
        raise CacheFormatError(f"the commit record {path} is damaged; remove it to compute its images again")
    return record

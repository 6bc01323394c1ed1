"""Which heads are served: they are found on disk, loaded, exchanged and unloaded, without a moment without answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING

from featurecache.errors import FeatureCacheError, UnknownNameError
from featurecache.storage.directory_lock import turn_in
from featurecache.storage.files import open_regular
from featurecache.storage.publish import publish
from featurecache.text import printable
from heads.artifact import TrainedHead
from heads.artifact.description import DESCRIPTION
from heads.errors import ArtifactError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from featurecache.recipe import Recipe

VERSIONS = "versions.json"
_DIRECTORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, eq=False)
class ServedHead:
    """One version of a head.

    Parameters
    ----------
    name
        The name that clients use.
    version
        The SHA-256 of its files.
    head
        The head.
    """

    name: str
    version: str
    head: TrainedHead

    @classmethod
    def load(cls, name: str, directory: Path) -> ServedHead:
        """Read a head from its directory."""
        head = TrainedHead.load(directory)
        return cls(name, head.identity, head)


@dataclass(frozen=True, slots=True)
class HeadState:
    """Whether a head is served, for lists.

    Parameters
    ----------
    name
        The name that clients use.
    version
        The version that is served; None if none is.
    reason
        Why the latest attempt to load it failed; empty if it did not fail.
    """

    name: str
    version: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class HeadDirectories:
    """The directories of heads, by the names that clients use.

    Parameters
    ----------
    single
        Directories of one head.
    folders
        Directories whose subdirectories are heads; they are listed again at each use, so heads can be added. Where a
        service has trained new versions, their file ``versions.json`` tells which directories they are.
    """

    single: Mapping[str, Path]
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, paths: Iterable[Path], more: Iterable[Path] = ()) -> HeadDirectories:
        """Tell heads from folders of heads; add ``more`` folders, which need not exist yet.

        Raises
        ------
        ArtifactError
            If a path is neither, or two heads have one name.
        """
        single: dict[str, Path] = {}
        folders: list[Path] = []
        for path in paths:
            name = path.resolve().name
            if not path.is_dir():
                raise ArtifactError(f"there is no directory {path}; name a head's directory, or a directory of heads")
            if not (path / DESCRIPTION).exists():
                folders.append(path)
            elif name in single:
                raise ArtifactError(f"{path} and {single[name]} have one name, {name}; rename one of them")
            else:
                single[name] = path
        return cls(MappingProxyType(single), (*folders, *more))

    def find(self) -> dict[str, Path]:
        """Return all heads that are on disk now, each by its latest version; of two with one name the first.

        Raises
        ------
        ArtifactError
            If a list of versions is damaged.
        """
        found = dict(self.single)
        for folder in self.folders:
            if folder.is_dir():
                latest = _latest(folder)
                for name, path in (_listed(folder) | latest).items():
                    if name not in found or (name in latest and name in self.single):
                        found[name] = path
        return found


def _listed(folder: Path) -> dict[str, Path]:
    """Return the heads in a folder by the names of their directories, but for versions of others."""
    versions = {directory for directories in _versions(folder).values() for directory in directories}
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name not in versions and (path / DESCRIPTION).exists()
    }


def _latest(folder: Path) -> dict[str, Path]:
    """Return the latest versions of heads that a service has trained; one that was removed does not count."""
    return {
        name: folder / directory
        for name, directories in _versions(folder).items()
        for directory in directories
        if (folder / directory / DESCRIPTION).exists()
    }


def add_version(folder: Path, name: str, directory: str) -> None:
    """Record that a directory in a folder of heads is the latest version of a head.

    Raises
    ------
    ArtifactError
        If the list of versions is damaged.
    OutputError
        If it cannot be written.
    """
    with turn_in(folder):
        versions = _versions(folder)
        versions.setdefault(name, []).append(directory)
        publish(folder / VERSIONS, json.dumps(versions, indent=2).encode("ascii") + b"\n", replace=True)


def _versions(folder: Path) -> dict[str, list[str]]:
    """Return the directories of the versions that were trained of each head, the latest last."""
    path = folder / VERSIONS
    if not path.exists():
        return {}
    try:
        with open_regular(path) as stream:
            versions = json.load(stream)
    except (OSError, ValueError, RecursionError) as e:
        raise ArtifactError(f"{path} cannot be read: {printable(str(e))}; repair or remove it") from e
    if not isinstance(versions, dict) or not all(_are_directories(listed) for listed in versions.values()):
        raise ArtifactError(f"{path} does not list directories by the names of heads; repair or remove it")
    return versions


def _are_directories(listed: object) -> bool:
    """Whether an object is a list of names of directories, which lead nowhere else."""
    return isinstance(listed, list) and all(isinstance(name, str) and _DIRECTORY.fullmatch(name) for name in listed)


@dataclass(eq=False)
class ServedHeads:
    """The heads of a service by name.

    Readers take `snapshot` once per request, so that an answer has one version of each head.

    Parameters
    ----------
    directories
        Where heads are found.
    recipe
        The recipe of the features that are served, with their taps.
    """

    directories: HeadDirectories
    recipe: Recipe
    _served: Mapping[str, ServedHead] = field(default_factory=lambda: MappingProxyType({}))
    _failed: dict[str, str] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def snapshot(self) -> Mapping[str, ServedHead]:
        """Return the heads that are served now, by name; the mapping never changes."""
        return self._served

    def get(self, name: str) -> ServedHead:
        """Return a head; raise `UnknownNameError` if it is not served."""
        try:
            return self._served[name]
        except KeyError:
            raise UnknownNameError("head", name, self._served) from None

    def failures(self) -> dict[str, str]:
        """Map the names of heads that failed to load, and have no older version in place, to the reasons."""
        with self._lock:
            return {name: reason for name, reason in self._failed.items() if name not in self._served}

    def states(self) -> list[HeadState]:
        """Return all heads that are served, on disk, or failed to load, sorted by name."""
        served, failed = self._served, dict(self._failed)
        names = sorted({*served, *failed, *self.directories.find()})
        return [
            HeadState(name, served[name].version if name in served else None, failed.get(name, "")) for name in names
        ]

    def put(self, served: ServedHead) -> None:
        """Serve a head, or exchange it for the one of its name.

        Raises
        ------
        MismatchError
            If it was trained on features of another recipe, or on a tap that is not served, or predicts no class.
        """
        head = served.head
        head.require_target("class", "the service")
        if head.tap not in self.recipe.taps:
            raise MismatchError(
                f"tap: the head {served.name} was trained on {head.tap!r}, served are "
                f"{', '.join(self.recipe.taps)}; name it when the service starts, or train it on one of these"
            )
        head.check_recipe(self.recipe, head.tap)
        with self._lock:
            self._served = MappingProxyType(dict(self._served) | {served.name: served})
            self._failed.pop(served.name, None)

    def load(self, name: str) -> ServedHead:
        """Read a head from its directory and serve it; if that fails, the version in place stays.

        Raises
        ------
        UnknownNameError
            If there is no directory of this name.
        ArtifactError, MismatchError
            If the head or the list of versions is damaged, or the head does not belong to this service.
        """
        found = self.directories.find()
        if name not in found:
            if name in self._served:
                self.note(name, "its directory is gone; the version in place is still served")
                raise ArtifactError(f"the directory of the head {name} is gone; the version in place is still served")
            raise UnknownNameError("head", name, found)
        try:
            served = ServedHead.load(name, found[name])
            self.put(served)
        except FeatureCacheError as e:
            self.note(name, str(e))
            raise
        return served

    def unload(self, name: str) -> None:
        """Serve a head no more; forget that it failed to load.

        Raises
        ------
        UnknownNameError
            If it is neither served nor failed.
        """
        with self._lock:
            if name not in self._served and name not in self._failed:
                raise UnknownNameError("head", name, self._served)
            self._served = MappingProxyType({key: head for key, head in self._served.items() if key != name})
            self._failed.pop(name, None)

    def note(self, name: str, reason: str) -> None:
        """Record why a head could not be loaded."""
        with self._lock:
            self._failed[name] = reason

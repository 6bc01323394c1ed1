"""Many archives as one source: a folder of shards, or a pattern such as ``train-{000..099}.tar``."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Self

from featurecache.errors import ManifestError
from featurecache.images import archives
from featurecache.images.archives import ArchiveSource
from featurecache.images.failures import Failure, Ignored
from featurecache.images.files import FileContent, Stat
from featurecache.images.folder import holds_only
from featurecache.images.image_source import ImageSource
from featurecache.images.names import decode_name, encode_name
from featurecache.images.samples import SampleTable, has_samples
from featurecache.images.splits import split_of_file
from featurecache.text import counted

_SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_BRACES = re.compile(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}")
_MOST = 1_000_000  # names that a pattern stands for


@dataclass(frozen=True, slots=True)
class ShardsSource(ImageSource):
    """Images in many TAR files: all of a folder, or those of a pattern with ``{000..099}`` or ``{train,valid}`` in it.

    The path of an image is the name of its archive and its name in there: ``train-000.tar/00012.jpg``.

    Parameters
    ----------
    place
        The folder, or the pattern.

    Examples
    --------
    >>> import tarfile
    >>> for number in range(2):
    ...     with tarfile.open(folder / f"train-{number}.tar", "w") as file:
    ...         file.add(images / "train/dark/00.png", f"{number}.png")
    >>> featurecache.read_manifest(folder / "train-{0..1}.tar")
    <Manifest: 2 images: no labels; train 2>
    """

    place: Path

    @classmethod
    def of(cls, place: Path) -> Self | None:
        """Return the source of a folder that holds shards alone, or of a pattern; None for another place."""
        is_pattern = _BRACES.search(place.name) and place.name.lower().endswith(_SHARD_SUFFIXES)
        return cls(place) if is_pattern or holds_only(place, _SHARD_SUFFIXES) else None

    @property
    def name(self) -> str:
        """The absolute path of the folder, or the pattern with an absolute path."""
        return str(self.place.absolute())

    def anywhere(self) -> Self:
        """Return the same source with an absolute path."""
        return replace(self, place=self.place.absolute())

    def exists(self) -> bool:
        """Return whether there is a shard."""
        return any(path.exists() for path in self._shards())

    def stat(self, path: str) -> Stat | None:
        """Return the size of an image and the modification time of its archive; None if they cannot be read."""
        shard, inside = self._within(path)
        return shard.stat(inside) if shard else None

    def read(self, path: str, *, max_bytes: int) -> FileContent | Failure:
        """Read an image, or return a failure."""
        shard, inside = self._within(path)
        return shard.read(inside, max_bytes=max_bytes) if shard else Failure("not_found", "no such archive")

    def list_images(self) -> tuple[list[str], list[Ignored]]:
        """Return the paths of the images of all shards, and what is left out."""
        table = self.table()
        images = [row[0] for number, row in table.rows() if number]
        return images, list(table.ignored)

    def has_file(self, name: bytes) -> bool:
        """Return whether a shard has an image of exactly this name."""
        return self.stat(encode_name(name)) is not None

    def table(self) -> SampleTable:
        """Return the images of all shards, with the texts beside them; splits come from the names of the shards.

        Raises
        ------
        ManifestError
            If a shard does not exist, or cannot be read.
        """
        paths = sorted(self._shards())
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise ManifestError(
                f"{counted(len(missing), 'TAR shard')} of {len(paths):,} does not exist, first {missing[0]}; "
                f"{self.place.name} stands for all of them"
            )
        shards = [
            ArchiveSource(path).shard(encode_name(os.fsencode(path.name)) + "/", split_of_file(path.name))
            for path in paths
        ]
        images = [image for shard in shards for image in shard.images]
        if any("/" in image for image in images) and not any(has_samples(it.images, it.beside) for it in shards):
            raise ManifestError(
                f"the TAR shards {self.place} have images in folders, such as {images[0]}, and no labels beside them; "
                "read each archive by itself, whose folders give classes, and merge the caches"
            )
        return SampleTable(f"the TAR shards {self.place}", shards)

    def _shards(self) -> Iterator[Path]:
        """Yield the paths of the shards."""
        if _BRACES.search(self.place.name):
            yield from (self.place.parent / name for name in _expanded(self.place.name))
            return
        with os.scandir(self.place) as entries:
            for entry in entries:
                if entry.name.lower().endswith(_SHARD_SUFFIXES) and not entry.name.startswith("."):
                    yield self.place / entry.name

    def _within(self, path: str) -> tuple[ArchiveSource | None, str]:
        """Return the archive of an image, and its path in there."""
        shard, _, inside = path.partition("/")
        name = os.fsdecode(decode_name(shard))
        folder = self.place.parent if _BRACES.search(self.place.name) else self.place
        is_shard = name.lower().endswith(archives.SUFFIXES) and "/" not in name and "\0" not in name
        return (ArchiveSource(folder / name) if is_shard else None), inside


def _expanded(pattern: str) -> list[str]:
    """Return the names that a pattern stands for."""
    pieces = _BRACES.split(pattern)
    choices: list[list[str]] = [[pieces[0]]]
    count = 1
    for first, last, words, after in zip(pieces[1::4], pieces[2::4], pieces[3::4], pieces[4::4], strict=True):
        numbers = range(int(first), int(last) + 1) if first else ()
        count *= len(numbers) if first else words.count(",") + 1
        if not 0 < count <= _MOST:
            raise ManifestError(f"{pattern} stands for {count:,} files; expected 1 to {_MOST:,}")
        choices += [[f"{number:0{len(first)}d}" for number in numbers] if first else words.split(","), [after]]
    return ["".join(parts) for parts in product(*choices)]

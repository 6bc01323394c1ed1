"""Samples as WebDataset keeps them: an image, and files of the same name beside it with its label and other texts."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from featurecache.images.failures import Ignored
from featurecache.images.table_text import COLUMNS, ORIGINAL_PATH, Table

LABEL, TEXT, RECORD = ".cls", ".txt", ".json"
SUFFIXES = (LABEL, TEXT, RECORD)
"""The suffixes of the files beside an image: its label, a text, and a record with further columns."""

LARGEST = 1 << 20  # bytes of such a file


@dataclass(frozen=True, slots=True)
class Shard:
    """The images of one archive, and the files beside them.

    Parameters
    ----------
    prefix
        What comes before the paths of its images.
    split
        The split of its images.
    images
        The paths of the images in the archive.
    beside
        The paths of the files beside them.
    read
        Returns the bytes of such a file.
    ignored
        What is left out of the archive for other reasons.
    """

    prefix: str
    split: str
    images: Sequence[str]
    beside: Sequence[str]
    read: Callable[[str], bytes]
    ignored: Sequence[Ignored]


def has_samples(images: Sequence[str], beside: Sequence[str]) -> bool:
    """Return whether an archive has samples: a label beside an image, or all images at the top and a file beside one.

    Images in folders get their classes from these; a record beside them may be about anything.
    """
    keys = {key for path in images for key in _keys(path)}
    found = [path for path in beside if _stem(path) in keys]
    is_flat = not any("/" in path for path in images)
    return any(path.lower().endswith(LABEL) for path in found) or (is_flat and bool(found))


class SampleTable(Table):
    """The images of shards, with the texts beside them as columns.

    Parameters
    ----------
    name
        What the table is called in messages.
    shards
        The shards.
    """

    dialect = ""

    def __init__(self, name: str, shards: Sequence[Shard]) -> None:
        self.name = name
        self._shards = shards
        self.not_read: tuple[str, ...] = ()
        self.ignored: tuple[Ignored, ...] = ()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the names of the columns, then the texts of each image; note what cannot be read."""
        ignored: list[Ignored] = []
        others: dict[str, None] = {}
        found: list[tuple[str, str, dict[str, str]]] = []
        columns: dict[str, None] = {}
        for shard in self._shards:
            ignored += (Ignored(shard.prefix + item.path, item.reason) for item in shard.ignored)
            files: dict[str, list[str]] = {}
            for path in sorted(shard.beside, key=lambda path: path.lower().endswith(LABEL)):  # labels count most
                files.setdefault(_stem(path), []).append(path)
            used: set[str] = set()
            for image in shard.images:
                texts: dict[str, str] = {}
                for path in (path for key in _keys(image) for path in files.get(key, ())):
                    fault = _add(texts, path, shard.read, others)
                    if fault and path not in used:
                        ignored.append(Ignored(shard.prefix + path, fault))
                    used.add(path)
                columns |= dict.fromkeys(texts)
                found.append((shard.prefix + image, shard.split, texts))
            alone = (path for path in shard.beside if path not in used)
            ignored += (Ignored(shard.prefix + path, "not an image, and beside none") for path in alone)
        self.not_read, self.ignored = tuple(name for name in others if name not in columns), tuple(ignored)
        has_splits = COLUMNS[2] not in columns and any(split for _, split, _ in found)
        names = list(columns)
        yield 0, [COLUMNS[0], *names, *([COLUMNS[2]] if has_splits else [])]
        for number, (path, split, texts) in enumerate(found, start=1):
            yield number, [path, *(texts.get(name, "") for name in names), *([split] if has_splits else [])]


def _stem(path: str) -> str:
    """Return a path without the suffix of its name."""
    return path[: path.rindex(".")]


def _keys(image: str) -> list[str]:
    """Return the stems of files that belong to an image; those of the last one count most.

    WebDataset's name of a sample is that up to the first dot: ``12.txt`` is beside ``12.left.jpg``, too. Images may
    have dots in their own names, so that ``a.1.txt`` is beside ``a.1.jpg`` alone.
    """
    folder, slash, name = image.rpartition("/")
    return list(dict.fromkeys([f"{folder}{slash}{name.partition('.')[0]}", _stem(image)]))


def _add(texts: dict[str, str], path: str, read: Callable[[str], bytes], others: dict[str, None]) -> str:
    """Add the texts of a file beside an image; return what is wrong with it, or ""."""
    try:
        text = _storable(read(path).decode("utf-8-sig").strip())
        if path.lower().endswith(RECORD):
            texts |= _texts_of(json.loads(text), others)
        else:
            texts[COLUMNS[1] if path.lower().endswith(LABEL) else TEXT[1:]] = text
    except (RecursionError, ValueError):
        return "neither text in UTF-8 nor a JSON object, as its name says"
    except (OSError, EOFError, RuntimeError, KeyError):
        return "its bytes in the archive are damaged"
    return ""


def _texts_of(record: object, others: dict[str, None]) -> dict[str, str]:
    """Return the texts, numbers and flags of a record as texts by column; note the names of other columns.

    Raises
    ------
    ValueError
        If it is no JSON object, or has texts that no cache can store.
    """
    if not isinstance(record, dict):
        raise ValueError  # noqa: TRY004 - as for every other fault of a file
    texts = {}
    for name, value in record.items():
        column = _storable(ORIGINAL_PATH if name.strip().lower() == COLUMNS[0] else name)
        if isinstance(value, str | int | float):
            texts[column] = _storable(str(value))
        elif value is not None:
            others[column] = None
    return texts


def _storable(text: str) -> str:
    """Return a text; raise `ValueError` if it has a NUL or a lone surrogate, which no cache can store."""
    if "\0" in text:
        raise ValueError
    text.encode()
    return text

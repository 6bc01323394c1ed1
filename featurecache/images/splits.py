"""The splits of a data set, and the names by which people call them."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

SPLITS: Final = ("train", "valid", "test", "")
"""The splits in the order of rows; ``""`` stands for images in no split."""

_NAMES: Final = {
    "train": ("train", "training", "trn", "训练"),
    "valid": ("valid", "validation", "validate", "val", "dev", "devel", "development", "eval", "evaluation", "验证"),
    "test": ("test", "testing", "tst", "holdout", "heldout", "测试"),
}
_SPLIT_OF: Final = {name: split for split, names in _NAMES.items() for name in names}
_BETWEEN_WORDS: Final = re.compile(r"[\s_.-]+")
_WHAT_IT_HOLDS: Final = re.compile(r"(?<=.)(set|split|data|images|集)$")
_NUMBER_BEFORE: Final = re.compile(r"^\d{1,2}[\s_.-]+")
_YEAR_AFTER: Final = re.compile(r"(?:19|20)\d\d$")
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


@lru_cache(maxsize=1000)
def split_named(name: str) -> str | None:
    """Return the split that a name means; None if it means none.

    Case, blanks, hyphens and underscores do not count. A number before the name (``01_train``), a year after it
    (``train2017``) and a last word such as ``set`` or ``images`` do not count either.

    Examples
    --------
    >>> [split_named(name) for name in ("Training", "VAL", "dev", "hold-out", "test_set", "cats")]
    ['train', 'valid', 'valid', 'test', 'test', None]
    """
    plain = _YEAR_AFTER.sub("", _BETWEEN_WORDS.sub("", _NUMBER_BEFORE.sub("", name.casefold())))
    return _SPLIT_OF.get(plain) or _SPLIT_OF.get(_WHAT_IT_HOLDS.sub("", plain))


def split_of_file(path: str) -> str:
    """Return the split that the name of a file or of its folders means; ``""`` if none.

    Examples
    --------
    >>> [split_of_file(path) for path in ("train-00000-of-00002.parquet", "test/data-0.arrow", "photos.tar")]
    ['train', 'test', '']
    """
    *folders, name = path.split("/")
    words = (name.partition(".")[0].partition("-")[0], *reversed(folders))
    return next(filter(None, map(split_named, words)), "")


def splits_within(name: str) -> set[str]:
    """Return the splits that words of a name mean, such as those of ``PublicTest``, ``images_train`` or ``test-dev``.

    Examples
    --------
    >>> splits_within("PublicTest"), splits_within("images_train"), splits_within("cats")
    ({'test'}, {'train'}, set())
    """
    return {split for word in _WORD.findall(name) if (split := _SPLIT_OF.get(word.casefold()))}


def spellings_read(names: Iterable[str]) -> list[str]:
    """Return a note on the names of splits that were read as others, for people; none if there are none.

    Examples
    --------
    >>> spellings_read(["Training", "test"])
    ['Training is read as train']
    """
    others = sorted(name for name in set(names) if split_named(name) not in (None, name.lower()))
    return [", ".join(f"{name} is read as {split_named(name)}" for name in others)] if others else []

"""Failures of images: a code for programs, and a reason in one line of text."""

import re
from dataclasses import dataclass
from typing import Final, Literal

FailureCode = Literal[
    "bad_name",
    "broken_link",
    "changed",
    "crashed",
    "damaged",
    "empty",
    "no_permission",
    "not_a_file",
    "not_an_image",
    "not_found",
    "not_installed",
    "out_of_memory",
    "outside",
    "too_many_bytes",
    "too_many_pixels",
    "unknown",
    "unreadable",
    "unsupported",
]
"""The codes of failures; ``docs/reference/failures.md`` defines them. A code keeps its meaning."""

_REASON_LENGTH = 200
_ADDRESS = re.compile(r"\bat 0x[0-9A-Fa-f]+")
_PERMANENT: Final = frozenset({"crashed", "damaged", "empty", "not_an_image", "unsupported"})


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why an image cannot be used.

    Parameters
    ----------
    code
        One of `FailureCode`; programs compare codes.
    reason
        One line of text without a path; no program depends on its wording.

    Examples
    --------
    >>> source = featurecache.FolderSource(images)
    >>> source.read("gone.png", max_bytes=1000)
    Failure(code='not_found', reason='no such file')
    """

    code: FailureCode
    reason: str

    @property
    def is_permanent(self) -> bool:
        """Whether the same bytes always fail, independent of limits and memory."""
        return self.code in _PERMANENT

    def to_dict(self) -> dict[str, str]:
        """Return code and reason, ready for JSON."""
        return {"code": self.code, "reason": self.reason}


class UnusableImageError(Exception):
    """Carries a `Failure` to the function that returns it; internal to `featurecache.images`."""

    def __init__(self, code: FailureCode, reason: str) -> None:
        super().__init__(reason)
        self.failure = Failure(code, reason)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A file or folder that was left out, with the reason; a folder counts once, with everything in it."""

    path: str
    reason: str


def one_line(text: str) -> str:
    """Remove line breaks, control characters and memory addresses from a library's message."""
    text = _ADDRESS.sub("", " ".join(text.split()))
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:_REASON_LENGTH]


def check_bytes(size: int, limit: int) -> None:
    """Raise `UnusableImageError` if an image file of this size in bytes is empty or too large."""
    if not size:
        raise UnusableImageError("empty", "an empty file (0 bytes)")
    if size > limit:
        raise UnusableImageError(
            "too_many_bytes", f"{size:,} bytes are more than the limit of {limit:,}; --max-pixels raises it, too"
        )

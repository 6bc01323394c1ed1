"""Small pictures of original image files, or why there is none."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image made small, or the reason why there is none.

    Parameters
    ----------
    jpeg
        A JPEG file; None if there is none.
    width, height
        Its sides in pixels; 0 if there is none.
    missing
        Why there is none; empty if there is one.
    """

    jpeg: bytes | None
    width: int
    height: int
    missing: str = ""

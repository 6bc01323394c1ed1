"""What a backbone is: a network with its weights and preprocessing, seen as a function from images to activations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """What identifies a backbone; every field is part of the recipe.

    Parameters
    ----------
    name
        The network's name in the catalogue.
    weights
        The identity of its weights: ``"sha256:…"`` of the weight file, or ``"random:SEED"``.
    input_size
        Height and width of its input in pixels.
    preprocessing
        The name of the arithmetic between uint8 pixels and the network.
    taps
        The layers whose activations it returns, to their widths, in ascending order of names.
    precision
        ``"float32"`` or ``"mixed"``: what it computes in.
    """

    name: str
    weights: str
    input_size: tuple[int, int]
    preprocessing: str
    taps: Mapping[str, int]
    precision: str = "float32"


def require_images(images: NDArray[np.uint8], input_size: tuple[int, int]) -> None:
    """Raise `ValueError` if images are not what a backbone of this input size takes."""
    height, width = input_size
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, 3):  # noqa: PLR2004
        raise ValueError(
            f"images are {images.dtype} of shape {images.shape}, expected uint8 of shape (n, {height}, {width}, 3)"
        )


class Backbone(Protocol):
    """A network that turns images into activations."""

    @property
    def spec(self) -> BackboneSpec:
        """What identifies it."""
        ...

    @property
    def provenance(self) -> Mapping[str, str]:
        """What runs it (framework, versions, device); not part of its identity."""
        ...

    @property
    def batch_size(self) -> int:
        """Images that it computes at a time; not part of its identity."""
        ...

    @property
    def passes_at_once(self) -> int:
        """How many calls of `forward` may be under way at once, in threads; 1 if it is not made for that."""
        ...

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every tap's activations in one pass.

        Parameters
        ----------
        images
            RGB pixels, shape (n, height, width, 3), any n, none included; they are not changed.

        Returns
        -------
        dict
            For every tap of the spec its activations, shape (n, d), float32; spatial ones are flattened row by row.
            An image's row does not depend on the images around it.

        Raises
        ------
        ValueError
            If the images have another dtype or shape.
        """
        ...

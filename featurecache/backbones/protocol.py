"""The interface of a backbone: a network with weights and preprocessing, from images to activations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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
        The layers whose activations it returns, in ascending order of names, and their widths.
    precision
        ``"float32"``, ``"tf32"`` or ``"mixed"``: the precision of its computations.
    """

    name: str
    weights: str
    input_size: tuple[int, int]
    preprocessing: str
    taps: Mapping[str, int]
    precision: str = "float32"


def require_images(images: NDArray[np.uint8], input_size: tuple[int, int]) -> None:
    """Raise `ValueError` unless images are uint8 of shape (n, height, width, 3) with this input size."""
    height, width = input_size
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, 3):  # noqa: PLR2004
        raise ValueError(
            f"images are {images.dtype} of shape {images.shape}, expected uint8 of shape (n, {height}, {width}, 3)"
        )


class EngineFault(Exception):  # noqa: N818 - start_engine makes an error of it, or takes another engine
    """An engine cannot run a network here.

    Parameters
    ----------
    why
        What is wrong, without a remedy.
    remedy
        What else than another engine helps, if anything.
    """

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.remedy = remedy


class Backbone(Protocol):
    """A network that turns images into activations.

    Examples
    --------
    >>> import numpy as np
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> backbone = FakeBackbone()
    >>> features = backbone.forward(np.zeros((2, 32, 32, 3), np.uint8))
    >>> {tap: values.shape for tap, values in features.items()}
    {'features': (2, 16), 'predictions': (2, 4)}
    """

    @property
    def spec(self) -> BackboneSpec:
        """The fields that identify it."""
        ...

    @property
    def provenance(self) -> Mapping[str, str]:
        """What computes it (engine, versions, device); not part of its identity."""
        ...

    @property
    def batch_size(self) -> int:
        """Number of images in a forward pass; not part of its identity."""
        ...

    @property
    def passes_at_once(self) -> int:
        """Number of threads that may call `forward` at the same time; 1 if it is not safe for threads."""
        ...

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every tap's activations in one pass.

        Parameters
        ----------
        images
            RGB pixels, shape (n, height, width, 3), where n may be 0; they are not changed.

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


@runtime_checkable
class SmallBatches(Protocol):
    """A backbone that computes whole batches of fixed sizes, and can prepare smaller ones for few images."""

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The sizes that are prepared, ascending; other numbers of images are padded to the next one."""
        ...

    def prepare_small_batches(self) -> None:
        """Prepare smaller sizes, but only those that give every image the same bits as a full batch."""
        ...

"""A recipe is everything that determines a feature vector; its fingerprint is the recipe's identity.

Batch size, workers, device, library versions and time do not belong to it; they are stored as provenance.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from featurecache.errors import CacheFormatError, RecipeError

_REPLACE = "choose another path, or --replace it"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which two recipes differ."""

    field: str
    ours: object
    theirs: object


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines a feature vector, given the bytes of an image.

    Parameters
    ----------
    decode_version
        The version of the decode rules.
    resize, filter
        How images are resized to the network's input size, and the interpolation.
    backbone
        The network's name in the catalogue.
    weights
        The identity of its weights: ``"sha256:…"`` of the weight file, or ``"random:SEED"``.
    input_size
        Height and width in pixels of the network's input.
    preprocessing
        The name of the computation that turns uint8 pixels into the network's input.
    taps
        Maps the kept layers to their widths, sorted by name.
    precision
        ``"float32"``, ``"tf32"`` or ``"mixed"``: the precision of the network's computation.
    dtype
        ``"float32"`` or ``"float16"``: the data type of the stored features.

    Examples
    --------
    >>> from dataclasses import replace
    >>> other = replace(cache.recipe, resize="crop")
    >>> cache.recipe.differences(other)
    [Difference(field='resize', ours='squash', theirs='crop')]
    """

    decode_version: int
    resize: str
    filter: str
    backbone: str
    weights: str
    input_size: tuple[int, int]
    preprocessing: str
    taps: Mapping[str, int]
    precision: str
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self) | {"input_size": list(self.input_size), "taps": dict(self.taps)}

    def to_json(self) -> str:
        """Return the canonical JSON text: keys sorted, no white space, ASCII only."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse a recipe from its JSON text.

        Raises
        ------
        CacheFormatError
            If the text is not a valid recipe; the message names the fields.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            fields["input_size"] = tuple(fields["input_size"])
            fields["taps"] = dict(sorted(fields["taps"].items()))
            recipe = cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
            raise CacheFormatError(f"the recipe cannot be read: {e}") from e
        problems = recipe._problems()
        if problems:
            raise CacheFormatError(f"the recipe is not valid: {'; '.join(problems)}")
        return recipe

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode("ascii")).hexdigest()

    def stored_dtype(self, tap: str) -> np.dtype[Any]:
        """Return the data type of a tap in the cache; probabilities are float32, as small ones would become 0."""
        return np.dtype("<f4") if tap == "predictions" or self.dtype == "float32" else np.dtype("<f2")

    @property
    def row_bytes(self) -> int:
        """The size in bytes of the features of one image."""
        return sum(width * self.stored_dtype(tap).itemsize for tap, width in self.taps.items())

    def differences(self, other: "Recipe") -> list[Difference]:
        """Return the fields in which ``other`` differs from this recipe; empty if the fingerprints are equal."""
        ours, theirs = self.to_dict(), other.to_dict()
        return [Difference(name, ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]]

    def _problems(self) -> list[str]:
        texts = {"resize", "filter", "backbone", "weights", "preprocessing", "precision", "dtype"}
        problems = [f"{name} is not text" for name in sorted(texts) if not isinstance(getattr(self, name), str)]
        if not _is_count(self.decode_version):
            problems.append("decode_version is not a whole number")
        if len(self.input_size) != 2 or not all(_is_count(side) for side in self.input_size):  # noqa: PLR2004
            problems.append("input_size is not (height, width)")
        if not self.taps or not all(isinstance(tap, str) and _is_count(width) for tap, width in self.taps.items()):
            problems.append("taps is not a mapping of names to widths")
        if self.dtype not in {"float32", "float16"}:
            problems.append(f"dtype is {self.dtype!r}, expected 'float32' or 'float16'")
        return problems


def require_recipe(found: Recipe, wanted: Recipe, where: object, remedy: str = _REPLACE) -> None:
    """Compare the recipe of a cache or of an unfinished run with the one that is wanted.

    Parameters
    ----------
    found, wanted
        The two recipes.
    where
        The path of ``found``, for the message.
    remedy
        What the user can do, for the message.

    Raises
    ------
    RecipeError
        If they differ; the message lists the fields, and ``differences`` holds them.
    """
    differences = found.differences(wanted)
    if differences:
        listed = "; ".join(f"{d.field} is {d.ours!r}, wanted {d.theirs!r}" for d in differences)
        error = RecipeError(f"{where} was made with another recipe: {listed}; {remedy}")
        error.differences = differences
        raise error


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

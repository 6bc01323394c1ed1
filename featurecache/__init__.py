"""Images pass through a pretrained network once; everything after that works on arrays.

>>> import featurecache
>>> cache = featurecache.extract("photos", "photos.h5")  # doctest: +SKIP
>>> cache.features("fc2", split="train").X.shape  # doctest: +SKIP
(1000, 4096)

Importing this package loads no framework; each is imported when it is first needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurecache.backbones.protocol import Backbone, BackboneSpec
    from featurecache.cache import FeatureCache, FeatureSet
    from featurecache.errors import FeatureCacheError
    from featurecache.extraction import extract
    from featurecache.recipe import Recipe
    from featurecache.run import Progress

_HOMES = {
    "Backbone": "featurecache.backbones.protocol",
    "BackboneSpec": "featurecache.backbones.protocol",
    "FeatureCache": "featurecache.cache",
    "FeatureCacheError": "featurecache.errors",
    "FeatureSet": "featurecache.cache",
    "Progress": "featurecache.run",
    "Recipe": "featurecache.recipe",
    "extract": "featurecache.extraction",
}

__all__ = [
    "Backbone",
    "BackboneSpec",
    "FeatureCache",
    "FeatureCacheError",
    "FeatureSet",
    "Progress",
    "Recipe",
    "extract",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

"""Images pass through a pretrained network once; everything after that works on arrays.

>>> import featurecache
>>> cache = featurecache.extract("photos", "photos.h5")  # doctest: +SKIP
>>> cache.features("fc2", split="train").X.shape  # doctest: +SKIP
(1000, 4096)

Importing this package loads no framework; each is imported when it is first needed.

Public: the names in ``__all__``, and the modules `featurecache.errors`, `featurecache.options` and `featurecache.text`.
All other modules are private: they may change without notice.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names in __init__.pyi

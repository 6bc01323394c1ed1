"""Interchangeable heads on cached features: train, store, evaluate. Importing this package loads no library.

Public: the names in ``__all__``, and the modules `heads.errors` and `heads.figures`. All other modules are private:
they may change without notice.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names in __init__.pyi

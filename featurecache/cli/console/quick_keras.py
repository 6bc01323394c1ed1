"""Keras and TensorFlow start without packages that they would import and that no command uses.

They import some packages only to work with them if somebody asks: scikit-learn for its wrappers, pandas for tables,
matplotlib for pictures, JAX for its converter. These imports take half of the time until Keras is there. Keras and
TensorFlow go on without a package that is not installed; here they are told that these are not.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_LEFT_OUT = {
    "keras.": frozenset({"IPython", "matplotlib", "pandas", "sklearn"}),
    "keras.src.callbacks.": frozenset({"jax"}),  # elsewhere JAX may be Keras's backend
    "keras_hub.": frozenset({"tensorflow_text"}),  # for texts
    "tensorflow.": frozenset({"IPython", "jax", "matplotlib", "pandas", "sklearn"}),
}
"""How the name of the module that imports begins: what it is not given."""

_NAMES = frozenset[str]().union(*_LEFT_OUT.values())


class _Absent(MetaPathFinder):
    """Refuses an import if the module that asks for it does not need it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        del path, target
        if name in _NAMES:
            importer = _importer()
            if any(importer.startswith(prefix) and name in names for prefix, names in _LEFT_OUT.items()):
                raise ModuleNotFoundError(f"{name} is left out", name=name)
        return None


def _importer() -> str:
    """Return the name of the module whose import is under way."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("importlib."):
        frame = frame.f_back
    name: str = frame.f_globals.get("__name__", "")
    return name


def start_keras_quickly() -> None:
    """Leave out what Keras and TensorFlow do not need, from now on in this process."""
    if not any(isinstance(finder, _Absent) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Absent())

"""A registry of built-in objects and of those that installed packages add through entry points."""

from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from featurecache.errors import EntryPointError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects by name: the built-in ones, and those of an entry point group.

    A package is imported when one of its names is used, or when all objects are listed. Built-in names need neither
    the list of installed packages nor an import. A package can add names, but cannot replace one.

    Parameters
    ----------
    group
        The entry point group, such as ``"featurecache.heads"``.
    kind
        What error messages call an object, in the singular.
    builtin
        The built-in objects by name.
    accept
        Called with the name and the object of an entry point. Returns the object, or raises `TypeError` with a
        one-line message if the object is unsuitable.
    others
        What users can give besides a name, for error messages.

    Examples
    --------
    >>> registry = Registry("example.numbers", "number", {"one": 1, "two": 2}, lambda name, found: int(found))
    >>> registry.find("one")
    1
    >>> registry.load_all()
    ({'one': 1, 'two': 2}, [])
    """

    def __init__(
        self,
        group: str,
        kind: str,
        builtin: Mapping[str, T],
        accept: Callable[[str, object], T],
        others: str = "",
    ) -> None:
        self._group, self._kind, self._builtin, self._accept = group, kind, builtin, accept
        self._others = others
        self._loaded: dict[tuple[str, str], T | EntryPointError] = {}

    def find(self, name: str) -> T:
        """Return the object of this name.

        Raises
        ------
        UnknownNameError
            If no object has this name.
        EntryPointError
            If an installed package adds the name, but its object cannot be loaded.
        """
        if name in self._builtin:
            return self._builtin[name]
        found = [entry for entry in self._entries if entry.name == name]
        if not found:
            names = {*self._builtin, *(entry.name for entry in self._entries)}
            raise UnknownNameError(self._kind, name, names, self._others)
        loaded = self._load(found[0])
        if isinstance(loaded, EntryPointError):
            raise loaded
        return loaded

    def load_all(self) -> tuple[dict[str, T], list[str]]:
        """Return all objects by name, the built-in ones first, and one line for each entry point that failed."""
        objects, faults = dict(self._builtin), []
        for entry in self._entries:
            loaded = self._load(entry)
            if isinstance(loaded, EntryPointError):
                faults.append(str(loaded))
            else:
                objects[entry.name] = loaded
        return objects, faults

    @cached_property
    def _entries(self) -> list[EntryPoint]:
        return sorted(entry_points(group=self._group), key=lambda entry: (entry.name, _package(entry)))

    def _load(self, entry: EntryPoint) -> T | EntryPointError:
        key = (entry.name, _package(entry))
        if key not in self._loaded:
            try:
                self._loaded[key] = self._load_now(entry)
            except EntryPointError as e:
                self._loaded[key] = e
        return self._loaded[key]

    def _load_now(self, entry: EntryPoint) -> T:
        where = f"the {self._kind} {entry.name!r} of the package {_package(entry)}"
        others = {_package(other) for other in self._entries if other.name == entry.name} - {_package(entry)}
        taken = ["featurecache itself"] if entry.name in self._builtin else sorted(others)
        if taken:
            raise EntryPointError(f"{where} is refused: {' and '.join(taken)} has the same name; uninstall one of them")
        try:
            return self._accept(entry.name, entry.load())
        except (Exception, SystemExit) as e:  # a package of someone else may raise anything
            reason = " ".join(f"{type(e).__name__}: {e}".split())
            raise EntryPointError(f"{where} cannot be loaded ({reason}); repair or uninstall the package") from e


def _package(entry: EntryPoint) -> str:
    """Return the name of the installed package that declares an entry point."""
    return entry.dist.name if entry.dist else "of unknown name"

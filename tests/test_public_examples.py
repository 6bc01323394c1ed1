"""Most public functions, and classes with public methods, have an example in their docstrings; doctest runs it."""

import inspect

import pytest

import featurecache
import heads

SHARE = 3 / 4


def is_called(name, package):
    """Return whether a public name is a function, or a class with public methods except errors."""
    found = getattr(package, name)
    if inspect.isfunction(found):
        return True
    return inspect.isclass(found) and not issubclass(found, BaseException) and bool(methods(found))


def methods(cls):
    """Return the public functions and class methods of a class itself."""
    members = [member for name, member in vars(cls).items() if not name.startswith("_")]
    return [
        member for member in members if inspect.isfunction(member) or isinstance(member, classmethod | staticmethod)
    ]


def has_example(found):
    documented = [found, *(methods(found) if inspect.isclass(found) else ())]
    return any(">>> " in (item.__doc__ or "") for item in documented)


@pytest.mark.parametrize("package", [featurecache, heads], ids=lambda package: package.__name__)
def test_three_of_four_public_functions_have_an_example(package):
    names = [name for name in package.__all__ if is_called(name, package)]
    without = [name for name in names if not has_example(getattr(package, name))]
    assert len(names) > 20
    assert len(without) <= (1 - SHARE) * len(names), f"no example: {', '.join(without)}"

"""The lessons, as data, in the order in which they teach; their modules are imported on use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from featurecache.errors import UnknownNameError
from scripts.lesson.board import Board

Run: TypeAlias = Callable[[Board, Path | None], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is known of a lesson before it is run.

    Parameters
    ----------
    summary
        What it shows, in one line.
    needs_cache
        Whether it works on a cache, and cannot do without.
    takes_cache
        Whether it shows more with a cache, and less without.
    """

    summary: str
    needs_cache: bool
    takes_cache: bool = False

    @property
    def cache(self) -> str:
        """What a cache is to it, in one word; empty if it is nothing."""
        return "needed" if self.needs_cache else "optional" if self.takes_cache else ""


LESSONS: Mapping[str, Lesson] = {
    "structure": Lesson("VGG16 layer by layer: where its weights lie, and where features are taken", False),
    "matrices": Lesson("a network of two layers by hand: it is a chain of matrix products", False),
    "activations": Lesson("tanh, sigmoid, relu and softmax, and what a network is without them", False),
    "initialisation": Lesson("what random weights a network starts with, and what bad ones cost", False),
    "gradient-descent": Lesson("a line fitted step by step, with all rows at a time or with a few", False),
    "linear-model": Lesson("a linear model in Keras that finds the weights its data were made with", False),
    "filters": Lesson("what the first layer looks for: learned filters beside random ones", False, takes_cache=True),
    "epochs": Lesson("training epoch by epoch with three learning rates, and lowering one", True),
    "cats-and-dogs": Lesson("a head on the network's answers, then on the layer below; its errors", True),
}


def find_lesson(name: str) -> Lesson:
    """Return the lesson of this name; raise `UnknownNameError` if there is none."""
    try:
        return LESSONS[name]
    except KeyError:
        raise UnknownNameError("lesson", name, LESSONS) from None


def load_lesson(name: str) -> Run:
    """Return the function that gives the lesson of this name, which is in the catalogue."""
    run: Run = import_module(f"scripts.lesson.{name.replace('-', '_')}").run
    return run

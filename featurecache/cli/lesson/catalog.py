"""The catalogue of lessons, in teaching order; their modules are imported on use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from featurecache.cli.lesson.lesson_writer import LessonWriter
from featurecache.errors import UnknownNameError

Run: TypeAlias = Callable[[LessonWriter, Path | None], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A lesson of the catalogue.

    Parameters
    ----------
    summary
        The content, in one line.
    needs_cache
        Whether it requires a cache.
    takes_cache
        Whether a cache is optional, and lets it show more.
    """

    summary: str
    needs_cache: bool
    takes_cache: bool = False

    @property
    def cache(self) -> str:
        """Whether a cache is ``needed`` or ``optional``; empty if the lesson uses none."""
        return "needed" if self.needs_cache else "optional" if self.takes_cache else ""


LESSONS: Mapping[str, Lesson] = {
    "structure": Lesson("VGG16 layer by layer: its weights, its work, and the layers that a cache keeps", False),
    "matrices": Lesson("a network of two layers by hand: a chain of matrix products", False),
    "activations": Lesson("tanh, sigmoid, relu and softmax, and a network without activations", False),
    "initialisation": Lesson("how a network's random weights are chosen, and the cost of bad ones", False),
    "gradient-descent": Lesson("a line fitted step by step, with all rows per step or with a few", False),
    "linear-model": Lesson("a linear model in Keras that finds the weights of its data", False),
    "filters": Lesson("the filters of the first layer: learned ones beside random ones", False, takes_cache=True),
    "epochs": Lesson("training epoch by epoch with three learning rates, and lowering one", True),
    "cats-and-dogs": Lesson("a head on the network's predictions, one on the layer below, and its errors", True),
}


def find_lesson(name: str) -> Lesson:
    """Return the lesson of this name; raise `UnknownNameError` if there is none."""
    try:
        return LESSONS[name]
    except KeyError:
        raise UnknownNameError("lesson", name, LESSONS) from None


def load_lesson(name: str) -> Run:
    """Import and return the function that runs the lesson of this name, which must be in the catalogue."""
    run: Run = import_module(f"featurecache.cli.lesson.{name.replace('-', '_')}").run
    return run

"""Arguments and options that several commands share."""

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from featurecache.errors import OptionError
from featurecache.options import LOCAL, NetworkOptions, Option, OptionGroup, declared

_CommandT = TypeVar("_CommandT", bound=Callable[..., None])

Images = Annotated[
    Path,
    typer.Argument(
        metavar="IMAGES",
        readable=False,
        help="A folder, ZIP, TAR or Parquet file of images, a CSV or TSV table: path[,label][,split], a .txt list, or s3://BUCKET/FOLDER.",
    ),
]
Cache = Annotated[
    Path, typer.Argument(metavar="CACHE", readable=False, help="The cache file to create or to bring up to date.")
]
Weights = Annotated[str, typer.Option(help=declared(NetworkOptions)["weights"].help)]
InputSize = Annotated[
    str | None, typer.Option("--input-size", metavar="N|HxW", help=declared(NetworkOptions)["input_size"].help)
]
MovedWeights = Annotated[str | None, typer.Option("--weights", help="The network's weights, if they have moved.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if any image fails.")]
CacheFile = Annotated[Path, typer.Argument(metavar="CACHE", readable=False, help="A cache file.")]
Tap = Annotated[
    str | None, typer.Option(help="The tap whose features to use.", show_default="the last below the outputs")
]
Params = Annotated[
    list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="A parameter of the head.")
]
Seed = Annotated[int, typer.Option(min=0, help="The seed of all random choices.")]
HeadDir = Annotated[Path, typer.Argument(metavar="HEAD_DIR", readable=False, help="A head's directory.")]
Split = Annotated[str, typer.Option(help="train, valid, test or all.")]

BARE = {"--cluster": LOCAL}
"""Options that may stand without a value, at the end or before another option, and the value that they have then."""


def with_options(*groups: type[OptionGroup], only: Collection[str] = ()) -> Callable[[_CommandT], _CommandT]:
    """Add the declared options of ``groups`` to a command, which receives them as ``**options``.

    Parameters
    ----------
    only
        The names of the options to add; all if empty. With names, options accept numbers only, no word such as
        ``auto``.
    """

    def decorate(command: _CommandT) -> _CommandT:
        signature = inspect.signature(command)
        own = [item for item in signature.parameters.values() if item.kind is not inspect.Parameter.VAR_KEYWORD]
        first = sum(item.default is inspect.Parameter.empty for item in own)
        names = {name: group for group in groups for name in declared(group) if not only or name in only}
        own[first:first] = [_parameter(group, name, takes_word=not only) for name, group in names.items()]
        command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        command.__annotations__ = {item.name: item.annotation for item in own} | {"return": None}
        return command

    return decorate


def _parameter(group: type[OptionGroup], name: str, *, takes_word: bool) -> inspect.Parameter:
    """Return the typer parameter of a declared option."""
    option, default = declared(group)[name], getattr(group(), name)
    kind: Any = get_type_hints(group)[name]
    settings: dict[str, Any] = {"help": option.help, "show_default": option.shown or True}
    if name == "taps":
        kind, settings["parser"], settings["metavar"] = Any, tap_names, "TAP,TAP"
    elif option.word and takes_word:
        kind, settings["parser"], settings["metavar"] = Any, _number_or_word(option), f"N|{option.word}"
        settings["help"] = f"{option.help.rstrip('.')}; {option.word}: {option.word_help}."
    elif option.low is not None:
        kind = int if default is not None else int | None
        settings |= {"min": option.low, "max": option.high}
    elif name == "cluster":
        settings["metavar"] = "[ADDRESS]"
    elif name == "root":
        settings["readable"] = False
    elif option.check:
        kind, settings["parser"], settings["metavar"] = Any, _checked(option.check), option.metavar
    flag = f"--{name.replace('_', '-')}"  # one name only, so that typer adds no --no- form
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=default,
        annotation=Annotated[kind, typer.Option(flag, **settings)],
    )


def _number_or_word(option: Option) -> Callable[[str], int | str]:
    """Return the parser of an option that accepts a whole number or a word."""

    def parse(text: str) -> int | str:
        low, high = option.low or 0, option.high or 0
        if text == option.word:
            return text
        if not text.isdecimal() or not low <= int(text) <= high:
            raise typer.BadParameter(f"{text!r} is neither {option.word} nor a whole number from {low} to {high}")
        return int(text)

    return parse


def _checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """Return the parser of an option whose declaration checks its text."""

    def parse(text: str) -> str:
        try:
            check(text)
        except OptionError as e:
            raise typer.BadParameter(str(e)) from e
        return text

    return parse


def tap_names(text: str) -> list[str]:
    """Return the names in ``--taps``."""
    return [name.strip() for name in text.split(",")]


def place_of(text: str) -> str | Path:
    """Return an argument as a path, or as it is if it is an address: a path joins slashes.

    Examples
    --------
    >>> place_of("https://host/?from=https://other/1.jpg")
    'https://host/?from=https://other/1.jpg'
    """
    return text if "://" in text else Path(text)

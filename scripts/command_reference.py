"""``python -m scripts.command_reference``: writes ``docs/reference/commands.md`` from the command line's own help."""

import inspect
import re
from pathlib import Path
from typing import Any

import typer

from featurecache.cli.app import app

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"

_OPENING = """\
# Command reference

`python -m scripts.command_reference` writes this page from the command line; `featurecache COMMAND --help` shows the
same text. Every command prints its result on standard output, and messages and progress on standard error.

Exit codes: 0 done, 1 an error (one line on standard error names the remedy), 2 wrong usage, 130 interrupted by Ctrl-C,
143 by SIGTERM, 129 by SIGHUP.
"""


def command_reference() -> str:
    """Return the reference of all commands as Markdown."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    rows = [f"| [`{name}`](#{name}) | {_sentence(command)} |" for name, command in commands.items()]
    overview = "\n".join(["| command | what it does |", "|---|---|", *rows, ""])
    return "\n".join([_OPENING, overview, *(_section(name, command) for name, command in commands.items())])


def _sentence(command: Any) -> str:  # noqa: ANN401 - typer does not export the type of its commands
    """Return the first paragraph of a command's help."""
    return " ".join(inspect.cleandoc(command.help).partition("\n\n")[0].split())


def _section(name: str, command: Any) -> str:  # noqa: ANN401
    """Return the section of one command: usage, help, arguments and options."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = " ".join(["featurecache", name, *map(_placeholder, arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"## {name}\n", f"```\n{usage}\n```\n", f"{inspect.cleandoc(command.help)}\n"]
    if arguments:
        rows = [f"| `{_metavar(argument)}` | {_cell(argument.help)} |" for argument in arguments]
        parts.append("\n".join(["| argument | |", "|---|---|", *rows, ""]))
    if options:
        rows = [f"| {_names(option)} | {_cell(option.help)} | {_default(option)} |" for option in options]
        parts.append("\n".join(["| option | | default |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _metavar(parameter: Any) -> str:  # noqa: ANN401
    return str(parameter.metavar or parameter.name.upper())


def _placeholder(argument: Any) -> str:  # noqa: ANN401
    """Return an argument in the form of a usage line."""
    shown = _metavar(argument).removeprefix("[").removesuffix("]")
    if argument.nargs == -1 and "..." not in shown:
        shown += "..."
    return shown if argument.required else f"[{shown}]"


def _names(option: Any) -> str:  # noqa: ANN401
    """Return the names of an option with the placeholder of its value."""
    value = "" if option.is_flag else f" {_metavar(option)}"
    return ", ".join(f"`{name}{value}`".replace("|", r"\|") for name in [*option.opts, *option.secondary_opts])


def _default(option: Any) -> str:  # noqa: ANN401
    """Return the default of an option: its name for a flag that is on, nothing for a flag that is off."""
    if isinstance(option.show_default, str):
        return _cell(option.show_default)
    if option.default is None or option.default is False or not option.show_default:
        return "required" if option.required else ""
    return f"`{option.opts[0]}`" if option.default is True else f"`{option.default}`"


def _cell(text: str | None) -> str:
    """Escape text for a cell of a table."""
    return re.sub(r"([|\[])", r"\\\1", " ".join((text or "").split()))


if __name__ == "__main__":
    REFERENCE.write_text(command_reference(), "utf-8")

"""The command ``featurecache``: joins the command groups, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 an error with one line that names the remedy, 2 wrong usage, 130 interrupted. Commands import
what they need when they run, so that ``--help`` answers at once.
"""

import errno
import io
import os
import signal
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from featurecache.errors import FeatureCacheError
from scripts import (
    auditing,
    demo,
    exporting,
    extraction,
    inspection,
    judging,
    prediction,
    sweeping,
    teaching,
    training,
    upkeep,
)
from scripts.output import say

_GO_ON = dict.fromkeys(("extract", "sweep"), "; what was finished is kept: run the same command again to go on")
_NEED_LESS = dict.fromkeys(("extract", "verify", "predict"), "lower --batch-size") | {
    "sweep": "lower --jobs",
    "finetune": "lower -p batch_size",
}
_INTERRUPTED = 130  # what shells give for a program that Ctrl-C has ended
_GET_MORE = "end other programs, or use a machine with more"


class _Ending:
    """Whether all that an interruption leaves to be done is done."""

    begun = False


def _interrupt(_number: int, _frame: object) -> None:
    """Interrupt what is under way; end at once if it has been interrupted and nothing is left to be kept."""
    if _Ending.begun:
        os._exit(_INTERRUPTED)
    raise KeyboardInterrupt


class Commands(TyperGroup):
    """The commands, with one place for what they raise."""

    def main(self, *args: Any, **options: Any) -> NoReturn:  # noqa: ANN401 - they are typer's
        """Run the command line and exit; wrong usage is said in one line, as every error is."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is escaped, not an error
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except typer.TyperException as e:
            code = e.exit_code
            message = e.format_message().strip().rstrip(".")
            if message:  # the list of commands, where none is given, is printed already
                command = getattr(getattr(e, "ctx", None), "command_path", "featurecache")
                say(f"error: {message[0].lower()}{message[1:]}; see: {command} --help")
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer does not export its context's type for this
        """Run a command; an error of this project ends it with one line on standard error."""
        try:
            return super().invoke(ctx)
        except FeatureCacheError as e:
            say(f"error: {e}")
            raise typer.Exit(1) from e
        except OSError as e:
            if e.errno == errno.EPIPE:  # who reads the output has had enough
                raise
            say(f"error: {'' if e.filename is None else f'{e.filename}: '}{(e.strerror or str(e)).lower()}")
            raise typer.Exit(1) from e
        except MemoryError as e:  # NumPy's own is one
            say(
                f"error: out of memory{f': {e}' if str(e) else ''}; {_NEED_LESS.get(ctx.invoked_subcommand, _GET_MORE)}"
            )
            raise typer.Exit(1) from e
        except KeyboardInterrupt as e:
            _Ending.begun = True
            say(f"interrupted{_GO_ON.get(ctx.invoked_subcommand, '')}")
            raise typer.Exit(_INTERRUPTED) from e


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Images pass through a pretrained network once; heads train on the cached features in seconds.",
)
for group in (
    demo,
    extraction,
    inspection,
    upkeep,
    training,
    judging,
    sweeping,
    auditing,
    prediction,
    exporting,
    teaching,
):
    for command in group.COMMANDS:
        app.command()(command)


def main() -> None:
    """Run the command line, as a process of its own."""
    os.environ.pop("MPLBACKEND", None)  # no command opens a window, and matplotlib stops at a name it does not know
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not so where the shell lets it be ignored
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()

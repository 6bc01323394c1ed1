"""The command ``featurecache``: registers all commands, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 an error with one line that names the remedy, 2 wrong usage, 130 interrupted by Ctrl-C, 143 by
SIGTERM, 129 by SIGHUP. Commands import their libraries when they run, so that ``--help`` is fast.
"""

import atexit
import errno
import gc
import io
import logging
import os
import signal
import sys
import warnings
from contextlib import suppress
from itertools import zip_longest
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from featurecache.cli.commands.audit import audit
from featurecache.cli.commands.backbones import backbones
from featurecache.cli.commands.compare import compare
from featurecache.cli.commands.curve import curve
from featurecache.cli.commands.demo import demo
from featurecache.cli.commands.evaluate import evaluate
from featurecache.cli.commands.export import export
from featurecache.cli.commands.export_features import export_features
from featurecache.cli.commands.extract import extract
from featurecache.cli.commands.filters import filters
from featurecache.cli.commands.finetune import finetune
from featurecache.cli.commands.heads import heads
from featurecache.cli.commands.info import info
from featurecache.cli.commands.lesson import lesson
from featurecache.cli.commands.merge import merge
from featurecache.cli.commands.precision import precision
from featurecache.cli.commands.predict import predict
from featurecache.cli.commands.serve import serve
from featurecache.cli.commands.similar import similar
from featurecache.cli.commands.summary import summary
from featurecache.cli.commands.sweep import sweep
from featurecache.cli.commands.train import train
from featurecache.cli.commands.verify import verify
from featurecache.cli.commands.why import why
from featurecache.cli.console.options import BARE
from featurecache.cli.console.output import say, show
from featurecache.cli.console.quick_keras import start_keras_quickly
from featurecache.errors import FeatureCacheError

_CONTINUE = dict.fromkeys(("extract", "sweep"), "; finished work is kept: run the same command again to continue")
_NEED_LESS = dict.fromkeys(("extract", "verify", "predict"), "lower --batch-size") | {
    "sweep": "lower --jobs",
    "finetune": "lower -p batch_size",
}
_BY_SIGNAL = 128  # the exit code after a signal is this and its number, as shells report it
_SIGNALS = {signal.SIGINT: signal.default_int_handler} | {
    getattr(signal, name): signal.SIG_DFL for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
}
"""Signals that end a command, with the handlers of a new process; a shell or nohup may have set them to be ignored."""
_GET_MORE = "close other programs, or use a machine with more memory"


class _Interrupts:
    """Signals so far: the first one, how many, and whether the command has ended since."""

    first = signal.SIGINT
    count = 0
    has_ended = False

    @classmethod
    def exit_code(cls) -> int:
        """Return the exit code of an interrupted command."""
        return _BY_SIGNAL + cls.first


def _interrupt(number: int, _frame: object) -> None:
    """Interrupt the command; exit at once if an earlier interruption has ended it."""
    if _Interrupts.has_ended:
        os._exit(_Interrupts.exit_code())
    if not _Interrupts.count:
        _Interrupts.first = signal.Signals(number)
    _Interrupts.count += 1
    if signal.Signals(number).name == "SIGHUP":
        _leave_terminal()
    raise KeyboardInterrupt


def _leave_terminal() -> None:
    """Discard output to a terminal that is gone, so that messages do not end the command before its work is kept."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
                os.dup2(nowhere.fileno(), descriptor)


class Command(TyperCommand):
    """One command; an option of `BARE` may stand without its value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as in `Commands.invoke`
        """Parse the arguments, with the values that are left out."""
        complete = []
        for argument, following in zip_longest(args, args[1:], fillvalue="-"):
            is_bare = argument in BARE and following.startswith("-")
            complete.append(f"{argument}={BARE[argument]}" if is_bare else argument)
        return super().parse_args(ctx, complete)


class Commands(TyperGroup):
    """All commands; handles their errors in one place."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run the command line and exit; report wrong usage in one line, like every error."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # escape characters that a terminal cannot show
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except typer.TyperException as e:
            code = e.exit_code
            message = e.format_message().strip().rstrip(".")
            if message:  # without a command, the list of commands has been printed already
                command = getattr(getattr(e, "ctx", None), "command_path", "featurecache")
                say(f"error: {message[0].lower()}{message[1:]}; see: {command} --help")
        except OSError as e:  # the help cannot be written; `invoke` has reported all others
            say(f"error: {(e.strerror or str(e)).lower()}")
            code = 1
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer does not export its context's type for this
        """Run a command; report an error of this project in one line on standard error."""
        try:
            return super().invoke(ctx)
        except FeatureCacheError as e:
            say(f"error: {e}")
            raise typer.Exit(1) from e
        except OSError as e:
            if e.errno == errno.EPIPE:  # the reader of the output has closed it
                raise
            say(f"error: {'' if e.filename is None else f'{e.filename}: '}{(e.strerror or str(e)).lower()}")
            raise typer.Exit(1) from e
        except MemoryError as e:  # includes NumPy's own
            say(
                f"error: out of memory{f': {e}' if str(e) else ''}; {_NEED_LESS.get(ctx.invoked_subcommand, _GET_MORE)}"
            )
            raise typer.Exit(1) from e
        except KeyboardInterrupt as e:
            _Interrupts.has_ended = True
            by = "" if _Interrupts.first == signal.SIGINT else f" by {_Interrupts.first.name}"
            say(f"interrupted{by}{_CONTINUE.get(ctx.invoked_subcommand, '')}")
            raise typer.Exit(_Interrupts.exit_code()) from e


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Images pass through a pretrained network once; heads train on the cached features in seconds.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        show(f"featurecache {version('featurecache')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options of the program itself, which are not those of a command."""


for command in (
    demo,
    extract,
    info,
    backbones,
    heads,
    summary,
    why,
    verify,
    merge,
    train,
    evaluate,
    compare,
    sweep,
    audit,
    curve,
    predict,
    precision,
    similar,
    serve,
    export,
    export_features,
    finetune,
    lesson,
    filters,
):
    app.command(cls=Command)(command)


def _quieten_libraries() -> None:
    """Keep messages of libraries to programmers off the terminal, here and in worker processes."""
    os.environ.pop("MPLBACKEND", None)  # no command opens a window, and matplotlib fails on an unknown backend
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home folder that it cannot write to
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"


def main() -> None:
    """Run the command line as the main program."""
    _quieten_libraries()
    start_keras_quickly()
    atexit.register(gc.freeze)  # a million objects of Keras are not looked through once more: the system frees them
    for number, handler in _SIGNALS.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        os._exit(_Interrupts.exit_code())
    except SystemExit:
        if _Interrupts.has_ended and _Interrupts.count > 1:  # Python would wait for threads: a pass takes minutes
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(_Interrupts.exit_code())
        raise


if __name__ == "__main__":
    main()

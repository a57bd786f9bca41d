"""The command line `diffsens`: one file a verb; each parses, calls the library and prints.

Nothing heavy is imported before a verb runs, so that `diffsens --help` is quick.
"""

import errno
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from timm_diffsens import __version__
from timm_diffsens.cli.bench import bench
from timm_diffsens.cli.compare import compare
from timm_diffsens.cli.demo import demo
from timm_diffsens.cli.doctor import doctor
from timm_diffsens.cli.export import export
from timm_diffsens.cli.hub import card, pull, push
from timm_diffsens.cli.leaderboard import leaderboard
from timm_diffsens.cli.ls import ls
from timm_diffsens.cli.options import WrongUse
from timm_diffsens.cli.output import forget, print_error, showing_warnings, silence
from timm_diffsens.cli.reproduce import reproduce
from timm_diffsens.cli.show import show
from timm_diffsens.cli.submit import submit
from timm_diffsens.cli.sweep import sweep
from timm_diffsens.cli.theory import theory
from timm_diffsens.cli.train import train
from timm_diffsens.cli.validate import validate
from timm_diffsens.errors import DiffsensError, UsageError, unknown

_INTERRUPTED, _BROKEN_PIPE = 130, 1
_GO_ON = ("train", "demo", "reproduce")  # what these did is not done again; `sweep` says so itself


class _Verbs(TyperGroup):
    """Runs a verb, and turns faults into one line on standard error and an exit code."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name the nearest verbs where one is unknown."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown("command", args[0], self.list_commands(ctx), "`diffsens --help` lists them")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Options before the verb."""
        help_wanted = not args
        try:
            return super().parse_args(ctx, args)
        except WrongUse as error:
            if help_wanted:
                raise
            print_error(error.format_message())  # type: ignore[attr-defined]
            raise typer.Exit(2) from None

    def main(self, *args: Any, **more: Any) -> Any:
        """All of it; what cannot be printed, be it the help, is one line too."""
        try:
            return super().main(*args, **more)
        except OSError as error:  # standard output on a full disk, say
            if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
                raise
            forget(sys.stdout)
            print_error(f"what was found cannot be printed: {error.strerror}")
            sys.exit(1)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            with showing_warnings():
                result = super().invoke(ctx)
                sys.stdout.flush()
                return result
        except DiffsensError as error:
            print_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except WrongUse as error:
            print_error(error.format_message())  # type: ignore[attr-defined]
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            goes_on = "; the same command goes on where it was" if ctx.invoked_subcommand in _GO_ON else ""
            print_error(f"interrupted{goes_on}")
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            forget(sys.stdout)
            raise typer.Exit(_BROKEN_PIPE) from None
        except PermissionError as error:
            print_error(f"{error.filename}: {str(error.strerror).lower()}")
            raise typer.Exit(UsageError.exit_code) from None


app = typer.Typer(
    name="diffsens",
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"diffsens {__version__}")
        raise typer.Exit


@app.callback()
def diffsens(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no warnings.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Layer-by-layer sensitivity of vision models to smooth deformations and to noise."""
    silence(quiet)


_MEASURING = (bench, sweep, train, demo, leaderboard, reproduce, theory)
for _verb in (*_MEASURING, show, compare, ls, export, validate, submit, push, pull, card, doctor):
    app.command()(_verb)


def _fill_closed_streams() -> None:
    """Standard streams that were closed before we began lead nowhere; else the next file would be one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Ctrl-C. Inside of an import it ends the process at once: libraries take it there for a fault of a part
    that they can do without, and go on, half imported.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            with suppress(OSError):
                os.write(2, b"error: interrupted\n")
            os._exit(_INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the console script."""
    _fill_closed_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # replaced by something that is no text file
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app(prog_name="diffsens")

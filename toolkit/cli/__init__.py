"""The `toolkit` command: one module per command, imported when the command is called.

Commands are entry points in the group `toolkit.commands`. So `--help` imports neither plugins nor
torch, and a package can add a command of its own.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any, NoReturn

import click

from toolkit.errors import StrategyError, ToolkitError
from toolkit.terminal import LONGEST, without_colour
from toolkit.words import shorten

INTERRUPTED = 130  # exit status after Ctrl-C
UNWRITABLE = (errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)
WAITING = {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "0"}
"""How long PyTorch's threads spin before they sleep. OpenMP reads these when torch is imported. By
default they spin so long that one thread that is not scheduled stalls all others."""
RENAMED = {"tune": "costs"}  # old names of commands, which work for one version


class UserError(click.ClickException):
    """A `ToolkitError` on the command line: its message and exit status 2, no traceback."""

    exit_code = 2


class FullHelp(click.Group):
    """A group whose help has the first sentence of every command, whole."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(LONGEST)) for name, command in found if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Commands(FullHelp):
    """A group whose commands are listed from metadata and imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in RENAMED:
            click.echo(
                f"`toolkit {cmd_name}` is called `toolkit {RENAMED[cmd_name]}` now", err=True
            )
        point = _points().get(RENAMED.get(cmd_name, cmd_name))
        return point.load() if point else None

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command. A file or an output that cannot be used ends it with one line."""
        _let_threads_sleep()
        if sys.stdout is None:
            _fail("stdout is closed: send it to a file, to a pipe or to /dev/null")
        if sys.stderr is None:
            sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 for good
        with _interruptible():
            try:
                return super().main(*args, **extra)
            except OSError as error:
                if error.filename is None and error.errno not in UNWRITABLE:
                    raise
                if error.filename is None:
                    _fail(f"the output cannot be written: {error.strerror}")
                _fail(f"{shorten(os.fsdecode(error.filename))} cannot be used: {error.strerror}")

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:  # it quotes whatever was typed
            raise click.UsageError(shorten(error.format_message(), 1000), error.ctx) from error
        except StrategyError as error:  # work had begun
            raise click.ClickException(str(error)) from error
        except ToolkitError as error:
            raise UserError(str(error)) from error
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="toolkit.commands")}


def _let_threads_sleep() -> None:
    """Set `WAITING`, unless the user has set how threads wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)


def _fail(message: str) -> NoReturn:
    """Print the message and exit with status 2; at exit Python has nothing left to flush."""
    with suppress(OSError):
        UserError(message).show()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(UserError.exit_code)


@contextmanager
def _interruptible() -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt; a second one ends the process at once."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or current_thread() is not main_thread():
        yield
        return
    hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = hook
        else:  # interrupted: the process is about to end, and another Ctrl-C must not change how
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


@contextmanager
def interrupt_noted() -> Iterator[Event]:
    """Sets the event at the first Ctrl-C, and raises nothing; a second one ends the process at once."""
    noted = Event()
    if signal.getsignal(signal.SIGINT) is not _interrupt:
        yield noted
        return

    def note(*_: object) -> None:
        signal.signal(signal.SIGINT, _leave)
        noted.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, _interrupt)


def catch_next_interrupt() -> None:
    """Let the next Ctrl-C raise KeyboardInterrupt again, after one that was handled."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _interrupt)


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)


def _unraisable(report: Any) -> None:
    """End the process after a Ctrl-C that Python cannot raise, as in a destructor."""
    if isinstance(report.exc_value, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(report)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="speculative-toolkit", prog_name="toolkit")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Speculative decoding of Hugging Face language models, exact by construction."""
    if without_colour():
        ctx.color = False
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show τ gets a ? instead
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

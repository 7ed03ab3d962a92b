"""The `toolkit` command: one module per command, imported when it is called.

Commands are the entry-point group `toolkit.commands`, so that `--help` imports no plugin and no
torch, and a package can bring a command of its own.
"""

from __future__ import annotations

import io
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from toolkit.errors import StrategyError, ToolkitError


class UserError(click.ClickException):
    """A `ToolkitError` as the command line shows it: one line, exit 2."""

    exit_code = 2


class Commands(click.Group):
    """A group whose commands are listed from metadata and imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = _points().get(cmd_name)
        return point.load() if point else None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StrategyError as error:  # work had begun
            raise click.ClickException(str(error)) from error
        except ToolkitError as error:
            raise UserError(str(error)) from error


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="toolkit.commands")}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="speculative-toolkit", prog_name="toolkit")
def main() -> None:
    """Speculative decoding of Hugging Face language models, exact by construction."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no τ gets a ? for it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

"""How commands print: no escape sequences where the user wants none, one line a row in a pipe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LONGEST = 10_000  # characters of a row in a pipe


def without_colour() -> bool:
    """Whether the user has asked for no colours (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))


def make_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console of rich that prints text as it is and writes no escape sequences under NO_COLOR."""
    from rich.console import Console

    plain = without_colour()
    return Console(
        stderr=stderr,
        width=width,
        color_system=None if plain else "auto",
        force_terminal=False if plain else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def print_table(table: Table) -> None:
    """Print a table that fits the terminal; in a pipe or a file every row is one line."""
    console = make_console()
    if not console.file.isatty():
        console = make_console(width=LONGEST)
    console.print(table)

"""One line on stderr that says what a slow step is doing, erased when it is done.

Only commands show it: see `show_progress`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

_lock = RLock()
_doing: list[str] = []  # innermost last
_console: Console | None = None
_live: Live | None = None


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a text while the block runs, if progress is shown. Of nested blocks the innermost shows."""
    with _lock:
        _doing.append(what)
        _redraw(entered=True)
    try:
        yield
    finally:
        with _lock:
            _doing.remove(what)
            _redraw()


@contextmanager
def show_progress() -> Iterator[None]:
    """Let `working` show its texts on stderr within the block, if stderr is a terminal."""
    global _console  # noqa: PLW0603 one process has one stderr
    if _console is not None or sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from toolkit.terminal import make_console

    with _lock:
        _console = make_console(stderr=True)
        _redraw()
    try:
        yield
    finally:
        with _lock:
            _console = None
            _redraw()


def _redraw(*, entered: bool = False) -> None:
    """Erase the line and show the innermost text, if any. Where nothing can be erased, print the text
    of a block that was just entered.

    There is no spinner: its thread would disturb measurements.
    """
    global _live  # noqa: PLW0603
    if _live is not None:
        _live.stop()
        _live = None
    if _console is not None and not _console.is_terminal:
        if entered:
            _console.print(f"{_doing[-1]} …")
    elif _console is not None and _doing:
        from rich.live import Live
        from rich.text import Text

        line = Text(f"{_doing[-1]} …", style="dim", no_wrap=True, overflow="ellipsis")
        _live = Live(
            line, console=_console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        _live.start(refresh=True)

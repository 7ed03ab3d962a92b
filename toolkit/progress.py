"""What a slow step is doing, in one line on stderr that goes away; silent unless a command asks."""

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
    """Say what is being done while the block runs, where progress is shown.

    Blocks may nest: the inner text is shown, then the outer again.
    """
    with _lock:
        _doing.append(what)
        _redraw()
    try:
        yield
    finally:
        with _lock:
            _doing.remove(what)
            _redraw()


@contextmanager
def show_progress() -> Iterator[None]:
    """Let `working` write to stderr within the block, if stderr is a terminal."""
    global _console  # noqa: PLW0603 one process has one stderr
    if _console is not None or sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with _lock:
        _console = Console(stderr=True)
        _redraw()
    try:
        yield
    finally:
        with _lock:
            _console = None
            _redraw()


def _redraw() -> None:
    """Erase the line, and write another if something is being done.

    Nothing moves in it: a spinner's thread would run beside what is measured.
    """
    global _live  # noqa: PLW0603
    if _live is not None:
        _live.stop()
        _live = None
    if _console is not None and _doing:
        from rich.live import Live
        from rich.text import Text

        line = Text(f"{_doing[-1]} …", style="dim", no_wrap=True, overflow="ellipsis")
        _live = Live(
            line, console=_console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        _live.start(refresh=True)

"""Stepping through recorded requests in the terminal, by keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attrs import define
from rich.console import Console, Group, RenderableType
from rich.text import Text

from toolkit.errors import ToolkitError
from toolkit.nodes import Fate
from toolkit.show.recording import RecordedRequest, RecordedStep
from toolkit.show.terminal import draw_legend, draw_step, draw_text

KEYS = {
    b"\x1b[C": "next", b"\x1b[D": "back", b"\x1b[H": "first", b"\x1b[F": "last",
    b"\x1bOC": "next", b"\x1bOD": "back", b"\x1bOH": "first", b"\x1bOF": "last",
    b"\x1b[1~": "first", b"\x1b[4~": "last", b"l": "next", b"h": "back", b" ": "next",
    b"n": "rejection", b"p": "whole", b"f": "fold", b"\t": "request", b"/": "find",
    b"q": "quit", b"\x03": "quit", b"\x04": "quit",
}  # fmt: skip
HELP = (
    "←/→ step  Home/End  n next rejection  p next whole path  f fold  / find  Tab request  q quit"
)
TEXT_LINES = 5


@define
class Browser:
    """Where one is in recorded requests."""

    requests: list[RecordedRequest]
    at: int = 0  # step
    number: int = 0  # of the request, in the list
    folded: bool = True  # whether the tree is cut to the screen
    said: str = HELP

    @property
    def request(self) -> RecordedRequest:
        return self.requests[self.number]

    def move(self, key: str) -> None:
        """Do what a key says."""
        steps, self.said = self.request.steps, HELP
        places = {"next": self.at + 1, "back": self.at - 1, "first": 0, "last": len(steps) - 1}
        if key in places:
            self.at = min(max(places[key], 0), len(steps) - 1)
        elif key == "rejection":
            self._jump(lambda step: len(step.committed) == 1 < len(step.nodes) - 1, "rejection")
        elif key == "whole":
            self._jump(_is_whole, "whole path")
        elif key == "fold":
            self.folded = not self.folded
        elif key == "request":
            self.number, self.at = (self.number + 1) % len(self.requests), 0

    def find(self, text: str) -> None:
        """Go to the next step that has a node with this text."""
        self._jump(lambda step: any(text in node.piece for node in step.nodes), repr(text))

    def _jump(self, wanted: Callable[[RecordedStep], bool], what: str) -> None:
        later = self.request.steps[self.at + 1 :]
        found = next((step.number for step in later if wanted(step)), None)
        self.said = HELP if found is not None else f"no later step with {what}"
        self.at = self.at if found is None else found

    def draw(self, width: int, height: int) -> RenderableType:
        """The screen: title, tree, legend, text, keys."""
        request, step = self.request, self.request.steps[self.at]
        room = height - TEXT_LINES - 5 if self.folded else None
        title = Text(f"{request.title}, {len(request.steps)} steps", no_wrap=True, style="reverse")
        text = draw_text(self._written()).wrap(Console(width=width), width)
        keys = Text(self.said, style="dim", no_wrap=True, overflow="ellipsis")
        tree = draw_step(step, width, room)
        return Group(title, tree, draw_legend(), *text[-TEXT_LINES:], keys)

    def _written(self) -> Iterator[tuple[str, Fate]]:
        """What is committed up to and with this step."""
        steps = self.request.steps
        yield steps[0].nodes[0].piece, "bonus"
        for step in steps[: self.at + 1]:
            yield from ((node.piece, node.fate) for node in step.committed)


def _is_whole(step: RecordedStep) -> bool:
    """Whether the step committed a path as deep as its tree."""
    deepest = max(node.depth for node in step.nodes if node.fate != "bonus")
    return len(step.committed) - 1 == deepest > 0


def browse(requests: list[RecordedRequest], at: int) -> None:
    """Step through requests until `q`. Raises `ToolkitError` where there are no keys to read."""
    browser, console = Browser(requests, at), Console(highlight=False)
    with _reading_keys() as read, console.screen(hide_cursor=True) as screen:
        while True:
            screen.update(browser.draw(*console.size))
            key = KEYS.get(read())
            if key == "quit":
                return
            if key == "find":
                browser.find(
                    _ask(read, lambda: screen.update(browser.draw(*console.size)), browser)
                )
            elif key is not None:
                browser.move(key)


def _ask(read: Callable[[], bytes], redraw: Callable[[], None], browser: Browser) -> str:
    """A text that is typed after `/`, up to Enter."""
    typed = b""
    while True:
        browser.said = f"/{typed.decode(errors='replace')}"
        redraw()
        key = read()
        if key in (b"\r", b"\n", b""):
            return typed.decode(errors="replace")
        typed = typed[:-1] if key in (b"\x7f", b"\x08") else typed + key * (key[:1] != b"\x1b")


@contextmanager
def _reading_keys() -> Iterator[Callable[[], bytes]]:
    """A function that waits for a key and gives its bytes; the terminal is restored afterwards."""
    try:
        import termios
        import tty
    except ImportError as error:
        raise ToolkitError("keys cannot be read on this system: use --html, or a pipe") from error
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield lambda: os.read(terminal, 16)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)

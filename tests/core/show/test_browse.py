"""Keys in the terminal: where they lead, on a pseudo-terminal once."""

import os
import pty
import sys
import time

import pytest
from rich.console import Console

from toolkit.show.browse import KEYS, Browser


@pytest.fixture
def browser(recording):
    return Browser(recording)


def test_steps_stop_at_both_ends(browser):
    last = len(browser.request.steps) - 1
    for key, place in (
        ("back", 0), ("next", 1), ("last", last), ("next", last), ("back", last - 1), ("first", 0)
    ):  # fmt: skip
        browser.move(key)
        assert browser.at == place


def test_a_jump_goes_to_the_next_step_of_its_kind_or_says_that_there_is_none(browser):
    rejected = [s.number for s in browser.request.steps if len(s.committed) == 1 < len(s.nodes) - 1]
    for wanted in [n for n in rejected if n > 0]:
        browser.move("rejection")
        assert browser.at == wanted
    browser.move("last")
    browser.move("rejection")
    assert browser.at == len(browser.request.steps) - 1
    assert "no later step" in browser.said


def test_a_token_is_found(browser):
    wanted = browser.request.steps[3].nodes[-1].piece
    browser.at = 2
    browser.find(wanted)
    assert browser.at == 3


def test_tab_goes_to_the_next_request(browser):
    browser.at = 2
    browser.move("request")
    assert (browser.request.number, browser.at) == (3, 0)
    browser.move("request")
    assert browser.request.number == 0


@pytest.mark.parametrize("width", [60, 100])
def test_a_screen_is_drawn_within_its_size(browser, width):
    console = Console(width=width, height=30)
    with console.capture() as caught:
        console.print(browser.draw(width, 30))
    lines = caught.get().splitlines()
    assert len(lines) <= 30
    assert lines[0].startswith("request 0, 6 steps")


def test_a_real_terminal_is_stepped_through_and_restored():
    """A child on a pseudo-terminal gets two keys, then q."""
    code = (
        "import sys; sys.path.insert(0, 'tests/core/show')\n"
        "import conftest, toolkit.show.browse as b\n"
        "b.browse([conftest.request(0, 3, 9)], 0)\nprint('left')"
    )
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", code])
    heard, keys, end = b"", [b"\x1b[C", b"\x1b[C", b"q"], time.monotonic() + 60
    while time.monotonic() < end:
        try:
            heard += os.read(terminal, 4096)
        except OSError:
            break
        if keys and f"step {3 - len(keys)}".encode() in heard:
            os.write(terminal, keys.pop(0))
    assert os.waitpid(child, 0)[1] == 0
    assert b"step 2" in heard
    assert heard.rstrip().endswith(b"left")
    assert set(KEYS.values()) >= {"next", "back", "quit"}

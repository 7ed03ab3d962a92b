"""Keys in the terminal: where they lead, in an app without a terminal."""

import asyncio
import re

import pytest
from rich.cells import cell_len

pytest.importorskip("textual")

from toolkit.show.browse import (
    Browser,
    StepTree,
    describe_node,
    find_token,
    is_rejection,
)
from toolkit.show.labels import show_piece


def press(requests, *keys, size=(80, 30)):
    """The app after some keys: the step after each of them, the lines, and what was said."""
    app = Browser(requests)
    app.path = []

    async def run():
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            for key in keys:
                await pilot.press(key)
                await pilot.pause()
                app.path.append((app.request.number, app.at))
            app.lines = [strip.text for strip in app.screen._compositor.render_strips()]
            app.said = [note.message for note in app._notifications]
            app.cursor = app.query_one(StepTree).cursor_node.data

    asyncio.run(run())
    return app


def test_keys_lead_to_steps_and_requests(recording):
    last = len(recording[0].steps) - 1
    keys = {
        "left": 0, "right": 1, "end": last, "pagedown": last, "home": 0, "tab": 0,
    }  # fmt: skip
    app = press(recording, *keys)
    assert app.path == [*((0, at) for at in [*keys.values()][:-1]), (3, 0)]


def test_a_jump_goes_to_the_next_step_of_its_kind_or_says_that_there_is_none(recording):
    rejected = [s.number for s in recording[0].steps if is_rejection(s) and s.number]
    app = press(recording, *"n" * (len(rejected) + 1))
    assert [at for _, at in app.path[:-1]] == rejected
    assert app.said == ["no later step with rejection"]


def test_a_token_is_found_and_the_cursor_is_on_it(recording):
    wanted = next(n.piece for n in recording[0].steps[3].nodes if 1 < len(n.piece) < 5)
    found = next(s.number for s in recording[0].steps[1:] if find_token(s, wanted) is not None)
    keys = ["space" if letter == " " else letter for letter in wanted]
    app = press(recording, "slash", *keys, "enter")
    assert app.at == found
    assert wanted in app.cursor.piece


def test_nodes_are_folded(recording):
    one, whole = press(recording, "enter"), press(recording, "f")
    assert sum("▶" in line for line in one.lines) == 1
    assert sum("▶" in line for line in whole.lines) > 1
    assert all("✗" in line or "○" in line or "·" in line for line in whole.lines if "▶" in line)


@pytest.mark.parametrize("size", [(60, 24), (120, 40)])
def test_every_number_is_in_its_column(recording, size):
    app = press(recording, size=size)
    assert app.lines[0].startswith("request 0, 6 steps")
    assert all(cell_len(line) == size[0] for line in app.lines)
    names = next(line for line in app.lines if re.search(r"  log q +p", line))
    nodes = [line for line in app.lines if re.search(r"[├└].* [✓◆✗·○] ", line)]
    assert nodes
    for line in nodes:
        place = names.index("  log q") + 2 + 4 - (cell_len(line) - len(line))  # of its last cell
        assert re.search(r"(–|\d\.\d\d)$", line[: place + 1]), line


def test_a_node_is_described(recording):
    node = recording[0].steps[0].nodes[0]
    said = describe_node(node).plain
    assert f"id {node.token}" in said
    assert "the last committed token" in said


def test_a_deep_node_gives_up_columns_and_not_its_token(deep):
    app = press([deep], size=(80, 48))
    for node in deep.steps[0].nodes[1:25]:
        line = next(line for line in app.lines if f" {show_piece(node.piece)} " in line)
        assert "0.607" in line

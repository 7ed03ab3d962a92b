"""The tree as lines: every node without a height, within width and height with them."""

import re
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from toolkit.show.labels import SIGNS, show_piece
from toolkit.show.terminal import Tree, draw_legend, draw_step, draw_text, draw_tree

STEPS = [(request, step) for request in (0, 1) for step in (0, 2)]


@pytest.mark.parametrize(("request_", "number"), STEPS)
def test_every_node_has_a_line_with_its_numbers(recording, request_, number):
    nodes = recording[request_].steps[number].nodes
    head, *lines = draw_tree(nodes, 120).plain.splitlines()
    assert len(lines) == len(nodes)
    for node in nodes:
        shown = f"{SIGNS[node.fate].glyph} {show_piece(node.piece, 14)}"
        assert any(shown in line for line in lines), shown
    assert re.search(r" q +log q +p +log p +Σ log q +Σ log p", head)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("height", [8, 12, 30])
def test_a_tree_fits_its_screen(recording, width, height):
    for request in recording:
        for step in request.steps:
            lines = draw_tree(step.nodes, width, height).plain.splitlines()
            path = [n for n in step.nodes if n.fate in ("root", "accepted", "bonus")]
            assert all(cell_len(line) <= width for line in lines)
            assert len(lines) <= max(height, 2 * len(path) + 1)
            tree = Tree.of(step.nodes, height - 1)
            assert {n.node for n in path} <= tree.shown
            folded = sum(int(n) for line in lines for n in re.findall(r"\+ (\d+) more", line))
            below = {n.node for n in step.nodes[1:] if n.parent in tree.shown} - tree.shown
            assert folded == len(below)


def test_siblings_are_sorted_by_the_target(recording):
    for step in recording[0].steps:
        tree = Tree.of(step.nodes, None)
        for below in tree.children.values():
            chances = [node.target_logprob for node in below]
            assert chances == sorted(chances, reverse=True)


def test_without_a_terminal_there_are_no_control_codes(recording):
    out = StringIO()
    step = recording[0].steps[1]
    Console(file=out, width=80).print(draw_step(step, 80), draw_legend(), draw_text([("a", "bonus")]))
    assert "\x1b" not in out.getvalue()
    assert f"step 1  {len(step.nodes)} nodes" in out.getvalue()
    assert max(map(cell_len, out.getvalue().splitlines())) <= 80

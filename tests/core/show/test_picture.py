"""One step as SVG and as DOT: well-formed, every node there, text harmless."""

import re
from xml.etree import ElementTree as ET

import pytest

from toolkit.show import picture
from toolkit.show.bitmap import draw_png
from toolkit.show.labels import show_piece
from toolkit.show.picture import draw_dot, draw_svg


def test_an_svg_has_every_node_and_edge(recording):
    for request in recording:
        for step in request.steps:
            text = draw_svg(request, step)
            root = ET.fromstring(text)
            names = [e.tag.rpartition("}")[2] for e in root.iter()]
            assert names.count("g") == len(step.nodes)
            edges = [e for e in root.iter() if e.get("class", "").startswith("edge")]
            assert len(edges) == len(step.nodes) - 1
            assert "script" not in names
            assert text == draw_svg(request, step)


def test_a_dot_file_has_every_node_and_edge(recording):
    for step in recording[0].steps:
        lines = draw_dot(step).splitlines()
        assert sum(bool(re.match(r"  n\d+ \[", line)) for line in lines) == len(step.nodes)
        assert sum(" -> " in line for line in lines) == len(step.nodes) - 1
        for line in lines:
            assert len(re.findall(r'(?<!\\)"', line.replace("\\\\", ""))) % 2 == 0, line


def test_pieces_show_what_is_not_seen():
    assert show_piece(" a\tb\n") == "␣a⇥b⏎"
    assert show_piece("\u202eab\x1b[2J") == "⟨u+202e⟩ab⟨u+001b⟩[2J"
    assert show_piece("日本語の長い", 7) == "日本語…"
    assert show_piece("abc", 3) == "abc"


def test_a_png_is_the_same_again(recording):
    """A dollar sign starts no formula, and nothing is cut off."""
    pytest.importorskip("matplotlib")
    step = recording[0].steps[1]
    first, second = draw_png(recording[0], step), draw_png(recording[0], step)
    assert first == second
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    columns = max(node.depth for node in step.nodes)
    width = 2 * (2 * picture.MARGIN + picture.COLUMN * columns + picture.WIDTH)
    assert int.from_bytes(first[16:20]) == width

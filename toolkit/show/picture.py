"""One step as a file: SVG, or Graphviz's DOT."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files
from math import exp, log, pi

from toolkit.nodes import Node
from toolkit.show.labels import SIGNS, show_piece
from toolkit.show.layout import place_nodes
from toolkit.show.recording import RecordedRequest, RecordedStep
from toolkit.show.totals import path_probabilities

COLUMN, ROW = 156, 50  # distances between nodes, in pixels
WIDTH, HEIGHT = 122, 40  # of a node
MARGIN, TOP = 14, 40
CELLS = 9  # of a piece
BAR = 96  # pixels of probability 1
MOST_ENTROPY = log(64)  # nats at which the ring is closed


def draw_svg(request: RecordedRequest, step: RecordedStep) -> str:
    """One step as an SVG document, for light and dark pages."""
    nodes, rows = step.nodes, place_nodes([node.parent for node in step.nodes])
    chances = path_probabilities(nodes)
    width = 2 * MARGIN + COLUMN * max(node.depth for node in nodes) + WIDTH
    height = TOP + int(ROW * max(rows)) + HEIGHT + MARGIN
    style = (files(__package__) / "tree.css").read_text(encoding="utf-8")
    caption = f"{request.title}, step {step.number}: {len(step.committed)} tokens committed"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tree" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">',
        f"<style>{style}</style>",
        f'<text class="caption" x="{MARGIN}" y="14">{escape(caption)}</text>',
        f'<text class="caption" x="{MARGIN}" y="28">{escape(draw_legend())}</text>',
        *(_edge(node, rows, nodes, chances) for node in nodes[1:]),
        *(part for node in nodes for part in _node(node, rows[node.node])),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def draw_legend() -> str:
    """What the signs mean, in a line."""
    return "   ".join(
        [*(f"{sign.glyph} {fate}" for fate, sign in SIGNS.items()), "~ drawn by chance"]
    )


def _at(node: Node, row: float) -> tuple[int, float]:
    return MARGIN + COLUMN * node.depth, TOP + ROW * row


def _edge(node: Node, rows: list[float], nodes: list[Node], chances: dict[int, float]) -> str:
    """An edge, as wide as the drafter's probability of the path."""
    x1, y1 = _at(nodes[node.parent], rows[node.parent])
    x2, y2 = _at(node, rows[node.node])
    x1, y1, y2 = x1 + WIDTH, y1 + HEIGHT / 2, y2 + HEIGHT / 2
    middle = (x1 + x2) / 2
    return (
        f'<path class="edge {node.fate}" stroke-width="{1 + 5 * chances[node.node]:.1f}" '
        f'd="M{x1} {y1:.1f}C{middle} {y1:.1f} {middle} {y2:.1f} {x2} {y2:.1f}"/>'
    )


def _node(node: Node, row: float) -> Iterator[str]:
    x, y = _at(node, row)
    piece, glyph = show_piece(node.piece, CELLS), SIGNS[node.fate].glyph
    glyph += "~" * (node.proposal == "sampled")
    yield f'<g class="{node.fate}" transform="translate({x} {y:.1f})">'
    yield f"<title>{escape(describe_node(node))}</title>"
    if node.fate == "bonus":
        half, end = HEIGHT // 2, WIDTH
        yield (
            f'<path class="body" d="M0 {half}L10 0H{end - 10}L{end} {half}L{end - 10} {HEIGHT}H10Z"/>'
        )
    else:
        yield f'<rect class="body" width="{WIDTH}" height="{HEIGHT}" rx="9"/>'
    yield f'<text x="10" y="16"><tspan class="glyph">{glyph}</tspan> {escape(piece)}</text>'
    for name, logprob, place in (
        ("draft", node.draft_logprob, 23),
        ("target", node.target_logprob, 30),
    ):
        if logprob is not None:
            bar = max(1.0, BAR * exp(logprob))
            yield f'<rect class="{name}" x="12" y="{place}" width="{bar:.1f}" height="4"/>'
    if node.target_entropy is not None:
        share = min(1.0, max(0.0, node.target_entropy) / MOST_ENTROPY)
        around = 2 * pi * 5
        circle = f'cx="{WIDTH - 13}" cy="12" r="5"'
        yield (
            f'<circle class="whole" {circle}/><circle class="entropy" {circle} '
            f'transform="rotate(-90 {WIDTH - 13} 12)" '
            f'stroke-dasharray="{around * share:.1f} {around:.1f}"/>'
        )
    yield "</g>"


def describe_node(node: Node) -> str:
    """A node in one line."""
    said = [f"{show_piece(node.piece)} ({node.token})", SIGNS[node.fate].meaning]
    for name, logprob in (("drafter", node.draft_logprob), ("target", node.target_logprob)):
        if logprob is not None:
            said.append(f"{name} {exp(logprob):.2g}")
    return ", ".join(said)


DOT = {
    "root": 'color="black" penwidth=2',
    "accepted": 'color="#00735a" penwidth=2',
    "bonus": 'color="#0b5fa8" penwidth=2 shape=diamond',
    "rejected": 'color="#b3450b" style=dashed',
    "passed": 'color="#7c6200" style=dotted',
    "unreached": 'color="#8a939d" style=dotted',
}


def draw_dot(step: RecordedStep) -> str:
    """One step as a Graphviz graph."""
    lines = ["digraph step {", "  rankdir=LR;", '  node [shape=box fontname="monospace"];']
    for node in step.nodes:
        label = f"{SIGNS[node.fate].glyph} {show_piece(node.piece)}"
        for sign, logprob in (("q", node.draft_logprob), ("p", node.target_logprob)):
            if logprob is not None:
                label += f"\n{sign} {exp(logprob):.3f}"
        quoted = label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'  n{node.node} [label="{quoted}" {DOT[node.fate]}];')
    lines += [f"  n{node.parent} -> n{node.node};" for node in step.nodes[1:]]
    return "\n".join([*lines, "}"]) + "\n"

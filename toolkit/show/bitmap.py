"""One step as a PNG, drawn by matplotlib."""

from __future__ import annotations

import io
import warnings
from math import exp
from typing import Any

from toolkit.nodes import Fate, Node
from toolkit.show.labels import SIGNS, show_piece
from toolkit.show.layout import place_nodes
from toolkit.show.picture import BAR, CELLS, COLUMN, HEIGHT, MARGIN, ROW, TOP, WIDTH, draw_legend
from toolkit.show.recording import RecordedRequest, RecordedStep
from toolkit.show.totals import path_probabilities

DPI = 100  # of matplotlib's inches; the picture has SCALE pixels for one of the SVG's
SCALE = 2
FONTS = ["DejaVu Sans Mono", "Noto Sans Mono CJK SC", "Noto Sans CJK SC", "DejaVu Sans"]
COLOURS: dict[Fate, str] = {
    "root": "#1f2328",
    "accepted": "#00735a",
    "bonus": "#0b5fa8",
    "rejected": "#b3450b",
    "passed": "#7c6200",
    "unreached": "#8a939d",
}
DASHES: dict[Fate, Any] = {"rejected": (0, (5, 3)), "passed": (0, (2, 2)), "unreached": (0, (2, 3))}


def draw_png(request: RecordedRequest, step: RecordedStep) -> bytes:
    """One step as a PNG on white; the same step gives the same bytes with one version of matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    nodes, rows = step.nodes, place_nodes([node.parent for node in step.nodes])
    width = 2 * MARGIN + COLUMN * max(node.depth for node in nodes) + WIDTH
    height = TOP + int(ROW * max(rows)) + HEIGHT + MARGIN
    installed = {font.name for font in mpl.font_manager.fontManager.ttflist}
    fonts = [name for name in FONTS if name in installed]
    with (
        warnings.catch_warnings(),
        mpl.rc_context({"font.family": fonts, "text.parse_math": False}),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # it is drawn as a box
        figure = Figure(figsize=(width / DPI, height / DPI))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        committed = f"{len(step.committed)} tokens committed"
        legend = draw_legend()
        for line, y in ((f"{request.title}, step {step.number}: {committed}", 14), (legend, 28)):
            axes.text(MARGIN, y, line, size=7, color="#5c6570", va="baseline")
        chances = path_probabilities(nodes)
        for node in nodes[1:]:
            _draw_edge(axes, node, rows, nodes, chances[node.node])
        for node in nodes:
            _draw_node(axes, node, TOP + ROW * rows[node.node])
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI * SCALE, metadata={"Software": None})
    return file.getvalue()


def _draw_edge(axes: Any, node: Node, rows: list[float], nodes: list[Node], chance: float) -> None:
    """An edge, as wide as the drafter's probability of the path."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    y1, y2 = (TOP + ROW * rows[end] + HEIGHT / 2 for end in (node.parent, node.node))
    x1 = MARGIN + COLUMN * nodes[node.parent].depth + WIDTH
    x2 = MARGIN + COLUMN * node.depth
    middle = (x1 + x2) / 2
    curve = Path(
        [(x1, y1), (middle, y1), (middle, y2), (x2, y2)],
        [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
    )
    taken = node.fate in ("accepted", "bonus")
    axes.add_patch(
        PathPatch(
            curve,
            fill=False,
            color=COLOURS[node.fate] if taken or node.fate == "rejected" else "#c3cad2",
            linewidth=0.72 * (1 + 5 * chance),
            linestyle=DASHES.get(node.fate, "solid"),
        )
    )


def _draw_node(axes: Any, node: Node, y: float) -> None:
    from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

    x, colour = MARGIN + COLUMN * node.depth, COLOURS[node.fate]
    style = {
        "facecolor": "white",
        "edgecolor": colour,
        "linewidth": 1.8 if node.fate in ("root", "accepted", "bonus") else 0.9,
        "linestyle": DASHES.get(node.fate, "solid"),
    }
    if node.fate == "bonus":
        half, end, low = y + HEIGHT / 2, x + WIDTH, y + HEIGHT
        corners = [
            (x, half),
            (x + 10, y),
            (end - 10, y),
            (end, half),
            (end - 10, low),
            (x + 10, low),
        ]
        axes.add_patch(Polygon(corners, **style))
    else:
        box = "round,pad=0,rounding_size=9"
        axes.add_patch(FancyBboxPatch((x, y), WIDTH, HEIGHT, boxstyle=box, **style))
    drawn = "~" * (node.proposal == "sampled")
    text = {"size": 9, "va": "baseline"}
    axes.text(x + 10, y + 16, f"{SIGNS[node.fate].glyph}{drawn}", color=colour, **text)
    place = x + 24 + 8 * len(drawn)
    axes.text(place, y + 16, show_piece(node.piece, CELLS), color="#1f2328", **text)
    for logprob, down, shade in (
        (node.draft_logprob, 23, "#8a939d"),
        (node.target_logprob, 30, "#0b5fa8"),
    ):
        if logprob is not None:
            bar = max(1.0, BAR * exp(logprob))
            axes.add_patch(Rectangle((x + 12, y + down), bar, 4, color=shade, linewidth=0))

"""The page: every step of recorded requests in one HTML file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import accumulate
from typing import Any

import attrs
from jinja2 import Environment

from toolkit.errors import ToolkitError
from toolkit.show import picture
from toolkit.show.labels import SIGNS, show_piece
from toolkit.show.layout import place_nodes
from toolkit.show.recording import RecordedRequest, RecordedStep
from toolkit.show.totals import find_likeliest_path, total

MOST_NODES = 50_000  # of a page that still opens quickly
FATES = list(SIGNS)
LEAST = -1e4  # log-probability of what cannot be drawn


def draw_page(requests: Sequence[RecordedRequest]) -> str:
    """The page as text; the same requests give the same text. Raises `ToolkitError` for too many."""
    count = sum(len(step.nodes) for request in requests for step in request.steps)
    if count > MOST_NODES and len(requests) > 1:
        raise ToolkitError(
            f"{count} nodes are too many for one page (at most {MOST_NODES}): choose requests with "
            f"--request N, which may be repeated"
        )
    folder = files(__package__)
    texts = {
        name.replace(".", "_"): (folder / name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "tree.css", "page.js")
    }
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(texts.pop("page_html")).render(
        **texts, data=_as_json(requests), signs=SIGNS
    )


def choose_first(requests: Sequence[RecordedRequest]) -> list[RecordedRequest]:
    """The first requests, as many as fit on a page; at least one."""
    counts = accumulate(sum(len(step.nodes) for step in request.steps) for request in requests)
    fitting = sum(count <= MOST_NODES for count in counts)
    return list(requests[: max(1, fitting)])


def _as_json(requests: Sequence[RecordedRequest]) -> str:
    """The page's data; no `<` is in it, so no text can end the script element or begin another."""
    pieces: dict[str, int] = {}  # piece → its index
    data = {
        "requests": [_request(request, pieces) for request in requests],
        "pieces": list(pieces),
        "labels": [show_piece(piece, picture.CELLS) for piece in pieces],
        "whole": [show_piece(piece) for piece in pieces],
        "fates": [
            {"name": fate, "glyph": sign.glyph, "meaning": sign.meaning}
            for fate, sign in SIGNS.items()
        ],
        "size": {
            name: getattr(picture, name.upper())
            for name in ("column", "row", "width", "height", "margin", "bar", "most_entropy")
        },
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _request(request: RecordedRequest, pieces: dict[str, int]) -> dict[str, Any]:
    return {
        "number": request.number,
        "title": request.title,
        "specs": request.specs,
        "totals": attrs.asdict(total(request.steps)),
        "steps": [_step(step, pieces) for step in request.steps],
    }


def _step(step: RecordedStep, pieces: dict[str, int]) -> dict[str, Any]:
    """A step as columns, one entry a node."""

    def index(piece: str | None) -> int | None:
        return None if piece is None else pieces.setdefault(piece, len(pieces))

    nodes = step.nodes
    return {
        "row": [round(row, 2) for row in place_nodes([node.parent for node in nodes])],
        "parent": [node.parent for node in nodes],
        "depth": [node.depth for node in nodes],
        "place": [node.place for node in nodes],
        "token": [node.token for node in nodes],
        "piece": [index(node.piece) for node in nodes],
        "fate": [FATES.index(node.fate) for node in nodes],
        "q": _short(node.draft_logprob for node in nodes),
        "p": _short(node.target_logprob for node in nodes),
        "rank": [node.target_rank for node in nodes],
        "entropy": _short(node.target_entropy for node in nodes),
        "top": [[index(piece) for piece in node.top_pieces] for node in nodes],
        "top_p": [_short(node.top_logprobs) for node in nodes],
        "coin": _short(node.coin for node in nodes),
        "drawn": [node.node for node in nodes if node.proposal == "sampled"],
        "likeliest": [node.node for node in find_likeliest_path(nodes)],
        "committed": [node.node for node in step.committed],
        "length": step.row.get("length"),
        "ms": {name: round(value, 3) for name, value in step.times.items()},
    }


def _short(values: Iterable[float | None]) -> list[float | None]:
    """Numbers to four places, which is more than the page shows; JSON has no −∞."""
    return [None if value is None else round(max(value, LEAST), 4) for value in values]

"""What a notebook shows of a generation: its text, marked by origin, and its trees if recorded."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from toolkit.nodes import Fate
from toolkit.show.page import draw_page
from toolkit.show.recording import RecordedRequest

STYLES: dict[Fate, str] = {
    "accepted": "border-bottom:2px solid #00845f",
    "bonus": "border-bottom:2px dotted #1f7ad1",
}
FRAME = "width:100%;height:48rem;border:1px solid #8884;border-radius:6px"


def draw_output(
    tokens: Iterable[tuple[str, Fate]], figures: str, recorded: RecordedRequest | None
) -> str:
    """HTML of a text's tokens, a line of figures, and the page of the recorded request."""
    text = "".join(
        f'<span style="{STYLES.get(fate, "")}">{escape(piece)}</span>' for piece, fate in tokens
    )
    parts = [
        f'<div style="white-space:pre-wrap;line-height:1.8">{text}</div>',
        f"<p>{escape(figures)}; solid line: drafted, dotted: the target's own</p>",
    ]
    if recorded is not None:
        page = escape(draw_page([recorded]))
        parts.append(f'<iframe title="trees" style="{FRAME}" srcdoc="{page}"></iframe>')
    return "\n".join(parts)

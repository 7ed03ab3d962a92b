"""How nodes are written: whitespace visible, control characters escaped, a sign for each fate."""

from __future__ import annotations

import unicodedata

from attrs import frozen
from rich.cells import cell_len, set_cell_size

from toolkit.nodes import Fate

WHITESPACE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


@frozen
class Sign:
    """How a fate is shown: a glyph, a terminal colour, and what it means."""

    glyph: str
    style: str
    meaning: str


SIGNS: dict[Fate, Sign] = {
    "root": Sign("●", "bold", "the last committed token"),
    "accepted": Sign("✓", "green", "drafted and committed"),
    "bonus": Sign("◆", "blue", "the target's own token, committed last"),
    "rejected": Sign("✗", "red", "tested and not accepted"),
    "passed": Sign("·", "yellow", "an earlier sibling was accepted"),
    "unreached": Sign("○", "dim", "its parent was not accepted"),
}


def show_piece(piece: str, cells: int | None = None) -> str:
    """A piece with visible whitespace, at most `cells` terminal cells wide."""
    shown = "".join(_show_character(character) for character in piece)
    if cells is not None and cell_len(shown) > cells:
        shown = set_cell_size(shown, cells - 1).rstrip() + "…"
    return shown


def _show_character(character: str) -> str:
    """A character; an invisible or control character as its code point."""
    if character in WHITESPACE:
        return WHITESPACE[character]
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"⟨u+{ord(character):04x}⟩"
    return character

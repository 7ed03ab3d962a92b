"""WikiText-2, raw: sections of Wikipedia articles. Merity et al. 2016, arXiv:1609.07843."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit import Conversation

from ..dataset_loading import Row, hub

SHORTEST = 200  # characters; shorter sections are left out


def sections(rows: Iterable[Row]) -> list[Conversation]:
    """The set has a line per row: lines between two headings are one prompt."""
    found: list[Conversation] = []
    lines: list[str] = []
    for text in [*(row["text"] for row in rows), " = end = "]:
        if text.strip().startswith("=") and text.strip().endswith("="):
            whole = "".join(lines).strip()
            if len(whole) >= SHORTEST:
                found.append((whole,))
            lines = []
        elif text.strip():
            lines.append(text)
    return found


DATASET = hub(
    "wikitext2",
    "sections of Wikipedia articles (WikiText-2, raw, validation)",
    "Salesforce/wikitext",
    sections,
    config="wikitext-2-raw-v1",
    split="validation",
)

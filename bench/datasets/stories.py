"""Beginnings of children's stories, our own: prompts that the shipped models can continue."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from toolkit import Dataset, Source, ToolkitError


def load(location: str | None) -> Source:
    """One prompt per line."""
    if location is not None:
        raise ToolkitError(
            "data set stories ships with the package: write stories without a location"
        )
    text = (files(__package__) / "stories.txt").read_text(encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Source([(line,) for line in text.splitlines() if line], f"sha256:{digest}")


DATASET = Dataset("stories", "beginnings of children's stories, for the shipped models", load)

"""Beginnings of children's stories, ours: prompts that the shipped models can go on from."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from toolkit import Dataset, Source, ToolkitError


def load(location: str | None) -> Source:
    """A line is a prompt."""
    if location is not None:
        raise ToolkitError("data set stories ships with the package: write stories, and no place")
    text = (files(__package__) / "stories.txt").read_text(encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Source([(line,) for line in text.splitlines() if line], f"sha256:{digest}")


DATASET = Dataset("stories", "beginnings of children's stories, for the shipped models", load)

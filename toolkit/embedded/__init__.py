"""The small trained models that ship, and their card."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """The folder of a shipped model: target, middle or drafter."""
    return Path(__file__).parent / name

"""The small trained models that ship, their card, and the script that trained them."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """Where a shipped model lies: target, middle or drafter."""
    return Path(__file__).parent / name

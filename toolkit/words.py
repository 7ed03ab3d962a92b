"""Texts that people type: strict numbers, hints for mistyped names, and quotes of bounded length."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,3})?|[+-]?inf", re.IGNORECASE)
MOST = 200  # characters that an error quotes


def parse_whole(text: str) -> int:
    """Read a whole number in decimal digits; rejects 1_0, ² and ٣. Raises `ValueError`."""
    if not WHOLE.fullmatch(text):
        raise ValueError(f"{quote(text)} is not a whole number")
    return int(text)


def parse_real(text: str) -> float:
    """Read a number in decimal digits, or inf; rejects NaN. Raises `ValueError`."""
    if not REAL.fullmatch(text):
        raise ValueError(f"{quote(text)} is not a number")
    return float(text)


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """A question with up to three known names near a mistyped one; `otherwise` when none is near."""
    near = get_close_matches(name, list(known), 3)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def quote(text: str) -> str:
    """A text in quotes, shortened."""
    return shorten(repr(text))


def shorten(text: str, most: int = MOST) -> str:
    """A text without its middle where it is longer than `most` characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"

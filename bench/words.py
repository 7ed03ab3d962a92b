"""Numbers as people write them, and their words as errors quote them."""

from __future__ import annotations

import re
import reprlib

WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_QUOTES = reprlib.Repr()
_QUOTES.maxstring = 120


def whole(text: str) -> int:
    """A whole number in decimal digits: no 1_0, no ², no ٣. Raises `ValueError`."""
    if not WHOLE.fullmatch(text):
        raise ValueError(f"{cut(text)} is no whole number")
    return int(text)


def cut(text: str) -> str:
    """A text in quotes, its middle left out when it is long."""
    return _QUOTES.repr(text)

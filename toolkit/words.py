"""What people type: numbers, read strictly, and how an error quotes a text of any length."""

from __future__ import annotations

import re

WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,3})?|[+-]?inf", re.IGNORECASE)
MOST = 200  # characters of a text that an error quotes


def whole(text: str) -> int:
    """A whole number in decimal digits: no 1_0, no ², no ٣. Raises `ValueError`."""
    if not WHOLE.fullmatch(text):
        raise ValueError(f"{cut(text)} is no whole number")
    return int(text)


def real(text: str) -> float:
    """A number in decimal digits, or inf; NaN is none. Raises `ValueError`."""
    if not REAL.fullmatch(text):
        raise ValueError(f"{cut(text)} is no number")
    return float(text)


def cut(text: str) -> str:
    """A text in quotes, its middle left out where it is long."""
    return short(repr(text))


def short(text: str, most: int = MOST) -> str:
    """A text, its middle left out where it is longer than `most`."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"

"""What people type: numbers are read strictly, names get a hint, errors quote texts of any length."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,3})?|[+-]?inf", re.IGNORECASE)
MOST = 200  # characters of a text that an error quotes


def whole(text: str) -> int:
    """Read a whole number in decimal digits: 1_0, ² and ٣ are none. Raises `ValueError`."""
    if not WHOLE.fullmatch(text):
        raise ValueError(f"{cut(text)} is no whole number")
    return int(text)


def real(text: str) -> float:
    """Read a number in decimal digits, or inf; NaN is none. Raises `ValueError`."""
    if not REAL.fullmatch(text):
        raise ValueError(f"{cut(text)} is no number")
    return float(text)


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """The up to three known names nearest to a mistyped one, as a question; `otherwise` without any."""
    near = get_close_matches(name, list(known), 3)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def cut(text: str) -> str:
    """A text in quotes, its middle left out where it is long."""
    return short(repr(text))


def short(text: str, most: int = MOST) -> str:
    """A text, its middle left out where it is longer than `most`."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"

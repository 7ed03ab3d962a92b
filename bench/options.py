"""What the bench's options take: whole numbers, read strictly, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.words import parse_whole, quote

FILE = click.Path(path_type=Path)


class Whole(click.IntRange):
    """A whole number in decimal digits."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return super().convert(parse_whole(str(value)), param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Counts(click.ParamType[list[int]]):
    """Positive whole numbers joined by commas."""

    name = "counts"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        try:
            parts = value if isinstance(value, list) else map(parse_whole, value.split(","))
            found = list(parts)
        except ValueError:
            self.fail(
                f"{quote(value)} is not whole numbers joined by commas, as 64,128", param, ctx
            )
        if min(found) < 1:
            self.fail(f"{quote(value)}: each is at least 1", param, ctx)
        return found

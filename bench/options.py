"""What the bench's options take: whole numbers, read strictly, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit.words import cut, whole

FILE = click.Path(path_type=Path)


class Whole(click.IntRange):
    """A whole number in decimal digits."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return super().convert(whole(str(value)), param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Counts(click.ParamType[list[int]]):
    """Positive whole numbers joined by commas."""

    name = "counts"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        try:
            found = value if isinstance(value, list) else [whole(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{cut(value)} is not whole numbers joined by commas, as 64,128", param, ctx)
        if min(found) < 1:
            self.fail(f"{cut(value)}: each is at least 1", param, ctx)
        return found

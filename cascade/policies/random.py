"""Chance alone: the line between the first stage and the whole cascade."""

from __future__ import annotations

import attrs
from attrs.validators import and_, ge, le

from toolkit import StopPolicy, option


@attrs.define(eq=False)
class Random(StopPolicy):
    """Random: a share of the prompts, drawn by chance, runs every stage, and the others stop at the
    first. A policy that reads scores must beat the line that this draws over all shares."""

    name = "random"
    share: float = option(0.5, help="prompts that go on", validator=and_(ge(0), le(1)))

    def stop(self, scores: list[float], draw: float) -> bool:
        return draw >= self.share

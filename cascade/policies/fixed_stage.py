"""Always the same stage."""

from __future__ import annotations

import attrs
from attrs.validators import ge

from toolkit import StopPolicy, option


@attrs.define(eq=False)
class FixedStage(StopPolicy):
    """Fixed stage: every prompt stops at one stage, or at the last one if there are fewer."""

    name = "fixed-stage"
    stage: int = option(0, help="the stage, from 0", validator=ge(0))

    def stop(self, scores: list[float], draw: float) -> bool:
        return len(scores) > self.stage

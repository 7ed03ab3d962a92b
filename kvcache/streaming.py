"""The first positions and the last ones (StreamingLLM, Xiao et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, in_

from toolkit import MaskPolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Streaming(MaskPolicy):
    """Attention sinks and a recent window; with `positions=cache`, text without end.

    The paper counts positions within the cache, so that sinks stay next to the window however far it
    has gone. Here the sinks' keys move up to the window at every boundary, which is the same to a
    rotary model there; until the next boundary the window gains up to an epoch on them.
    """

    name = "streaming"
    budget: int = option(128, help="visible positions, sinks included", validator=ge(2))
    sinks: int = option(4, help="first positions, always visible", validator=ge(0))
    positions: str = option(
        "absolute",
        help="absolute, or cache: sinks follow the window, beyond the model's own positions",
        validator=in_(("absolute", "cache")),
    )
    epoch: int = option(16, help="tokens between boundaries, where rows are freed", validator=ge(2))

    @sinks.validator
    def _leave_room(self, _: object, sinks: int) -> None:
        if sinks >= self.budget:
            raise ValueError(
                f"sinks={sinks} leave nothing of budget={self.budget} for recent positions"
            )

    @property
    def reindexes(self) -> bool:
        return self.positions == "cache"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (key_pos < self.sinks) | (query_pos - key_pos < self.budget - self.sinks)

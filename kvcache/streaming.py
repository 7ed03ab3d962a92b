"""StreamingLLM (Xiao et al. 2023): attention sinks and a recent window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, in_

from toolkit import MaskPolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Streaming(MaskPolicy):
    """StreamingLLM: keeps the first positions (attention sinks) and a recent window.

    With `positions=cache` the keys of the sinks move up to the window at every decision, as in the
    paper, so that a text may be longer than the model's positions. Between two decisions the window
    moves ahead of them by up to one epoch.
    """

    name = "streaming"
    budget: int = option(128, help="visible positions, sinks included", validator=ge(2))
    sinks: int = option(4, help="first positions, always visible", validator=ge(0))
    positions: str = option(
        "absolute",
        help="absolute, or cache: sinks follow the window, for texts of any length",
        validator=in_(("absolute", "cache")),
    )
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))

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

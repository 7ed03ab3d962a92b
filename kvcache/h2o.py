"""Heavy hitters: positions that got most attention so far (H2O, Zhang et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class H2O(ScorePolicy):
    """Accumulated attention decides, the prompt's included; sinks and recent positions stay."""

    name = "h2o"
    budget: int = option(128, help="positions kept per KV head", validator=ge(1))
    recent: int = option(32, help="last positions, always kept", validator=ge(0))
    sinks: int = option(4, help="first positions, always kept", validator=ge(0))
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))
    mean: bool = option(
        False, help="attention per query that could see it, not the sum, which grows with age"
    )

    def score(self, view: KVView) -> Tensor:
        if not self.mean:
            return view.carry + view.colsum
        age = view.now - view.positions  # queries that could see it
        return (view.carry * (age - self.epoch).clamp(min=0) + view.colsum) / age

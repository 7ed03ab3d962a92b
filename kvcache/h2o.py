"""H2O (Zhang et al. 2023): the heavy hitters stay, positions with the most attention so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class H2O(ScorePolicy):
    """H2O: keeps the positions with the most accumulated attention, sinks and recent ones."""

    name = "h2o"
    headwise = True
    budget: int = option(128, help="positions kept per KV head", validator=ge(1))
    recent: int = option(32, help="last positions, always kept", validator=ge(0))
    sinks: int = option(4, help="first positions, always kept", validator=ge(0))
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))
    mean: bool = option(
        False, help="score by mean attention per query; the sum favours old positions"
    )

    def score(self, view: KVView) -> Tensor:
        if not self.mean:
            return view.carry + view.colsum
        age = view.now - view.positions  # queries that could see it
        return (view.carry * (age - self.epoch).clamp(min=0) + view.colsum) / age

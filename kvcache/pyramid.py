"""PyramidKV (Cai et al. 2024): SnapKV with larger budgets in lower layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, gt

from toolkit import KVView, ScorePolicy, option

from .snapkv import observe_attention, require_odd

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Pyramid(ScorePolicy):
    """PyramidKV: SnapKV with a budget that falls linearly from the first layer to the last."""

    name = "pyramid"
    once = True
    budget: int = option(
        64,
        help="prompt positions kept per KV head, mean over layers",
        validator=ge(1),
    )
    recent: int = option(
        16,
        help="last prompt positions: their queries score the others, and they are kept",
        validator=ge(1),
    )
    kernel: int = option(5, help="width of the average over neighbours, odd", validator=require_odd)
    beta: float = option(
        20.0,
        help="the last layer gets 1/beta of the mean, recent positions excluded",
        validator=gt(0),
    )

    def score(self, view: KVView) -> Tensor:
        return observe_attention(view, self.recent, self.kernel)

    def capacity(self, view: KVView) -> int:
        mean = self.budget - self.recent
        least = min(mean / self.beta, mean)
        depth = view.layer / max(1, view.layers - 1)
        share = (2 * mean - least) * (1 - depth) + least * depth if view.layers > 1 else mean
        return self.recent + round(share)

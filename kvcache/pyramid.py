"""SnapKV with more room in the lower layers (PyramidKV, Cai et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, gt

from toolkit import KVView, ScorePolicy, option

from .snapkv import observed, odd

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class Pyramid(ScorePolicy):
    """Decides once, at the end of the prompt; the budget falls from layer to layer, in a line."""

    name = "pyramid"
    once = True
    budget: int = option(
        64,
        help="positions of a long prompt kept per KV head, mean over layers",
        validator=ge(1),
    )
    recent: int = option(16, help="last positions: they observe, and are kept", validator=ge(1))
    kernel: int = option(5, help="neighbours smoothed over, odd", validator=odd)
    beta: float = option(
        20.0, help="how many times less than the mean the last layer gets", validator=gt(0)
    )

    def score(self, view: KVView) -> Tensor:
        return observed(view, self.recent, self.kernel)

    def capacity(self, view: KVView) -> int:
        mean = self.budget - self.recent
        least = min(mean / self.beta, mean)
        depth = view.layer / max(1, view.layers - 1)
        chosen = (2 * mean - least) * (1 - depth) + least * depth if view.layers > 1 else mean
        return self.recent + round(chosen)

"""A window for each KV head, sized by its attention; after DuoAttention (Xiao et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, gt, le

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class HeadAware(ScorePolicy):
    """Head-aware windows: each KV head keeps the sinks and a window sized by its own attention.

    At the end of the prompt, each head gets the smallest window that holds the share `mass` of its
    attention, sinks excluded. Each head of a layer takes as much memory as the widest one.
    """

    name = "headaware"
    headwise = True
    budget: int = option(128, help="positions that the widest head keeps", validator=ge(1))
    recent: int = option(8, help="smallest window", validator=ge(1))
    sinks: int = option(4, help="first positions, always kept", validator=ge(0))
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))
    mass: float = option(
        0.8, help="share of a head's attention that its window must hold", validator=[gt(0), le(1)]
    )
    observed: int = option(
        64, help="last prompt queries whose attention is measured", validator=ge(1)
    )

    _windows: dict[int, Tensor] = attrs.field(init=False, factory=dict)  # layer → [H_kv]

    def score(self, view: KVView) -> Tensor:
        return view.positions.to(view.carry.dtype)

    def capacity(self, view: KVView) -> Tensor:
        if view.layer not in self._windows:
            self._windows[view.layer] = self._measure_windows(view)
        return self._windows[view.layer]

    def _measure_windows(self, view: KVView) -> Tensor:
        """Positions to keep [H_kv]: the sinks, and the window measured on the last prompt queries."""
        rows = view.rows(self.observed).mean(1)  # [H_kv, w, C]
        distance = view.query_positions[-rows.shape[1] :, None] - view.positions[:, None, :]
        rows = rows.masked_fill((distance < 0) | (view.positions[:, None, :] < self.sinks), 0.0)
        by_distance = rows.new_zeros(len(rows), self.budget + 1)
        by_distance.scatter_add_(1, distance.clamp(0, self.budget).flatten(1), rows.flatten(1))
        share = by_distance.cumsum(1) / by_distance.sum(1, keepdim=True).clamp(min=1e-12)
        window = 1 + (share.bfloat16() < self.mass).sum(1)
        return (self.sinks + window.clamp(min=self.recent)).clamp(max=self.budget)

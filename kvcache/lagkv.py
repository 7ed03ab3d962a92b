"""Rows that vary unlike the stretch of text after them stay (LagKV, Liang et al. 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class LagKV(ScorePolicy):
    """No attention is read: keys and values are scaled by the range of the next `lag` rows, and the
    spread over their channels is the score, ranked within each stretch.

    The last stretch has no other after it and is kept.
    """

    name = "lagkv"
    logs = False
    budget: int = option(128, help="positions kept per KV head", validator=ge(1))
    lag: int = option(16, help="rows in a stretch", validator=ge(2))
    sinks: int = option(4, help="first positions, always kept", validator=ge(0))
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))

    def score(self, view: KVView) -> Tensor:
        count = view.positions.shape[1] - self.sinks
        stretches = max(0, count // self.lag - 1)
        scores = view.carry.new_full(view.carry.shape, 2.0)
        if stretches:
            end = self.sinks + stretches * self.lag
            keys, values = (
                self._spread(rows[:, self.sinks :].float(), stretches)
                for rows in (view.keys, view.values)
            )
            rank = (keys + values).bfloat16().argsort(dim=-1, stable=True).argsort(-1)
            scores[:, self.sinks : end] = (rank.to(scores.dtype) / self.lag).flatten(1)
        return scores

    def _spread(self, rows: Tensor, stretches: int) -> Tensor:
        """Spread over channels [H_kv, stretches, lag], a share of its stretch's sum."""
        parts = rows[:, : (stretches + 1) * self.lag].unflatten(1, (stretches + 1, self.lag))
        after, here = parts[:, 1:], parts[:, :-1]
        low, high = after.amin(2, keepdim=True), after.amax(2, keepdim=True)
        return ((here - low) / (high - low).clamp(min=1e-6)).std(-1).softmax(-1)

"""LagKV (Liang et al. 2025): rows that vary most relative to the chunk after them stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge

from toolkit import KVView, ScorePolicy, option

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define
class LagKV(ScorePolicy):
    """LagKV: scores rows by their variation after scaling by the range of the next chunk.

    Keys and values are scaled channel by channel with the minimum and maximum of the next `lag` rows.
    The score is the rank, within a chunk, of the standard deviation over channels. The last chunk has
    no chunk after it and is kept.
    """

    name = "lagkv"
    headwise = True
    logs = False
    budget: int = option(128, help="positions kept per KV head", validator=ge(1))
    lag: int = option(16, help="rows in a chunk", validator=ge(2))
    sinks: int = option(4, help="first positions, always kept", validator=ge(0))
    epoch: int = option(16, help="tokens between decisions", validator=ge(2))

    def score(self, view: KVView) -> Tensor:
        count = view.positions.shape[1] - self.sinks
        chunks = max(0, count // self.lag - 1)
        scores = view.carry.new_full(view.carry.shape, 2.0)
        if chunks:
            end = self.sinks + chunks * self.lag
            keys, values = (
                self._measure_deviation(rows[:, self.sinks :].float(), chunks)
                for rows in (view.keys, view.values)
            )
            rank = (keys + values).bfloat16().argsort(dim=-1, stable=True).argsort(-1)
            scores[:, self.sinks : end] = (rank.to(scores.dtype) / self.lag).flatten(1)
        return scores

    def _measure_deviation(self, rows: Tensor, chunks: int) -> Tensor:
        """Softmax, within each chunk, of the deviation over channels: [H_kv, chunks, lag]."""
        parts = rows[:, : (chunks + 1) * self.lag].unflatten(1, (chunks + 1, self.lag))
        next_chunk, chunk = parts[:, 1:], parts[:, :-1]
        low, high = next_chunk.amin(2, keepdim=True), next_chunk.amax(2, keepdim=True)
        return ((chunk - low) / (high - low).clamp(min=1e-6)).std(-1).softmax(-1)

"""KVView: what a KV policy that scores sees of one layer at a boundary.

Letters: H_kv KV heads, G query heads per KV head, C rows held, D head size, T queries logged. All of
it is of committed tokens: rejected drafts leave no trace here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from toolkit.errors import StrategyError

if TYPE_CHECKING:
    from torch import Tensor

CELLS = 1 << 24  # attention weights computed at a time


@frozen(eq=False)
class Attend:
    """How a layer attends: its scaling, and a cap, learned sinks or a sliding window of its own."""

    scaling: float
    softcap: float | None = None
    s_aux: Tensor | None = None  # [H]
    window: int | None = None

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Scores of query [.., T, D] on key [.., C, D], in float32 at least."""
        import torch

        exact = torch.promote_types(query.dtype, torch.float32)
        scores = query.to(exact) @ key.transpose(-1, -2).to(exact) * self.scaling
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        """Softmax of scores [H_kv, G, T, C] over what is visible; a row that sees nothing is 0."""
        import torch

        masked = scores.masked_fill(~visible, -torch.inf)
        if self.s_aux is not None:
            sinks = self.s_aux.to(scores.dtype).reshape(*scores.shape[:2], 1, 1)
            masked = torch.cat([masked, sinks.expand(*scores.shape[:3], 1)], -1)
        return masked.softmax(-1)[..., : scores.shape[-1]].nan_to_num(0.0)


@define(eq=False)
class KVView:
    """One layer's committed rows at boundary `now`: all positions below `now` are decided on. Its
    tensors are the cache's own, good until `score` returns: copy what is to be kept, change none.

    `keys[H_kv, C, D]`, `values[H_kv, C, D_v]`; `positions[H_kv, C]` int64, ascending, −1 where a head
    holds less than the others. `carry[H_kv, C]` float: what `score` returned at the last boundary,
    unrounded, 0 for rows that are new.
    """

    layer: int
    layers: int
    now: int
    keys: Tensor
    values: Tensor
    positions: Tensor
    carry: Tensor
    queries: Tensor  # [H, T, D], of the committed positions `now` − T … `now` − 1, oldest first
    _dies: Tensor  # [H_kv, C]: the first position that does not see the row
    _attend: Attend
    _rotate: Callable[[Tensor, Tensor], Tensor]
    _logs: bool = True
    _colsum: Tensor | None = field(init=False, default=None)

    @property
    def query_positions(self) -> Tensor:
        """Positions [T] of `queries`."""
        import torch

        return torch.arange(
            self.now - self.queries.shape[1], self.now, device=self.positions.device
        )

    @property
    def scaling(self) -> float:
        """What this layer multiplies a query times a key by."""
        return self._attend.scaling

    def rows(self, window: int) -> Tensor:
        """Attention weights [H_kv, G, w, C] of the last w ≤ `window` logged committed queries.

        At the end of the prompt its queries are all there, later an epoch's.
        """
        self._logged()
        count = self.queries.shape[1]
        return self._rows(max(0, count - window), count)

    def _logged(self) -> None:
        if not self._logs:
            raise StrategyError("a policy with `logs = False` reads no queries: take that line out")

    @property
    def colsum(self) -> Tensor:
        """Attention mass [H_kv, C] that each row got, summed over the queries since the last
        boundary (at the end of the prompt: the prompt's) and over the query heads of its group."""
        self._logged()
        if self._colsum is None:
            count = self.queries.shape[1]
            cells = self.queries.shape[0] * self.keys.shape[1]
            step = max(1, CELLS // max(1, cells))
            self._colsum = self.carry.new_zeros(self.carry.shape)
            for first in range(0, count, step):
                rows = self._rows(first, min(first + step, count))
                self._colsum = self._colsum + rows.sum((1, 2))
        return self._colsum

    def rotate(self, states: Tensor, by: Tensor) -> Tensor:
        """Move rotary `states[…, D]` by `by[…]` positions; unchanged in a model without rotary."""
        return self._rotate(states, by)

    def _rows(self, first: int, last: int) -> Tensor:
        """Attention weights of logged queries `first` … `last` − 1."""
        heads, _, width = self.keys.shape
        groups = self.queries.shape[0] // heads
        query = self.queries[:, first:last].reshape(heads, groups, last - first, width)
        at, held = self.query_positions[first:last, None], self.positions[:, None, :]
        visible = (held >= 0) & (held <= at) & (at < self._dies[:, None, :])
        if self._attend.window is not None:
            visible &= at - held < self._attend.window
        scores = self._attend.scores(query, self.keys[:, None])
        return self._attend.weights(scores, visible[:, None])

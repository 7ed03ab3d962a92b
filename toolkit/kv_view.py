"""KVView: the view of one layer's cache that a scoring KV policy gets at each decision.

Letters: H_kv KV heads, G query heads per KV head, H = H_kv·G, C rows held, D head size, T queries
logged. All rows and queries are of committed tokens; rejected drafts are not among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define, field

from toolkit.errors import StrategyError

if TYPE_CHECKING:
    from torch import Tensor

CELLS = 1 << 24  # attention weights computed at a time


@define(eq=False)
class KVView:
    """One layer's committed rows when a policy decides about the positions below `now`.

    `keys[H_kv, C, D]`; `positions[H_kv, C]` int64, ascending, −1 where a head holds less than the
    others. `carry[H_kv, C]` float: what `score` returned at the last decision, unrounded, 0 for rows
    that are new. `scaling` multiplies a query times a key in this layer. The tensors are the cache's
    own and valid until `score` returns: clone what you keep, change none.

    For a policy that is `headwise` these may be the rows of several layers: H_kv and H then count the
    heads of all, and `layer` is the first.
    """

    layer: int
    layers: int
    now: int
    keys: Tensor
    _values: Callable[[], Tensor]
    positions: Tensor
    carry: Tensor
    queries: Tensor  # [H, T, D], of the committed positions `now` − T … `now` − 1, oldest first
    scaling: float
    _evicted_at: Tensor  # [H_kv, C]: the first position that does not see the row
    _window: int | None  # the attention's own sliding window
    _weights: Callable[[Tensor, Tensor, Tensor], Tensor]  # by queries, keys, visible
    _rotate: Callable[[Tensor, Tensor], Tensor]
    _logs: bool = True
    _count: int = 1  # layers
    _colsum: Tensor | None = field(init=False, default=None)

    @property
    def values(self) -> Tensor:
        """Values [H_kv, C, D_v]."""
        return self._values()

    @property
    def query_positions(self) -> Tensor:
        """Positions [T] of `queries`."""
        import torch

        return torch.arange(
            self.now - self.queries.shape[1], self.now, device=self.positions.device
        )

    def rows(self, window: int) -> Tensor:
        """Attention weights [H_kv, G, w, C] of the last w ≤ `window` logged queries.

        At the end of the prompt all its queries are logged, later those of one epoch. Raises
        `StrategyError` for a policy with `logs = False`.
        """
        self._require_logs()
        count = self.queries.shape[1]
        return self._rows(max(0, count - window), count)

    @property
    def colsum(self) -> Tensor:
        """Attention mass [H_kv, C] of each row, summed over the logged queries and over the query
        heads of its group.

        At the end of the prompt all its queries are logged, later those of one epoch. Raises
        `StrategyError` for a policy with `logs = False`.
        """
        self._require_logs()
        if self._colsum is None:
            count = self.queries.shape[1]
            cells = self.queries.shape[0] * self.keys.shape[1]
            step = max(1, CELLS // max(1, cells))
            self._colsum = self.carry.new_zeros(self.carry.shape)
            for first in range(0, count, step):
                rows = self._rows(first, min(first + step, count))
                self._colsum = self._colsum + rows.sum((1, 2))
        return self._colsum

    def mean_over_heads(self, weights: Tensor) -> Tensor:
        """The mean [H_kv, C] of `weights[H_kv, G, C]` over all query heads of each layer, the same for
        all KV heads of the layer."""
        of_layer = weights.unflatten(0, (self._count, -1)).mean((1, 2), keepdim=True)
        return of_layer[:, 0].expand(-1, len(weights) // self._count, -1).flatten(0, 1)

    def rotate(self, states: Tensor, by: Tensor) -> Tensor:
        """Move rotary `states[…, D]` by `by[…]` positions; unchanged in a model without rotary."""
        return self._rotate(states, by)

    def _require_logs(self) -> None:
        if not self._logs:
            raise StrategyError(
                "this policy reads queries, but declares `logs = False`: remove that line"
            )

    def _rows(self, first: int, last: int) -> Tensor:
        """Attention weights of logged queries `first` … `last` − 1."""
        heads, _, width = self.keys.shape
        groups = self.queries.shape[0] // heads
        query = self.queries[:, first:last].reshape(heads, groups, last - first, width)
        at, held = self.query_positions[first:last, None], self.positions[:, None, :]
        visible = (held >= 0) & (held <= at) & (at < self._evicted_at[:, None, :])
        if self._window is not None:
            visible &= at - held < self._window
        return self._weights(query, self.keys[:, None], visible[:, None])

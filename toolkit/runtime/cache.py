"""TreeCache: K/V rows of committed tokens, followed by the scratch rows of one tree.

Rows 0…L−1 are committed, in position order. A forward appends its nodes as scratch rows L…L+S−1;
a commit moves the accepted path down to L…L+A−1 and forgets the rest. Sliding layers keep all
their rows: the window is a matter of visibility, so that a rejected branch can never have pushed a
needed row out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

GROWTH = 256  # rows added at a time: few copies, little slack


class TreeLayer(CacheLayerMixin):
    """Keys and values of one layer: two buffers [1, H_kv, rows, D]."""

    is_sliding = False
    is_compileable = False

    def __init__(self, owner: TreeCache) -> None:
        super().__init__()
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Allocate on first use, when shapes, dtype and device are known."""
        value_states = key_states if value_states is None else value_states
        self.keys, self.values = self._empty(key_states), self._empty(value_states)
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def _empty(self, like: Tensor) -> Tensor:
        _, heads, _, width = like.shape
        return like.new_zeros((1, heads, self.owner.rows, width))

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append one forward's K/V [1, H_kv, N, D] as scratch rows; returns every row in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.owner.end
        start = end - key_states.shape[2]
        self._reserve(self.owner.rows)
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _reserve(self, rows: int) -> None:
        held = self.keys.shape[2]
        if rows > held:
            old = self.keys, self.values
            self.keys, self.values = self._empty(self.keys), self._empty(self.values)
            self.keys[:, :, :held], self.values[:, :, :held] = old

    def move(self, source: Tensor, target: int) -> None:
        """Copy rows `source[A]` to `target`…; gathered first, so overlap is safe."""
        end = target + source.shape[0]
        self.keys[:, :, target:end] = self.keys.index_select(2, source)
        self.values[:, :, target:end] = self.values.index_select(2, source)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.end, 0

    def get_seq_length(self) -> int:
        return self.owner.length

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length


class TreeCache(Cache):
    """A transformers cache for `layers` layers that can hold a tree and take any part of it back."""

    def __init__(self, layers: int) -> None:
        self.length = 0  # L: committed rows
        self.scratch = 0  # S: rows forwarded since the last commit
        self.rows = 0  # capacity
        super().__init__(layers=[TreeLayer(self) for _ in range(layers)])

    @property
    def end(self) -> int:
        """Rows in use, L + S."""
        return self.length + self.scratch

    def extend(self, count: int) -> None:
        """Make room for `count` more scratch rows; the coming forward fills them."""
        self.scratch += count
        if self.end > self.rows:
            self.rows = -(-self.end // GROWTH) * GROWTH

    def commit(self, rows: Tensor) -> None:
        """Keep scratch rows `rows[A]` (host int64), a path in order, as the next committed rows."""
        count = rows.shape[0]
        if not torch.equal(rows, torch.arange(count)):
            for layer in self.layers:
                if layer.is_initialized:
                    layer.move(rows.to(layer.keys.device) + self.length, self.length)
        self.length += count
        self.scratch = 0

    @property
    def bytes(self) -> int:
        """Bytes held by the buffers of all layers."""
        held = [layer for layer in self.layers if layer.is_initialized]
        return sum(t.nbytes for layer in held for t in (layer.keys, layer.values))

    def committed(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [H_kv, L, D] of every layer that stores any."""
        return [
            (layer.keys[0, :, : self.length], layer.values[0, :, : self.length])
            for layer in self.layers
            if layer.is_initialized
        ]

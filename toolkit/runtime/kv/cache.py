"""TreeCache: K/V rows of committed tokens, followed by the scratch rows of one tree.

Rows 0 … C−1 of a layer are committed, in position order. A forward appends its nodes as scratch rows
C … C+S−1; a commit moves the accepted path down to C … and drops the rest. The cache stores rows and
knows no policy: `eviction.py` says which rows stay.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast
from weakref import proxy

import torch
from attrs import define
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from toolkit.errors import StrategyError
from toolkit.runtime.kernels import native, structs
from toolkit.runtime.kv.attention_config import AttentionConfig
from toolkit.runtime.kv.positions import GROWTH, PositionTable
from toolkit.runtime.kv.query_log import QueryLog
from toolkit.runtime.kv.slab import Slab, Slabs
from toolkit.transfer import send


class TreeLayer(CacheLayerMixin):
    """Keys and values of one layer: two buffers [1, H_kv, rows, D], and what eviction needs."""

    is_sliding = False
    is_compileable = False
    group: LayerGroup  # from the first rows on; not in a cycle, as `owner`

    def __init__(self, owner: TreeCache, index: int, window: int | None) -> None:
        super().__init__()
        self.owner = proxy(owner)  # not in a cycle: a cache is freed when its request ends
        self.index, self.window = index, window
        self.scored = owner.scored and window is None
        self.by_head = self.scored  # whether its heads may hold other rows than each other
        self.place = 0  # in its group
        self.attention = AttentionConfig(1.0)  # set when the layer attends
        self.sinks: Tensor | None = None  # keys [H_kv, sinks, D] as first written, when re-indexing

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Allocate on first use, when shapes, dtype and device are known."""
        value_states = key_states if value_states is None else value_states
        if self.owner.slabs is not None:
            self.keys, self.values = self.owner.take_slab(0).layer(self.index)
        else:
            self.keys = key_states.new_zeros((*key_states.shape[:2], 0, key_states.shape[3]))
            self.values = value_states.new_zeros(
                (*value_states.shape[:2], 0, value_states.shape[3])
            )
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True
        self.owner.add_to_group(self)

    @property
    def table(self) -> PositionTable:
        """The positions of its rows, among those of its group."""
        return self.group.table

    @property
    def heads(self) -> slice:
        """Which heads of its table are its own."""
        count = self.keys.shape[1]
        return slice(self.place * count, (self.place + 1) * count) if self.by_head else slice(None)

    def log(self, queries: Tensor) -> None:
        """Keep `queries[H, N, D]` of the newest scratch rows."""
        self.group.queries.add(self.place, queries)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append one forward's K/V [1, H_kv, N, D] as scratch rows; returns every row in use.

        K/V for which no scratch rows were announced belong to a prompt that is scored: they are not
        stored here, and eviction stores those that stay.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if not self.owner.scratch:
            return key_states, value_states
        heads, count, width = key_states.shape[1:]
        start = self.claim(count, heads, width, key_states.dtype)
        end = start + count
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def claim(self, count: int, heads: int, width: int, dtype: torch.dtype) -> int:
        """Room on the CPU for K/V [H_kv, N, D] of the `count` newest scratch rows, which the caller
        writes; returns the index of the first one."""
        if not self.is_initialized:
            self.lazy_initialization(torch.empty(1, heads, 0, width, dtype=dtype))
        end = self.table.count + self.owner.scratch
        self.reserve(end)
        return end - count

    def reserve(self, rows: int) -> None:
        """Room for at least `rows` rows; if there is too little, for a quarter more than there was."""
        if rows > (room := self.keys.shape[2]):
            self.fit(max(rows, room + room // 4))

    def fit(self, rows: int) -> None:
        """Buffers of `rows` rows, rounded up, with what they hold. A slab only grows."""
        if self.owner.slabs is not None:
            self.owner.take_slab(rows)
            return
        rows = -(-rows // GROWTH) * GROWTH
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros((*old.shape[:2], rows, old.shape[3]))
            kept = min(rows, old.shape[2])
            new[:, :, :kept] = old[:, :, :kept]
            setattr(self, name, new)
        self.owner.changed()
        self.owner.measure()

    def move(self, rows: Tensor) -> None:
        """Make scratch rows `rows[A]` the first ones; gathered first, so overlap is safe."""
        first, source = self.table.count, rows + self.table.count
        for buffer in (self.keys, self.values):
            buffer[:, :, first : first + len(rows)] = buffer.index_select(2, source)

    def store(self, keys: Tensor, values: Tensor) -> None:
        """Make K/V [1, H_kv, A, D] the next committed rows, without a forward."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        start, end = self.table.count, self.table.count + keys.shape[2]
        self.reserve(end)
        self.keys[:, :, start:end], self.values[:, :, start:end] = keys, values

    def take(self, keys: Tensor, values: Tensor, index: Tensor) -> None:
        """Hold copies of the rows `index[h, C']` of K/V [1, H_kv, C, D]."""
        kept = gather_rows(keys, index), gather_rows(values, index)
        if self.owner.slabs is None:
            self.keys, self.values = kept
            self.owner.changed()
        else:
            rows = index.shape[1]
            self.reserve(rows)
            self.keys[:, :, :rows], self.values[:, :, :rows] = kept

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return max(self.owner.length + self.owner.scratch, query_length), 0

    def get_seq_length(self) -> int:
        return self.owner.length

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that this layer keeps, apart from its group's."""
        buffers = [self.keys, self.values] if self.is_initialized else []
        return buffers if self.sinks is None else [*buffers, self.sinks]


def gather_rows(buffer: Tensor, index: Tensor) -> Tensor:
    """The rows `index[h, C']` of `buffer[B, H, C, D]`: [B, H, C', D]. h is H, or 1."""
    many, heads, _, width = buffer.shape
    return buffer.gather(2, index[None, :, :, None].expand(many, heads, -1, width))


@define(eq=False)
class LayerGroup:
    """Layers that hold equally many rows, about which a policy decides together.

    These are the layers of one window, which hold the same rows; or, where heads may hold other rows
    than each other, layers of one shape. h counts the heads of all, layer by layer.
    """

    layers: list[TreeLayer]
    table: PositionTable
    queries: QueryLog
    carry: Tensor | None = None  # [h, ≤C]: the policy's last scores

    def __attrs_post_init__(self) -> None:
        for place, layer in enumerate(self.layers):
            layer.group, layer.place = proxy(self), place

    def add(self, layer: TreeLayer) -> None:
        """Take in a layer that holds the same rows."""
        layer.group, layer.place = proxy(self), len(self.layers)
        self.layers.append(layer)
        self.queries.scratch.append([])

    @property
    def bytes(self) -> int:
        """Bytes of what is kept beside keys and values."""
        return (
            self.table.bytes + self.queries.bytes + (0 if self.carry is None else self.carry.nbytes)
        )


class TreeCache(Cache):
    """A transformers cache that holds a tree and can drop any part of it.

    `windows` are the layers' own sliding windows. `scored` says that a policy scores the rows of the
    layers without one, so that each of their heads may hold other positions. With `slabs`, all layers
    lie in one slab.
    """

    def __init__(
        self,
        layers: int,
        windows: tuple[int | None, ...] = (),
        scored: bool = False,
        slabs: Slabs | None = None,
    ) -> None:
        self.slabs = slabs
        self.slab: Slab | None = None
        self.captured = True  # whether all passes after the prompt were, none under masks
        self.graphs_captured = 0  # for the request, of passes and of whole steps
        self.length = 0  # L: committed tokens
        self.scratch = 0  # S: rows forwarded since the last commit
        self.placed: list[int] = []  # the scratch rows that lie first already, if any were moved
        self.scored = scored
        self._peak = 0  # bytes held at most, when last measured
        self.initialized: list[TreeLayer] = []  # layers that store K/V
        self.groups: list[LayerGroup] = []  # of these layers
        self.tables: list[PositionTable] = []  # of the groups
        self._buffers: Any = None  # theirs for the kernels, until one is replaced
        windows = windows or (None,) * layers
        super().__init__(layers=[TreeLayer(self, i, windows[i]) for i in range(layers)])

    def add_to_group(self, layer: TreeLayer) -> None:
        """Put a layer into the group of its window, or into one of its own where its heads may hold
        other rows than each other."""
        for group in self.groups:
            if (
                not (layer.by_head or group.layers[0].by_head)
                and group.table.window == layer.window
            ):
                group.add(layer)
                break
        else:
            heads = layer.keys.shape[1] if layer.by_head else 1
            table = PositionTable(heads, layer.window, layer.device)
            table.append(0, self.length)
            self.groups.append(LayerGroup([layer], table, QueryLog.empty(1)))
        self.changed()

    def take_slab(self, rows: int) -> Slab:
        """The slab, with room for at least `rows` rows: a larger one where the one before is full."""
        before = self.slab
        if before is None or rows > before.room:
            slab = cast("Slabs", self.slabs).take(self, rows)
            if before is not None:
                slab.buffer[:, :, :, : before.room + 1] = before.buffer
            for layer in self.layers:
                if layer.is_initialized:
                    layer.keys, layer.values = slab.layer(layer.index)
            self.slab = slab
            self.changed()
            return slab
        return before

    @property
    def rows(self) -> int | None:
        """Committed rows C of every layer; None where layers hold different numbers of rows."""
        counts = {table.count for table in self.tables}
        return counts.pop() if len(counts) == 1 else None

    def changed(self) -> None:
        """Note that a buffer or a group was replaced."""
        self.initialized = [layer for layer in self.layers if layer.is_initialized]
        self.tables, self._buffers = [group.table for group in self.groups], None

    def extend(self, count: int, placed: list[int] | None = None) -> None:
        """Announce `count` more scratch rows, which the coming forward fills; or which a whole step has
        filled before it made rows `placed` of them the first ones."""
        self.scratch += count
        self.placed = placed or []

    def commit(self, rows: list[int]) -> None:
        """Keep scratch rows `rows[A]`, a path in order, as the next committed rows. Raises
        `StrategyError` when it is none."""
        if any(above >= below for above, below in pairwise([-1, *rows, self.scratch])):
            raise StrategyError(
                f"rows {rows} are no path among {self.scratch} scratch rows: they must ascend"
            )
        if self.placed and rows != self.placed[: len(rows)]:
            raise StrategyError(
                f"rows {rows} are not the path {self.placed} that a whole step accepted: use "
                f"executor functional with this verifier"
            )
        if not self.placed and rows != list(range(len(rows))):
            self._move(rows)
        for group in self.groups:
            if group.queries.drafted:
                group.queries.commit(rows)
        self.append(len(rows))

    def commit_prompt(self, count: int) -> None:
        """Count a prompt of `count` tokens that is scored: eviction has stored what stays of it."""
        self.length = count

    def _move(self, rows: list[int]) -> None:
        """Make scratch rows `rows[A]` the first ones of every layer."""
        layers = self.initialized
        if layers[0].device.type == "cpu" and (kernels := native.library()) is not None:
            if self._buffers is None:
                self._buffers = structs.buffers((layer.keys, layer.values) for layer in layers)
            kernels.move(self._buffers, [layer.table.count for layer in layers], rows)
            return
        first = self.rows
        if self.slab is not None and first is not None:
            self.slab.move(first, rows)
            return
        (index,) = send(layers[0].device, torch.tensor(rows, dtype=torch.long))
        for layer in layers:
            layer.move(index)

    def append(self, count: int) -> None:
        """Count `count` rows as committed; every layer has stored them."""
        for table in self.tables:
            table.append(self.length, count)
        self.length += count
        self.scratch, self.placed = 0, []

    def rewind(self, length: int) -> bool:
        """Forget the committed rows from position `length` on, and all scratch rows.

        False, and nothing is forgotten, when a row before `length` is gone that the next token needs:
        the rows of a layer's sliding window are dropped once it has moved on.
        """
        if not all(table.reaches(length) for table in self.tables):
            return False
        for table in self.tables:
            table.truncate(length)
        self.length, self.scratch, self.placed, self.graphs_captured = length, 0, [], 0
        return True

    @property
    def bytes(self) -> int:
        """Bytes held: buffers and tables of all layers, and what eviction keeps beside them."""
        beside = sum(group.bytes for group in self.groups)
        return beside + sum(part.nbytes for layer in self.layers for part in layer.tensors)

    def measure(self, transient: int = 0) -> None:
        """Update `peak` with the bytes held and `transient` ones; call it when most are held."""
        self._peak = max(self._peak, self.bytes + transient)

    @property
    def peak(self) -> int:
        """The most bytes held so far."""
        return max(self._peak, self.bytes)

    @property
    def evicted(self) -> int:
        """Rows that a policy evicted so far, over all layers and heads; rows that only left a layer's
        own sliding window are not counted."""
        return sum(table.evicted for table in self.tables if table.window is None)

    def committed(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Positions [h, C], keys and values [H_kv, C, D] of every layer that stores any."""
        return [
            (
                layer.table.positions[layer.heads],
                layer.keys[0, :, : layer.table.count],
                layer.values[0, :, : layer.table.count],
            )
            for layer in self.initialized
        ]

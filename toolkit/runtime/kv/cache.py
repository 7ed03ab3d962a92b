"""TreeCache: K/V rows of committed tokens, followed by the scratch rows of one tree.

Rows 0…C−1 of a layer are committed, in position order. A forward appends its nodes as scratch rows
C…C+S−1; a commit moves the accepted path down to C… and forgets the rest. What a KV policy evicts is
moved out at boundaries (`eviction.py`), so buffers are sized by the policy, not by the text. Sliding
layers evict what left their window at the same boundaries and no sooner, so that a rejected branch
can never have pushed a needed row out.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from toolkit.errors import StrategyError
from toolkit.interfaces import KVPolicy
from toolkit.runtime.kernels import native, structs
from toolkit.runtime.kv.positions import GROWTH, Slots
from toolkit.view import Attend


class TreeLayer(CacheLayerMixin):
    """Keys and values of one layer: two buffers [1, H_kv, rows, D], and what the policy needs."""

    is_sliding = False
    is_compileable = False

    def __init__(self, owner: TreeCache, index: int, window: int | None) -> None:
        super().__init__()
        self.owner, self.index, self.window = owner, index, window
        self.slots = Slots(1, window, torch.device("cpu"))
        self.attend: Attend | None = None  # known once the layer has attended
        self.drafted: list[Tensor] = []  # queries [H, N, D] of the scratch rows, forward by forward
        self.log: Tensor | None = None  # queries [H, T, D] of the last committed positions
        self.carry: Tensor | None = None  # [H_kv, ≤C]: the policy's scores at the last boundary
        self.sinks: Tensor | None = None  # keys [H_kv, sinks, D] as first written, when re-indexing

    @property
    def scores(self) -> bool:
        """Whether the policy scores this layer; a sliding layer keeps to its window instead."""
        policy = self.owner.policy
        return policy is not None and policy.chooses() and self.window is None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Allocate on first use, when shapes, dtype and device are known."""
        value_states = key_states if value_states is None else value_states
        self.keys = key_states.new_zeros((*key_states.shape[:2], 0, key_states.shape[3]))
        self.values = value_states.new_zeros((*value_states.shape[:2], 0, value_states.shape[3]))
        self.dtype, self.device = key_states.dtype, key_states.device
        self.slots = self.owner.slots_of(self)
        self.is_initialized = True
        self.owner.changed()

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append one forward's K/V [1, H_kv, N, D] as scratch rows; returns every row in use.

        A prompt that is scored is passed through whole: `eviction` stores what stays.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.owner.prompting:
            return key_states, value_states
        start = self._room(count := key_states.shape[2])
        end = start + count
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def claim(self, count: int, heads: int, width: int, dtype: torch.dtype) -> int:
        """Room for K/V [H_kv, N, D] of the `count` newest scratch rows on the CPU; the first one's
        index. Whoever asked writes them."""
        if not self.is_initialized:
            self.lazy_initialization(torch.empty(1, heads, 0, width, dtype=dtype))
        return self._room(count)

    def _room(self, count: int) -> int:
        end = self.slots.count + self.owner.scratch
        self.reserve(end)
        return end - count

    def reserve(self, rows: int) -> None:
        """Room for at least `rows` rows; if there is too little, for a quarter more than there was."""
        if rows > (room := self.keys.shape[2]):
            self.fit(max(rows, room + room // 4))

    def fit(self, rows: int) -> None:
        """Buffers of `rows` rows, rounded up, with what they hold."""
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
        first, source = self.slots.count, rows + self.slots.count
        for buffer in (self.keys, self.values):
            buffer[:, :, first : first + len(rows)] = buffer.index_select(2, source)

    def remember(self, rows: list[int]) -> None:
        """Log the queries of scratch rows `rows[A]`, which are committed, and forget the others."""
        queries = torch.cat(self.drafted, 1)[:, rows]
        self.log = queries if self.log is None else torch.cat([self.log, queries], 1)
        self.drafted = []

    def store(self, keys: Tensor, values: Tensor) -> None:
        """Make K/V [1, H_kv, A, D] the next committed rows, without a forward."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        start, end = self.slots.count, self.slots.count + keys.shape[2]
        self.reserve(end)
        self.keys[:, :, start:end], self.values[:, :, start:end] = keys, values

    def keep(self, index: Tensor) -> None:
        """Compact to the rows `index[h, C']`, in order."""
        self.keys[:, :, : index.shape[1]] = _rows(self.keys, index)
        self.values[:, :, : index.shape[1]] = _rows(self.values, index)

    def take(self, keys: Tensor, values: Tensor, index: Tensor) -> None:
        """Hold rows `index[h, C']` of K/V [1, H_kv, C, D] that lie elsewhere."""
        self.keys, self.values = _rows(keys, index), _rows(values, index)
        self.owner.changed()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.length + self.owner.scratch, 0

    def get_seq_length(self) -> int:
        return self.owner.length

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length

    @property
    def held(self) -> list[Tensor]:
        """Every tensor that this layer keeps."""
        parts = [self.log, self.carry, self.sinks, *self.drafted]
        buffers = [self.keys, self.values] if self.is_initialized else []
        return buffers + [part for part in parts if part is not None]


def _rows(buffer: Tensor, index: Tensor) -> Tensor:
    return buffer.gather(2, index[None, :, :, None].expand(1, buffer.shape[1], -1, buffer.shape[3]))


@frozen(eq=False, slots=False)
class Layout:
    """Where everything lies, until a buffer or a table is replaced."""

    layers: list[TreeLayer]  # those that store K/V
    tables: list[Slots]  # each once

    @classmethod
    def of(cls, layers: list[TreeLayer]) -> Layout:
        """Of a cache's layers."""
        held = [layer for layer in layers if layer.is_initialized]
        return cls(held, list({id(layer.slots): layer.slots for layer in held}.values()))

    @cached_property
    def buffers(self) -> Any:
        """Every layer's keys and values, for the kernels; None where they are not on the CPU."""
        if any(layer.device.type != "cpu" for layer in self.layers):
            return None
        both = [buffer for layer in self.layers for buffer in (layer.keys, layer.values)]
        return structs.array(structs.Rows, list(map(structs.Rows.of, both)))


class TreeCache(Cache):
    """A transformers cache that can hold a tree and take any part of it back.

    `windows` are the layers' own sliding windows; `policy` None keeps everything.
    """

    def __init__(
        self, layers: int, policy: KVPolicy | None = None, windows: tuple[int | None, ...] = ()
    ) -> None:
        self.length = 0  # L: committed tokens
        self.scratch = 0  # S: rows forwarded since the last commit
        self.policy = policy
        self.prompting = False  # during the forward of a prompt that is scored
        self._peak = 0  # bytes held at most, when last measured
        self._slots: dict[int | None, Slots] = {}
        self._layout: Layout | None = None
        windows = windows or (None,) * layers
        super().__init__(layers=[TreeLayer(self, i, windows[i]) for i in range(layers)])

    def slots_of(self, layer: TreeLayer) -> Slots:
        """A table of its own for a layer that is scored, else one for all layers of one window."""
        if layer.scores:
            return Slots(layer.keys.shape[1], layer.window, layer.device)
        if layer.window not in self._slots:
            slots = self._slots[layer.window] = Slots(1, layer.window, layer.device)
            slots.append(0, self.length)
        return self._slots[layer.window]

    @property
    def layout(self) -> Layout:
        """Where everything lies now."""
        if self._layout is None:
            self._layout = Layout.of(self.layers)
        return self._layout

    def changed(self) -> None:
        """A buffer or a table was replaced."""
        self._layout = None

    @property
    def tables(self) -> list[Slots]:
        """Every table of slots, each once."""
        return self.layout.tables

    @property
    def initialized(self) -> list[TreeLayer]:
        """Layers that store K/V."""
        return self.layout.layers

    def adopt(self, source: TreeCache, count: int) -> None:
        """Take over the last `count` committed rows of another cache of the same model."""
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            if theirs.is_initialized:
                end = theirs.slots.count
                rows = slice(end - count, end)
                mine.store(theirs.keys[:, :, rows], theirs.values[:, :, rows])
        self._append(count)
        self.measure()

    def fill(self, count: int, seed: int) -> None:
        """Commit `count` rows of noise, the same in every cache of a model that is filled alike: a
        long context without the passes that would write it."""
        rng = torch.Generator().manual_seed(seed)
        for layer in self.initialized:
            shapes = [
                (*part.shape[:2], count, part.shape[3]) for part in (layer.keys, layer.values)
            ]
            layer.store(*(torch.randn(shape, generator=rng).to(layer.keys) for shape in shapes))
        self._append(count)
        self.measure()

    def extend(self, count: int) -> None:
        """Announce `count` more scratch rows; the coming forward fills them."""
        self.scratch += count

    def commit(self, rows: list[int]) -> None:
        """Keep scratch rows `rows[A]`, a path in order, as the next committed rows. Raises
        `StrategyError` when it is none."""
        if any(above >= below for above, below in pairwise([-1, *rows, self.scratch])):
            raise StrategyError(
                f"rows {rows} are no path among {self.scratch} scratch rows: they must ascend"
            )
        if rows != list(range(len(rows))):
            self._move(rows)
        for layer in self.initialized:
            if layer.drafted:
                layer.remember(rows)
        self._append(len(rows))

    def _move(self, rows: list[int]) -> None:
        """Make scratch rows `rows[A]` the first ones of every layer."""
        layers, buffers = self.initialized, self.layout.buffers
        if buffers is not None and (kernels := native.library()) is not None:
            kernels.move(buffers, [layer.slots.count for layer in layers], rows)
            return
        index = torch.tensor(rows, device=layers[0].device)
        for layer in layers:
            layer.move(index)

    def _append(self, count: int) -> None:
        """Count `count` rows as committed; a scored prompt's have their places already."""
        for slots in [] if self.prompting else self.tables:
            slots.append(self.length, count)
        self.length += count
        self.scratch = 0

    @property
    def bytes(self) -> int:
        """Bytes held: buffers of all layers, and what the policy keeps beside them."""
        tables = sum(slots.bytes for slots in self.tables)
        return tables + sum(part.nbytes for layer in self.layers for part in layer.held)

    def measure(self, transient: int = 0) -> None:
        """Remember the bytes held, with `transient` ones on top, if they are the most so far: to be
        called when buffers or logs are at their largest."""
        self._peak = max(self._peak, self.bytes + transient)

    @property
    def peak(self) -> int:
        """The most bytes held so far."""
        return max(self._peak, self.bytes)

    @property
    def evicted(self) -> int:
        """Rows that the policy let go so far, over all layers and heads: what merely left a layer's
        own sliding window does not count."""
        return sum(slots.evicted for slots in self.tables if slots.window is None)

    def committed(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Positions [h, C], keys and values [H_kv, C, D] of every layer that stores any."""
        return [
            (
                layer.slots.positions,
                layer.keys[0, :, : layer.slots.count],
                layer.values[0, :, : layer.slots.count],
            )
            for layer in self.initialized
        ]

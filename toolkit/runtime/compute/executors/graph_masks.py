"""What graphs read where tables or a policy hide rows: masks that stay where they are in memory."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from toolkit.runtime.compute.attention import Pass

NEVER = 2**31 - 1  # later than any position, in int32


@frozen
class MaskLayout:
    """Which tables of a cache a graph's layers read, and which queries it logs."""

    table: tuple[int, ...]  # of each layer: its index among the cache's tables
    place: tuple[int, ...]  # of each layer: which of the layers of its table it is
    scored: tuple[bool, ...]  # of each table: whether heads may hold other positions
    logged: tuple[bool, ...]  # of each layer

    @classmethod
    def of(cls, now: Pass) -> MaskLayout | None:
        """The layout of a pass; None where every row sees all that is before it."""
        cache, eviction = now.cache, now.eviction
        logged = tuple(map(eviction.logs, cache.layers))
        hides = eviction.hides(now.deepest) or any(
            table.hides(now.deepest) or (table.window or now.deepest + 1) <= now.deepest
            for table in cache.tables
        )
        if not hides and not any(logged) and cache.rows is not None:
            return None
        index = {id(table): at for at, table in enumerate(cache.tables)}
        scored = tuple(cache.scored and table.window is None for table in cache.tables)
        table = tuple(index[id(layer.table)] for layer in cache.layers)
        return cls(table, tuple(layer.place for layer in cache.layers), scored, logged)


@frozen(eq=False)
class GraphMasks:
    """Which rows of a slab of R rows a graph's M rows see, by table.

    Of a scored table, the first position [h, R] that does not see the row, int32, written when the
    table has changed; rows that are committed later are seen. Of another, bool [M, R], written before
    each pass.
    """

    layout: MaskLayout
    parts: tuple[Tensor, ...]
    _editions: list[object]  # of each table, when its part was written

    @classmethod
    def empty(
        cls, layout: MaskLayout, rows: int, capacity: int, kv_heads: int, device: torch.device
    ) -> GraphMasks:
        """Masks that hide everything, for M `rows` and R = `capacity`."""
        parts = tuple(
            torch.zeros(
                kv_heads * layout.table.count(at), capacity, dtype=torch.int32, device=device
            )
            if scored
            else torch.zeros(rows, capacity, dtype=torch.bool, device=device)
            for at, scored in enumerate(layout.scored)
        )
        return cls(layout, parts, [None] * len(parts))

    def fill(self, now: Pass, begin: int) -> None:
        """Write what a pass's rows from `begin` on see. Padding rows see what the last row sees."""
        for at, (table, part) in enumerate(zip(now.cache.tables, self.parts, strict=True)):
            if not self.layout.scored[at]:
                layer = now.cache.layers[self.layout.table.index(at)]
                seen = now.mask(layer, table.window)[begin : begin + len(part)]
                count, width = seen.shape
                part[:count, :width] = seen
                part[count:, :width] = seen[-1]
            elif self._editions[at] is not table.edition:
                part.fill_(NEVER)
                part[:, : table.count] = table.evicted_at.clamp(max=NEVER)
                self._editions[at] = table.edition

    def visible(self, layer: int, positions: Tensor) -> Tensor:
        """Which rows of the slab queries at `positions[M]` of a layer see: bool [h, M, R]."""
        at, place = self.layout.table[layer], self.layout.place[layer]
        part = self.parts[at]
        if not self.layout.scored[at]:
            return part[None]
        return part.chunk(self.layout.table.count(at))[place][:, None] > positions[:, None]

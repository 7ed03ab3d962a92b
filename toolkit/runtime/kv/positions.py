"""PositionTable: the position of each committed row, and the position from which on it is evicted.

Rows lie in position order, so a row's index is not its position once something was evicted. A KV
head that holds fewer rows than others has empty ones in front (position −1, never visible).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit.transfer import fetch

NEVER = 1 << 40  # later than any position
GROWTH = 64  # rows added at a time: few copies, little slack


class PositionTable:
    """Positions and evictions [h, C] of the rows of layers that hold equally many. h counts the KV
    heads of all of them, layer by layer, or is 1 where all hold the same rows."""

    def __init__(self, heads: int, window: int | None, device: torch.device) -> None:
        self.window = window  # a sliding window of the layers' own
        self.count = 0  # C: rows held
        self._written = 0  # of them; the others hold the positions from `_next` on
        self._next = 0
        self._table = torch.zeros(2, heads, 0, dtype=torch.long, device=device)
        self.next_eviction = NEVER  # the first position that does not see all rows but empty ones
        self.ragged = False  # whether some rows are empty
        self.edition = object()  # another one whenever rows are hidden or dropped
        self.evicted = 0  # rows evicted so far, summed over heads
        self.sizes: list[int] = []  # of each head: rows that were not empty after the last eviction

    @property
    def heads(self) -> int:
        """How many KV heads have rows of their own: h."""
        return self._table.shape[1]

    @property
    def positions(self) -> Tensor:
        """Position [h, C] of each row."""
        return self._rows()[0]

    @property
    def evicted_at(self) -> Tensor:
        """The first position [h, C] that does not see the row; `NEVER` while it is kept."""
        return self._rows()[1]

    def _rows(self) -> Tensor:
        """Both tables [2, h, C] of all rows held; new rows are written on the first read."""
        if self._written < self.count:
            self.reserve(self.count)
            new = self._table[:, :, self._written : self.count]
            new[0] = torch.arange(self._next, self._next + new.shape[2], device=new.device)
            new[1] = NEVER
            self._written = self.count
        return self._table[:, :, : self.count]

    def reserve(self, rows: int) -> None:
        """Room for at least `rows` rows."""
        if rows > self._table.shape[2]:
            self.fit(rows)

    def fit(self, rows: int) -> None:
        """Room for `rows` rows, rounded up, and no more."""
        room = -(-rows // GROWTH) * GROWTH
        self._table = pad(self._table, (0, room - self._table.shape[2])).clone()

    def append(self, first: int, count: int) -> None:
        """Add rows for `count` positions from `first` on."""
        if self._next + self.count - self._written != first:
            self._rows()
        if self._written == self.count:
            self._next = first
        self.count += count

    @classmethod
    def _of(cls, rows: Tensor, window: int | None) -> PositionTable:
        """A table of rows [2, h, C]."""
        table = cls(rows.shape[1], window, rows.device)
        table.count = table._written = rows.shape[2]
        table.reserve(table.count)
        table._rows()[:] = rows
        return table

    @classmethod
    def joined(cls, tables: list[PositionTable]) -> PositionTable:
        """The table of the heads of several that hold equally many rows."""
        table = cls._of(torch.cat([part._rows() for part in tables], 1), tables[0].window)
        table.next_eviction = min(part.next_eviction for part in tables)
        table.ragged = any(part.ragged for part in tables)
        table.evicted = sum(part.evicted for part in tables)
        return table

    def part(self, heads: list[int], at: Tensor) -> PositionTable:
        """The table of some `heads`, without the rows that are empty in all of them, after an eviction;
        `at[h']` are their numbers on the device. Evictions so far stay counted here."""
        sizes = [self.sizes[head] for head in heads]
        rows = self._rows().index_select(1, at)
        table = self._of(rows[:, :, self.count - max(sizes) :], self.window)
        table.next_eviction, table.sizes = self.next_eviction, sizes
        table.ragged = min(sizes) < max(sizes)
        return table

    def copy(self, heads: slice, count: int) -> PositionTable:
        """A table that holds the positions of `heads`, none of them evicted, for `count` heads."""
        positions = self.positions[heads].expand(count, -1)
        table = self._of(
            torch.stack([positions, torch.where(positions < 0, 0, NEVER)]), self.window
        )
        table.ragged = self.ragged
        return table

    def evict(self, rows: Tensor, when: int, now: int) -> Tensor | None:
        """Hide `rows[h, ≤C]` bool from queries at `when` and later, and drop the rows that no query
        from `now` on sees. Waits for the device once.

        Returns the old index [h, C'] of each row that stays, or None if all stay.
        """
        if not self.count:
            return None
        decided = self.evicted_at[:, : rows.shape[1]]
        decided.copy_(torch.where(rows, decided.clamp(max=when), decided))
        stays = self.evicted_at > now
        next_eviction = self.evicted_at.masked_fill(~stays, NEVER).amin(1)
        numbers = torch.stack([(self.positions >= 0).sum(1), stays.sum(1), next_eviction])
        (found,) = fetch(numbers)  # the one wait
        before, self.sizes, nexts = found.tolist()
        gone, self.next_eviction = sum(before) - sum(self.sizes), min(nexts)
        if gone or self.next_eviction < NEVER:
            self.edition = object()
        if not gone:
            return None
        self.evicted += gone
        count = max(self.sizes)
        index = stays.to(torch.int8).argsort(dim=1, stable=True)[:, self.count - count :]
        held = stays.gather(1, index)
        positions = torch.where(held, self.positions.gather(1, index), -1)
        evicted_at = torch.where(held, self.evicted_at.gather(1, index), 0)
        self.count = self._written = count
        self.ragged = min(self.sizes) < count
        self.positions[:], self.evicted_at[:] = positions, evicted_at
        return index

    def reaches(self, length: int) -> bool:
        """Whether the table holds every position before `length` that the layers' own window shows to
        queries from there on."""
        first = 0 if self.window is None else max(0, length - self.window + 1)
        held = self.positions[0]
        return first >= length or (
            self.count > 0
            and int(held[0]) <= first
            and int(held[-1]) - int(held[0]) == self.count - 1
        )

    def truncate(self, length: int) -> None:
        """Drop the rows at position `length` and later."""
        self.count = self._written = int((self.positions[0] < length).sum())
        self.edition = object()

    def hides(self, deepest: int) -> bool:
        """Whether some row is empty, or evicted for a query at `deepest` or before."""
        return self.ragged or self.next_eviction <= deepest

    def visible(self, query: Tensor, deepest: int) -> Tensor:
        """Which rows are not evicted for queries at `query[N, 1]`, none beyond `deepest`: bool
        [h, N, C], or [1, N, C] if all of them see all."""
        if self.hides(deepest):
            return query < self.evicted_at[:, None, :]
        return torch.ones(1, len(query), self.count, dtype=torch.bool, device=query.device)

    @property
    def bytes(self) -> int:
        """Bytes of both tables."""
        return self._table.nbytes

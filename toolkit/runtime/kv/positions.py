"""Slots: which positions the committed rows of a layer hold, and from when each is not seen.

Rows lie in position order, so an index is not a position once something was evicted. Where a KV head
holds fewer rows than others, it has empty ones in front (position −1, never seen).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit.errors import StrategyError
from toolkit.interfaces import KVPolicy

NEVER = 1 << 40  # later than any position
GROWTH = 64  # rows added at a time: few copies, little slack


def shown(policy: KVPolicy, query: Tensor, key: Tensor) -> Tensor:
    """What a policy shows, bool [Q, C]. Raises `StrategyError` when it answers something else."""
    visible, shape = policy.visible(query, key), (query.shape[0], key.shape[1])
    if not isinstance(visible, Tensor) or visible.dtype != torch.bool:
        raise StrategyError(f"KV policy {policy.name!r}: `visible` gives bool, got {visible!r}")
    try:
        return visible.expand(shape)
    except RuntimeError as error:
        raise StrategyError(
            f"KV policy {policy.name!r}: `visible` gives {list(shape)} for queries {list(query.shape)} "
            f"and keys {list(key.shape)}, got {list(visible.shape)}"
        ) from error


class Slots:
    """Tables [h, C] of positions and deaths; h is 1 where all KV heads hold the same rows."""

    def __init__(self, heads: int, window: int | None, device: torch.device) -> None:
        self.window = window  # a sliding window of the layers' own
        self.count = 0  # C: rows held
        self._written = 0  # of them; the others hold the positions from `_next` on
        self._next = 0
        self._table = torch.zeros(2, heads, 0, dtype=torch.long, device=device)
        self.next_death = NEVER  # no row dies before; empty rows are dead from the start
        self.ragged = False  # whether some rows are empty
        self.evicted = 0  # rows let go, summed over heads

    @property
    def positions(self) -> Tensor:
        """Position [h, C] of each row."""
        return self._rows()[0]

    @property
    def dies(self) -> Tensor:
        """The first position [h, C] that does not see the row."""
        return self._rows()[1]

    def _rows(self) -> Tensor:
        """The tables [2, h, C] of all rows held: new ones are written when somebody looks."""
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
        """Rows for `count` positions from `first` on."""
        if self._next + self.count - self._written != first:
            self._rows()
        if self._written == self.count:
            self._next = first
        self.count += count

    def copy(self, other: Slots) -> None:
        """Hold what another table holds, for as many heads as this one has, none of it doomed."""
        self.count = self._written = other.count
        self.ragged = other.ragged
        self.reserve(self.count)
        self.positions[:] = other.positions
        self.dies[:] = torch.where(self.positions < 0, 0, NEVER)

    def doom(self, losers: Tensor, when: int) -> None:
        """Rows in `losers[h, ≤C]` bool are not seen from position `when` on."""
        dies = self.dies[:, : losers.shape[1]]
        dies[losers] = dies[losers].clamp(max=when)
        if bool(losers.any()):
            self.next_death = min(self.next_death, when)

    def bury(self, now: int) -> Tensor | None:
        """Let go of rows dead at `now`; returns the old index [h, C'] of each that stays, or None
        when all do."""
        if self.next_death > now:
            return None
        alive = self.dies > now
        sizes = alive.sum(1)
        count = int(sizes.max())
        self.evicted += int((self.positions >= 0).sum() - sizes.sum())
        index = alive.to(torch.int8).argsort(dim=1, stable=True)[:, alive.shape[1] - count :]
        stays = alive.gather(1, index)
        positions = torch.where(stays, self.positions.gather(1, index), -1)
        dies = torch.where(stays, self.dies.gather(1, index), 0)
        self.count = self._written = count
        self.positions[:], self.dies[:] = positions, dies
        self.ragged = bool((sizes < count).any())
        self.next_death = int(dies[stays].min()) if count else NEVER
        return index

    def seen(self, policy: KVPolicy | None, at: Tensor, deepest: int) -> Tensor:
        """What queries at `at[N]`, none beyond `deepest`, see of the rows: bool [N, C], or
        [h, N, C] where heads differ."""
        query, held = at[:, None], self.positions[:, None, :]
        if self.ragged or self.next_death <= deepest:
            visible = query < self.dies[:, None, :]
        else:
            visible = torch.ones(1, len(at), self.count, dtype=torch.bool, device=at.device)
        if self.window is not None:
            visible = visible & (query - held < self.window)
        if policy is not None:
            visible = visible & torch.stack([shown(policy, query, head) for head in held])
        return visible[0] if visible.shape[0] == 1 else visible

    @property
    def bytes(self) -> int:
        return self._table.nbytes

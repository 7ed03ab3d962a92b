"""Slots: which positions the committed rows of a layer hold, and from when each is not seen.

Rows lie in position order, so an index is not a position once something was evicted. Where a KV head
holds fewer rows than others, it has empty ones in front (position −1, never seen).
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.interfaces import KVPolicy

NEVER = 1 << 40  # later than any position


class Slots:
    """Tables [h, C] of positions and deaths; h is 1 where all KV heads hold the same rows."""

    def __init__(self, heads: int, window: int | None, device: torch.device) -> None:
        self.window = window  # a sliding window of the layers' own
        self.positions = torch.zeros(heads, 0, dtype=torch.long, device=device)
        self.dies = self.positions.clone()
        self.next_death = NEVER  # no row dies before; empty rows are dead from the start
        self.ragged = False  # whether some rows are empty
        self.evicted = 0  # rows let go, summed over heads

    @property
    def count(self) -> int:
        """C: rows held."""
        return self.positions.shape[1]

    def append(self, first: int, count: int) -> None:
        """Rows for `count` positions from `first` on."""
        heads, device = self.positions.shape[0], self.positions.device
        fresh = torch.arange(first, first + count, device=device).expand(heads, -1)
        self.positions = torch.cat([self.positions, fresh], 1)
        self.dies = torch.cat([self.dies, torch.full_like(fresh, NEVER)], 1)

    def copy(self, other: Slots) -> None:
        """Hold what another table holds, for as many heads as this one has, none of it doomed."""
        self.positions = other.positions.expand(len(self.positions), -1).clone()
        self.dies = torch.where(self.positions < 0, 0, NEVER)
        self.ragged = other.ragged

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
        index = (
            alive.to(torch.int8).argsort(dim=1, stable=True)[:, -count:] if count else alive[:, :0]
        )
        stays = alive.gather(1, index.long())
        self.positions = torch.where(stays, self.positions.gather(1, index.long()), -1)
        self.dies = torch.where(stays, self.dies.gather(1, index.long()), 0)
        self.ragged = bool((sizes < count).any())
        self.next_death = int(self.dies[stays].min()) if count else NEVER
        return index.long()

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
            visible = visible & torch.stack([policy.visible(query, head) for head in held])
        return visible[0] if visible.shape[0] == 1 else visible

    @property
    def bytes(self) -> int:
        return self.positions.nbytes + self.dies.nbytes

"""Eviction: when a KV policy decides, and which rows of the cache it evicts.

Time is counted in committed tokens. The first decision is made at the end of the prompt, P, and takes
effect at once, layer by layer, so that a long prompt's KV is never held whole for all layers. Later
ones are made at the boundaries P+W, P+2W, … (W is the policy's epoch) and take effect W tokens later.
A pass that crosses a boundary then knows both sets of rows, and because no commit is longer than W,
none crosses two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from attrs import define, field
from torch import Tensor

from toolkit.errors import StrategyError
from toolkit.interfaces import MaskPolicy
from toolkit.runtime.kv.cache import LayerGroup, TreeCache, TreeLayer, gather_rows
from toolkit.runtime.kv.compaction import compact
from toolkit.runtime.kv.grouping import part
from toolkit.runtime.kv.positions import GROWTH, NEVER, PositionTable
from toolkit.runtime.kv.rotary import Rotary
from toolkit.transfer import fetch

CHUNK = 512  # prompt tokens per pass; chunks start at 0, so a prompt is always cut alike


@define(eq=False)
class Clock:
    """The boundaries at which a policy decides."""

    epoch: int  # W
    boundary: int = NEVER  # the next one

    def start(self, length: int) -> None:
        """Say that the prompt ends at `length`."""
        self.boundary = length + self.epoch

    @property
    def started(self) -> bool:
        """Whether the prompt is over."""
        return self.boundary < NEVER

    def crossed(self, length: int) -> Iterator[int]:
        """Every boundary up to `length` that was not yet returned."""
        while length >= self.boundary:
            now, self.boundary = self.boundary, self.boundary + self.epoch
            yield now

    def effective(self, now: int) -> int:
        """The first position that sees what is decided at boundary `now`."""
        return now + self.epoch


@define(eq=False)
class Eviction(ABC):
    """Applies a policy to one request's cache, after a layer has attended and after a commit."""

    cache: TreeCache
    clock: Clock
    _stays: dict[PositionTable, Tensor] = field(init=False, factory=dict)  # of rows being stored

    @property
    def chunk(self) -> int:
        """The most tokens of a given text that the next pass may read."""
        return self.max_draft_depth + 1 if self.clock.started else CHUNK

    @property
    def max_draft_depth(self) -> int:
        """The most drafted tokens that the next commit may keep."""
        return self.clock.epoch - 1

    def hides(self, deepest: int) -> bool:
        """Whether the policy may hide a row by its position from a query at `deepest` or before."""
        return False

    @property
    def untouched(self) -> bool:
        """Whether the cache holds the rows that it would hold without a policy, so that they are right
        after any prompt that begins with the same tokens."""
        return False

    def visible(self, query: Tensor, positions: Tensor) -> Tensor:
        """Which rows at `positions[h, C]` the policy shows by their position to queries at
        `query[N, 1]`: bool, broadcasts to [h, N, C]."""
        return torch.ones(1, 1, 1, dtype=torch.bool, device=positions.device)

    def logs(self, layer: TreeLayer) -> bool:
        """Whether the queries of a layer's committed tokens are logged."""
        return False

    @abstractmethod
    def after_attention(self, layer: TreeLayer, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Keep what later decisions need: a layer has attended with query [H, N, D] to K/V
        [1, H_kv, C+S, D]."""

    def after_commit(self) -> None:
        """Decide at every boundary that the last commit has crossed."""
        for now in self.clock.crossed(self.cache.length):
            self.cache.measure()  # the log of queries is at its longest
            self.decide(now)

    @abstractmethod
    def decide(self, now: int) -> None:
        """Evict rows at boundary `now`."""

    def start(self) -> None:
        """The prompt is over: start the clock, and size the buffers for the rows kept, two epochs of
        newer ones, and a tree."""
        self._stays.clear()
        self.clock.start(self.cache.length)
        for group in self.cache.groups:
            rows = group.table.count + 2 * self.clock.epoch
            group.table.fit(rows)
            for layer in group.layers if group.table.evicted else ():
                layer.fit(rows + GROWTH)

    def store(self, layer: TreeLayer, now: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Store the rows of K/V [1, H_kv, C, D] that stay at `now`, the end of the prompt, and no
        others. Their positions are in the layer's table; `query[H, T, D]` are the last T queries."""
        table = layer.table
        if table not in self._stays:
            index = self._evict_by_position(table, now, now)
            self._stays[table] = all_rows(table) if index is None else index
        self.cache.measure(key.nbytes + value.nbytes)
        layer.take(key, value, self._stays[table])

    def _evict_hidden(self, group: LayerGroup, now: int, when: int) -> None:
        """Evict a group's rows by position."""
        self._keep(group, self._evict_by_position(group.table, now, when))

    def _keep(self, group: LayerGroup, index: Tensor | None) -> None:
        """Compact a group's layers after an eviction from their table left the rows `index[h, C']`."""
        for some, rows in [] if index is None else part(self.cache, group, index):
            compact(some.layers, rows)

    def _evict_by_position(self, table: PositionTable, now: int, when: int) -> Tensor | None:
        """Evict the rows committed before `now` that a query at `when` does not see by position, and
        drop those that none from `now` on sees. Returns what `PositionTable.evict` returns."""
        count = table.count - self._later(now)
        return table.evict(~self._visible_rows(table, count, when), when, now)

    def _later(self, now: int) -> int:
        """How many tokens were committed after boundary `now`: they are not decided on."""
        return max(0, self.cache.length - now)

    def _visible_rows(self, table: PositionTable, count: int, when: int) -> Tensor:
        """Which of the first `count` rows a query at `when` sees by position: bool [h, count]."""
        held = table.positions[:, :count]
        query = torch.full((1, 1), when, device=held.device)
        visible = self.visible(query, held)[:, 0].expand_as(held)
        return visible if table.window is None else visible & (when - held < table.window)


def all_rows(table: PositionTable) -> Tensor:
    """The index [h, C] of every row."""
    positions = table.positions
    return torch.arange(table.count, device=positions.device).expand_as(positions)


@define(eq=False)
class MaskEviction(Eviction):
    """Evicts what a policy hides by position. Between chunks of a prompt that takes effect at once."""

    policy: MaskPolicy
    all_visible_until: int = -1  # no query up to here has a row hidden from it by position

    def hides(self, deepest: int) -> bool:
        return deepest > self.all_visible_until

    @property
    def untouched(self) -> bool:
        return not self.cache.evicted and not self.hides(self.cache.length)

    def visible(self, query: Tensor, positions: Tensor) -> Tensor:
        key = positions.flatten()[None]
        shape, answer = (len(query), key.shape[1]), self.policy.visible(query, key)
        if not isinstance(answer, Tensor) or answer.dtype != torch.bool:
            raise StrategyError(
                f"KV policy {self.policy.name!r}: `visible` gives bool, got {answer!r}"
            )
        try:
            visible = answer.expand(shape)
        except RuntimeError as error:
            raise StrategyError(
                f"KV policy {self.policy.name!r}: `visible` gives {list(shape)} for queries "
                f"{list(query.shape)} and keys {list(key.shape)}, got {list(answer.shape)}"
            ) from error
        return visible.unflatten(1, positions.shape).transpose(0, 1)

    def after_attention(self, layer: TreeLayer, query: Tensor, key: Tensor, value: Tensor) -> None:
        pass  # positions alone decide

    def after_commit(self) -> None:
        if not self.clock.started:
            self.evict(self.cache.length, self.cache.length)
        super().after_commit()

    def decide(self, now: int) -> None:
        self.evict(now, self.clock.effective(now))
        self._look_ahead()

    def start(self) -> None:
        super().start()
        self._look_ahead()

    def evict(self, now: int, when: int) -> None:
        """Evict the rows committed before `now` that a query at `when` does not see."""
        for group in self.cache.groups:
            if self.hides(when) or group.table.window is not None:
                self._evict_hidden(group, now, when)

    def _look_ahead(self) -> None:
        """Find out whether the passes of the next two epochs need no masks."""
        last = self.cache.length + 2 * self.clock.epoch
        if all(self._shows_all(table, last) for table in self.cache.tables):
            self.all_visible_until = last

    def _shows_all(self, table: PositionTable, last: int) -> bool:
        """Whether the policy hides nothing in a table from queries up to `last`."""
        # Of a whole table the host knows the positions, and need not wait for the device.
        held = table.positions[:1] if table.evicted else torch.arange(table.count)[None]
        query = torch.arange(self.cache.length, last + 1, device=held.device)[:, None]
        held = torch.cat([held, query.T], 1)
        return bool((self.visible(query, held) | (held > query)).all())


@define(eq=False)
class ReindexingEviction(MaskEviction):
    """Moves the keys of the sinks up to the window too. Moved keys cannot wait for an epoch, so a pass
    ends at the boundary at the latest."""

    rotary: Rotary = field(kw_only=True)

    @property
    def untouched(self) -> bool:
        return False  # keys may have moved

    @property
    def chunk(self) -> int:
        return min(super().chunk, self.clock.epoch)

    @property
    def max_draft_depth(self) -> int:
        return self.clock.boundary - self.cache.length - 1

    def start(self) -> None:
        super().start()
        self._move_sinks(self.cache.length)

    def evict(self, now: int, when: int) -> None:
        super().evict(now, when)
        self._move_sinks(now)

    def _move_sinks(self, now: int) -> None:
        """Move the sinks' keys up to the first position that the window shows at `now`; a layer with
        a window of its own no longer has them. Heads that share a target's rows may hold some of them
        alone, in other places; the gap is that of the first head."""
        for group in self.cache.groups:
            table, held = group.table, group.table.positions
            if table.window is not None or not table.count:
                continue
            sinks = (held >= 0) & (held < self.policy.sinks)
            visible = self._visible_rows(table, table.count, now)[0] & (held[0] >= 0) & ~sinks[0]
            first = torch.where(visible, held[0], NEVER).amin()
            ends = torch.arange(1, table.count + 1, device=held.device)
            most = (sinks * ends).max(), (sinks * (held + 1)).max()
            (found,) = fetch(torch.stack([*most, first, sinks[0].sum()]))  # the one wait
            rows, count, begin, own_count = found.tolist()  # the sinks are among the first `rows`
            if not rows:
                continue
            gap = max(0, (begin if begin < NEVER else now) - own_count)
            by = torch.full((rows,), gap, device=held.device)
            for layer in group.layers:
                own, at = sinks[layer.heads, :rows], held[layer.heads, :rows]
                keys = layer.keys[0, :, :rows]
                layer.sinks = _note_sinks(layer.sinks, keys, at, count)
                first_written = gather_rows(layer.sinks[None], at.clamp(0, count - 1))[0]
                moved = self.rotary.rotate(layer.index, first_written, by)
                keys.copy_(torch.where(own[..., None], moved, keys))


def _note_sinks(known: Tensor | None, keys: Tensor, at: Tensor, count: int) -> Tensor:
    """A layer's first `count` keys [H_kv, `count`, D] as first written: those known, and the new ones
    among `keys[H_kv, C, D]`, which are of positions `at[h, C]`; zeros where a head has none."""
    before = 0 if known is None else known.shape[1]
    if known is not None and count <= before:
        return known
    noted = torch.nn.functional.pad(keys[:, :0] if known is None else known, (0, 0, 0, count - before))
    for position in range(before, count):
        rows = (at == position).expand(len(keys), -1)  # at most one of each head
        noted[rows.any(1), position] = keys[rows]
    return noted

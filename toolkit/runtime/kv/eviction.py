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
from functools import partial

import torch
from attrs import define, field
from torch import Tensor
from torch.nn.functional import pad

from toolkit.errors import StrategyError
from toolkit.interfaces import KVPolicy, MaskPolicy, ScorePolicy
from toolkit.kv_view import KVView
from toolkit.runtime.kv.cache import TreeCache, TreeLayer
from toolkit.runtime.kv.positions import GROWTH, NEVER, PositionTable
from toolkit.runtime.kv.rotary import Rotary
from toolkit.runtime.kv.selection import scores_of, select

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
        for layer in self.cache.initialized:
            rows = layer.table.count + 2 * self.clock.epoch
            layer.table.fit(rows)
            if layer.table.evicted:
                layer.fit(rows + GROWTH)

    def store(self, layer: TreeLayer, now: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Store the rows of K/V [1, H_kv, C, D] that stay at `now`, the end of the prompt, and no
        others. Their positions are in the layer's table; `query[H, T, D]` are the last T queries."""
        table = layer.table
        if table not in self._stays:
            index = self._evict_by_position(table, now, now)
            self._stays[table] = _all_rows(table) if index is None else index
        self.cache.measure(key.nbytes + value.nbytes)
        layer.take(key, value, self._stays[table])

    def _evict(self, table: PositionTable, now: int, when: int) -> None:
        """Evict a table's rows by position, in its layers too."""
        index = self._evict_by_position(table, now, when)
        if index is not None:
            for layer in self.cache.initialized:
                if layer.table is table:
                    layer.keep(index)

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


def _all_rows(table: PositionTable) -> Tensor:
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
        for table in self.cache.tables:
            self._evict(table, now, when)

    def _look_ahead(self) -> None:
        """Find out whether the passes of the next two epochs need no masks."""
        last = self.cache.length + 2 * self.clock.epoch
        if all(self._shows_all(table, last) for table in self.cache.tables):
            self.all_visible_until = last

    def _shows_all(self, table: PositionTable, last: int) -> bool:
        """Whether the policy hides nothing in a table from queries up to `last`."""
        held = table.positions[:1]
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
        a window of its own no longer has them."""
        for layer in self.cache.initialized:
            table = layer.table
            if table.window is not None:
                continue
            sinks = int((table.positions[0] < self.policy.sinks).sum())
            if layer.sinks is None or layer.sinks.shape[1] < sinks:
                layer.sinks = layer.keys[0, :, :sinks].clone()
            visible = self._visible_rows(table, table.count, now)[0, sinks:]
            window = table.positions[0, sinks:][visible]
            gap = max(0, (int(window[0]) if len(window) else now) - sinks)
            by = torch.full((sinks,), gap, device=layer.device)
            layer.keys[0, :, :sinks] = self.rotary.rotate(layer.index, layer.sinks, by)


@define(eq=False)
class ScoreEviction(Eviction):
    """Evicts the rows with the lowest scores, layer by layer; a layer with a window of its own evicts
    what leaves that window."""

    policy: ScorePolicy
    rotary: Rotary

    def logs(self, layer: TreeLayer) -> bool:
        return layer.scored and self.policy.logs and not self.policy.once

    def after_attention(self, layer: TreeLayer, query: Tensor, key: Tensor, value: Tensor) -> None:
        if not self.cache.scratch:  # the whole prompt
            if not layer.table.count:
                layer.table.append(0, key.shape[2])
            self.store(layer, key.shape[2], query, key, value)
        elif self.logs(layer):
            layer.queries.add(query)

    def decide(self, now: int) -> None:
        when, later = self.clock.effective(now), self._later(now)
        for table in self.cache.tables:
            if table.window is not None:
                self._evict(table, now, when)
        for layer in self.cache.initialized if not self.policy.once else ():
            if layer.scored:
                queries, held = layer.queries.take(later), layer.table.count - later
                keys, values = layer.keys[0, :, :held], layer.values[0, :, :held]
                queries = keys[:, :0] if queries is None else queries
                index = self._evict_by_score(layer, now, when, queries, keys, values)
                if index is not None:
                    layer.keep(index)

    def store(self, layer: TreeLayer, now: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        if not layer.scored:
            super().store(layer, now, query, key, value)
            return
        self.cache.measure(key.nbytes + value.nbytes)
        index = self._evict_by_score(layer, now, now, query, key[0], value[0])
        layer.table.fit(layer.table.count)
        layer.take(key, value, _all_rows(layer.table) if index is None else index)

    def _evict_by_score(
        self, layer: TreeLayer, now: int, when: int, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor | None:
        """Evict from `when` on the rows of K/V [H_kv, C, D], committed before `now`, that have the
        lowest scores, among those that are not evicted yet. Returns what `PositionTable.evict`
        returns."""
        table, held = layer.table, keys.shape[1]
        later = table.count - held
        view = self._view(layer, now, queries, keys, values)
        scores = scores_of(self.policy, view)
        kept = table.evicted_at[:, :held] > now
        index = table.evict(kept & ~select(self.policy, view, scores, kept), when, now)
        if index is not None:
            scores = pad(scores, (0, later)).gather(1, index)
        decided = table.positions[:, : table.count - later]
        layer.carry = scores[:, : decided.shape[1]].masked_fill(decided < 0, 0.0)
        return index

    def _view(
        self, layer: TreeLayer, now: int, queries: Tensor, keys: Tensor, values: Tensor
    ) -> KVView:
        table, held = layer.table, keys.shape[1]
        exact = torch.promote_types(layer.dtype, torch.float32)
        carry = torch.zeros(keys.shape[:2], dtype=exact, device=keys.device)
        if layer.carry is not None:
            carry[:, : layer.carry.shape[1]] = layer.carry
        return KVView(
            layer=layer.index,
            layers=len(self.cache.layers),
            now=now,
            keys=keys,
            values=values,
            positions=table.positions[:, :held],
            carry=carry,
            queries=queries,
            scaling=layer.attention.scaling,
            evicted_at=table.evicted_at[:, :held],
            window=layer.attention.window,
            weights=layer.attention.weights,
            rotate=partial(self.rotary.rotate, layer.index),
            logs=self.policy.logs,
        )


def eviction_of(policy: KVPolicy, cache: TreeCache, rotary: Rotary) -> Eviction:
    """What applies a policy to a cache. Raises `TypeError` for a policy of neither kind."""
    clock = Clock(policy.epoch)
    if isinstance(policy, ScorePolicy):
        return ScoreEviction(cache, clock, policy, rotary)
    if not isinstance(policy, MaskPolicy):
        raise TypeError(f"{policy!r} is neither a MaskPolicy nor a ScorePolicy")
    if policy.reindexes:
        return ReindexingEviction(cache, clock, policy, rotary=rotary)
    return MaskEviction(cache, clock, policy)


class AllVisible(MaskPolicy):
    """Hides nothing: the model as it is."""

    name = "all-visible"

    def visible(self, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        return (query_pos >= 0) & (key_pos >= 0)

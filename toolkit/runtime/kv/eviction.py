"""Boundaries: when a KV policy decides, what it is shown, and when its decision takes effect.

The clock counts committed tokens. At the end of the prompt, P, a decision takes effect at once, layer
by layer, so that a long prompt's KV is never held whole for all layers. At P+W, P+2W, … it takes
effect W tokens later: a pass that crosses a boundary then knows both keep-sets, and as no commit is
longer than W, none crosses two. (Re-indexing moves keys, which cannot wait: its passes end at the
boundary instead.)
"""

from __future__ import annotations

from functools import partial

import torch
from attrs import define, field
from torch import Tensor
from torch.nn.functional import pad

from toolkit.interfaces import KVPolicy
from toolkit.runtime.kv.cache import TreeCache, TreeLayer
from toolkit.runtime.kv.positions import GROWTH, NEVER, Slots, shown
from toolkit.runtime.kv.rotary import Rotary
from toolkit.runtime.kv.selection import chosen, scores_of
from toolkit.view import Attend, KVView


@define(eq=False)
class Evictor:
    """Applies one request's policy to its cache."""

    cache: TreeCache
    policy: KVPolicy
    rotary: Rotary
    boundary: int = NEVER  # the next one; the clock starts at the end of the prompt
    clear: int = -1  # no query up to here has anything hidden by position alone
    _windows: dict[Slots, Tensor] = field(init=False, factory=dict)  # what a prompt leaves in them

    @property
    def logging(self) -> bool:
        """Whether committed queries will be asked for."""
        return self.policy.logs and not self.policy.once

    @property
    def reach(self) -> int:
        """The most drafted tokens that the next commit may keep."""
        if self.policy.reindexes:
            return self.boundary - self.cache.length - 1
        return self.policy.epoch - 1

    def effect(self, now: int) -> int:
        """When what is decided at boundary `now` is in force."""
        return now + self.policy.epoch

    def start(self) -> None:
        """The prompt is over: start the clock, and size the buffers for what there can be: the rows
        kept, two epochs of newer ones, and a tree."""
        self.boundary = self.cache.length + self.policy.epoch
        if self.policy.reindexes:
            self._reindex(self.cache.length)
        for layer in self.cache.initialized:
            rows = layer.slots.count + 2 * self.policy.epoch
            layer.slots.fit(rows)
            if layer.slots.evicted:
                layer.fit(rows + GROWTH)
        self._look_ahead()

    def cross(self) -> None:
        """Decide at every boundary that the last commit reached."""
        while self.cache.length >= self.boundary:
            now, self.boundary = self.boundary, self.boundary + self.policy.epoch
            self.cache.measure()  # the log of queries is at its longest
            for slots in self.cache.tables:
                if not self._scored(slots):
                    self._by_position(slots, now)
            for layer in self.cache.initialized:
                if layer.scores and not self.policy.once:
                    self._by_score(layer, now)
            if self.policy.reindexes:
                self._reindex(now)
            self._look_ahead()

    def _look_ahead(self) -> None:
        """Find out whether the next two epochs need no masks."""
        last = self.cache.length + 2 * self.policy.epoch
        if not self.policy.chooses() and all(
            self._sees_everything(slots, last) for slots in self.cache.tables
        ):
            self.clear = last

    def _sees_everything(self, slots: Slots, last: int) -> bool:
        """Whether all queries up to `last` see, by the policy, all that comes before them."""
        held = slots.positions[0]
        later = torch.arange(self.cache.length, last + 1, device=held.device)
        held, query = torch.cat([held, later])[None], later[:, None]
        return bool((shown(self.policy, query, held) | (held > query)).all())

    def forget(self, now: int) -> None:
        """Let go, now, of what no later query sees by position alone: between chunks of a prompt."""
        for slots in self.cache.tables:
            if not self._scored(slots):
                slots.doom(~self._seen(slots, now, slots.count), now)
                self._bury(slots, now)
        if self.policy.reindexes:
            self._reindex(now)

    def _scored(self, slots: Slots) -> bool:
        return self.policy.chooses() and slots.window is None

    def _seen(self, slots: Slots, when: int, count: int) -> Tensor:
        """Which of the first `count` rows a query at `when` sees by position alone [1, count]."""
        at, held = (
            torch.full((1, 1), when, device=slots.positions.device),
            slots.positions[:, :count],
        )
        seen = torch.ones_like(held, dtype=torch.bool)
        if not self.policy.chooses():
            seen = torch.cat([shown(self.policy, at, head[None]) for head in held])
        return seen if slots.window is None else seen & (at - held < slots.window)

    def _by_position(self, slots: Slots, now: int) -> None:
        before = slots.count - (self.cache.length - now)
        slots.doom(~self._seen(slots, self.effect(now), before), self.effect(now))
        self._bury(slots, now)

    def _bury(self, slots: Slots, now: int) -> None:
        index = slots.bury(now)
        if index is not None:
            for layer in self.cache.initialized:
                if layer.slots is slots:
                    layer.keep(index)

    def _by_score(self, layer: TreeLayer, now: int) -> None:
        """Score the rows as the epoch's queries saw them, choose among those that go on living."""
        slots, later = layer.slots, self.cache.length - now
        held = slots.count - later  # what was committed since is not decided on
        view = self._view(
            layer,
            now,
            keys=layer.keys[0, :, :held],
            values=layer.values[0, :, :held],
            queries=self._epochs_queries(layer, later),
            slots=(slots.positions[:, :held], slots.dies[:, :held]),
        )
        scores = scores_of(self.policy, view)
        alive = slots.dies[:, :held] > now
        slots.doom(alive & ~chosen(self.policy, view, scores, alive), self.effect(now))
        index = slots.bury(now)
        if index is not None:
            layer.keep(index)
            scores = pad(scores, (0, later)).gather(1, index)
        decided = slots.positions[:, : slots.count - later]
        layer.carry = scores[:, : decided.shape[1]].masked_fill(decided < 0, 0.0)

    def prompt(self, layer: TreeLayer, query: Tensor, key: Tensor, value: Tensor) -> None:
        """A layer has attended to a whole prompt that is scored: store what stays of its K/V
        [1, H_kv, P, D], which for a layer with a window of its own is the window."""
        now = key.shape[2]
        if not layer.slots.count:
            layer.slots.append(0, now)
        if layer.scores:
            self.settle(layer, query, key, value, now)
            return
        if layer.slots not in self._windows:
            self._windows[layer.slots] = self.pick(layer.slots, now)
        self.cache.measure(key.nbytes + value.nbytes)
        layer.take(key, value, self._windows[layer.slots])

    def settle(self, layer: TreeLayer, query: Tensor, key: Tensor, value: Tensor, now: int) -> None:
        """The decision at the end of the prompt, for one layer as soon as it has attended: of its
        K/V [1, H_kv, C, D] only what stays is ever stored. Its slots say which positions they are;
        `query[H, T, D]` are the last T."""
        slots = layer.slots
        self.cache.measure(key.nbytes + value.nbytes)
        tables = slots.positions, slots.dies
        view = self._view(layer, now, key[0], value[0], query, tables)
        scores = scores_of(self.policy, view)
        slots.doom(~chosen(self.policy, view, scores, slots.dies > now), now)
        index = slots.bury(now)
        if index is None:
            index = torch.arange(slots.count, device=key.device).expand_as(slots.positions)
        slots.fit(slots.count)
        layer.take(key, value, index)
        layer.carry = scores.gather(1, index).masked_fill(slots.positions < 0, 0.0)

    def pick(self, slots: Slots, now: int) -> Tensor:
        """Let go of what is not seen at `now` by position alone; the index [h, C'] of what stays."""
        slots.doom(~self._seen(slots, now, slots.count), now)
        index = slots.bury(now)
        if index is None:
            index = torch.arange(slots.count, device=slots.positions.device)
        return index.expand(len(slots.positions), -1)

    def _epochs_queries(self, layer: TreeLayer, later: int) -> Tensor:
        """The epoch's committed queries [H, W, D]; they leave the log, and those after it stay."""
        if layer.log is None:
            return layer.keys.new_zeros(layer.keys.shape[1], 0, layer.keys.shape[3])
        epoch, rest = layer.log.split([layer.log.shape[1] - later, later], 1)
        layer.log = rest.clone()
        return epoch

    def _view(
        self,
        layer: TreeLayer,
        now: int,
        keys: Tensor,
        values: Tensor,
        queries: Tensor,
        slots: tuple[Tensor, Tensor],
    ) -> KVView:
        positions, dies = slots
        exact = torch.promote_types(layer.dtype, torch.float32)
        carry = torch.zeros(positions.shape, dtype=exact, device=positions.device)
        if layer.carry is not None:
            carry[:, : layer.carry.shape[1]] = layer.carry
        return KVView(
            layer=layer.index,
            layers=len(self.cache.layers),
            now=now,
            keys=keys,
            values=values,
            positions=positions,
            carry=carry,
            queries=queries,
            dies=dies,
            attend=layer.attend or Attend(1.0),
            rotate=partial(self.rotary.rotate, layer.index),
            logs=self.policy.logs,
        )

    def _reindex(self, now: int) -> None:
        """Move the sinks' keys up to the first position that the window still shows at `now`; a
        layer with a window of its own has left them behind."""
        for layer in self.cache.initialized:
            slots = layer.slots
            if slots.window is not None:
                continue
            sinks = int((slots.positions[0] < self.policy.sinks).sum())
            if layer.sinks is None or layer.sinks.shape[1] < sinks:
                layer.sinks = layer.keys[0, :, :sinks].clone()
            seen = self._seen(slots, now, slots.count)[0, sinks:]
            window = slots.positions[0, sinks:][seen]
            gap = max(0, (int(window[0]) if len(window) else now) - sinks)
            by = torch.full((sinks,), gap, device=layer.device)
            layer.keys[0, :, :sinks] = self.rotary.rotate(layer.index, layer.sinks, by)

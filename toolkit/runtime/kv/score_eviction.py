"""ScoreEviction: evicts the rows to which a policy gives the lowest scores."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

import torch
from attrs import define
from torch import Tensor
from torch.nn.functional import pad

from toolkit.interfaces import ScorePolicy
from toolkit.kv_view import KVView
from toolkit.runtime.kv.attention_config import AttentionConfig
from toolkit.runtime.kv.cache import LayerGroup, TreeLayer
from toolkit.runtime.kv.compaction import heads_of, keys_of, portions, values_of
from toolkit.runtime.kv.eviction import Eviction, all_rows
from toolkit.runtime.kv.grouping import join
from toolkit.runtime.kv.rotary import Rotary
from toolkit.runtime.kv.selection import scores_of, select


@define(eq=False)
class ScoreEviction(Eviction):
    """Evicts the rows with the lowest scores; a layer with a window of its own evicts what leaves that
    window.

    At the end of the prompt layers are decided about one by one, later all of one kind together.
    """

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
            layer.log(query)

    def start(self) -> None:
        join(self.cache, self._kind)
        super().start()

    def _kind(self, group: LayerGroup) -> Hashable:
        """What layers have in common that are decided about together."""
        layer = group.layers[0]
        shapes = layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3], layer.dtype
        rotates = id(self.rotary.frequencies[layer.index]) if self.policy.rotates else None
        return group.table.count, shapes, layer.attention.kind, rotates

    def decide(self, now: int) -> None:
        when = self.clock.effective(now)
        for group in list(self.cache.groups):
            if group.table.window is not None:
                self._evict_hidden(group, now, when)
            elif not self.policy.once:
                self._keep(group, self._decide_on(group, now, when))

    def _decide_on(self, group: LayerGroup, now: int, when: int) -> Tensor | None:
        """Evict from `when` on, from a group's table. Returns what `PositionTable.evict` returns."""
        later = self._later(now)
        held, log = group.table.count - later, group.queries.take(later)
        together = portions(group.layers, held)
        if not self.policy.headwise:
            together = [[layer] for layer in group.layers]
        judged = []
        for layers in together:
            keys, values = keys_of(layers, held), partial(values_of, layers, held)
            queries = keys[:, :0] if log is None else log[heads_of(layers, log)]
            judged.append(self._judge(layers, now, queries, keys, values))
        scores, losers = (torch.cat(parts) for parts in zip(*judged, strict=True))
        return _evict(group, now, when, scores, losers)

    def store(self, layer: TreeLayer, now: int, query: Tensor, key: Tensor, value: Tensor) -> None:
        if not layer.scored:
            super().store(layer, now, query, key, value)
            return
        self.cache.measure(key.nbytes + value.nbytes)
        judged = self._judge([layer], now, query, key[0], lambda: value[0])
        index = _evict(layer.group, now, now, *judged)
        layer.table.fit(layer.table.count)
        layer.take(key, value, all_rows(layer.table) if index is None else index)

    def _judge(
        self,
        layers: list[TreeLayer],
        now: int,
        queries: Tensor,
        keys: Tensor,
        values: Callable[[], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Scores [h, C] of the rows of K/V [h, C, D] of some layers of a group, committed before `now`,
        and which of these rows to evict: bool [h, C]. They are among those not evicted yet."""
        table, carry = layers[0].table, layers[0].group.carry
        heads = heads_of(layers, table.positions)
        positions = table.positions[heads, : keys.shape[1]]
        evicted_at = table.evicted_at[heads, : keys.shape[1]]
        exact = torch.promote_types(keys.dtype, torch.float32)
        last = torch.zeros(positions.shape, dtype=exact, device=keys.device)
        if carry is not None:
            last[:, : carry.shape[1]] = carry[heads]
        rows = positions, last, evicted_at, queries, keys
        view, each = self._view(layers, now, rows, values), []
        if len(layers) > 1:
            parts = zip(*(part.chunk(len(layers)) for part in rows), strict=True)
            each = [
                self._view([layer], now, part, partial(values_of, [layer], keys.shape[1]))
                for layer, part in zip(layers, parts, strict=True)
            ]
        scores, kept = scores_of(self.policy, view), evicted_at > now
        return scores, kept & ~select(self.policy, view, scores, kept, each)

    def _view(
        self,
        layers: list[TreeLayer],
        now: int,
        rows: tuple[Tensor, ...],
        values: Callable[[], Tensor],
    ) -> KVView:
        """The view of some layers of a group: positions, last scores, evictions, queries and keys."""
        positions, carry, evicted_at, queries, keys = rows
        attention = AttentionConfig.joined([layer.attention for layer in layers])
        return KVView(
            layer=layers[0].index,
            layers=len(self.cache.layers),
            now=now,
            keys=keys,
            values=values,
            positions=positions,
            carry=carry,
            queries=queries,
            scaling=attention.scaling,
            evicted_at=evicted_at,
            window=attention.window,
            weights=attention.weights,
            rotate=partial(self.rotary.rotate, layers[0].index),
            logs=self.policy.logs,
            count=len(layers),
        )


def _evict(group: LayerGroup, now: int, when: int, scores: Tensor, losers: Tensor) -> Tensor | None:
    """Evict `losers[h, C]` of a group from `when` on, and keep the `scores[h, C]` of the other rows.
    Returns what `PositionTable.evict` returns."""
    table, later = group.table, group.table.count - scores.shape[1]
    index = table.evict(losers, when, now)
    if index is not None:
        scores = pad(scores, (0, later)).gather(1, index)
    decided = table.positions[:, : table.count - later]
    group.carry = scores[:, : decided.shape[1]].masked_fill(decided < 0, 0.0)
    return index

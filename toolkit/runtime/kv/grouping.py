"""Which layers a policy decides about together: those of one kind that hold equally many rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from toolkit.runtime.kv.cache import LayerGroup, TreeCache
from toolkit.runtime.kv.positions import PositionTable
from toolkit.runtime.kv.query_log import QueryLog
from toolkit.transfer import send


def join(cache: TreeCache, kind: Callable[[LayerGroup], Hashable]) -> None:
    """Join the groups of one kind whose heads may hold other rows than each other. They hold equally
    many rows and have nothing logged."""
    found: dict[Hashable, list[LayerGroup]] = {}
    for group in cache.groups:
        key = kind(group) if group.layers[0].by_head else id(group)
        found.setdefault(key, []).append(group)
    cache.groups = list(map(_joined, found.values()))
    cache.changed()


def _joined(groups: list[LayerGroup]) -> LayerGroup:
    if len(groups) == 1:
        return groups[0]
    layers = [layer for group in groups for layer in group.layers]
    carries = [group.carry for group in groups if group.carry is not None]
    table = PositionTable.joined([group.table for group in groups])
    carry = torch.cat(carries) if carries else None
    return LayerGroup(layers, table, QueryLog.empty(len(layers)), carry)


def part(cache: TreeCache, group: LayerGroup, index: Tensor) -> list[tuple[LayerGroup, Tensor]]:
    """Part a group whose layers hold different numbers of rows after an eviction. Returns the groups,
    each with its part of `index[h, C']`, the rows that stay."""
    sizes, per = group.table.sizes, len(group.table.sizes) // len(group.layers)
    starts = range(0, len(sizes), per) if group.layers[0].by_head else (0,)
    counts = [max(sizes[start : start + per or None]) for start in starts]
    if min(counts) == max(counts):
        return [(group, index)]
    parts = [
        _part(group, index, [place for place, other in enumerate(counts) if other == count])
        for count in sorted(set(counts))
    ]
    parts[0][0].table.evicted = group.table.evicted
    at = cache.groups.index(group)
    cache.groups[at : at + 1] = [found for found, _ in parts]
    cache.changed()
    return parts


def _part(group: LayerGroup, index: Tensor, places: list[int]) -> tuple[LayerGroup, Tensor]:
    """The layers at `places` of a group, and their rows of `index`."""
    per = len(index) // len(group.layers)
    heads = [head for place in places for head in range(place * per, (place + 1) * per)]
    (at,) = send(index.device, torch.tensor(heads))
    table = group.table.part(heads, at)
    empty = group.table.count - table.count  # rows in front, in all of these heads
    carry = None if group.carry is None else group.carry.index_select(0, at)[:, empty:]
    queries = group.queries.part(places)
    layers = [group.layers[place] for place in places]
    return LayerGroup(layers, table, queries, carry), index.index_select(0, at)[:, empty:]

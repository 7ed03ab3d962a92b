"""Layers that join and part, and what each of them has then."""

import torch

from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.kv.grouping import join, part

LAYERS, HEADS = 3, 2


def joined():
    """A cache of three layers with five rows in one group, with queries and scores."""
    cache = TreeCache(LAYERS, scored=True)
    cache.extend(5)
    for layer in range(LAYERS):
        rows = torch.full((1, HEADS, 5, 1), float(layer))
        cache.update(rows, rows, layer)
    cache.commit([0, 1, 2, 3, 4])
    assert len(cache.groups) == LAYERS
    join(cache, lambda group: group.table.count)
    (group,) = cache.groups
    for layer in range(LAYERS):
        cache.layers[layer].log(torch.full((2 * HEADS, 3, 1), float(layer)))
    group.queries.commit([0, 2])
    return cache, group


def test_layers_of_one_kind_join():
    cache, group = joined()
    assert [layer.index for layer in group.layers] == [0, 1, 2]
    assert [layer.heads for layer in cache.layers] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert cache.tables == [group.table]
    assert group.table.positions.tolist() == [[0, 1, 2, 3, 4]] * 6
    assert group.queries.committed[:, 0, 0].tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4


def test_layers_of_other_kinds_do_not():
    cache = TreeCache(LAYERS, scored=True)
    cache.extend(1)
    for layer in range(LAYERS):
        cache.update(torch.zeros(1, HEADS, 1, 1), torch.zeros(1, HEADS, 1, 1), layer)
    join(cache, lambda group: group.layers[0].index % 2)
    assert [[layer.index for layer in group.layers] for group in cache.groups] == [[0, 2], [1]]


def losers(*counts):
    """The oldest rows, so many of each head."""
    return torch.arange(5) < torch.tensor(counts)[:, None]


def test_layers_that_still_hold_equally_many_stay_together():
    cache, group = joined()
    index = group.table.evict(losers(2, 3, 2, 2, 3, 2), 5, 5)
    assert part(cache, group, index) == [(group, index)]


def test_layers_that_hold_other_numbers_part():
    cache, group = joined()
    index = group.table.evict(losers(2, 3, 4, 4, 2, 2), 5, 5)
    group.carry = torch.arange(18.0).reshape(6, 3)
    (one, its), (other, others) = part(cache, group, index)
    assert cache.groups == [one, other]
    assert cache.tables == [one.table, other.table]
    assert [layer.index for layer in one.layers] == [1]
    assert [layer.index for layer in other.layers] == [0, 2]
    assert one.table.positions.tolist() == [[4], [4]]
    assert other.table.positions.tolist() == [[2, 3, 4], [-1, 3, 4], [2, 3, 4], [2, 3, 4]]
    assert its.tolist() == [[4], [4]]
    assert others[0].tolist() == [2, 3, 4]
    assert others[1, 1:].tolist() == [3, 4]
    assert one.carry.tolist() == [[8.0], [11.0]]
    assert other.carry[:, 0].tolist() == [0.0, 3.0, 12.0, 15.0]
    assert one.queries.committed[:, 0, 0].tolist() == [1.0] * 4
    assert other.queries.committed[:, 0, 0].tolist() == [0.0] * 4 + [2.0] * 4
    assert cache.evicted == 5 + 8 + 4
    assert cache.layers[2].heads == slice(2, 4)

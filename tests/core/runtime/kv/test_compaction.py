"""Rows that an eviction leaves, against indexing by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.runtime.kernels import native
from toolkit.runtime.kv.cache import LayerGroup, TreeCache
from toolkit.runtime.kv.compaction import compact, keys_of, portions, values_of
from toolkit.runtime.kv.positions import PositionTable
from toolkit.runtime.kv.query_log import QueryLog
from toolkit.runtime.kv.slab import Slabs

LAYERS, HEADS, WIDTH, ROWS = 3, 2, 5, 9
CPU = torch.device("cpu")


def filled(by_head, slab=False, dtype=torch.float32):
    """A cache of random rows whose layers are one group."""
    slabs = Slabs((LAYERS, HEADS, WIDTH), dtype, CPU) if slab else None
    cache = TreeCache(LAYERS, scored=by_head, slabs=slabs)
    rng = torch.Generator().manual_seed(0)
    cache.extend(ROWS)
    for layer in range(LAYERS):
        keys, values = torch.rand(2, 1, HEADS, ROWS, WIDTH, generator=rng).to(dtype)
        cache.update(keys, values, layer)
    cache.commit(list(range(ROWS)))
    if by_head:
        table = PositionTable.joined([group.table for group in cache.groups])
        cache.groups = [LayerGroup(cache.initialized, table, QueryLog.empty(LAYERS))]
        cache.changed()
    return cache


@given(st.booleans(), st.booleans(), st.sampled_from(["best", None]), st.data())
def test_every_head_keeps_its_rows_in_order(by_head, slab, isa, data):
    """Also where an index moves rows up, as for a head that holds less than others."""
    cache = filled(by_head, slab, data.draw(st.sampled_from([torch.float32, torch.bfloat16])))
    heads, count = LAYERS * HEADS if by_head else 1, data.draw(st.integers(0, ROWS))
    rows = st.lists(st.integers(0, ROWS - 1), min_size=count, max_size=count)
    index = torch.tensor([data.draw(rows) for _ in range(heads)]).long().reshape(heads, count)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    with native.using(isa):
        compact(cache.initialized, index)
    for layer, both in zip(cache.layers, before, strict=True):
        for buffer, old in zip((layer.keys, layer.values), both, strict=True):
            for head in range(HEADS):
                own = index[layer.place * HEADS + head if by_head else 0]
                assert torch.equal(buffer[0, head, :count], old[0, head, own])


@pytest.mark.parametrize("slab", [False, True])
def test_rows_of_several_layers_lie_one_after_the_other(slab):
    cache = filled(True, slab)
    some = cache.initialized[1:]
    for found, name in ((keys_of(some, 4), "keys"), (values_of(some, 4), "values")):
        expected = [getattr(layer, name)[0, :, :4] for layer in some]
        assert torch.equal(found, torch.cat(expected))


def test_portions_are_as_many_layers_as_fit(monkeypatch):
    layers = filled(True).initialized
    one = HEADS * ROWS * WIDTH
    for cells, expected in ((one - 1, [1, 1, 1]), (2 * one, [2, 1]), (3 * one, [3])):
        monkeypatch.setattr("toolkit.runtime.kv.compaction.CELLS", cells)
        found = portions(layers, ROWS)
        assert [len(some) for some in found] == expected
        assert [layer for some in found for layer in some] == layers

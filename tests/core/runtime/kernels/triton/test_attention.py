import random

import pytest
import torch

from toolkit.runtime.kernels.triton.attention import tree_attention, tree_attention_plain

pytestmark = pytest.mark.cuda

CAPACITY = 384


def draw_tree(seed, nodes, length):
    """Slots of each node's path in a cache with `length` committed rows, and the depths."""
    rng, paths = random.Random(seed), []
    for node in range(nodes):
        above = paths[rng.randrange(max(0, node - 4), node)] if node else []
        paths.append([*above, length + node])
    return paths


def tables(paths, device, longest=32):
    rows = [[*path, *[path[-1]] * (longest - len(path))] for path in paths]
    depths = torch.tensor([len(path) - 1 for path in paths], dtype=torch.int32, device=device)
    return depths, torch.tensor(rows, dtype=torch.int32, device=device)


def draw_cache(seed, kv_heads, width, dtype, device):
    rng = torch.Generator().manual_seed(seed)
    shape = 2, kv_heads, CAPACITY, width
    return torch.randn(shape, generator=rng).to(device, dtype)


def draw_query(seed, rows, heads, width, dtype, device):
    rng = torch.Generator().manual_seed(seed + 1)
    return torch.randn(rows, heads, width, generator=rng).to(device, dtype)


def counted(length, device):
    return torch.tensor([length], dtype=torch.int32, device=device)


CASES = [  # D, KV heads, query heads of each, committed rows, nodes
    (64, 1, 4, 128, 5),
    (80, 1, 1, 127, 4),
    (96, 1, 1, 3, 3),
    (128, 1, 2, 250, 3),
    (8, 1, 1, 129, 3),
    (8, 1, 24, 70, 3),  # more than a tile of queries: PyTorch attends
]


@pytest.mark.parametrize(("width", "kv_heads", "groups", "length", "nodes"), CASES)
def test_it_equals_the_plain_form(device, dtype, bound, width, kv_heads, groups, length, nodes):
    keys, values = draw_cache(length, kv_heads, width, dtype, device)
    query = draw_query(length, nodes, kv_heads * groups, width, dtype, device)
    where = counted(length, device), *tables(draw_tree(length, nodes, length), device)
    got = tree_attention(query, keys, values, *where, width**-0.5)
    wide = (part.double() for part in (query, keys, values))
    expected = tree_attention_plain(*wide, *where, width**-0.5)
    error = (got.double() - expected).norm() / expected.norm()
    assert error < bound


@pytest.mark.parametrize(("width", "kv_heads", "groups", "length", "nodes"), CASES[:2])
def test_a_node_has_the_bits_of_plain_decoding(device, dtype, width, kv_heads, groups, length, nodes):
    """AR's layout: one row, whose path lies right behind the committed rows."""
    keys, values = draw_cache(length, kv_heads, width, dtype, device)
    query = draw_query(length, nodes, kv_heads * groups, width, dtype, device)
    paths = draw_tree(length, nodes, length)
    got = tree_attention(
        query, keys, values, counted(length, device), *tables(paths, device), width**-0.5
    )
    for node, path in enumerate(paths):
        cached = [part.clone() for part in (keys, values)]
        for part in cached:
            part[:, length : length + len(path)] = part[:, path]
        alone = length + len(path) - 1
        where = counted(alone, device), *tables([[alone]], device)
        assert torch.equal(
            tree_attention(query[node : node + 1], *cached, *where, width**-0.5)[0], got[node]
        )
        if node == nodes - 1:  # the control: a rotated order of the same keys has other bits
            for part in cached:
                part[:, : alone + 1] = part[:, : alone + 1].roll(1, 1)
            other = tree_attention(query[node : node + 1], *cached, *where, width**-0.5)[0]
            assert not torch.equal(other, got[node])


@pytest.mark.parametrize("window", [5, 140])
def test_a_window_hides_what_is_far(device, window):
    keys, values = draw_cache(0, 1, 64, torch.float32, device)
    query = draw_query(0, 4, 2, 64, torch.float32, device)
    where = counted(260, device), *tables(draw_tree(0, 4, 260), device)
    got = tree_attention(query, keys, values, *where, 0.125, window)
    expected = tree_attention_plain(query, keys, values, *where, 0.125, window)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("per_head", [False, True])
def test_a_policy_hides_rows_of_each_head(device, per_head):
    keys, values = draw_cache(0, 2, 64, torch.float32, device)
    query = draw_query(0, 4, 4, 64, torch.float32, device)
    paths = draw_tree(0, 4, 130)
    rng = torch.Generator().manual_seed(0)
    visible = torch.rand(2 if per_head else 1, 4, CAPACITY, generator=rng) < 0.3
    for node, path in enumerate(paths):
        visible[:, node, path[-1]] = True
    where = counted(130, device), *tables(paths, device)
    visible = visible.to(device)
    got = tree_attention(query, keys, values, *where, 0.125, None, visible)
    expected = tree_attention_plain(query, keys, values, *where, 0.125, None, visible)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, tree_attention(query, keys, values, *where, 0.125))

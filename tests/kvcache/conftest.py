"""A KVView made by hand, and attention over it by loops."""

import math

import pytest
import torch

from toolkit.kv_view import KVView
from toolkit.runtime.kv.attention_config import AttentionConfig
from toolkit.runtime.kv.positions import NEVER


def view_of(
    rows=12, queries=4, heads=2, groups=2, width=4, seed=0, positions=None, now=None, carry=None,
    evicted_at=None, layer=0, layers=2, rotate=None, scaling=0.5,
):
    """Random keys, values and queries, float64; rows at 0, 1, … when no positions are given."""
    rng = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    if positions is None:
        positions = torch.arange(rows).expand(heads, -1).clone()
    shape = positions.shape
    keys, values = random(*shape, width), random(*shape, width)
    return KVView(
        layer=layer, layers=layers, now=int(positions.max()) + 1 if now is None else now,
        keys=keys, values=lambda: values, positions=positions,
        carry=torch.zeros(shape, dtype=torch.float64) if carry is None else carry,
        queries=random(heads * groups, queries, width),
        evicted_at=torch.full(shape, NEVER) if evicted_at is None else evicted_at,
        scaling=scaling, window=None, weights=AttentionConfig(scaling).weights,
        rotate=rotate or (lambda states, by: states),
    )


def weights_of(view):
    """Attention weights [H_kv, G, T, C] of a view's queries, number by number."""
    heads, rows, _ = view.keys.shape
    groups, count = view.queries.shape[0] // heads, view.queries.shape[1]
    found = torch.zeros(heads, groups, count, rows, dtype=torch.float64)
    for head in range(heads):
        for group in range(groups):
            for t in range(count):
                query, at = view.queries[head * groups + group, t], view.now - count + t
                scores = {
                    row: math.exp(float(query @ view.keys[head, row]) * view.scaling)
                    for row in range(rows)
                    if 0 <= view.positions[head, row] <= at < view._evicted_at[head, row]
                }
                for row, score in scores.items():
                    found[head, group, t, row] = score / sum(scores.values())
    return found


@pytest.fixture(scope="session", name="view_of")
def _view_of():
    return view_of


@pytest.fixture(scope="session", name="weights_of")
def _weights_of():
    return weights_of

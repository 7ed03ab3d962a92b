"""The one attention function against a slow one, option by option."""

import copy
import math

import pytest
import torch
import transformers as hf

from toolkit import MaskPolicy, Registry
from toolkit.conformance.models import tiny
from toolkit.errors import ModelError
from toolkit.runtime.compute.attention import HostRows, Pass, bound, tree_attention
from toolkit.runtime.kv.cache import TreeCache
from toolkit.runtime.kv.policies import AllVisible, eviction_of
from toolkit.runtime.kv.positions import NEVER
from toolkit.runtime.kv.rotary import Rotary
from toolkit.runtime.models.load import prepare
from toolkit.runtime.session import ModelSession

H, H_KV, D = 4, 2, 8
POSITIONS = torch.tensor([0, 1, 2, 3, 4, 4, 5])  # four committed, then a root's two children, one's
ROWS = torch.tensor([4, 4, 5])
TABLE = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1]]).bool()


def slow(query, key, value, visible, scaling, softcap=None, sinks=None):
    """Attention by a loop over heads and rows."""
    out = torch.zeros(query.shape[2], H, D, dtype=query.dtype)
    for head in range(H):
        shared = head // (H // H_KV)
        for row in range(query.shape[2]):
            seen = visible[row].nonzero().flatten()
            scores = key[0, shared, seen] @ query[0, head, row] * scaling
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            weights = scores.exp()
            total = weights.sum() + (0 if sinks is None else sinks[head].exp())
            out[row, head] = (weights / total) @ value[0, shared, seen]
    return out[None]


@pytest.fixture(scope="module")
def states():
    rng = torch.Generator().manual_seed(0)
    shapes = [(1, H, 3, D), (1, H_KV, 7, D), (1, H_KV, 7, D)]
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]


def layer(index=0):
    module = torch.nn.Identity()
    module.layer_idx = index
    return module


def passing(policy, table=TABLE):
    """A pass of three rows over a cache that holds four positions."""
    cache = TreeCache(1)
    rows = torch.zeros(1, H_KV, 4, D, dtype=torch.float64)
    cache.extend(4)
    cache.update(rows, rows, 0)
    cache.commit([0, 1, 2, 3])
    cache.extend(3)
    paths = [bytes(row) for row in table.int().tolist()]
    rows = HostRows(ROWS.tolist(), ROWS.tolist(), paths)
    return Pass(eviction_of(policy, cache, Rotary(())), rows, deepest=5)


@pytest.mark.parametrize("scaling", [None, 0.5])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0, 2.0, 0.0]).double()])
@pytest.mark.parametrize("policy", ["full", "window:budget=4"])
def test_attention(make, states, scaling, window, softcap, sinks, policy):
    now = passing(make("kv", policy))
    with bound(now):
        out, weights = tree_attention(
            layer(), *states, None, scaling=scaling, softcap=softcap,
            sliding_window=window, s_aux=sinks, dropout=0.0,
        )
    visible = torch.cat([torch.ones(3, 4).bool(), TABLE], 1)
    limit = min(window or 99, 99 if policy == "full" else 4)
    visible &= ROWS[:, None] - POSITIONS[None] < limit
    expected = slow(*states, visible, scaling or 1 / math.sqrt(D), softcap, sinks)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert weights is None
    assert now.calls == 1


@pytest.mark.parametrize("window", [1, 2, 5, 99])
def test_a_window_counts_the_rows_own_position(make, window):
    now = passing(make("kv", "full"))
    held = now.cache.layers[0]
    mask = now.mask(held, window)
    assert mask.sum(1).tolist() == [min(window, 5), min(window, 5), min(window, 6)]
    assert now.mask(held, None).sum(1).tolist() == [5, 5, 6]
    assert now.mask(held, window).data_ptr() == mask.data_ptr()  # computed once


def test_outside_a_pipeline_the_model_says_what_happened():
    model = prepare("mine", copy.deepcopy(tiny("llama"))).module
    with pytest.raises(ModelError, match="call it through a toolkit pipeline, or load it anew"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


def test_a_pass_is_bound_for_one_forward_only(states):
    now = passing(AllVisible())
    with bound(now):
        tree_attention(layer(), *states, None)
    with pytest.raises(RuntimeError), bound(now):
        raise RuntimeError
    with pytest.raises(ModelError):
        tree_attention(layer(), *states, None)


def test_a_model_that_ignores_our_attention_is_found_out(make):
    from toolkit.runtime.session import ModelSession

    loaded = prepare("mine", copy.deepcopy(tiny("llama")), executor="module")
    loaded.module.config._attn_implementation = "eager"
    with pytest.raises(ModelError, match="only 0 of 2 layers use the attention"):
        ModelSession(loaded, make("kv", "full")).prefill([1, 2, 3])


def test_a_window_that_only_the_config_knows_is_kept():
    """Some models put their window into the mask alone, which we replace."""
    config = hf.Qwen2MoeConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, num_experts=2, num_experts_per_tok=1,
        use_sliding_window=True, sliding_window=4, layer_types=["sliding_attention", "full_attention"],
    )
    torch.manual_seed(0)
    stock = hf.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    ids = [5, 9, 33, 4, 7, 8, 1, 2, 60, 61]
    with torch.no_grad():
        wanted = stock(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    policy = Registry.installed().resolve("kv", "full").build()
    session = ModelSession(prepare("mine", stock), policy)
    ours = session.forward(ids, list(range(-1, 9)))
    assert (ours - wanted).abs().max() < 1e-5
    assert session.model.windows == (4, None)


def test_a_row_sees_itself_under_any_policy():
    """A policy that hides everything leaves each row itself, and no sibling at its position."""

    class Blind(MaskPolicy):
        def visible(self, query_pos, key_pos):
            return torch.zeros(len(query_pos), key_pos.shape[1], dtype=torch.bool)

    now = passing(Blind())
    alone = torch.eye(3).bool().tolist()
    assert now.mask(now.cache.layers[0], None).tolist() == [[False] * 4 + row for row in alone]


def test_a_mask_policy_and_a_window_hold_for_every_head(make):
    """Where heads hold other positions, each has its own mask; empty rows are never visible."""
    now = passing(make("kv", "streaming:budget=4,sinks=2"))
    layer = now.cache.layers[0]
    layer.group.table, layer.by_head = layer.table.copy(layer.heads, H_KV), True
    layer.table.positions[:] = torch.tensor([[0, 1, 2, 3], [-1, 0, 2, 3]])
    layer.table.evicted_at[1, 0], layer.table.ragged = 0, True
    prefix = now.mask(layer, 5)[:, :, :4].tolist()  # of queries at 4, 4 and 5
    assert prefix == [
        [[True, True, False, True]] * 2 + [[False, True, False, False]],
        [[False, True, False, True]] * 2 + [[False, False, False, False]],
    ]
    layer.table.evict(torch.tensor([[False, True, False, False], [False] * 4]), 5, 4)
    again = passing(now.eviction.policy)
    other = again.cache.layers[0]
    other.group.table, other.by_head = layer.table, True
    assert not again.mask(other, 5)[0, 2, :4].any()
    assert int(layer.table.evicted_at[0, 0]) == NEVER

"""The compiled kernels against a slow reference, bit by bit where that is promised."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from toolkit.runtime.kernels import build, native
from toolkit.runtime.kv.attention_config import AttentionConfig

ISAS = build.isas()
pytestmark = pytest.mark.skipif(native.why_not() is not None, reason="no C compiler")


def reference(query, key, value, lists, config):
    """float64, a node and a head at a time; `lists[t][n]` are the rows that a node sees."""
    heads, nodes = query.shape[1:3]
    groups, tables = heads // key.shape[1], len(lists)
    out = torch.zeros(1, nodes, heads, value.shape[3], dtype=torch.double)
    for head in range(heads):
        kv = head // groups
        for node in range(nodes):
            rows = torch.tensor(lists[kv if tables > 1 else 0][node])
            scores = key[0, kv, rows].double() @ query[0, head, node].double() * config.scaling
            if config.softcap:
                scores = config.softcap * torch.tanh(scores / config.softcap)
            if config.s_aux is not None:
                scores = torch.cat([scores, config.s_aux[head : head + 1].double()])
            weights = scores.softmax(0)[: len(rows)]
            out[0, node, head] = weights @ value[0, kv, rows].double()
    return out


@st.composite
def problems(draw):
    """Tensors laid out as a pass lays them out, what each node sees, and how it attends."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    kv_heads, groups = draw(st.sampled_from([(1, 1), (2, 3), (4, 1)]))
    width = draw(st.sampled_from([8, 32, 40, 64, 80, 128]))
    nodes, prefix = draw(st.integers(1, 9)), draw(st.integers(0, 70))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    rows = prefix + 20
    query = torch.randn(nodes, kv_heads * groups, width).to(dtype).transpose(0, 1)[None]
    key, value = torch.randn(2, 1, kv_heads, rows + 13, width).to(dtype)[..., :rows, :]
    tables = draw(st.sampled_from([1, kv_heads]))
    mask = torch.rand(tables, nodes, 20) < 0.5
    mask[:, :, 0] = True
    config = AttentionConfig(
        0.3,
        draw(st.sampled_from([None, 2.0])),
        draw(st.sampled_from([None, torch.randn(kv_heads * groups)])),
    )
    return query, key, value, mask, prefix, config


def constants(config):
    return config.scaling, config.softcap, config.s_aux


def lists_of(mask, prefix):
    return [
        [[*range(prefix), *(prefix + i for i in row.nonzero().flatten().tolist())] for row in table]
        for table in mask
    ]


@pytest.mark.parametrize("isa", ISAS)
@given(problem=problems())
def test_attention_is_the_references(isa, problem):
    query, key, value, mask, prefix, config = problem
    with native.using(isa):
        got = native.for_attention(query, key, value).attention(
            query, key, value, native.Visible.of(prefix, mask), *constants(config)
        )
    expected = reference(query, key, value, lists_of(mask, prefix), config)
    tolerance = 1e-5 if query.dtype is torch.float32 else 2e-2
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("isa", ISAS)
@given(problem=problems(), data=st.data())
def test_a_node_depends_on_its_own_rows_alone(isa, problem, data):
    """Where rows lie, where the prefix ends and what else is asked do not change a bit."""
    query, key, value, mask, prefix, config = problem
    node = data.draw(st.integers(0, mask.shape[1] - 1))
    with native.using(isa):
        kernels = native.for_attention(query, key, value)
        whole = kernels.attention(
            query, key, value, native.Visible.of(prefix, mask), *constants(config)
        )
        everything = F.pad(mask[:, node : node + 1], (prefix, 0), value=True)
        rows = prefix + mask.shape[2]
        gap = data.draw(st.integers(0, rows))  # rows that nobody sees, in between
        moved = [
            torch.cat([part[:, :, :gap], torch.randn_like(part), part[:, :, gap:]], 2)
            for part in (key, value)
        ]
        hidden = torch.zeros(mask.shape[0], 1, key.shape[2], dtype=torch.bool)
        shown = torch.cat([everything[:, :, :gap], hidden, everything[:, :, gap:]], 2)
        elsewhere = native.Visible.of(0, shown)
        alone = kernels.attention(
            query[:, :, node : node + 1], *moved, elsewhere, *constants(config)
        )
    assert torch.equal(alone[:, 0], whole[:, node])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("act", "stock"),
    [("silu", F.silu), ("gelu", F.gelu), ("gelu_new", lambda x: F.gelu(x, approximate="tanh"))],
)
@given(rows=st.integers(1, 9), width=st.sampled_from([1, 15, 37, 64, 688]))
@settings(max_examples=10)
def test_gates_are_the_stock_ones_and_keep_their_bits(isa, dtype, act, stock, rows, width):
    x = (torch.randn(rows, 2 * width) * 6).to(dtype)
    gate, up = x.chunk(2, 1)
    with native.using(isa):
        got = native.for_activation(act, gate).gated(act, gate, up)
        last = native.for_activation(act, gate).gated(act, gate[-1:], up[-1:])
    expected = stock(gate.double()) * up.double()
    tolerance = 1e-5 if dtype is torch.float32 else 1e-2
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(last, got[-1:])


def test_extreme_scores_are_weights():
    query = torch.full((1, 1, 1, 16), 1e4)
    key = torch.cat([torch.full((1, 1, 1, 16), 1e4), torch.full((1, 1, 3, 16), -1e4)], 2)
    value = torch.arange(4.0)[None, None, :, None].expand(1, 1, 4, 16).contiguous() + 1
    for isa in ISAS:
        with native.using(isa):
            visible = native.Visible.of(0, torch.ones(1, 1, 4, dtype=torch.bool))
            out = native.library().attention(query, key, value, visible, 1.0)
        assert torch.equal(out, torch.ones(1, 1, 1, 16))

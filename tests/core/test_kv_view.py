"""The view of a scoring policy, against attention by loops."""

import math

import pytest
import torch

from toolkit import kv_view as module
from toolkit.kv_view import KVView
from toolkit.runtime.kv.attention_config import AttentionConfig
from toolkit.runtime.kv.positions import NEVER

H_KV, G, D, C, T = 2, 3, 4, 9, 5
SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, -0.5]).double()
POSITIONS = torch.tensor([[0, 1, 3, 4, 6, 8, 9, 10, 11], [-1, -1, 0, 2, 7, 8, 9, 10, 11]])
EVICTED_AT = torch.full((H_KV, C), NEVER)
EVICTED_AT[0, 1] = 9  # visible to queries at 7 and 8 alone
EVICTED_AT[1, 3] = 0
EVICTED_AT[1, 0] = 0  # empty rows are never visible


@pytest.fixture
def view():
    rng = torch.Generator().manual_seed(3)

    def made(dtype=torch.float64, queries=T, now=12, **attend):
        config = AttentionConfig(attend.pop("scaling", 0.7), **attend)

        def random(*shape):
            return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

        return KVView(
            layer=0, layers=1, now=now, keys=random(H_KV, C, D), values=lambda: random(H_KV, C, D),
            positions=POSITIONS, carry=torch.zeros(H_KV, C, dtype=torch.float64),
            queries=random(H_KV * G, queries, D), evicted_at=EVICTED_AT,
            scaling=config.scaling, window=config.window, weights=config.weights,
            rotate=lambda states, by: states + by,
        )

    return made


def slow(view, scaling=0.7, softcap=None, s_aux=None, window=None):
    """Attention weights [H_kv, G, T, C], number by number."""
    count = view.queries.shape[1]
    found = torch.zeros(H_KV, G, count, C, dtype=torch.float64)
    for head in range(H_KV):
        for group in range(G):
            for t in range(count):
                at, scores = view.now - count + t, {}
                for row, position in enumerate(view.positions[head].tolist()):
                    visible = 0 <= position <= at < int(EVICTED_AT[head, row])
                    if visible and (window is None or at - position < window):
                        query, key = view.queries[head * G + group, t], view.keys[head, row]
                        score = float(query.double() @ key.double()) * scaling
                        scores[row] = score if softcap is None else softcap * math.tanh(score / softcap)
                extra = 0.0 if s_aux is None else math.exp(s_aux[head * G + group])
                total = sum(map(math.exp, scores.values())) + extra
                for row, score in scores.items():
                    found[head, group, t, row] = math.exp(score) / total
    return found


EVERY = pytest.mark.parametrize(
    "attend",
    [
        {}, {"scaling": 0.2}, {"softcap": 1.5}, {"s_aux": SINKS}, {"window": 3}, {"window": 1},
        {"softcap": 1.5, "s_aux": SINKS, "window": 4},
    ],
    ids=str,
)


@EVERY
def test_rows_are_attention_weights(view, attend):
    made = view(**attend)
    expected = slow(made, **attend)
    for window in (1, 3, T, T + 4):
        rows = made.rows(window)
        torch.testing.assert_close(rows, expected[:, :, -window:], rtol=0, atol=1e-12)
    assert not made.rows(T)[1, :, :, :2].any()  # empty rows


ONE = H_KV * G * C  # weights of one query


@EVERY
@pytest.mark.parametrize(
    ("cells", "portions"),
    [
        (None, [(0, 5)]),
        (1, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        (2 * ONE, [(0, 2), (2, 4), (4, 5)]),
        (3 * ONE - 1, [(0, 2), (2, 4), (4, 5)]),
        (5 * ONE, [(0, 5)]),
    ],
)
def test_colsum_is_attention_mass_in_any_portions(view, monkeypatch, attend, cells, portions):
    asked, rows = [], KVView._rows
    monkeypatch.setattr(KVView, "_rows", lambda *args: asked.append(args[1:]) or rows(*args))
    if cells:
        monkeypatch.setattr(module, "CELLS", cells)
    made = view(**attend)
    torch.testing.assert_close(made.colsum, slow(made, **attend).sum((1, 2)), rtol=0, atol=1e-12)
    assert asked == portions
    assert made.colsum is made.colsum  # computed once


def test_a_rows_weights_add_up_to_one_and_less_with_sinks(view):
    assert view().rows(T).sum(-1).flatten().tolist() == pytest.approx([1.0] * (H_KV * G * T))
    assert float(view(s_aux=SINKS).rows(T).sum(-1).max()) < 1


def test_a_query_that_sees_nothing_gives_nothing(view):
    made = view()
    made._evicted_at = torch.zeros_like(EVICTED_AT)
    assert not made.rows(2).any()
    assert not made.colsum.any()


def test_an_evicted_row_is_visible_until_its_eviction(view):
    weights = view().rows(T)[0, :, :, 1]  # queries at 7 … 11
    assert (weights[:, :2] > 0).all()
    assert not weights[:, 2:].any()


def test_the_last_queries_stand_before_now(view):
    assert view().query_positions.tolist() == [7, 8, 9, 10, 11]
    assert view(queries=0).query_positions.tolist() == []


def test_no_queries_no_mass(view):
    assert view(queries=0).colsum.tolist() == [[0.0] * C] * H_KV


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_attended_in_float32(view, dtype):
    made = view(dtype)
    assert made.rows(2).dtype == torch.float32
    torch.testing.assert_close(made.rows(T).double(), slow(made), rtol=0, atol=1e-5)


def test_the_mean_over_heads_is_that_of_each_layer(view):
    """Of one layer with all query heads, and of two layers that a view covers."""
    weights = torch.arange(H_KV * G * C, dtype=torch.float64).reshape(H_KV, G, C)
    made = view()
    assert torch.equal(made.mean_over_heads(weights), weights.mean((0, 1)).expand(H_KV, -1))
    made._count = 2
    assert torch.equal(made.mean_over_heads(weights), weights.mean(1))


def test_scaling_and_rotation_are_passed_on(view):
    made = view(scaling=0.25)
    assert made.scaling == 0.25
    assert made.rotate(torch.ones(2), torch.tensor([1, 2])).tolist() == [2, 3]

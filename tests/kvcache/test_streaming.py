"""StreamingLLM: the first positions and a recent window are visible, and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import SpecError


@given(
    sinks=st.integers(0, 5), recent=st.integers(1, 9),
    queries=st.lists(st.integers(0, 24), min_size=1, max_size=5),
)
def test_sinks_and_a_window_make_the_budget(make, sinks, recent, queries):
    policy = make("kv", f"streaming:budget={max(2, sinks + recent)},sinks={sinks}")
    recent = policy.budget - sinks
    visible = policy.visible(torch.tensor(queries)[:, None], torch.arange(25)[None])
    for query, row in zip(queries, visible.tolist(), strict=True):
        visible = [key for key in range(query + 1) if row[key]]
        first, last = range(min(sinks, query + 1)), range(max(0, query - recent + 1), query + 1)
        assert visible == sorted({*first, *last})
        assert len(visible) == min(policy.budget, query + 1)


def test_without_sinks_it_is_a_window(make):
    queries, keys = torch.arange(30)[:, None], torch.arange(30)[None]
    ours = make("kv", "streaming:budget=7,sinks=0").visible(queries, keys)
    assert torch.equal(ours, make("kv", "window:budget=7").visible(queries, keys))


def test_what_is_hidden_stays_hidden(make):
    visible = make("kv", "streaming:budget=6,sinks=2").visible(
        torch.arange(40)[:, None], torch.arange(40)[None]
    )
    assert not (visible[1:] & ~visible[:-1]).any()


def test_positions_are_absolute_unless_asked_otherwise(make):
    assert not make("kv", "streaming").reindexes
    assert make("kv", "streaming:positions=cache").reindexes


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("streaming:budget=1", "'budget' must be >= 2"),
        ("streaming:sinks=-1", "'sinks' must be >= 0"),
        ("streaming:epoch=0", "'epoch' must be >= "),
        ("streaming:budget=4", "sinks=4 leave nothing of budget=4"),
        ("streaming:positions=relative", "'positions' must be in"),
        ("streaming:recent=3", "no option 'recent'"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("kv", spec)

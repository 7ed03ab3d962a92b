"""Sliding window: the last `budget` positions are visible, the query's own included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import SpecError


@given(
    budget=st.integers(1, 12), queries=st.lists(st.integers(0, 20), min_size=1, max_size=5)
)
def test_as_many_as_the_budget_says(make, budget, queries):
    visible = make("kv", f"window:budget={budget}").visible(
        torch.tensor(queries)[:, None], torch.arange(21)[None]
    )
    for query, row in zip(queries, visible.tolist(), strict=True):
        visible = [key for key in range(query + 1) if row[key]]  # causality is the engine's
        assert visible == list(range(max(0, query - budget + 1), query + 1))


def test_the_first_option_is_the_budget(make):
    assert make("kv", "window:7").budget == 7


@pytest.mark.parametrize("spec", ["window:0", "window:-3"])
def test_a_window_that_sees_nothing(registry, spec):
    with pytest.raises(SpecError, match="'budget' must be >= 1"):
        registry.resolve("kv", spec)

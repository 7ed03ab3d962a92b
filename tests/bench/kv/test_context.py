"""kv-context: arms, pairing, and what does not fit."""

import pytest
from toolkit.bench.kv import context
from toolkit.bench.kv.context import arms, measured

from toolkit import Pool, Registry, ToolkitError
from toolkit.conformance.models import tiny

REGISTRY = Registry.installed()


@pytest.fixture
def pool(monkeypatch):
    honest = context.Pipeline.ids
    monkeypatch.setattr(
        context.Pipeline, "ids",
        lambda self, text: list(range(1, 41)) if isinstance(text, str) else honest(self, text),
    )
    return Pool(modules={"tiny": tiny("llama", 1, ())})


def test_ar_under_full_comes_first_and_once():
    chosen = arms(["full", "window"], ["self"], REGISTRY)
    assert [(arm.drafter, str(arm.kv)) for arm in chosen] == [
        ("none", "full"), ("none", "window"), ("self", "full"),
    ]  # fmt: skip


def test_a_row_per_length_and_arm(pool):
    chosen = arms(["window:budget=8"], ["self:kv=[window:budget=4]"], REGISTRY)
    rows = list(measured("tiny", chosen, [200, 16], "", 6, 2, pool, REGISTRY))
    assert [row.prompt_tokens for row in rows] == [16, 16, 16, 200, 200, 200]
    assert [row.against_ar for row in rows if row.drafter == "none" and row.kv == "full"] == [1, 1]
    assert {row.rounds for row in rows} == {2}
    assert all(row.draft_kv_bytes > 0 for row in rows if row.drafter.startswith("self"))
    assert rows[4].kv_bytes < rows[3].kv_bytes  # a window against everything


def test_what_does_not_fit_is_refused(pool):
    with pytest.raises(ToolkitError, match="300 tokens do not fit into the 256 positions"):
        list(measured("tiny", arms([], [], REGISTRY), [200], "", 100, 1, pool, REGISTRY))


def test_the_order_turns_and_the_first_round_is_thrown_away(pool, monkeypatch):
    order = []
    honest = context.Pipeline.generate
    monkeypatch.setattr(
        context.Pipeline, "generate",
        lambda self, *args, **kw: order.append(str(self.kv)) or honest(self, *args, **kw),
    )
    chosen = arms(["window:budget=8"], [], REGISTRY)
    rows = list(measured("tiny", chosen, [16], "", 4, 2, pool, REGISTRY))
    assert order == ["full", "window:budget=8", "window:budget=8", "full", "full", "window:budget=8"]
    assert len(rows) == 2

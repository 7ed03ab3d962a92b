"""kv-quality against a slow reference, and what its specs expand to."""

import math

import pytest
import torch
from toolkit.bench.kv.quality import drop_budget, list_policies, make_pipelines, measure
from toolkit.bench.prompts import cut_excerpts

from toolkit import Pipeline, Pool, Registry, ToolkitError
from toolkit.conformance.models import tiny
from toolkit.errors import SpecError

REGISTRY = Registry.installed()


class Numbers:
    """A tokenizer of numbers."""

    bos_token_id = None
    all_special_tokens = ()
    all_special_ids = ()

    def __call__(self, text):
        return type("Encoding", (), {"input_ids": [int(word) for word in text.split()]})

    def convert_ids_to_tokens(self, ids):
        return [*map(str, ids)] if isinstance(ids, list) else str(ids)

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


@pytest.fixture
def pool():
    pool = Pool(modules={"tiny": tiny("llama", 1)})
    loaded = pool.load("tiny")
    object.__setattr__(loaded, "tokenizer", Numbers())
    return pool


def rows_of(pool, policies, tokens=16, samples=1):
    pipelines = make_pipelines("tiny", policies, [6], pool, REGISTRY)
    excerpts = cut_excerpts(pipelines[0], TEXT, "numbers", 8, tokens, samples)
    return list(measure(pipelines, excerpts, "numbers", 8, 3))


TEXT = " ".join(str((7 * i * i + i) % 90 + 1) for i in range(60))


def one_at_a_time(pool, kv, ids, prompt):
    """Choices and mean loss by AR steps, a token per forward."""
    pipeline = Pipeline("tiny", drafter="none", shaper="chain", kv=kv, pool=pool, registry=REGISTRY)
    session = pipeline.stream(ids[:prompt]).target
    logits = [session.prefill(ids[:prompt])]
    for token in ids[prompt:-1]:
        logits.append(session.forward([token], [-1])[0])
        session.commit([0])
    table, text = torch.stack(logits), torch.tensor(ids[prompt:])
    return table.argmax(-1), float(torch.nn.functional.cross_entropy(table, text))


@pytest.mark.parametrize("kv", ["h2o:budget=6,recent=2,sinks=1,epoch=3", "streaming:budget=6"])
def test_figures_are_those_of_ar_steps(pool, kv):
    rows = rows_of(pool, [kv])
    ids = [int(word) for word in TEXT.split()][:24]
    ours, loss = one_at_a_time(pool, kv, ids, 8)
    full, full_loss = one_at_a_time(pool, "full", ids, 8)
    assert [row.kv.partition(":")[0] for row in rows] == ["full", kv.partition(":")[0]]
    assert rows[0].agreement == 1.0
    assert rows[0].perplexity == pytest.approx(math.exp(full_loss), rel=1e-5)
    assert rows[1].perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    assert rows[1].agreement == pytest.approx(float((ours == full).double().mean()))
    assert rows[1].accuracy == pytest.approx(float((ours == torch.tensor(ids[8:])).double().mean()))
    assert rows[1].scored_tokens == 16
    assert rows[1].agreement < 1.0


def test_samples_are_excerpts_one_after_another(pool):
    one, two = (rows_of(pool, ["full"], samples=n)[0] for n in (1, 2))
    assert (one.scored_tokens, two.scored_tokens) == (16, 32)
    assert one.perplexity != two.perplexity


def test_a_short_text_is_refused(pool):
    with pytest.raises(ToolkitError, match="has 60 tokens, but an excerpt takes 74"):
        rows_of(pool, ["full"], tokens=66)


def test_policies_meet_budgets():
    chosen = list_policies(["h2o", "window:budget=9", "full", "h2o:epoch=8"], [64, 128], REGISTRY)
    assert [str(choice) for choice in chosen] == [
        "full", "h2o:budget=64", "h2o:budget=128", "window:budget=9",
        "h2o:epoch=8,budget=64", "h2o:epoch=8,budget=128",
    ]  # fmt: skip
    with pytest.raises(SpecError, match="do not fit into budget=20"):
        list_policies(["h2o"], [20], REGISTRY)


def test_a_line_of_the_figure_is_a_spec_without_its_budget():
    assert drop_budget("h2o:epoch=8,budget=64") == "h2o:epoch=8"
    assert drop_budget("h2o:budget=64") == drop_budget("h2o") == "h2o"

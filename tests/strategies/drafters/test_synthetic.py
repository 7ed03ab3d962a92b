"""The synthetic drafter is right as often as it is told to be, whatever the tree."""

import pytest

from toolkit import Pipeline, Registry, TokenTree, verify
from toolkit.cli.panel import show
from toolkit.conformance.models import COSTS, tiny
from toolkit.engine import TimedDrafter
from toolkit.errors import SpecError

REGISTRY = Registry.installed()
PROMPT = [5, 9, 33, 4]


def started(hash_model, hash_runtime, spec, vocabulary=97):
    drafter = REGISTRY.resolve("drafter", spec).build()
    drafter.start(PROMPT, hash_runtime(hash_model(0, vocabulary), vocabulary))
    return drafter


def greedy(hash_model, hash_runtime, count, vocabulary=97):
    session, text = hash_runtime(hash_model(0, vocabulary), vocabulary).target_session(), []
    logits = session.prefill(PROMPT)
    while len(text) < count:
        text.append(int(logits.argmax()))
        logits = session.forward(text[-1:], [-1])[0]
        session.commit([0])
    return text


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 1.0])
def test_its_first_candidate_is_right_as_often_as_chosen(hash_model, hash_runtime, acceptance):
    spec = f"synthetic:acceptance={acceptance},tokens=20"
    text = greedy(hash_model, hash_runtime, 200)
    drafter, right = started(hash_model, hash_runtime, spec), []
    for place in range(199):
        root = TokenTree.root(text[place])
        (row,) = drafter.expand(root, [0], 3).tokens
        assert len(set(row)) == 3
        assert text[place + 1] not in row[1:]
        right.append(row[0] == text[place + 1])
        drafter.commit([text[place]])
    assert sum(right) / 199 == pytest.approx(acceptance, abs=0.1)  # three standard deviations


def test_it_is_right_by_depth_and_not_by_node(hash_model, hash_runtime):
    text = greedy(hash_model, hash_runtime, 9)
    drafter = started(hash_model, hash_runtime, "synthetic:acceptance=1,tokens=9")
    tree, frontier = TokenTree.root(text[0]), [0]
    for depth in range(1, 5):
        candidates = drafter.expand(tree, frontier, 1)
        assert candidates.tokens == [[text[depth]]]
        tree = tree.grow(frontier, candidates)
        frontier = [len(tree) - 1]


def test_it_reads_anew_after_a_token_that_is_not_the_texts(hash_model, hash_runtime):
    spec = "synthetic:acceptance=1,tokens=9"
    text = greedy(hash_model, hash_runtime, 1)
    other = [(text[0] + 1) % 97, 3]
    drafter, fresh = (started(hash_model, hash_runtime, spec) for _ in range(2))
    drafter.commit(other)
    fresh.start([*PROMPT, *other], hash_runtime(hash_model(0, 97), 97))
    root = TokenTree.root(5)
    assert drafter.expand(root, [0], 2).tokens == fresh.expand(root, [0], 2).tokens


@pytest.mark.parametrize("kv", ["full", "streaming:budget=16,epoch=8"])
def test_tokens_are_ars(kv):
    """Every draft of acceptance 1 is accepted, under a KV policy as well; at 0 none is."""
    for acceptance, shaper in ((1, "chain:k=3"), (0.5, "fixed:depth=3,branch=2"), (0, "chain:k=3")):
        drafter = f"synthetic:acceptance={acceptance},tokens=40"
        pipeline = Pipeline(tiny("llama", 0), drafter=drafter, shaper=shaper, kv=kv)
        ours = pipeline.generate(PROMPT, max_new_tokens=30)
        ar = pipeline.autoregressive.generate(PROMPT, max_new_tokens=30)
        assert ours.token_ids == ar.token_ids
        accepted = sum(step.accepted for step in ours.steps)
        depths = sum(step.depth for step in ours.steps)
        assert {1: accepted == depths > 0, 0: accepted == 0 < depths}.get(acceptance, True)


@pytest.mark.parametrize(("spec", "counts"), [("synthetic:tokens=9", False), ("ngram", True)])
def test_reading_is_no_part_of_the_first_step(hash_model, hash_runtime, spec, counts):
    timed = TimedDrafter(REGISTRY.resolve("drafter", spec).build(), 97)
    timed.start(PROMPT, hash_runtime(hash_model(0, 97), 97))
    assert (timed.start_ms > 0) == counts


def test_a_share_beyond_one_is_refused():
    with pytest.raises(SpecError, match="acceptance"):
        REGISTRY.resolve("drafter", "synthetic:acceptance=2")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("synthetic", True),
        ("staged:levels=[synthetic]+[ngram]", True),
        ("staged:levels=[self]+[ngram]", False),
        ("ngram", False),
    ],
)
def test_it_is_no_real_drafter_wherever_it_stands(spec, said):
    assert REGISTRY.resolve("drafter", spec).is_synthetic == said


def test_the_panel_says_that_it_is_no_real_drafter(capsys):
    for drafter, says in (("synthetic", "a drafter of this"), ("ngram", "speculation")):
        pipeline = Pipeline(tiny("llama", 0), drafter=drafter, shaper="chain")
        found = pipeline.generate(PROMPT, max_new_tokens=9)
        show([found.with_verification(verify(pipeline, found))], pipeline, None, False)
        shown = capsys.readouterr().out
        assert ("no real one" in shown) == (drafter == "synthetic")
        assert f", so {says}" in shown


@pytest.mark.parametrize(("drafter", "measured"), [("synthetic", "none"), ("ngram", "ngram")])
def test_it_costs_nothing_where_costs_are_measured(monkeypatch, drafter, measured):
    """Measuring decodes random texts, after each token of which it would read anew."""
    drafters = []

    def measure(begin, positions):
        drafters.append(begin()[2].name)
        return COSTS

    monkeypatch.setattr("toolkit.runtime.measure_costs.measure_costs", measure)
    Pipeline(tiny("llama", 0), drafter=drafter, shaper="chain").costs(fresh=True)
    assert drafters == [measured]

"""The target drafts for itself: what it would say under the policy, and nothing drafted is kept."""

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import Pipeline, Pool, TokenTree
from toolkit.conformance.models import POSITIONS, tiny
from toolkit.errors import MismatchError, SpecError
from toolkit.runtime.kv.policies import eviction_of
from toolkit.runtime.session import ModelSession
from toolkit.runtime.shared_session import SharedSession

PROMPT = [(7 * i * i) % 90 + 1 for i in range(24)]
SMALL = "streaming:budget=8,sinks=2,epoch=4"
EXACT = 1e-5  # probabilities are float32


@pytest.fixture
def start(make, hash_runtime):
    """A started drafter, the target that it draws on, and a session that shares its K/V."""

    def started(kv=SMALL, prompt=PROMPT, family="llama"):
        target = ModelSession(Pool(modules={"it": tiny(family)}).load("it"), make("kv", "full"))
        target.prefill(prompt)
        opened = []

        def shared_session(choice):
            opened.append(SharedSession(target.model, choice.build(), target=target))
            return opened[-1]

        drafter = make("drafter", f"self:kv=[{kv}]")
        runtime = type("Lends", (hash_runtime,), {"shared_session": staticmethod(shared_session)})
        drafter.start(prompt, runtime(None, target.vocabulary))
        return drafter, target, opened[0]

    return started


def grown(drafter, root, levels=2, k=2):
    """A tree of all candidates; and what was proposed after each node that was asked for."""
    tree, frontier, said = TokenTree.root(root), [0], {}
    while levels and frontier:
        levels -= 1
        candidates, first = drafter.expand(tree, frontier, k), len(tree)
        for row, node in enumerate(frontier):
            said[node] = candidates.tokens[row], candidates.logprobs[row]
        tree = tree.grow(frontier, candidates)
        frontier = list(range(first, len(tree)))
    return tree, said


def commit(target, drafter, tokens):
    """The target commits, then the drafter hears of it, as in the engine's step."""
    rows = list(range(len(tokens)))
    target.forward(tokens, [row - 1 for row in rows])
    target.commit(rows)
    drafter.commit(tokens)


def proposals_are_the_targets_own(drafter, target, policy, root, path_of, levels=2):
    """Every node's candidates are the likeliest after its path, by the target's rows under a mask."""
    tree, said = grown(drafter, root, levels)
    for node, (tokens, logprobs) in said.items():
        path = path_of(tree, node)
        whole = target.eviction
        target.eviction = eviction_of(policy, target.cache, target.model.rotary)
        logits = target.forward(list(path), list(range(-1, len(path) - 1)))[-1]
        target.commit([])
        target.eviction = whole
        expected = logits.float().log_softmax(-1).topk(2)
        assert tokens == expected.indices.tolist()
        assert logprobs == pytest.approx(expected.values.tolist(), abs=EXACT)
    return tree


steps = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=6)


@pytest.mark.parametrize("kv", ["full", "window:6", SMALL])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_proposals_are_the_targets_own_under_that_policy(start, make, path_of, kv, family):
    """After any steps, whatever was drafted in between."""

    @settings(max_examples=5)
    @given(steps)
    def holds(steps):
        drafter, target, _ = start(kv, family=family)
        for levels, count in steps:
            root = (target.length * 5) % 90 + 1
            proposals_are_the_targets_own(
                drafter, target, make("kv", kv), root, path_of, levels
            )
            commit(target, drafter, [(root + 3 * i) % 90 + 1 for i in range(count)])

    holds()


def test_another_policy_says_something_else(start, make, path_of):
    """The control of the test above."""
    drafter, target, _ = start("window:2")
    with pytest.raises(AssertionError):
        proposals_are_the_targets_own(drafter, target, make("kv", "full"), 5, path_of)


def test_under_full_every_draft_is_accepted():
    pipeline = Pipeline(tiny("llama"), drafter="self:kv=[full]", shaper="chain:k=4")
    result = pipeline.generate(PROMPT, max_new_tokens=30)
    drafted = [step for step in result.steps if step.depth]
    assert drafted
    assert all(step.accepted == step.depth for step in drafted)


@pytest.mark.parametrize(
    "kv", [SMALL, "window:6", "knorm:budget=8,epoch=4", "lagkv:lag=2,budget=8,epoch=4"]
)
@pytest.mark.parametrize("target_kv", ["full", "h2o:budget=12,recent=4,sinks=1,epoch=4"])
def test_the_output_is_the_targets(kv, target_kv):
    pipeline = Pipeline(
        tiny("llama", 1), drafter=f"self:kv=[{kv}]", shaper="fixed:threshold=0", kv=target_kv
    )
    ours = pipeline.generate(PROMPT, max_new_tokens=30).token_ids
    assert ours == pipeline.autoregressive.generate(PROMPT, max_new_tokens=30).token_ids


def test_nothing_drafted_is_kept(start):
    drafter, target, shared = start("full")
    grown(drafter, 5, levels=3)
    assert shared.scratch == 1 + 2 + 4
    assert shared.length == len(PROMPT)
    commit(target, drafter, [9, 8])
    assert (shared.length, shared.scratch) == (len(PROMPT) + 2, 0)
    for ours, theirs in zip(shared.cache.committed(), target.cache.committed(), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_node_asked_for_again_is_not_forwarded_again(start):
    drafter, _, shared = start()
    tree, said = grown(drafter, 5)
    scratch = shared.scratch
    again = drafter.expand(tree, [0, 1], 2)
    assert shared.scratch == scratch
    assert again.tokens[1] == said[1][0]


def test_answers_of_an_earlier_step_are_forgotten(start):
    drafter, target, _ = start()
    _, before = grown(drafter, 5, levels=1)
    commit(target, drafter, [5, 60])
    _, after = grown(drafter, 7, levels=1)
    assert before[0][1] != after[0][1]


def test_beyond_the_models_positions_it_proposes_nothing(start):
    text = [i % 90 + 1 for i in range(POSITIONS - 2)]
    drafter, target, _ = start(prompt=text)
    tree, said = grown(drafter, 5, levels=4, k=1)
    assert [len(tokens) for tokens, _ in said.values()] == [1, 1, 0]
    assert tree.depth == 2
    commit(target, drafter, [5, 6])
    assert drafter.expand(TokenTree.root(7), [0], 3).tokens == [[]]


def test_no_weights_and_little_memory_of_its_own():
    pipeline = Pipeline(tiny("llama"), drafter=f"self:kv=[{SMALL}]", shaper="chain")
    stream = pipeline.stream([i % 90 + 1 for i in range(200)], max_new_tokens=20)
    list(stream.decode())
    (shared,) = stream.drafts.sessions
    assert shared.model is stream.target.model
    assert stream.result.draft_kv_bytes < stream.result.kv_bytes


@pytest.mark.parametrize("kv", ["h2o", "tova", "snapkv", "pyramid", "expected", "headaware"])
def test_a_policy_that_reads_queries_is_refused_before_weights_load(tmp_path, kv):
    """The folder has a config and no weights."""
    hf.LlamaConfig(
        num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=97
    ).save_pretrained(tmp_path)
    with pytest.raises(MismatchError, match=f"draft under KV policy '{kv}': it reads queries"):
        Pipeline(str(tmp_path), drafter=f"self:kv=[{kv}]")
    assert Pipeline(str(tmp_path), drafter=f"self:kv=[{SMALL}]")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("self:kv=[nosuch]", "nosuch"),
        ("self:kv=[streaming:budget=1]", "'budget' must be >= 2"),
        ("self:budget=9", "no option 'budget'"),
    ],
)
def test_bad_options(registry, spec, said):
    with pytest.raises(SpecError, match=said):
        registry.resolve("drafter", spec)

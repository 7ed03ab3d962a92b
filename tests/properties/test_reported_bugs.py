"""Bugs that other implementations of speculative decoding have had: none of them is here.

What other tests look for is not repeated: stop ids and stop strings inside an accepted path
(test_stopping.py), KV after a rollback (test_promise.py), logits processors for each node
(test_logits_processing.py), joint laws of draws (test_enumeration.py), bits in long contexts
(test_numerics.py).
"""

from functools import cache
from typing import ClassVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit import (
    Candidates,
    Drafter,
    Pipeline,
    Pool,
    Sampling,
    TreeShaper,
    Verdict,
    Verifier,
    verify,
)
from toolkit.conformance.models import WINDOW, noisy, tiny
from toolkit.engine import Strategies, decode

PROMPT = [5, 9, 33, 4, 9, 33]


@attrs.define(eq=False)
class Knowing(Drafter):
    """Drafts AR's next tokens, `right` of them in each step, and then wrong ones."""

    name = "knowing"
    script: ClassVar[tuple[list[int], int]] = ([], 0)  # AR's whole text, and how many are right
    _length: int = attrs.field(init=False, default=0)

    def start(self, prompt, runtime):
        self._length = len(prompt)

    def expand(self, tree, frontier, k):
        text, right = self.script
        rows = []
        for node in frontier:
            depth = tree.depths[node]
            token = text[self._length + depth + 1 :][:1] or [0]
            wrong = [(token[0] + 1 + i) % 11 for i in range(k)]
            rows.append((token + wrong if depth < right else wrong)[:k])
        return Candidates(rows, [[-0.1 * (i + 1) for i in range(len(row))] for row in rows])

    def commit(self, tokens):
        self._length += len(tokens)


def steps_of(model, session, make, k, right):
    """Tokens and steps of a decoding of 30 tokens with a chain of `k`, of which `right` are right."""
    Knowing.script = PROMPT[:2] + model.greedy(PROMPT[:2], 60), right
    strategies = Strategies(Knowing(), make("shaper", f"chain:k={k}"), make("verifier", "greedy"))
    events = decode(
        session, None, strategies,
        PROMPT[:2], max_new_tokens=30, ends=lambda _: False, sampling=Sampling(), seed=0,
    )  # fmt: skip
    events = list(events)
    return [token for event in events for token in event.tokens], [e.step for e in events[1:]]


@pytest.mark.parametrize("k", range(1, 9))
def test_any_number_of_a_draft_may_be_right(hash_model, hash_session, make, k):
    """The first alone is wrong; all but the last are right; any depth: the tokens are AR's, the steps
    say what was accepted, and committed tokens are emitted tokens."""
    model = hash_model(3)
    for right in range(k + 1):
        session = hash_session(model)
        tokens, steps = steps_of(model, session, make, k, right)
        assert tokens == model.greedy(PROMPT[:2], 30)
        assert {step.accepted for step in steps[:-1]} <= {right}
        assert 1 + sum(step.committed for step in steps) == len(tokens) == 30
        assert session.committed == PROMPT[:2] + tokens[:-1]


@pytest.mark.parametrize("k", [1, 3])
def test_a_counter_that_stays_one_high_would_be_caught(hash_model, hash_session, make, k):
    """The control: where exactly the last candidate is rejected, it stays in the cache."""
    model = hash_model(3)

    class OneHigh(hash_session):
        def commit(self, rows):
            late = self.rows[-1][-1:] if len(rows) == len(self.rows) - 1 and self.length > 2 else ()
            super().commit(rows)
            self.committed += late

    tokens, _ = steps_of(model, OneHigh(model), make, k, k - 1)
    assert tokens != model.greedy(PROMPT[:2], 30)


@pytest.mark.parametrize("shaper", ["chain:k=40", "fixed:depth=3,branch=6,nodes=200"])
def test_trees_may_be_larger_than_a_sliding_window(shaper):
    """Wider and deeper than any constant, on a window that has wrapped, accepted or rejected."""
    pool = Pool(modules={"it": tiny("mistral")})
    pipeline = Pipeline("it", drafter=Knowing, shaper=shaper, pool=pool)
    ar = pipeline.autoregressive.generate(PROMPT, max_new_tokens=60)
    for right in (0, 2, 40):
        Knowing.script = PROMPT + ar.token_ids, right
        result = pipeline.generate(PROMPT, max_new_tokens=60)
        assert max(step.nodes for step in result.steps) > 2 * WINDOW
        assert result.token_ids == ar.token_ids


@attrs.define
class AcceptsAll(Verifier):
    """Accepts every first child."""

    name = "accepts-all"
    exactness = "greedy"
    assumes = frozenset({"fixed"})

    def judge(self, tree, logits, sampler):
        path = [0]
        while children := tree.children()[path[-1]]:
            path.append(children[0])
        return Verdict(path, int(logits[path[-1]].argmax()))


def test_acceptance_is_no_evidence():
    """A broken verifier accepts more, and only the tokens say so."""
    pool = Pool(modules={"it": tiny("llama", 1), "draft": noisy("llama", 1, 0.05)})
    taus = {}
    for verifier in ("greedy", AcceptsAll):
        pipeline = Pipeline(
            "it", drafter="model:draft", shaper="chain", verifier=verifier, pool=pool
        )
        result = pipeline.generate(PROMPT, max_new_tokens=40)
        taus[verify(pipeline, result).verdict] = result.tau
    assert taus["divergent"] > taus["exact"]


@attrs.define
class EveryOther(TreeShaper):
    """Sends no drafts in every other step, and asks for none."""

    name = "every-other"
    nodes = 4
    _steps: int = attrs.field(init=False, default=0)

    def grow(self, root, expand):
        self._steps += 1
        if self._steps % 2:
            return root
        return root.grow([0], expand(root, [0], 3))


@pytest.mark.parametrize(
    "drafter", ["model:draft", "ngram:n=1", "self:kv=[streaming:budget=24,sinks=2]"]
)
def test_a_step_without_drafts_leaves_the_drafter_in_order(drafter):
    """What it drafts afterwards is what it would draft in a request that begins there."""
    pool = Pool(modules={"it": tiny("llama", 1), "draft": noisy("llama", 1, 0.05)})
    pipeline = Pipeline("it", drafter=drafter, shaper=EveryOther, pool=pool)
    prompt = [*range(97)]  # ngram has seen every token
    stream = pipeline.stream(prompt, max_new_tokens=12)
    drafted = [(e.step.length, e.tree.tokens) for e in stream.decode() if e.step and e.tree.depth]
    text = prompt + stream.result.token_ids
    assert drafted
    for length, tokens in drafted[:3]:
        fresh = Pipeline("it", drafter=drafter, shaper="fixed:depth=1,branch=3", pool=pool)
        first = next(e for e in fresh.stream(text[:length]).decode() if e.step)
        assert first.tree.tokens == tokens


@pytest.mark.parametrize(
    "drafter", ["model:draft", "ngram", "self:kv=[streaming:budget=24,sinks=2]"]
)
def test_a_short_prompt_after_a_long_one(drafter):
    """One pipeline; no state of the drafter survives a request."""
    pool = Pool(modules={"it": tiny("llama", 1), "draft": noisy("llama", 1, 0.05)})
    one = Pipeline("it", drafter=drafter, pool=pool)
    long = PROMPT * 12
    for prompt in (long, [7], long, PROMPT):
        kept, fresh = (
            pipeline.generate(prompt, max_new_tokens=12)
            for pipeline in (one, Pipeline("it", drafter=drafter, pool=pool))
        )
        assert kept.token_ids == fresh.token_ids
        assert [(s.nodes, s.accepted) for s in kept.steps] == [
            (s.nodes, s.accepted) for s in fresh.steps
        ]


VERIFIERS = [("greedy", 0.0), ("sampler-match", 1.0), ("swor", 1.0), ("traversal", 1.0)]


@pytest.mark.parametrize(("verifier", "temperature"), VERIFIERS)
def test_a_tree_of_one_child_per_node_is_the_chain(verifier, temperature):
    """Token for token and step for step; the control is a tree of two."""
    pool = Pool(modules={"it": tiny("llama", 1), "draft": noisy("llama", 1, 0.05)})

    def decoded(shaper):
        pipeline = Pipeline(
            "it", drafter="model:draft", shaper=shaper, verifier=verifier,
            sampling=Sampling(temperature), pool=pool,
        )  # fmt: skip
        found = [pipeline.generate(PROMPT, max_new_tokens=20, seed=seed) for seed in range(3)]
        return [(g.token_ids, [(s.nodes, s.accepted, s.committed) for s in g.steps]) for g in found]

    chain = decoded("chain:k=4")
    assert decoded("growmap:1x1x1x1") == chain != decoded("growmap:2x1x1x1")


@cache
def known():
    """A pipeline, and what it says by AR."""
    pipeline = Pipeline(tiny("llama", 1, ()), drafter=Knowing, shaper="chain:k=6")
    return pipeline, pipeline.autoregressive.generate(PROMPT, max_new_tokens=14).token_ids


@given(
    room=st.integers(1, 12), right=st.integers(0, 6), stops=st.sets(st.integers(0, 96), max_size=9)
)
def test_the_length_and_a_stop_id_in_one_step(room, right, stops):
    """The tokens end at the first of the two, and the stop id is the reason where both are met."""
    pipeline, ar = known()
    stops |= {ar[room - 1]} if room % 2 else set()
    Knowing.script = PROMPT + ar, right
    stream = pipeline.stream(PROMPT, max_new_tokens=room, stop_ids=stops)
    list(stream)
    end = next((i + 1 for i, token in enumerate(ar[:room]) if token in stops), None)
    assert stream.result.token_ids == ar[: end or room]
    assert stream.result.stop_reason == ("eos" if end else "length")


DRAFT_KV = "window streaming h2o tova snapkv pyramid knorm keydiff lagkv expected".split()


@cache
def steps_with(draft_kv):
    """The committed tokens of every step where the target's twin drafts under a KV policy."""
    pool = Pool(modules={"it": tiny("llama", 1), "draft": noisy("llama", 1, 0.05)})
    pipeline = Pipeline(
        "it", drafter="model:draft", shaper="chain:k=4", draft_kv=draft_kv, pool=pool
    )
    generation = pipeline.generate([*range(5, 45)], max_new_tokens=40)
    return [step.committed for step in generation.steps]


@pytest.mark.parametrize("policy", DRAFT_KV)
def test_a_drafter_that_keeps_all_its_rows_loses_no_acceptance(policy):
    assert steps_with(f"{policy}:budget=1000") == steps_with("full")


def test_a_drafter_that_reads_next_to_nothing_does():
    """The control: what a drafter sees does change what is accepted."""
    assert steps_with("window:budget=1") != steps_with("full")

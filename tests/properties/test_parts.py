"""Properties of one part at a time: forwards of trees, drafters, verifiers."""

import attrs
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from toolkit import Drafter, Pool, Registry, Sampler, Sampling
from toolkit.conformance.cases import token_identical
from toolkit.conformance.generators import samplings, schedules, trees
from toolkit.conformance.models import FAMILIES, VOCABULARY, noisy, tiny
from toolkit.conformance.properties import drafters, masks, verifiers
from toolkit.conformance.tree_paths import tokens_to
from toolkit.runtime.draft_runtime import DraftRuntime
from toolkit.runtime.session import ModelSession

REGISTRY = Registry.installed()
DRAFTERS = REGISTRY.names("drafter")
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20)


def session(family, seed=0, policy="full"):
    pool = Pool(modules={"it": tiny(family, seed)})
    return ModelSession(pool.load("it"), REGISTRY.resolve("kv", policy).build())


def uncached(family, seed=0):
    """A forward over a whole text, each row a chain on the one before: no cache is involved."""

    def full(ids):
        return session(family, seed).forward(ids, list(range(-1, len(ids) - 1)))

    return full


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_node_sees_its_path_alone(family):
    @given(TOKENS, trees())
    def holds(prefix, tree):
        it = session(family)
        it.prefill(prefix)
        masks.node_sees_its_path(it, tree, prefix, uncached(family))

    holds()


@attrs.define(eq=False)
class Following:
    """A drafter with a target that commits what the drafter is told of."""

    drafter: Drafter
    target: ModelSession

    def expand(self, tree, frontier, k):
        return self.drafter.expand(tree, frontier, k)

    def commit(self, tokens):
        rows = list(range(len(tokens)))
        self.target.forward(tokens, [row - 1 for row in rows])
        self.target.commit(rows)
        self.drafter.commit(tokens)


def started(name, prompt):
    given = {
        "model": ":noisy",
        "staged": ":levels=[model:noisy]+[ngram]",
        "synthetic": ":tokens=1",
    }
    options = given.get(name, "")
    choice = REGISTRY.resolve("drafter", name + options)
    pool = Pool(modules={"it": tiny("llama", 0), "noisy": noisy("llama", 0)})
    target = session("llama")
    target.prefill(prompt)
    drafter = choice.build()
    drafter.start(prompt, DraftRuntime(pool, target, REGISTRY.resolve("kv", "full")))
    return Following(drafter, target)


@pytest.mark.parametrize("name", DRAFTERS)
def test_branches_are_drafted_alone(name):
    @given(TOKENS, st.integers(0, VOCABULARY - 1))
    def holds(prompt, root):
        drafters.branches_drafted_alone(lambda: started(name, prompt), prompt, root)

    holds()


@pytest.mark.parametrize("name", DRAFTERS)
def test_drafts_depend_on_committed_text_alone(name):
    @given(TOKENS, schedules())
    def holds(prompt, done):
        drafters.drafts_from_committed_only(lambda text: started(name, text), prompt, done)

    holds()


@pytest.mark.parametrize("name", token_identical(REGISTRY))
def test_a_verifier_accepts_what_ar_says(name):
    greedy = REGISTRY.find("verifier", name).exactness == "greedy"
    sampling = st.just(Sampling()) if greedy else samplings()

    @given(trees(vocabulary=4), st.integers(0, 2**31), sampling)
    def holds(tree, seed, sampling):
        paths = [tokens_to(tree, node) for node in range(len(tree))]
        rngs = [torch.Generator().manual_seed(hash((seed, *path)) % 2**31) for path in paths]
        logits = torch.stack([torch.randn(4, generator=rng).round() for rng in rngs])  # ties happen
        verifier = REGISTRY.resolve("verifier", name).build()
        verifiers.accepts_what_ar_says(verifier, tree, logits, Sampler(sampling, seed))

    holds()


@given(trees(vocabulary=5), st.randoms(use_true_random=False))
def test_the_order_of_siblings_does_not_matter(tree, random):
    """Under greedy verification a tree and its mirror commit the same tokens."""
    choice, logits = {}, torch.zeros(len(tree), 5)
    for node in range(len(tree)):
        path = tuple(tokens_to(tree, node))
        logits[node, choice.setdefault(path, random.randrange(5))] = 1.0
    verifier = REGISTRY.resolve("verifier", "greedy").build()
    verifiers.siblings_in_any_order(verifier, tree, logits, Sampler(), random)

"""Sampler match: AR's tokens with one seed, and over seeds the target's law."""

import math
from collections import Counter
from itertools import product

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import toolkit.engine
from toolkit import Candidates, Drafter, Sampler, Sampling, TokenTree
from toolkit.conformance.generators import samplings
from toolkit.engine import Strategies, decode

LOGITS = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()


@attrs.define(eq=False)
class Uniform(Drafter):
    """Every token, in an order that depends on the node."""

    name = "uniform"
    tokens: int = 4

    def start(self, prompt, runtime):
        pass

    def expand(self, tree, frontier, k):
        rows = [[(node + i) % self.tokens for i in range(min(k, self.tokens))] for node in frontier]
        return Candidates(rows, [[-1.0] * len(row) for row in rows])

    def commit(self, tokens):
        pass


def test_the_path_is_what_the_sampler_draws(make, plant):
    tree = plant([(0, token, -1.0) for token in range(4)] + [(n, 1, -1.0) for n in (1, 2, 3, 4)])
    sampler = Sampler(Sampling(1.0), 3, 9)
    first, second = (sampler.token(LOGITS, depth) for depth in (0, 1))
    verdict = make("verifier", "sampler-match").judge(tree, LOGITS.expand(9, 4), sampler)
    assert tree.tokens[verdict.path[1]] == first
    assert len(verdict.path) == (3 if second == 1 else 2)
    assert verdict.bonus == (sampler.token(LOGITS, 2) if second == 1 else second)


def test_a_duplicate_with_more_below_it_is_taken(make, plant):
    tree = plant([(0, 1, -1.0), (0, 1, -1.0), (2, 1, -1.0)])
    logits = torch.tensor([[0.0, 99.0, 0.0]] * 4)
    verdict = make("verifier", "sampler-match").judge(tree, logits, Sampler(Sampling(1.0)))
    assert (verdict.path, verdict.bonus) == ([0, 2, 3], 1)


@given(data=st.data(), sampling=samplings(), seed=st.integers(0, 99))
def test_at_temperature_0_it_is_greedy(make, data, sampling, seed):
    shape = st.tuples(st.integers(0, 9), st.integers(0, 2), st.just(-1.0))
    tree = TokenTree.root(0)
    for parent, token, logprob in data.draw(st.lists(shape, max_size=8)):
        tree = tree.grow([parent % len(tree)], Candidates([[token]], [[logprob]]))
    logits = torch.tensor([[1.0, 5.0, 2.0]] * len(tree))
    ours = make("verifier", "sampler-match").judge(tree, logits, Sampler(Sampling(), seed))
    theirs = make("verifier", "greedy").judge(tree, logits, Sampler())
    assert attrs.astuple(ours) == attrs.astuple(theirs)


SEEDS, TOKENS = 1500, 3
JOINT = {
    text: math.prod(LOGITS[token].exp().item() for token in text)
    for text in product(range(4), repeat=TOKENS)
}
TOO_FAR = 144.2  # the chi-square quantile of 1 − 1e−7, 63 degrees of freedom


def texts(make, hash_model, hash_session, sampling):
    """How often each text of three tokens was decoded, over many seeds."""

    class Constant(hash_model):
        def logits(self, text):
            return LOGITS

    drafts = Strategies(Uniform(), make("shaper", "fixed:depth=2,branch=2,threshold=0"),
                        make("verifier", "sampler-match"))  # fmt: skip
    found = Counter()
    for seed in range(SEEDS):
        events = decode(
            hash_session(Constant(vocabulary=4)), None, drafts, [1, 2], max_new_tokens=TOKENS,
            ends=lambda token: False, sampling=sampling, seed=seed,
        )  # fmt: skip
        found[tuple(token for event in events for token in event.tokens)] += 1
    return found


def distance(found):
    return sum((found[text] - SEEDS * p) ** 2 / (SEEDS * p) for text, p in JOINT.items())


def test_over_seeds_texts_have_their_joint_law(make, hash_model, hash_session):
    """Seeds are fixed: the result is the same every time."""
    assert distance(texts(make, hash_model, hash_session, Sampling(1.0))) < TOO_FAR
    assert distance(texts(make, hash_model, hash_session, Sampling(0.5))) > TOO_FAR  # it can tell


@pytest.mark.parametrize("frozen", ["for a request", "for a step"])
def test_noise_that_is_frozen_is_caught(make, hash_model, hash_session, monkeypatch, frozen):
    """Every token's law alone is right then, and so the law of pairs is what shows it."""

    class Frozen(Sampler):
        def _noise(self, logits, depth):
            start = 0 if frozen == "for a request" else self.position
            return Sampler(self.sampling, self.seed, start - depth)._noise(logits, depth)

    monkeypatch.setattr(toolkit.engine, "Sampler", Frozen)
    assert distance(texts(make, hash_model, hash_session, Sampling(1.0))) > TOO_FAR

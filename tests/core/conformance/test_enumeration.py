"""The enumeration itself: every outcome once, exact laws, and what is off by a little is found."""

import itertools

import attrs
import pytest
import torch
from saboteurs.verifiers import InTurn, OneByOne

from toolkit import Candidates, Registry, Sampler, Sampling, TokenTree
from toolkit.conformance.enumeration import (
    ROUNDING,
    Chance,
    ChanceSampler,
    emitted,
    every_run,
    language,
    redrawn,
    worst_error,
)

REGISTRY = Registry.installed()
SAMPLINGS = [
    Sampling(1.0), Sampling(0.4), Sampling(2.5, top_k=2), Sampling(1.0, top_p=0.6),
    Sampling(1.3, min_p=0.3), Sampling(),
]  # fmt: skip


def test_every_outcome_comes_once_with_its_probability():
    def dice(chance):
        first = chance.choose([0.5, 0.0, 0.5])
        return first, chance.choose([0.25, 0.75]) if first else None

    assert list(every_run(dice)) == [(0.5, (0, None)), (0.125, (2, 0)), (0.375, (2, 1))]


def test_a_keyed_number_is_the_same_number_for_another_law():
    """u < 0.5 by the first law; by the second, u < 0.25 is half of that."""

    def coupled(chance):
        return chance.choose([0.5, 0.5], key="u"), chance.choose([0.25, 0.75], key="u")

    assert list(every_run(coupled)) == [(0.25, (0, 0)), (0.25, (0, 1)), (0.5, (1, 1))]


def test_a_chance_sampler_has_the_samplers_law():
    """Over 3,000 seeds the real sampler draws each token as often as the enumerated one says."""
    logits, sampling = torch.tensor([0.0, 1.0, 2.0, -1.0]), Sampling(0.8, top_p=0.95)
    chance = Chance()
    ChanceSampler(sampling, chance=chance).token(logits, 0)
    (_, law), *_ = chance.taken
    drawn = [Sampler(sampling, seed).token(logits, 0) for seed in range(3000)]
    for token, share in enumerate(law):
        spread = 5.4 * (3000 * share * (1 - share)) ** 0.5
        assert abs(drawn.count(token) - 3000 * share) <= spread


def every_tree(nodes, vocabulary):
    """Every tree of at most so many nodes, as parents and tokens of all but the root."""
    for count in range(nodes):
        for parents in itertools.product(*(range(node + 1) for node in range(count))):
            for tokens in itertools.product(range(vocabulary), repeat=count):
                yield parents, tokens


def planted(*shapes):
    """`grow` for fixed trees, one for each step."""

    def grow(step, text, chance):
        tree = TokenTree.root(text[-1])
        for parent, token in zip(*shapes[step], strict=True):
            tree = tree.grow([parent], Candidates([[token]], [[-1.0]]))
        return tree

    return grow


def match():
    return REGISTRY.resolve("verifier", "sampler-match").build()


def test_sampler_match_has_ars_law_on_every_small_tree():
    """Every tree of up to 4 nodes over 2 tokens, duplicates included."""
    target = language(5, 2)
    for shape in every_tree(4, 2):
        law = emitted(match, target, planted(shape), Sampling(1.0), 1)
        assert worst_error(law, target, Sampling(1.0)) <= ROUNDING


STAR, COMB, CHAIN = ((0, 0, 0), (0, 1, 3)), ((0, 1, 1), (2, 0, 1)), ((0, 1, 2), (1, 1, 2))


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("shapes", [(STAR, CHAIN), (CHAIN, COMB), (COMB, STAR)])
def test_two_steps_have_ars_joint_law(sampling, shapes):
    target = language(7, 4)
    for make in (match, OneByOne):
        law = emitted(make, target, planted(*shapes), sampling, 2)
        assert worst_error(law, target, sampling) <= ROUNDING


def test_the_base_of_the_broken_verifiers_of_draws_has_ars_law():
    """So each of them is caught for its own bug."""
    target, draft, sampling = language(1, 3), language(2, 3), Sampling(1.0)
    shapes = [planted(STAR, CHAIN)(step, (0,), None) for step in (0, 1)]
    law = emitted(InTurn, target, lambda step, *rest: redrawn(shapes[step], rest[0], draft, rest[1]),
                  sampling, 2)  # fmt: skip
    assert worst_error(law, target, sampling) <= ROUNDING


@attrs.frozen(eq=False)
class Frozen(ChanceSampler):
    """Its noise does not depend on the position, only on the request."""

    def token(self, logits, depth):
        return self.chance.choose(self.law(logits).tolist(), key="request")


def test_frozen_noise_is_right_in_one_step_without_drafts_and_wrong_in_two():
    """Marginal laws do not show it: the joint law over two steps does."""
    target, sampling = language(7, 3), Sampling(1.0)
    alone = planted(((), ()), ((), ()))
    one, two = (emitted(match, target, alone, sampling, steps, Frozen) for steps in (1, 2))
    assert worst_error(one, target, sampling) <= ROUNDING
    assert worst_error(two, target, sampling) > 0.01


def test_a_small_bias_is_found():
    @attrs.define
    class Biased(OneByOne):
        def accepts(self, sampler, share):
            return sampler.accepts(share * (1 - 1e-9))

    target = language(7, 4)
    law = emitted(Biased, target, planted(STAR), Sampling(1.0), 1)
    assert ROUNDING < worst_error(law, target, Sampling(1.0)) < 1e-8

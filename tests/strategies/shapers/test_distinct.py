"""The tree of distinct draws: the law stays, and sure nodes have few children."""

import math
import random

import attrs
import pytest
import torch

from toolkit import Candidates, Sampling, TokenTree
from toolkit.conformance.enumeration import ROUNDING, emitted, language, redrawn, worst_error
from toolkit.conformance.tree_paths import tokens_to


def drawn_by(draft, chance, text, shape):
    """`expand` by draws without replacement from softmax(draft)."""

    def expand(tree, frontier, k):
        rows = [
            redrawn(shape((0,) * k), (*text, *tokens_to(tree, node)[1:]), draft, chance)
            for node in frontier
        ]
        tokens, logprobs = [row.tokens[1:] for row in rows], [row.logprobs[1:] for row in rows]
        return Candidates(tokens, logprobs, torch.stack([row.laws[0] for row in rows]))

    return expand


def shape(parents):
    tree = TokenTree.root(0)
    for parent in parents:
        tree = tree.grow([parent], Candidates([[0]], [[-1.0]]))
    return tree


def sort_as_a_set(tree):
    """Siblings of the root in the order in which a set of small numbers holds them."""
    return attrs.evolve(tree, tokens=[tree.tokens[0], *sorted(tree.tokens[1:])])


def error(make, verifier, seed, spec, vocabulary=3, change=lambda tree: tree):
    """The error of the law, and the shapes that were grown, for one sequence of the shaper's coins."""
    target, draft, shapes = language(seed, vocabulary), language(seed + 10, vocabulary), set()

    def grow(step, text, chance):
        shaper = make("shaper", spec)
        shaper._random = random.Random(seed)
        tree = shaper.grow(TokenTree.root(text[-1]), drawn_by(draft, chance, text, shape))
        shapes.add(tuple(tree.parents))
        return change(tree)

    law = emitted(lambda: make("verifier", verifier), target, grow, Sampling(1.0), 1)
    return worst_error(law, target, Sampling(1.0)), shapes


@pytest.mark.parametrize("verifier", ["swor", "traversal"])
def test_the_law_is_ars_whatever_its_coins(make, verifier):
    shapes = set()
    for seed in (2, 3, 4):
        found, grown = error(make, verifier, seed, "distinct:nodes=4,width=2,depth=2")
        assert found <= ROUNDING
        shapes |= grown
    assert len(shapes) > 1


@pytest.mark.parametrize("verifier", ["swor", "traversal"])
def test_the_order_of_a_set_is_caught(make, verifier):
    """As published."""
    spec = "distinct:nodes=4,width=3,depth=1"
    assert error(make, verifier, 1, spec, 4)[0] <= ROUNDING
    assert error(make, verifier, 1, spec, 4, sort_as_a_set)[0] > 1e-3


def with_law(*law):
    def expand(tree, frontier, k):
        row = [math.log(p) if p else -math.inf for p in law[:k]]
        laws = torch.tensor([law] * len(frontier), dtype=torch.double)
        return Candidates([[*range(k)]] * len(frontier), [row] * len(frontier), laws)

    return expand


def test_a_sure_node_gets_a_chain_and_an_unsure_one_siblings(make):
    shaper = make("shaper", "distinct:nodes=9,width=3,depth=8")
    sure = shaper.grow(TokenTree.root(0), with_law(1.0, 0.0, 0.0))
    unsure = shaper.grow(TokenTree.root(0), with_law(*[0.001] * 1000))
    assert (sure.depth, len(sure)) == (8, 9)
    assert (unsure.depth, len(unsure)) == (2, 9)


def test_counts_are_those_of_distinct_tokens_of_independent_draws(make):
    """Two draws from (½, ½) are distinct half of the time."""
    shaper = make("shaper", "distinct:nodes=3,width=2,depth=1")
    two = sum(len(shaper.grow(TokenTree.root(0), with_law(0.5, 0.5))) == 3 for _ in range(1000))
    assert abs(two - 500) < 5.4 * math.sqrt(250)


def test_candidates_that_were_not_drawn_do_not_repeat(make):
    def alike(tree, frontier, k):
        return Candidates([[0, 1][:k]] * len(frontier), [[-0.1, -3.0][:k]] * len(frontier))

    shaper = make("shaper", "distinct:nodes=8,width=2,depth=2")
    assert len(shaper.grow(TokenTree.root(0), alike)) == 7

"""Dynamic trees for drawn candidates: the law stays, and the shape follows the entropy."""

import itertools
import random

import pytest
import torch

from toolkit import Candidates, GrowMap, Sampling, TokenTree, Verdict
from toolkit.conformance.enumeration import ROUNDING, emitted, language, worst_error
from toolkit.conformance.tree_paths import tokens_to

UNKNOWN = 2


def wide(tree, frontier, k):
    return Candidates([list(range(k)) for _ in frontier], [[-1.0] * k for _ in frontier])


def drawn_by(draft, chance, text):
    """`expand` by draws without replacement from softmax(draft)."""

    def expand(tree, frontier, k):
        tokens, laws = [], []
        for node in frontier:
            law = draft((*text, *tokens_to(tree, node)[1:])).softmax(-1)
            row, left = [], law.clone()
            for _ in range(min(k, len(law))):
                row.append(chance.choose((left / left.sum()).tolist()))
                left[row[-1]] = 0.0
            tokens.append(row)
            laws.append(law)
        logprobs = [law[row].log().tolist() for law, row in zip(laws, tokens, strict=True)]
        return Candidates(tokens, logprobs, torch.stack(laws))

    return expand


@pytest.mark.parametrize(("verifier", "seed"), [("swor", 1), ("traversal", 3)])
def test_with_any_table_the_law_is_ars(make, verifier, seed):
    """Random tables of acceptance, so that shapes differ with the laws."""
    target, draft, sampling = language(seed, 3), language(seed + 10, 3), Sampling(1.0)
    rng, shapes = random.Random(seed), set()
    tables = [sorted((rng.random() for _ in range(2)), reverse=True) for _ in range(5)]

    def grow(step, text, chance):
        shaper = make("shaper", "slots:nodes=4,depth=3,width=2")
        shaper._accepted = [[20 * share for share in row] for row in tables]
        tree = shaper.grow(TokenTree.root(text[-1]), drawn_by(draft, chance, text))
        shapes.add(tuple(tree.parents))
        return tree

    law = emitted(lambda: make("verifier", verifier), target, grow, sampling, 1)
    assert worst_error(law, target, sampling) <= ROUNDING
    assert len(shapes) > 1


SIZES = [*itertools.product([2, 7, 24], [1, 4], [1, 3])]


@pytest.mark.parametrize(("nodes", "depth", "width"), SIZES)
def test_without_laws_it_is_the_best_static_tree(make, nodes, depth, width):
    shaper = make("shaper", f"slots:nodes={nodes},depth={depth},width={width}")
    acceptance = shaper._acceptance(UNKNOWN)
    tree = shaper.grow(TokenTree.root(0), wide)
    best = GrowMap.best(acceptance, nodes, depth)
    assert len(tree) == len(best) <= nodes
    by_level = GrowMap.of_children(tree.children())
    assert by_level.expected_tokens(acceptance) == pytest.approx(best.expected_tokens(acceptance))


def test_a_sure_node_gets_a_chain_and_an_unsure_one_siblings(make):
    def with_law(law):
        def expand(tree, frontier, k):
            laws = torch.tensor([law] * len(frontier), dtype=torch.double)
            return Candidates([[0, 1, 2]] * len(frontier), [[-1.0] * 3] * len(frontier), laws)

        return expand

    shaper = make("shaper", "slots:nodes=7,depth=6,width=3")
    sure = shaper.grow(TokenTree.root(0), with_law([0.99, 0.005, 0.005]))
    unsure = shaper.grow(TokenTree.root(0), with_law([0.05] * 20))
    assert (sure.depth, unsure.depth < 6) == (6, True)


def test_it_learns_from_verdicts(make):
    shaper = make("shaper", "slots:nodes=6,depth=2,width=3")
    before = shaper._acceptance(UNKNOWN)
    for _ in range(60):
        tree = shaper.grow(TokenTree.root(0), wide)
        second = tree.children()[0][1]
        shaper.observe(tree, Verdict([0, second], 5))
    after = shaper._acceptance(UNKNOWN)
    assert after[1] > before[1]
    shaper.observe(tree.first(2), Verdict([0], 5))  # a tree that was cut teaches nothing
    assert shaper._acceptance(UNKNOWN) == after

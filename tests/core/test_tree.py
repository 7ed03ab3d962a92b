"""Trees against slow references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Candidates, TokenTree, Verdict

ROW = st.tuples(st.integers(0, 99), st.integers(0, 4), st.sampled_from([0.0, -0.25, -0.5, -1.0, -3.0]))
ROWS = st.lists(ROW, max_size=14)


def nodes_of(tree, path_of):
    """Every node as (path, path log-probability): what renumbering must not change."""
    return [(path_of(tree, i), tree.path_logprobs[i]) for i in range(len(tree))]


def same(tree, other):
    return all(
        getattr(tree, name) == getattr(other, name)
        for name in ("tokens", "parents", "depths", "logprobs", "path_logprobs")
    )


def candidates_of(rows):
    """Candidates from rows of (token, log-probability)."""
    return Candidates(
        [[token for token, _ in row] for row in rows],
        [[logprob for _, logprob in row] for row in rows],
    )


def columns(tree):
    """Every node as (token, parent, depth, path log-probability)."""
    return list(zip(tree.tokens, tree.parents, tree.depths, tree.path_logprobs, strict=True))


CANDIDATE = st.tuples(st.integers(0, 4), st.sampled_from([0.0, -1.0, -math.inf]))


@given(rows=ROWS, data=st.data())
def test_grow_appends_children_in_frontier_then_candidate_order(plant, rows, data):
    tree = plant(rows)
    frontier = sorted(data.draw(st.sets(st.integers(0, len(tree) - 1))))
    proposed = [data.draw(st.lists(CANDIDATE, max_size=3)) for _ in frontier]
    before = columns(tree)
    expected = list(before)
    for node, row in zip(frontier, proposed, strict=True):
        _, _, depth, score = before[node]
        expected += [
            (token, node, depth + 1, score + logprob)
            for token, logprob in row
            if logprob > -math.inf
        ]
    grown = tree.grow(frontier, candidates_of(proposed))
    assert columns(grown) == expected
    assert columns(tree) == before
    assert same(grown.first(len(tree)), tree)


def test_rows_of_different_lengths_grow():
    tree = TokenTree.root(3).grow([0], Candidates([[1, 2, 4]], [[-1.0, -2.0, -3.0]]))
    grown = tree.grow([1, 2, 3], Candidates([[5, 6], [], [7]], [[-0.5, -1.5], [], [-0.25]]))
    assert grown.tokens == [3, 1, 2, 4, 5, 6, 7]
    assert grown.parents == [-1, 0, 0, 0, 1, 1, 3]
    assert grown.depths == [0, 1, 1, 1, 2, 2, 2]
    assert grown.logprobs == [0.0, -1.0, -2.0, -3.0, -0.5, -1.5, -0.25]
    assert grown.path_logprobs == [0.0, -1.0, -2.0, -3.0, -1.5, -2.5, -3.25]


def test_a_candidate_of_log_probability_minus_infinity_is_never_grown():
    candidates = Candidates([[1, 2]], [[-math.inf, -1.0]])
    assert TokenTree.root(3).grow([0], candidates).tokens == [3, 2]
    assert len(TokenTree.root(3).grow([0], Candidates([[1, 2]], [[-math.inf] * 2]))) == 1


def test_no_candidate_counts_as_likelier_than_certain():
    grown = TokenTree.root(3).grow([0], Candidates([[1]], [[0.5]]))
    assert grown.logprobs == grown.path_logprobs == [0.0, 0.0]


@pytest.mark.parametrize("frontier", [[], [0], [0, 1, 0]])
def test_a_row_of_candidates_for_each_frontier_node(frontier):
    tree = TokenTree.root(3).grow([0], Candidates([[1]], [[-1.0]]))
    with pytest.raises(ValueError, match="argument"):
        tree.grow(frontier, Candidates([[5], [6]], [[-1.0], [-1.0]]))


@pytest.mark.parametrize(
    ("tokens", "logprobs"),
    [([[1], [2]], [[-1.0]]), ([[1]], [[-1.0], [-1.0]]), ([[1, 2]], [[-1.0]]), ([[1]], [[]])],
)
def test_a_log_probability_for_each_token(tokens, logprobs):
    with pytest.raises(ValueError, match="argument"):
        TokenTree.root(3).grow([0] * len(tokens), Candidates(tokens, logprobs))


@pytest.mark.parametrize("of", [torch.tensor, np.array, tuple])
def test_tensors_are_no_candidates_and_no_verdict(of):
    for tokens, logprobs in [(of([[1]]), [[-1.0]]), ([[1]], of([[-1.0]]))]:
        with pytest.raises(TypeError, match="must be <class 'list'>"):
            Candidates(tokens, logprobs)
    with pytest.raises(TypeError, match="must be <class 'list'>"):
        Verdict(of([0]), 1)


@pytest.mark.parametrize("bonus", [torch.tensor(1), np.int64(1), 1.0])
def test_a_tensor_is_no_bonus(bonus):
    with pytest.raises(TypeError, match="must be <class 'int'>"):
        Verdict([0], bonus)


@given(rows=ROWS, nodes=st.integers(1, 16))
def test_best_keeps_the_likeliest_and_is_closed_under_parents(plant, path_of, rows, nodes):
    tree = plant(rows)
    order = sorted(range(len(tree)), key=lambda i: (-tree.path_logprobs[i], i))[:nodes]
    before = nodes_of(tree, path_of)
    assert nodes_of(tree.best(nodes), path_of) == [before[i] for i in sorted(order)]


@given(rows=ROWS, nodes=st.integers(1, 16))
def test_first_keeps_the_oldest(plant, path_of, rows, nodes):
    tree = plant(rows)
    assert nodes_of(tree.first(nodes), path_of) == nodes_of(tree, path_of)[:nodes]


@given(rows=ROWS, depth=st.integers(0, 6))
def test_within_keeps_the_shallow(plant, path_of, rows, depth):
    tree = plant(rows)
    shallow = [node for node in nodes_of(tree, path_of) if len(node[0]) <= depth + 1]
    assert nodes_of(tree.within(depth), path_of) == shallow
    assert tree.within(depth).depth == min(depth, tree.depth)


@given(rows=ROWS, data=st.data())
def test_subtree_renumbers_and_keeps_every_field(plant, path_of, rows, data):
    tree = plant(rows)
    kept = [0]
    for node in range(1, len(tree)):
        if tree.parents[node] in kept and data.draw(st.booleans()):
            kept.append(node)
    cut = tree.subtree(kept)
    before = nodes_of(tree, path_of)
    assert nodes_of(cut, path_of) == [before[node] for node in kept]
    assert cut.depths == [len(path) - 1 for path, _ in nodes_of(cut, path_of)]
    assert cut.logprobs == [tree.logprobs[node] for node in kept]


@given(rows=ROWS)
def test_ancestors_are_those_met_on_the_way_up(plant, rows):
    tree = plant(rows)
    expected = torch.zeros(len(tree), len(tree), dtype=torch.bool)
    for node in range(len(tree)):
        above = node
        while above >= 0:
            expected[node, above] = True
            above = tree.parents[above]
    assert torch.equal(tree.ancestors(), expected)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 9, 33])
def test_ancestors_of_a_chain_are_a_triangle(plant, length):
    chain = plant([(node, 0, 0.0) for node in range(length - 1)])
    assert torch.equal(chain.ancestors(), torch.ones(length, length).tril().bool())


def test_root():
    root = TokenTree.root(7)
    assert (len(root), root.depth) == (1, 0)
    assert [root.tokens, root.parents, root.logprobs] == [[7], [-1], [0.0]]


def test_none_has_no_candidates():
    none = Candidates.none(3)
    assert none.tokens == none.logprobs == [[], [], []]
    assert len(TokenTree.root(1).grow([0, 0, 0], none)) == 1


@pytest.mark.parametrize(
    ("parents", "depths", "valid"),
    [
        ([-1, 0, 1, 0], [0, 1, 2, 1], True),
        ([-1], [0], True),
        ([0], [0], False),  # no root
        ([-1, -1], [0, 0], False),  # two roots
        ([-1, 2, 0], [0, 2, 1], False),  # a child before its parent
        ([-1, 1], [0, 1], False),  # its own parent
        ([-1, 0, 1], [0, 1, 1], False),  # a depth that is not the parent's and one
    ],
)
def test_is_valid(parents, depths, valid):
    score = [0.0] * len(parents)
    tree = TokenTree(list(range(len(parents))), parents, depths, score, score)
    assert tree.is_valid() is valid


@given(rows=ROWS)
def test_a_grown_tree_is_valid(plant, rows):
    assert plant(rows).is_valid()

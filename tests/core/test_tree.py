"""Trees against slow references."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Candidates, TokenTree

ROW = st.tuples(st.integers(0, 99), st.integers(0, 4), st.sampled_from([0.0, -0.25, -0.5, -1.0, -3.0]))
ROWS = st.lists(ROW, max_size=14)


def nodes_of(tree, path_of):
    """Every node as (path, path log-probability): what renumbering must not change."""
    return [(path_of(tree, i), float(tree.path_logprobs[i])) for i in range(len(tree))]


def same(tree, other):
    return all(
        torch.equal(getattr(tree, name), getattr(other, name))
        for name in ("tokens", "parents", "depths", "logprobs", "path_logprobs")
    )


@given(
    rows=ROWS,
    width=st.integers(0, 3),
    seed=st.integers(0, 999),
    masked=st.booleans(),
)
def test_grow_appends_children_in_frontier_then_candidate_order(plant, rows, width, seed, masked):
    tree, rng = plant(rows), torch.Generator().manual_seed(seed)
    frontier = (torch.rand(len(tree), generator=rng) < 0.5).nonzero().flatten()
    shape = (len(frontier), width)
    tokens = torch.randint(0, 5, shape, generator=rng)
    logprobs = torch.tensor([0.0, -1.0, -math.inf])[torch.randint(0, 3, shape, generator=rng)]
    keep = torch.rand(shape, generator=rng) < 0.5 if masked else None
    expected = list(
        zip(*(getattr(tree, n).tolist() for n in ("tokens", "parents", "depths", "path_logprobs")),
            strict=True)
    )
    for row, node in enumerate(frontier.tolist()):
        for column in range(width):
            logprob = float(logprobs[row, column])
            if logprob > -math.inf and (keep is None or keep[row, column]):
                _, _, depth, score = expected[node]
                expected.append((int(tokens[row, column]), node, depth + 1, score + logprob))
    grown = tree.grow(frontier, Candidates(tokens, logprobs), keep)
    assert expected == list(
        zip(*(getattr(grown, n).tolist() for n in ("tokens", "parents", "depths", "path_logprobs")),
            strict=True)
    )
    assert grown.tokens.dtype == grown.parents.dtype == grown.depths.dtype == torch.long
    assert same(grown.first(len(tree)), tree)


def test_a_candidate_of_log_probability_minus_infinity_is_never_grown():
    tree = TokenTree.root(torch.tensor(3))
    candidates = Candidates(torch.tensor([[1, 2]]), torch.tensor([[-math.inf, -1.0]]))
    grown = tree.grow(torch.tensor([0]), candidates, torch.ones(1, 2, dtype=torch.bool))
    assert grown.tokens.tolist() == [3, 2]


@given(rows=ROWS, nodes=st.integers(1, 16))
def test_best_keeps_the_likeliest_and_is_closed_under_parents(plant, path_of, rows, nodes):
    tree = plant(rows)
    order = sorted(range(len(tree)), key=lambda i: (-float(tree.path_logprobs[i]), i))[:nodes]
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
        if int(tree.parents[node]) in kept and data.draw(st.booleans()):
            kept.append(node)
    cut = tree.subtree(torch.tensor(kept))
    before = nodes_of(tree, path_of)
    assert nodes_of(cut, path_of) == [before[node] for node in kept]
    assert cut.depths.tolist() == [len(path) - 1 for path, _ in nodes_of(cut, path_of)]
    assert cut.logprobs.tolist() == tree.logprobs[kept].tolist()


@given(rows=ROWS)
def test_ancestors_are_those_met_on_the_way_up(plant, rows):
    tree = plant(rows)
    expected = torch.zeros(len(tree), len(tree), dtype=torch.bool)
    for node in range(len(tree)):
        above = node
        while above >= 0:
            expected[node, above] = True
            above = int(tree.parents[above])
    assert torch.equal(tree.ancestors(), expected)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 9, 33])
def test_ancestors_of_a_chain_are_a_triangle(plant, length):
    chain = plant([(node, 0, 0.0) for node in range(length - 1)])
    assert torch.equal(chain.ancestors(), torch.ones(length, length).tril().bool())


@pytest.mark.parametrize("token", [torch.tensor(7), torch.tensor([7])])
def test_root(token):
    root = TokenTree.root(token)
    assert (len(root), root.depth) == (1, 0)
    assert [root.tokens.tolist(), root.parents.tolist(), root.logprobs.tolist()] == [[7], [-1], [0.0]]


def test_none_has_no_candidates():
    none = Candidates.none(3)
    assert none.tokens.shape == none.logprobs.shape == (3, 0)
    tree = TokenTree.root(torch.tensor(1))
    assert len(tree.grow(torch.zeros(3, dtype=torch.long), none)) == 1


@pytest.mark.parametrize(
    ("parents", "depths", "sound"),
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
def test_sound(parents, depths, sound):
    tokens, score = torch.arange(len(parents)), torch.zeros(len(parents))
    tree = TokenTree(tokens, torch.tensor(parents), torch.tensor(depths), score, score)
    assert tree.sound() is sound


@given(rows=ROWS)
def test_what_is_grown_is_sound(plant, rows):
    assert plant(rows).sound()

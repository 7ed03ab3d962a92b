"""Greedy verification against a walk down the tree."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import Sampler

ROWS = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 2), st.just(-1.0)), max_size=12)
SAMPLER = Sampler()


def walk(tree, logits, node=0):
    """Every path that the target would have said, as node ids."""
    row = logits[node].tolist()
    said = row.index(max(row))
    further = [
        [node, *path]
        for child in range(len(tree))
        if tree.parents[child] == node and tree.tokens[child] == said
        for path in walk(tree, logits, child)
    ]
    return further or [[node]]


@given(rows=ROWS, root=st.integers(0, 2), seed=st.integers(0, 9999), levels=st.integers(1, 9))
def test_the_longest_path_that_the_target_would_have_said(make, plant, rows, root, seed, levels):
    """With few distinct logits there are many ties, with three tokens many duplicate siblings."""
    tree, rng = plant(rows, root=root), torch.Generator().manual_seed(seed)
    logits = torch.randint(0, levels, (len(tree), 3), generator=rng).double()
    verdict = make("verifier", "greedy").judge(tree, logits, SAMPLER)
    path, paths = verdict.path, walk(tree, logits)
    assert path in paths
    assert len(path) == max(map(len, paths))
    assert path[-1] == min(p[-1] for p in paths if len(p) == len(path))  # of equals, the first
    row = logits[path[-1]].tolist()
    assert verdict.bonus == row.index(max(row))


def test_ties_go_to_the_lowest_id(make, plant):
    tree = plant([(0, 2, -1.0), (0, 1, -1.0)])
    logits = torch.tensor([[0.0, 5.0, 5.0], [1.0, 0.0, 1.0], [3.0, 3.0, 3.0]])
    verdict = make("verifier", "greedy").judge(tree, logits, SAMPLER)
    assert (verdict.path, verdict.bonus) == ([0, 2], 0)


def test_a_duplicate_sibling_with_the_longer_path_wins(make, plant):
    tree = plant([(0, 1, -1.0), (0, 1, -1.0), (2, 2, -1.0)])
    logits = torch.tensor([[0.0, 5.0, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 5.0], [9.0, 0.0, 0.0]])
    verdict = make("verifier", "greedy").judge(tree, logits, SAMPLER)
    assert (verdict.path, verdict.bonus) == ([0, 2, 3], 0)


def test_a_right_token_below_a_wrong_one_is_not_accepted(make, plant):
    tree = plant([(0, 2, -1.0), (1, 1, -1.0)])
    logits = torch.tensor([[0.0, 5.0, 0.0]] * 3)
    verdict = make("verifier", "greedy").judge(tree, logits, SAMPLER)
    assert (verdict.path, verdict.bonus) == ([0], 1)


def test_it_draws_nothing(make, plant):
    sampler = Sampler()
    make("verifier", "greedy").judge(plant([(0, 1, -1.0)]), torch.eye(3)[:2], sampler)
    assert "_generator" not in vars(sampler)  # made at the first draw

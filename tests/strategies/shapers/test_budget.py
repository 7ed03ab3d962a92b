"""Best-first: with width enough, the N likeliest nodes of all."""

import random
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit import TokenTree, Verdict

ROOT = TokenTree.root(0)


def law(seed):
    """Three candidates after any path, of random probabilities, likeliest first."""

    def after(path):
        rng = random.Random(f"{seed} {path}")
        shares = sorted((rng.random() for _ in range(4)), reverse=True)
        return {token: share / sum(shares) for token, share in enumerate(shares[:3])}

    return after


def exhaustive(after, depth, nodes):
    """The probabilities of the `nodes` likeliest paths of at most `depth` drafts."""
    paths, level = [((0,), 1.0)], [((0,), 1.0)]
    for _ in range(depth):
        level = [((*path, t), p * q) for path, p in level for t, q in after(path).items()]
        paths += level
    return sorted((p for _, p in paths), reverse=True)[:nodes]


@given(seed=st.integers(0, 999), nodes=st.integers(1, 12), depth=st.integers(1, 3))
def test_wide_enough_it_is_the_best_tree_of_all(make, oracle_of, seed, nodes, depth):
    spec = f"budget:nodes={nodes},depth={depth},width=27"
    tree = make("shaper", spec).grow(ROOT, oracle_of(law(seed)))
    best = exhaustive(law(seed), depth, nodes)
    assert sorted(map(exp, tree.path_logprobs), reverse=True) == pytest.approx(best)


@given(seed=st.integers(0, 999), width=st.integers(1, 4))
def test_the_likeliest_of_each_level_are_expanded(make, oracle_of, path_of, seed, width):
    expand, after = oracle_of(law(seed)), law(seed)
    tree = make("shaper", f"budget:nodes=999,depth=3,width={width}").grow(ROOT, expand)
    assert len(expand.frontiers) == 3  # one call per level
    for depth, frontier in enumerate(expand.frontiers):
        level = [node for node, below in enumerate(tree.depths) if below == depth]
        likeliest = sorted(level, key=lambda node: -tree.path_logprobs[node])[:width]
        assert frontier == sorted(likeliest)
        for node in frontier:
            both = zip(tree.tokens, tree.parents, strict=True)
            children = [token for token, parent in both if parent == node]
            assert children == list(after(path_of(tree, node)))[:width]


def test_time_that_is_up_ends_the_tree(make, oracle_of):
    expand = oracle_of(law(0))
    tree = make("shaper", "budget:depth=5,seconds=1e-9").grow(ROOT, expand)
    assert (tree.depth, expand.frontiers) == (1, [[0]])


def test_no_candidates_end_the_tree(make, oracle_of):
    expand = oracle_of(lambda path: {1: 0.5} if len(path) < 3 else {})
    assert make("shaper", "budget:depth=9").grow(ROOT, expand).depth == 2
    assert len(expand.frontiers) == 3


SAID, TRUE = {1: 0.9, 2: 0.08}, {1: 0.66, 2: 0.32}  # after any path; the drafter is too sure of itself


def expected(tree):
    """The expected number of drafted tokens that are accepted."""
    shares = [1.0]
    for token, parent in zip(tree.tokens[1:], tree.parents[1:], strict=True):
        shares.append(shares[parent] * TRUE[token])
    return sum(shares[1:])


def judged(tree, rng):
    path, token = [0], -1
    while token:
        token = rng.choices([1, 2, 0], [*TRUE.values(), 1 - sum(TRUE.values())])[0]
        below = [n for n, p in enumerate(tree.parents) if p == path[-1] and tree.tokens[n] == token]
        if not below:
            break
        path += below
    return Verdict(path, 0)


@pytest.mark.parametrize("learns", [True, False])
def test_trees_follow_what_is_accepted_and_not_what_the_drafter_says(make, oracle_of, learns):
    """By the drafter a chain is best, by the target a tree."""
    shaper, oracle = make("shaper", "budget:nodes=6,width=2"), oracle_of(lambda _: SAID)
    rng = random.Random(0)
    first = shaper.grow(ROOT, oracle)
    assert first.parents == [-1, 0, 1, 2, 3, 4]
    for _ in range(200):
        tree = shaper.grow(ROOT, oracle)
        if learns:
            shaper.observe(tree, judged(tree, rng))
    best = 0.66 + 0.66**2 + 0.32 + 0.66**3 + 0.66 * 0.32
    assert (expected(shaper.grow(ROOT, oracle)) == pytest.approx(best)) == learns
    assert expected(first) < 0.9 * best


def test_an_unlikely_path_is_no_error(make, oracle_of):
    """Nor one that the drafter says is impossible: it is not grown."""
    oracle = oracle_of(lambda path: {1: 0.0, 2: 1e-300, 3: 1.0} if len(path) < 30 else {})
    tree = make("shaper", "budget:nodes=99,depth=40,width=3").grow(ROOT, oracle)
    assert (tree.depth, {*tree.tokens}) == (29, {0, 2, 3})

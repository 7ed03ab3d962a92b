"""A linear draft of k tokens."""

import pytest

from toolkit import TokenTree

ROOT = TokenTree.root(0)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_k_tokens_each_the_likeliest(make, oracle_of, k):
    expand = oracle_of(lambda path: {len(path): 0.7, 99: 0.2})
    shaper = make("shaper", f"chain:k={k}")
    tree = shaper.grow(ROOT, expand)
    assert tree.tokens == list(range(k + 1))
    assert tree.parents == list(range(-1, k))
    assert expand.frontiers == [[i] for i in range(k)]
    assert shaper.nodes == len(tree)


@pytest.mark.parametrize("known", [0, 1, 3])
def test_it_stops_where_the_drafter_knows_nothing(make, oracle_of, known):
    expand = oracle_of(lambda path: {1: 0.5} if len(path) <= known else {})
    tree = make("shaper", "chain:k=5").grow(ROOT, expand)
    assert tree.depth == known
    assert len(expand.frontiers) == known + 1

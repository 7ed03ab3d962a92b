"""Fixed depth and branching, improbable nodes not expanded."""

from collections import Counter

import pytest

from toolkit import TokenTree

ROOT = TokenTree.root(0)
HALVES = {1: 0.5, 2: 0.25, 3: 0.125}


@pytest.mark.parametrize(("depth", "branch"), [(1, 1), (2, 2), (3, 2), (2, 3), (4, 1)])
def test_every_node_has_its_children_to_the_depth(make, oracle_of, depth, branch):
    expand = oracle_of(lambda path: HALVES)
    spec = f"fixed:depth={depth},branch={branch},threshold=0,nodes=999"
    tree = make("shaper", spec).grow(ROOT, expand)
    assert Counter(tree.depths) == {level: branch**level for level in range(depth + 1)}
    assert len(expand.frontiers) == depth  # one call per level
    assert tree.tokens[1 : branch + 1] == [1, 2, 3][:branch]


@pytest.mark.parametrize(
    ("threshold", "expanded"),
    [(0.5, [[0], [1]]), (0.25, [[0], [1, 2], [3]]), (0.26, [[0], [1]]), (1, [[0]]), (0.6, [[0]])],
)
def test_only_the_likely_are_expanded(make, oracle_of, threshold, expanded):
    expand = oracle_of(lambda path: HALVES)
    tree = make("shaper", f"fixed:depth=3,branch=2,threshold={threshold}").grow(ROOT, expand)
    assert expand.frontiers == expanded
    assert len(tree) == 1 + 2 * sum(map(len, expanded))  # improbable children stay


@pytest.mark.parametrize("nodes", range(1, 16))
def test_the_limit_cuts_breadth_first(make, oracle_of, nodes):
    spec = "fixed:depth=3,branch=2,threshold=0"
    whole = make("shaper", f"{spec},nodes=99").grow(ROOT, oracle_of(lambda path: HALVES))
    tree = make("shaper", f"{spec},nodes={nodes}").grow(ROOT, oracle_of(lambda path: HALVES))
    assert tree.tokens == whole.tokens[:nodes]
    assert tree.parents == whole.parents[:nodes]


def test_a_node_that_is_cut_is_not_expanded(make, oracle_of):
    expand = oracle_of(lambda path: HALVES)
    make("shaper", "fixed:depth=3,branch=3,threshold=0,nodes=3").grow(ROOT, expand)
    assert expand.frontiers == [[0]]


def test_no_candidates_end_the_tree(make, oracle_of):
    expand = oracle_of(lambda path: {})
    assert len(make("shaper", "fixed").grow(ROOT, expand)) == 1
    assert expand.frontiers == [[0]]

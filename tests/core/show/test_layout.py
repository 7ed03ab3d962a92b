"""The layout of any tree: nothing overlaps, order is kept, parents are in the middle."""

from itertools import pairwise

from hypothesis import given

from toolkit.conformance.generators import trees
from toolkit.show.layout import place_nodes


def problems(tree, rows):
    found = set()
    for depth in set(tree.depths):
        level = sorted(rows[n] for n, d in enumerate(tree.depths) if d == depth)
        if any(below - above < 1 - 1e-9 for above, below in pairwise(level)):
            found.add("overlap")
    for node in range(len(tree)):
        children = [rows[n] for n, parent in enumerate(tree.parents) if parent == node]
        if children != sorted(children):
            found.add("order")
        if children and abs(rows[node] - (children[0] + children[-1]) / 2) > 1e-9:
            found.add("middle")
    return found


@given(trees(nodes=40))
def test_any_tree_is_tidy(tree):
    rows = place_nodes(tree.parents)
    assert problems(tree, rows) == set()
    assert min(rows) == 0


@given(trees(nodes=8).filter(lambda tree: max(map(tree.depths.count, tree.depths)) > 1))
def test_rows_that_are_all_the_same_are_noticed(tree):
    assert "overlap" in problems(tree, [0.0] * len(tree))


def test_a_shallow_subtree_lies_close_to_a_deep_one():
    """root → 1, 2; 1 → 3, 4, 5. Node 2 is one row below node 1, not below its children."""
    assert place_nodes([-1, 0, 0, 1, 1, 1]) == [1.5, 1.0, 2.0, 0.0, 1.0, 2.0]

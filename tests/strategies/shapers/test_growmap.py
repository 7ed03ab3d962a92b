"""Static trees by branching counts."""

import pytest

from toolkit import Candidates, TokenTree
from toolkit.errors import SpecError


def wide(tree, frontier, k):
    return Candidates([list(range(k)) for _ in frontier], [[-1.0] * k for _ in frontier])


def test_each_level_has_its_number_of_children(make):
    shaper = make("shaper", "growmap:3x2x1")
    tree = shaper.grow(TokenTree.root(5), wide)
    assert [tree.depths.count(depth) for depth in range(4)] == [1, 3, 6, 6]
    assert len(tree) == shaper.nodes == 16
    assert tree.parents[4:10] == [1, 1, 2, 2, 3, 3]


def test_it_stops_where_nothing_is_proposed(make):
    def none(tree, frontier, k):
        return Candidates.none(len(frontier))

    assert len(make("shaper", "growmap").grow(TokenTree.root(5), none)) == 1


@pytest.mark.parametrize("branching", ["0", "2x0", "2x", "x", "-1", "2.5", "²"])
def test_bad_counts_are_refused(make, branching):
    with pytest.raises(SpecError, match="children per level, as in 4x2x1"):
        make("shaper", f"growmap:branching={branching}")

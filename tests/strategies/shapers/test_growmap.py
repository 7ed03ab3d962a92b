"""Static trees by name or file."""

from math import inf

import pytest

from toolkit import Candidates, GrowMap, TokenTree
from toolkit.errors import SpecError


def wide(tree, frontier, k):
    return Candidates([list(range(k)) for _ in frontier], [[-1.0] * k for _ in frontier])


def test_each_level_has_its_number_of_children(make):
    shaper = make("shaper", "growmap:3x2x1")
    tree = shaper.grow(TokenTree.root(5), wide)
    assert [tree.depths.count(depth) for depth in range(4)] == [1, 3, 6, 6]
    assert len(tree) == shaper.nodes == 16
    assert tree.parents[4:10] == [1, 1, 2, 2, 3, 3]


def test_the_tree_is_that_of_the_file_and_keeps_the_first_draws(make, tmp_path):
    wanted = GrowMap([-1, 0, 0, 0, 1, 1, 3, 4, 4, 4, 6])
    wanted.write(tmp_path / "map.json")
    tree = make("shaper", f"growmap:{tmp_path / 'map.json'}").grow(TokenTree.root(5), wide)
    assert tuple(tree.parents) == wanted.parents
    assert tree.tokens[1:] == [0, 1, 2, 0, 1, 0, 0, 1, 2, 0]


def test_what_hangs_below_a_missing_child_is_left_out(make):
    def narrow(tree, frontier, k):
        rows = [[-1.0, *[-inf] * (k - 1)] if node == 0 else [-1.0] * k for node in frontier]
        return Candidates([list(range(k)) for _ in frontier], rows)

    tree = make("shaper", "growmap:3x2x1").grow(TokenTree.root(5), narrow)
    assert tree.parents == [-1, 0, 1, 1, 2, 3]


def test_it_stops_where_nothing_is_proposed(make):
    def none(tree, frontier, k):
        return Candidates.none(len(frontier))

    assert len(make("shaper", "growmap").grow(TokenTree.root(5), none)) == 1


@pytest.mark.parametrize("tree", ["0", "2x0", "2x", "x", "-1", "2.5", "²", "missing.pt"])
def test_a_bad_map_is_refused(make, tree):
    with pytest.raises(SpecError, match="growmap"):
        make("shaper", f"growmap:tree={tree}")

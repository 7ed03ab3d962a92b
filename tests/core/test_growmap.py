"""Static trees: names, files, and the best map by dynamic programming."""

import json
import pickle
from functools import cache
from itertools import pairwise

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import GrowMap
from toolkit.errors import SpecError


@st.composite
def maps(draw):
    """Any growmap of up to 20 nodes."""
    parents = [-1]
    for size in range(1, draw(st.integers(1, 20))):
        parents.append(draw(st.integers(max(parents[-1], 0), size - 1)))
    return GrowMap(parents)


@pytest.mark.parametrize(
    ("name", "widths"),
    [("3x2x1", [1, 3, 6, 6]), ("4-chain", [1, 1, 1, 1, 1]), ("2x3-tree", [1, 2, 2, 2]),
     ("2^3", [1, 2, 4, 8]), ("5", [1, 5])],
)  # fmt: skip
def test_names(name, widths):
    depths = GrowMap.parse(name).depths
    assert [depths.count(depth) for depth in range(len(widths))] == widths
    assert len(depths) == sum(widths)


@pytest.mark.parametrize(
    "name", ["", "0", "2x0", "2x", "x", "-1", "2.5", "²", "0-chain", "9999x9999", "99999-chain", "a.b"]
)
def test_other_names_are_refused(name):
    with pytest.raises(SpecError, match="growmap"):
        GrowMap.parse(name)


@pytest.mark.parametrize("suffix", [".pt", ".json"])
@given(tree=maps())
def test_a_written_map_is_read_again(tmp_path_factory, tree, suffix):
    file = tmp_path_factory.getbasetemp() / f"map{suffix}"
    tree.write(file)
    assert GrowMap.read(file) == tree


def test_a_file_of_sequoia_has_its_keys(tmp_path):
    """`demo_tree`: the chain of four nodes that ships with Sequoia."""
    keys = {
        "roots": [[0], [1], [2], [3]], "branches": [[1], [1], [1], [0]],
        "Successors": [[1], [2], [3], []], "mask": torch.ones(4, 4).tril().long(),
        "depth": torch.arange(4), "size": 4,
    }  # fmt: skip
    torch.save(keys, tmp_path / "demo.pt")
    assert GrowMap.read(tmp_path / "demo.pt") == GrowMap.parse("3-chain")
    ours = GrowMap.parse("3-chain").keys
    assert ours.keys() == keys.keys()
    for key in ("roots", "branches", "Successors", "size"):
        assert ours[key] == keys[key]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Successors": [[1], [2], [3], [1]]}, "two parents"),
        ({"Successors": [[1], [2], [], [3]]}, "two parents|cannot be reached"),
        ({"Successors": [[1], [0], [3], []]}, "two parents, is the root"),
        ({"Successors": [[1], [2], [7], []]}, "does not exist"),
        ({"Successors": [[1], [], [3], []]}, "cannot be reached from the root"),
        ({"depth": torch.zeros(4)}, "'depth' does not agree"),
        ({"mask": torch.eye(4).long()}, "'mask' does not agree"),
        ({"branches": [[2], [1], [1], [0]]}, "'branches' does not agree"),
        ({"size": 5}, "'size' does not agree"),
    ],
)
def test_keys_that_disagree_and_circles_are_refused(tmp_path, change, said):
    torch.save({**GrowMap.parse("3-chain").keys, **change}, tmp_path / "bad.pt")
    with pytest.raises(SpecError, match=said):
        GrowMap.read(tmp_path / "bad.pt")


class Harmful:
    def __reduce__(self):
        return (print, ("this code runs",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Harmful()))
    torch.save({"Successors": Harmful()}, tmp_path / "worse.pt")
    for name in ("bad.pt", "worse.pt", "missing.pt"):
        with pytest.raises(SpecError, match="cannot be read"):
            GrowMap.read(tmp_path / name)
    assert "this code runs" not in capsys.readouterr().out


@pytest.mark.parametrize("held", [3, [3], [[1]], [[0], [0]], [[0, 0]], [["a"]], [[0], [2]], [[0.5]]])
def test_paths_that_are_no_tree_are_refused(tmp_path, held):
    (tmp_path / "bad.json").write_text(json.dumps(held))
    with pytest.raises(SpecError, match=r"bad\.json"):
        GrowMap.read(tmp_path / "bad.json")


def sequoia(acceptance, nodes, depth):
    """The expected tokens of the best tree, by Sequoia's dynamic program."""

    @cache
    def best(size, levels, children):
        """Of `size` nodes, at most `levels` levels, whose root has so many children."""
        if children == 0:
            return 1.0 if size == 1 else float("-inf")
        if levels < 2 or size < children + 1:
            return float("-inf")
        share = acceptance[children - 1]
        return max(
            best(size - below, levels, children - 1) + share * any_of(below, levels - 1)
            for below in range(1, size)
        )

    @cache
    def any_of(size, levels):
        return max(best(size, levels, b) for b in range(min(size - 1, len(acceptance)) + 1))

    return any_of(nodes, depth + 1)


@given(
    acceptance=st.lists(st.integers(1, 50), min_size=3, max_size=4),
    nodes=st.integers(1, 9), depth=st.integers(2, 4),
)  # fmt: skip
def test_best_first_is_the_optimum_of_sequoias_program(acceptance, nodes, depth):
    vector = sorted((share / 200 for share in acceptance), reverse=True)
    found = GrowMap.best(vector, nodes, depth)
    assert len(found) == nodes
    assert max(found.depths) <= depth
    assert found.expected_tokens(vector) == pytest.approx(sequoia(tuple(vector), nodes, depth))


def test_a_vector_that_rises_is_smoothed():
    """So the oracle's best is that of the smoothed vector, and not below it."""
    assert GrowMap.smooth([0.6, 0.1, 0.2, 0.15, 0.0]) == pytest.approx([0.6, 0.15, 0.15, 0.15, 0.0])
    assert GrowMap.smooth([3, 2, 1]) == [3, 2, 1]
    assert GrowMap.smooth([1, 2, 3]) == pytest.approx([2, 2, 2])


@given(shares=st.lists(st.integers(0, 20), min_size=1, max_size=9))
def test_smoothing_keeps_the_sum_and_never_rises(shares):
    found = GrowMap.smooth(shares)
    assert sum(found) == pytest.approx(sum(shares))
    assert all(a >= b - 1e-12 for a, b in pairwise(found))


def test_parents_out_of_order_are_refused():
    for parents in ([], [0], [-1, 1], [-1, 0, 1, 0], [-1] + [0] * 5000):
        with pytest.raises(SpecError, match="growmap"):
            GrowMap(parents)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        GrowMap([-1]).parents = ()

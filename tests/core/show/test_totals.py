"""Totals by a hand-made step, and that they add up on any recording."""

from math import log

import pytest

from toolkit.nodes import list_nodes
from toolkit.show.recording import RecordedStep
from toolkit.show.totals import Bin, Share, path_probabilities, total
from toolkit.target_scores import TargetScores
from toolkit.tree import Candidates, TokenTree, Verdict


@pytest.fixture
def step():
    """root → 1 (q ½), 2 (q ¼), 3 (q ¼); 2 → 4 (q ½); 1 → 5 (q 1). Path root, 2; the bonus is new."""
    tree = TokenTree.root(9).grow([0], Candidates([[1, 2, 3]], [[log(0.5), log(0.25), log(0.25)]]))
    tree = tree.grow([2], Candidates([[4]], [[log(0.5)]])).grow([1], Candidates([[5]], [[0.0]]))
    logprobs = [0.0, log(0.2), log(0.6), log(0.1), log(0.05), log(0.5), log(0.9)]
    scores = TargetScores(logprobs, [0] * 7, [0.0] * 6, [[1]] * 6, [[0.0]] * 6)
    nodes = [*list_nodes(tree, Verdict([0, 2], 7), scores, str)]
    return RecordedStep(0, nodes, {"draft_ms": 1.0, "shape_ms": 0, "verify_ms": 3.0, "commit_ms": 0})


def test_totals_of_one_step(step):
    found = total([step])
    assert (found.steps, found.drafted, found.accepted, found.unreached) == (1, 5, 1, 1)
    assert found.by_depth == [Share(1, 1), Share(0, 1)]
    assert found.by_place == [Share(0, 2), Share(1, 1)]  # the third was passed: nobody tested it
    assert found.mass_by_depth == pytest.approx([0.9, 0.05])
    assert found.calibration == [
        Bin(pytest.approx(0.125), 0, 1), Bin(pytest.approx(0.25), 1, 2), Bin(pytest.approx(0.5), 0, 2)
    ]  # fmt: skip
    assert found.times == {"draft_ms": 1.0, "shape_ms": 0, "verify_ms": 3.0, "commit_ms": 0}


def test_path_probabilities_multiply(step):
    assert path_probabilities(step.nodes) == pytest.approx(
        {0: 1.0, 1: 0.5, 2: 0.25, 3: 0.25, 4: 0.125, 5: 0.5, 6: 0.25}
    )


def test_totals_add_up(recording):
    for request in recording:
        found, parts = total(request.steps), [total([step]) for step in request.steps]
        assert found.drafted == sum(p.drafted for p in parts)
        assert found.accepted == sum(len(step.committed) - 1 for step in request.steps)
        assert sum(b.nodes for b in found.calibration) == found.drafted
        assert sum(share.accepted for share in found.by_depth) == found.accepted
        assert all(0 <= mass <= 1 + 1e-6 for mass in found.mass_by_depth)

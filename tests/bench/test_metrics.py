"""Figures beyond a generation's own."""

import pytest
from toolkit.bench.metrics import by_depth, distinct_3grams, path_length

from toolkit import Step


def step(depth, accepted):
    return Step(
        length=1, nodes=depth + 1, depth=depth, accepted=accepted, committed=accepted + 1, draft_ms=0,
        shape_ms=0, verify_ms=0, commit_ms=0, margin=0,
    )  # fmt: skip


def test_distinct_3grams():
    assert distinct_3grams([1, 2, 3, 4]) == 1
    assert distinct_3grams([1, 1, 1, 1, 1]) == pytest.approx(1 / 3)
    assert distinct_3grams([1, 2]) is None


def test_acceptance_by_depth_counts_trees_that_reached_it():
    steps = [step(3, 2), step(1, 1), step(2, 0), step(0, 0)]
    assert by_depth(steps) == ([3, 2, 1], [2, 1, 0])
    assert by_depth([]) == ([], [])


def test_the_path_is_tau_without_the_bonus():
    steps = [step(3, 2), step(1, 1), step(2, 0)]
    assert path_length(steps) == 1
    assert sum(s.committed for s in steps) / len(steps) == path_length(steps) + 1
    assert path_length([]) is None

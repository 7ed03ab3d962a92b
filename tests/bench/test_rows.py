"""Figures of a request beyond its own."""

import pytest
from toolkit.bench.rows import count_by_depth, share_distinct_3grams

from toolkit import Step


def step(depth, accepted):
    return Step(
        length=1, nodes=depth + 1, depth=depth, accepted=accepted, committed=accepted + 1, draft_ms=0,
        shape_ms=0, verify_ms=0, commit_ms=0, margin=0,
    )  # fmt: skip


def test_distinct_3grams():
    assert share_distinct_3grams([1, 2, 3, 4]) == 1
    assert share_distinct_3grams([1, 1, 1, 1, 1]) == pytest.approx(1 / 3)
    assert share_distinct_3grams([1, 2]) is None


def test_acceptance_by_depth_counts_trees_that_reached_it():
    steps = [step(3, 2), step(1, 1), step(2, 0), step(0, 0)]
    assert count_by_depth(steps) == ([3, 2, 1], [2, 1, 0])
    assert count_by_depth([]) == ([], [])

"""Calibrated acceptance: when it learns, and that it keeps the drafter's order."""

from math import exp, log

from hypothesis import given
from hypothesis import strategies as st

from toolkit import Candidates, TokenTree, Trust, Verdict

ROOT = TokenTree.root(0)
TREE = ROOT.grow([0], Candidates([[1, 2]], [[log(0.6), log(0.3)]]))


def test_it_learns_from_eight_steps_with_drafts_or_at_once():
    trust, before = Trust(), Trust()(1.0, [log(0.6)], 0.0)
    learned = [trust.observe(TREE, Verdict([0], 0)) for _ in range(7)]
    learned += [trust.observe(ROOT, Verdict([0], 0)), trust.observe(TREE, Verdict([0], 0))]
    assert learned == [False] * 8 + [True]
    after = trust(1.0, [log(0.6)], 0.0)
    assert after < before
    assert trust.observe(TREE, Verdict([0, 1], 0), at_once=True)
    assert trust(1.0, [log(0.6)], 0.0) > after


def test_without_a_step_to_learn_from_it_learns_nothing():
    assert not Trust().observe(ROOT, Verdict([0], 0), at_once=True)


@given(st.lists(st.sampled_from([[0], [0, 1], [0, 2]]), max_size=40), st.integers(1, 4))
def test_a_later_child_is_never_worth_more_nor_a_child_more_than_its_parent(paths, scale):
    trust, shares = Trust(), [0.7, 0.2, 0.2, 0.05, 1e-9]
    for path in paths:
        trust.observe(TREE, Verdict(path, 0), at_once=True)
    worths = trust(0.5, [log(share) * scale for share in shares], 0.0)
    assert len(worths) == len(shares)
    assert worths == sorted(worths, reverse=True)
    assert 0 < worths[-1] <= worths[0] <= 0.5


def test_it_is_the_drafters_probability_before_anything_is_learned():
    found = Trust([0.0, 1.0, 0.0])(1.0, [log(0.5), log(0.3)], 0.0)
    assert [round(worth, 12) for worth in found] == [0.5, round(exp(log(0.3)), 12)]

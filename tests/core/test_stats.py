"""Acceptance by vLLM's definitions, and the break-even, against numbers worked out by hand."""

import pytest

from toolkit import Step
from toolkit.stats import Acceptance, StepCost


def step(nodes, depth, accepted, draft_ms=2.0):
    return Step(
        length=9, nodes=nodes, depth=depth, accepted=accepted, committed=accepted + 1,
        draft_ms=draft_ms, shape_ms=0.5, verify_ms=4.0, commit_ms=0.5, margin=1.0,
    )  # fmt: skip


STEPS = [step(4, 3, 3, draft_ms=8.0), step(4, 3, 1), step(4, 3, 0), step(3, 2, 1), step(1, 0, 0)]


def test_acceptance_counts_the_steps_that_drafted():
    found = Acceptance.of(STEPS)
    assert (found.drafts, found.drafted) == (4, 11)
    assert found.mean_length == 1 + 5 / 4
    assert found.rate == pytest.approx(5 / 11)
    assert found.by_position == [3 / 4, 1 / 4, 1 / 4]  # of all drafts, also those that were shorter
    assert found.lengths == [1, 2, 0, 1]
    assert sum(found.lengths) == found.drafts
    assert sum(n * count for n, count in enumerate(found.lengths)) == 5


def test_without_drafts_there_is_nothing():
    for steps in ([], [step(1, 0, 0)]):
        found = Acceptance.of(steps)
        assert (found.mean_length, found.rate, found.by_position, found.lengths) == (None, None, [], [])
        assert StepCost.of(steps) is None


def test_steps_that_ran_as_one_graph_say_nothing_about_a_level():
    assert StepCost.of([*STEPS, step(4, 3, 3, draft_ms=0.0)]).level == 8.0 / 8
    assert StepCost.of([step(4, 3, 3, draft_ms=0.0)] * 3).level is None


def test_a_step_pays_where_it_commits_more_than_it_costs():
    cost = StepCost.of(STEPS)
    assert cost.tau == 10 / 5
    assert cost.level == 8.0 / 8  # without the first step, which holds the drafter's prefill
    step_ms = 16 / 5 + 4 + 1
    for ar_ms, word in ((step_ms / 1.9, "pays"), (step_ms / 2.1, "does not pay")):
        even, says = cost.explain(1e3 / ar_ms).splitlines()
        assert even.startswith(f"τ {step_ms / ar_ms:.2f}: ")
        assert says == f"τ is 2.00, so speculation {word} in this run"


def test_no_speculation_pays_that_has_no_real_drafter():
    cost = StepCost.of(STEPS)
    step_ms = 16 / 5 + 4 + 1
    for ar_ms, words in (
        (step_ms / 1.5, "may cost 0.50 tokens of AR a step"),
        (step_ms / 2.1, "does not pay, even if drafting costs nothing"),
    ):
        says = cost.explain(1e3 / ar_ms, synthetic=True).splitlines()[1]
        assert says == f"τ is 2.00, so a drafter of this acceptance {words}"

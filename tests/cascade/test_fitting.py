"""Fitting: budgets met in expectation, a floor that holds, and replays of other prompts alone."""

import re

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toolkit.cascade.answers import by_prompt, compare_words, evidence_of_all
from toolkit.cascade.fitting import Fitting, Setting, fit_settings, is_above_zero, meet_budget
from toolkit.cascade.policies.dp import DP
from toolkit.cascade.policies.threshold import Threshold
from toolkit.cascade.replay import replay_fitted
from toolkit.cascade.scorers.mean_logprob import MeanLogprob

from toolkit import ToolkitError


@given(
    st.lists(st.tuples(st.floats(1, 9), st.floats(0, 1)), min_size=1, max_size=8), st.floats(0, 1)
)
def test_a_budget_is_met_in_expectation(points, place):
    settings = [Setting(0.0, Threshold(), cost, quality) for cost, quality in points]
    least, most = min(cost for cost, _ in points), max(cost for cost, _ in points)
    budget = least + place * (most - least)
    mixed, share = meet_budget(settings, budget)
    spent = (1 - share) * mixed[0].cost + share * mixed[-1].cost
    best = max(settings, key=lambda each: (each.quality, -each.cost))
    assert spent == pytest.approx(min(budget, best.cost))
    kept = (1 - share) * mixed[0].quality + share * mixed[-1].quality
    assert kept >= max(s.quality for s in settings if s.cost <= budget) - 1e-9
    with pytest.raises(ToolkitError, match="below"):
        meet_budget(settings, least - 0.5)


def test_cost_rises_and_loss_falls_with_the_trade_off_on_the_prompts_fitted_to(record):
    outcomes = Fitting.of(record(), MeanLogprob(), "seconds").outcomes
    found = fit_settings(Threshold(), outcomes)
    assert (np.diff([setting.cost for setting in found]) >= -1e-9).all()
    assert (np.diff([setting.quality for setting in found]) >= -1e-9).all()


def test_a_floor_is_seldom_claimed_wrongly():
    """On values of mean zero, with probability δ at most. The control asks only for a positive mean."""
    rng = np.random.default_rng(0)
    draws = np.where(rng.random((400, 120)) < 1 / 1.9, 0.9, -1.0) * 0.9
    draws -= draws.mean()
    most = float(-draws.min())
    assert np.mean([is_above_zero(row, most, 0.05) for row in draws]) <= 0.05 + 0.03
    assert np.mean(draws.mean(1) > 0) > 0.3
    assert is_above_zero(np.full(200, 0.05), 0.95, 0.05)


def test_a_floor_needs_prompts(record):
    fitting = Fitting.of(record(400), MeanLogprob(), "seconds", floor=True)
    kept = fitting.above_floor(DP(), 0.6, 0.05)
    whole = replay_fitted(kept, record(400))
    assert whole[0].quality.mean >= 0.6 * whole[-1].quality.mean
    with pytest.raises(ToolkitError, match=r"95\.0% that 100\.0% is kept: lower --floor, or give"):
        fitting.above_floor(DP(), 1.0, 0.05)
    with pytest.raises(ToolkitError, match=r"record at least \d{4} prompts") as raised:
        fitting.above_floor(DP(), 0.99, 0.05)
    needed = int(re.search(r"at least (\d+)", str(raised.value))[1]) // 4
    quality = fitting.tested.qualities[:, -1].mean()
    for count, shown in ((2 * needed, True), (needed - 1, False)):  # the last stage itself
        assert is_above_zero(np.full(count, 0.01 * quality), 0.99, 0.05) == shown
    with pytest.raises(ToolkitError, match=r"record about (\d+) prompts") as raised:
        fitting.above_floor(DP(), 0.95, 0.05)
    assert int(re.search(r"about (\d+)", str(raised.value))[1]) > 400
    with pytest.raises(ToolkitError, match=r"a quarter tests the floor, .* record 160 or more"):
        Fitting.of(record(40), MeanLogprob(), "seconds", floor=True)


def test_a_replay_is_of_other_prompts_than_the_fit(record):
    answers = record()
    fitted = Fitting.of(answers, MeanLogprob(), "seconds").for_trade_off(DP(), 10.0)
    used, ids = set(fitted.fitted_on), set(by_prompt(answers))
    found = replay_fitted(fitted, answers)
    assert len(found[0].costs) == len(ids - used)
    assert used <= ids
    seen = [answer for answer in answers if answer.prompt_id in used]
    with pytest.raises(ToolkitError, match="a replay is of at least 5 others"):
        replay_fitted(fitted, seen)
    other = [attrs.evolve(answer, name="other") for answer in answers]
    with pytest.raises(ToolkitError, match="replay answers of the same stages"):
        replay_fitted(fitted, other)


def test_stages_in_another_order_are_refused(record):
    turned = [attrs.evolve(answer, seconds=1 / answer.seconds) for answer in record()]
    with pytest.raises(ToolkitError, match="not in the order of their mean seconds"):
        Fitting.of(turned, MeanLogprob(), "seconds")
    with pytest.raises(ToolkitError, match="too few"):
        Fitting.of(record(20), MeanLogprob(), "seconds")


def test_agreement_is_with_the_stage_before(record):
    row = next(iter(by_prompt(record()).values()))
    row = [attrs.evolve(a, text=text) for a, text in zip(row, ("a b", "B c", ""), strict=True)]
    assert [each.agreement for each in evidence_of_all(row)] == [None, 0.5, 0.0]
    assert compare_words("", " .") == 1.0

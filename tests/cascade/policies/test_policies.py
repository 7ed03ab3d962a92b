"""Stop policies: optimality, budgets, feedback and regret."""

from __future__ import annotations

from itertools import pairwise, product
from math import sqrt

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toolkit.cascade.bins import bin_scores
from toolkit.cascade.outcomes import at, losses, mean_loss, oracle_stops, stops_at, stops_of
from toolkit.cascade.policies.dp import DP, stop_sets
from toolkit.cascade.policies.expweights import ExpWeights
from toolkit.cascade.policies.fixed_stage import FixedStage
from toolkit.cascade.policies.frugal import Frugal
from toolkit.cascade.policies.gain import Gain
from toolkit.cascade.policies.random import Random
from toolkit.cascade.policies.threshold import Threshold
from toolkit.cascade.regret import play_online

from toolkit import Outcomes

RATES = st.sampled_from([0.0, 0.3, 1.0, 4.0, 20.0])


def outcomes(seed, stages=3, prompts=60, levels=6):
    """Random outcomes in which scores say something of qualities."""
    rng = np.random.default_rng(seed)
    qualities = (rng.random((prompts, stages)) < np.linspace(0.5, 0.9, stages)).astype(float)
    scores = np.clip(0.5 * qualities + 0.5 * rng.random((prompts, stages)), 0, 1)
    costs = np.linspace(1, 5, stages) * (0.5 + rng.random((prompts, stages)))
    return Outcomes(np.round(scores * levels) / levels, costs, qualities)


def value_of_sets(chain, sets, rate):
    """The expected loss of stopping in the sets of bins, after the first stage's cost."""
    value = rate * (1 - chain.qualities[-1])
    for stage in reversed(range(len(sets))):
        now = rate * (1 - chain.qualities[stage])
        value = np.where(sets[stage], now, chain.go_on(stage, value))
    return value


@given(seed=st.integers(0, 999), stages=st.integers(2, 3), bins=st.integers(1, 3), rate=RATES)
def test_dp_is_the_best_of_all_policies_of_bins(seed, stages, bins, rate):
    chain = bin_scores(outcomes(seed, stages), bins)
    ours = value_of_sets(chain, stop_sets(chain, rate), rate)
    sizes = [len(edges) + 1 for edges in chain.edges[:-1]]
    every = product(*(product([False, True], repeat=size) for size in sizes))
    best = np.min(
        [value_of_sets(chain, [np.array(s) for s in sets], rate) for sets in every], axis=0
    )
    assert ours == pytest.approx(best)


def test_a_dropped_cost_is_caught():
    """The control: backward induction that leaves out what going on costs."""
    chain = bin_scores(outcomes(3), 3)
    free = stop_sets(
        type(chain)(chain.edges, chain.qualities, chain.steps, [0 * c for c in chain.costs]), 2
    )
    ours = stop_sets(chain, 2)
    assert (value_of_sets(chain, free, 2) > value_of_sets(chain, ours, 2) + 1e-6).any()


@given(seed=st.integers(0, 200), stages=st.integers(2, 4))
def test_cost_rises_and_loss_falls_with_the_trade_off(seed, stages):
    data = outcomes(seed, stages)
    chain, found = bin_scores(data, 4), []
    for rate in (0.0, 0.5, 1.0, 3.0, 10.0, 100.0):
        sets = stop_sets(chain, rate)
        costs, lost = _of_the_chain(chain, sets)
        found.append((costs, lost))
    assert all(a[0] <= b[0] + 1e-9 and a[1] >= b[1] - 1e-9 for a, b in pairwise(found))


def _of_the_chain(chain, sets):
    """Expected later cost and lost quality of stop sets, over the first stage's bins alike."""
    cost, lost = np.zeros(len(chain.qualities[-1])), 1 - chain.qualities[-1]
    for stage in reversed(range(len(sets))):
        cost = np.where(sets[stage], 0, chain.go_on(stage, cost))
        lost = np.where(sets[stage], 1 - chain.qualities[stage], chain.steps[stage] @ lost)
    return cost.mean(), lost.mean()


@given(seed=st.integers(0, 200), rate=RATES)
def test_nobody_beats_the_oracle(seed, rate):
    data, draws = outcomes(seed), np.random.default_rng(seed).random(60)
    best = mean_loss(data, oracle_stops(data, rate), rate)
    for policy in (FixedStage(1), Random(0.4), Threshold(), DP(), Frugal(quantiles=4)):
        fitted = policy.fit(data, rate)
        assert mean_loss(data, stops_of(fitted, data.scores, draws), rate) >= best - 1e-9


@given(seed=st.integers(0, 200), rate=RATES)
def test_thresholds_are_no_worse_than_a_fixed_stage(seed, rate):
    data, draws = outcomes(seed), np.zeros(60)
    first_or_last = min(mean_loss(data, np.full(60, stage), rate) for stage in (0, 2))
    for policy in (Threshold(), Frugal(quantiles=4)):
        fitted = policy.fit(data, rate)
        assert mean_loss(data, stops_of(fitted, data.scores, draws), rate) <= first_or_last + 1e-9


@given(seed=st.integers(0, 200), budget=st.sampled_from([1.2, 2.0, 4.0, 50.0]))
def test_frugal_keeps_to_its_budget(seed, budget):
    data = outcomes(seed)
    fitted = Frugal(budget=budget, quantiles=5).fit(data, 1.0)
    stops = stops_of(fitted, data.scores, np.zeros(60))
    assert at(data.costs.cumsum(1), stops).mean() <= budget


def test_a_budget_below_the_first_stage_is_refused():
    with pytest.raises(ValueError, match="below the mean cost of the first stage"):
        Frugal(budget=0.01).fit(outcomes(0), 1.0)


def test_gain_stops_where_the_second_stage_is_no_better():
    """A low score is no reason to go on where the second stage fails as well."""
    scores = np.array([[0.1, 0.1]] * 50 + [[0.5, 0.9]] * 50 + [[0.9, 0.9]] * 50)
    qualities = np.array([[0, 0]] * 50 + [[0, 1]] * 50 + [[1, 1]] * 50, dtype=float)
    data = Outcomes(scores, np.ones((150, 2)), qualities)
    for policy in (Gain(bins=3), DP(bins=3)):
        fitted = policy.fit(data, 5.0)
        assert [fitted.stop([score], 0.0) for score in (0.1, 0.5, 0.9)] == [True, False, True]
    with pytest.raises(ValueError, match="gain is for two stages"):
        Gain().fit(outcomes(0, 3), 1.0)


def test_random_draws_the_line():
    data, draws = outcomes(1, 2, 4000), np.random.default_rng(0).random(4000)
    ends = [at(losses(data, 2.0), np.full(4000, stage)).mean() for stage in (0, 1)]
    for share in (0.0, 0.25, 1.0):
        found = mean_loss(data, stops_of(Random(share), data.scores, draws), 2.0)
        assert found == pytest.approx((1 - share) * ends[0] + share * ends[1], abs=0.06)


@given(seed=st.integers(0, 50), stages=st.integers(2, 3))
def test_the_estimate_of_every_policys_loss_is_unbiased(seed, stages):
    """By enumeration of the policy that plays: the mean of the estimates is the true loss."""
    data, total, sure = outcomes(seed, stages, 1), 0, 0.0
    scores, costs, qualities = data.scores[0], data.costs[0], data.qualities[0]
    base = ExpWeights(stages=stages, grid=4, horizon=10, trade_off=2.0, cost=20.0)
    rng = np.random.default_rng(seed)
    losses_so_far = rng.random(len(base._policies)) * 5
    edges = None
    for index in range(len(base._policies)):
        policy = ExpWeights(stages=stages, grid=4, horizon=10, trade_off=2.0, cost=20.0)
        policy._losses = losses_so_far.copy()
        policy._weights = policy._new_weights()
        edges = np.concatenate([[0.0], policy._weights.cumsum()])
        draw, chance = (edges[index] + edges[index + 1]) / 2, policy._weights[index]
        stage = 0
        while stage < stages - 1 and not policy.stop(scores[: stage + 1].tolist(), draw):
            stage += 1
        policy.update(costs[: stage + 1].tolist(), qualities[: stage + 1].tolist())
        total, sure = total + chance * (policy._losses - losses_so_far), sure + chance
    stops = [stops_at(scores[None], row)[0] for row in base._policies]
    truth = (costs.cumsum()[stops] + 2.0 * (1 - qualities[stops])) / 22.0
    assert sure == pytest.approx(1)
    assert total == pytest.approx(truth)


def test_feedback_is_of_stages_that_ran():
    """What did not run may hold anything. The control: a grade of what ran may not."""
    data, order = outcomes(5, 3, 50), np.arange(50)
    numbers = np.tile(np.arange(3.0), (50, 1))  # as losses: then a play says where it stopped

    def play(data):
        policy = ExpWeights(stages=3, grid=5, horizon=50, trade_off=2.0, cost=20.0)
        stops = play_online(policy, data, numbers, order, np.random.default_rng(0))
        return stops, policy._losses

    stops, losses = play(data)
    unseen = numbers > stops[:, None]
    assert unseen.any()
    again, same = play(poison(data, unseen))
    assert (again == stops).all()
    assert (same == losses).all()
    ran = attrs.evolve(data, qualities=poison(data, ~unseen).qualities)
    assert not np.isfinite(play(ran)[1]).all()


def poison(data, where):
    parts = (data.scores, data.costs, data.qualities)
    return Outcomes(*(np.where(where, np.nan, part) for part in parts))


def test_the_bound_is_what_the_docstring_says():
    policy = ExpWeights(stages=3, grid=5, horizon=100)
    assert policy.bound == pytest.approx(sqrt(2 * 3 * 100 * np.log(25)))


@pytest.mark.parametrize(("stages", "grid"), [(3, 317), (300, 2), (18, 2)])
def test_expweights_refuses_more_vectors_than_it_can_weigh(stages, grid):
    """They would take all memory."""
    with pytest.raises(ValueError, match=rf"grid={grid} gives too many .* for {stages} stages"):
        ExpWeights(stages=stages, grid=grid)
    assert len(ExpWeights(stages=3, grid=316)._policies) == 316**2

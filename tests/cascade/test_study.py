"""The study: halves that do not overlap, an oracle above all, and what it refuses."""

from itertools import pairwise

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toolkit.cascade.outcomes import find_hull
from toolkit.cascade.replay import replay_stops
from toolkit.cascade.scorers.logistic import Logistic
from toolkit.cascade.scorers.mean_logprob import MeanLogprob
from toolkit.cascade.study import compare_costs, measure_reliability

from toolkit import ToolkitError


@pytest.fixture(scope="module")
def study(record, make_study):
    return make_study(record(), Logistic())


def test_the_halves_share_no_prompt(study):
    assert len(study.fitting.costs) + len(study.held.costs) == 160
    both = {tuple(row) for row in study.fitting.costs} & {tuple(row) for row in study.held.costs}
    assert not both


def test_the_oracle_is_above_every_policy(study):
    """At each λ; the control: told to go wrong, it is not."""
    for name, points in study.curves.items():
        if name == "random":
            continue
        for point, best in zip(points, study.oracle, strict=True):
            assert lost(best.held, best.trade_off) <= lost(point.held, best.trade_off) + 1e-9
    stops = 2 - np.argmax(study.held.qualities, 1)
    (worst,) = replay_stops([("", stops)], study.held)
    point = study.curves["dp"][12]
    assert lost(worst, point.trade_off) > lost(point.held, point.trade_off)


def lost(held, rate):
    return held.cost.mean + rate * (1 - held.quality.mean)


def test_policies_that_read_scores_beat_chance_where_scores_say_something(study):
    dp = next(row for row in study.rows if row.policy == "dp" and row.kept == 0.9)
    chance = next(row for row in study.rows if row.policy == "random" and row.kept == 0.9)
    assert dp.speedup.low > chance.speedup.high
    assert {row.policy for row in study.rows} == {"threshold", "dp", "frugal", "random", "oracle"}


def test_gain_is_studied_with_two_stages(record, make_study, study):
    assert "gain" in make_study(record(stages=2), MeanLogprob()).curves
    assert study.left_out == ["gain is for two stages, and there are 3: use dp"]


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 1)), min_size=1, max_size=12))
@settings(max_examples=15)
def test_no_point_is_above_the_hull(points):
    hull = find_hull(points)
    assert all(a[0] < b[0] and a[1] < b[1] + 1e-12 for a, b in pairwise(hull))
    for cost, quality in points:
        if cost >= hull[0][0]:
            assert quality <= np.interp(cost, *zip(*hull, strict=True)) + 1e-9


def test_costs_are_compared_as_sums():
    found = compare_costs(np.array([4.0, 8.0]), np.array([1.0, 2.0]))
    assert (found.mean, found.low, found.high) == (4, 4, 4)


def test_reliability_of_true_probabilities():
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    found = measure_reliability(scores, (rng.random(20_000) < scores).astype(float))
    assert found.ece < 0.02
    assert found.auc == pytest.approx(5 / 6, abs=0.02)
    assert found.brier == pytest.approx(1 / 6, abs=0.01)
    assert measure_reliability(scores**3, (rng.random(20_000) < scores).astype(float)).ece > 0.2


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda rows: rows[:30], "prompts are too few"),
        (lambda rows: [row for row in rows if row.stage == 0], "two stages or more"),
        (lambda rows: [attrs.evolve(rows[0], quality=None), *rows[1:]], "has no grade"),
        (lambda rows: rows[1:], "expected 0 to 2"),
        (
            lambda rows: [attrs.evolve(r, stage=2 - r.stage) for r in rows],
            "record the cheapest first",
        ),
    ],
)
def test_bad_rows(record, make_study, change, error):
    with pytest.raises(ToolkitError, match=error):
        make_study(change(record()), MeanLogprob())

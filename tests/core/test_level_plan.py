"""Plans of drafter chains: the formulas against simulation, and what they must say at the ends."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import ToolkitError
from toolkit.level_plan import (
    Level,
    expected_passes,
    expected_tokens,
    pays,
    plan_chain,
    plan_levels,
    require_acceptance,
)

SHARES = st.sampled_from([0.0, 0.3, 0.7, 0.95, 1.0])


def simulate_passes(rng, wanted, ahead, acceptance):
    """The passes of one run: each gives the accepted tokens of a chain and one more."""
    passes = given = 0
    while given < wanted:
        passes += 1
        for _ in range(ahead):
            if rng.random() >= acceptance:
                break
            given += 1
        given += 1
    return passes


@pytest.mark.parametrize(("wanted", "ahead", "share"), [(6, 2, 0.8), (5, 4, 0.5), (9, 1, 0.9)])
def test_passes_are_those_of_a_simulation(wanted, ahead, share):
    rng, runs = random.Random(0), 20_000
    mean = sum(simulate_passes(rng, wanted, ahead, share) for _ in range(runs)) / runs
    assert expected_passes(wanted, ahead, share) == pytest.approx(mean, rel=0.02)
    assert expected_passes(wanted, ahead, share - 0.2) > mean * 1.05  # the control


@given(wanted=st.integers(1, 12), ahead=st.integers(1, 8))
def test_certain_and_hopeless_chains(wanted, ahead):
    assert expected_passes(wanted, ahead, 0.0) == wanted
    assert expected_passes(wanted, ahead, 1.0) == -(-wanted // (ahead + 1))
    assert expected_tokens(wanted, 0.0) == 1
    assert expected_tokens(wanted, 1.0) == wanted + 1


@given(share=SHARES, cost=st.sampled_from([0.01, 0.2, 0.9]))
def test_two_levels_are_the_known_formula(share, cost):
    plan = plan_chain(Level("target", (1.0,)), [Level("a", (cost,))], {("target", "a"): share})
    best = max(sum(share**d for d in range(k + 1)) / (1 + k * cost) for k in range(1, 17))
    assert plan.speed_up == pytest.approx(best)


def test_the_published_examples():
    """A middle level of c = 0.22 with a fast one below it, in research on staged speculation."""
    levels = [Level("mid", (0.22,)), Level("small", (0.09,))]
    shares = {("target", "mid"): 0.85, ("target", "small"): 0.72, ("mid", "small"): 0.82}
    plans = plan_levels(Level("target", (1.0,)), levels, shares)
    by_chain = {plan.levels: plan.speed_up for plan in plans}
    assert by_chain["mid",] == pytest.approx(1.98, abs=0.005)
    assert by_chain["small",] == pytest.approx(2.12, abs=0.005)
    assert by_chain["mid", "small"] > max(by_chain["mid",], by_chain["small",])


@given(st.lists(st.tuples(SHARES, st.sampled_from([0.01, 0.1, 0.5])), min_size=1, max_size=3))
def test_all_chains_are_planned_fastest_first(given):
    levels = [Level(f"l{i}", (cost,)) for i, (_, cost) in enumerate(given)]
    names = ["target", *(level.name for level in levels)]
    shares = {
        (upper, lower): given[j][0]
        for i, upper in enumerate(names)
        for j, lower in enumerate(names[1:])
        if i <= j
    }
    plans = plan_levels(Level("target", (1.0,)), levels, shares)
    assert len(plans) == 2 ** len(levels) - 1
    assert [p.speed_up for p in plans] == sorted((p.speed_up for p in plans), reverse=True)
    for level in levels:
        assert pays(level.name, plans) <= plans[0].speed_up


def test_a_level_that_costs_as_much_as_the_target_does_not_pay():
    plans = plan_levels(Level("target", (1.0,)), [Level("a", (1.0,))], {("target", "a"): 0.9})
    assert pays("a", plans) < 1


def test_the_specs_run_it():
    levels = [Level("m", (0.2,)), Level("ngram", (0.001,))]
    shares = {("target", "m"): 0.9, ("target", "ngram"): 0.1, ("m", "ngram"): 0.6}
    plan = plan_levels(Level("target", (1.0,)), levels, shares)[0]
    assert plan.levels == ("m", "ngram")
    assert plan.specs == (
        f"--drafter staged:levels=[m]+[ngram],ahead={plan.ahead[0]} --shaper chain:k={plan.drafted}"
    )


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({}, "no acceptance of 'a' by 'target': add --acceptance a=0.8"),
        ({("target", "a"): 0.5, ("target", "b"): 0.5}, "add --acceptance a/b=0.8"),
        ({("target", "a"): 1.5, ("target", "b"): 0.5, ("a", "b"): 0.5}, "expected 0 to 1"),
    ],
)
def test_missing_or_impossible_acceptance(shares, said):
    with pytest.raises(ToolkitError, match=said):
        require_acceptance(["a", "b"], "target", shares)

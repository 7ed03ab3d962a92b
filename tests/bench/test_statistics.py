"""Paired ratios and their intervals, against numbers worked out otherwise and known truths."""

import math

import numpy as np
import pytest
from toolkit.bench.statistics import Ratio, compare_paired, geometric_mean, mean

from toolkit.bootstrap import FEWEST, bootstrap


def keyed(values):
    return {(prompt, 0, 0): value for prompt, value in enumerate(values)}


def test_the_mean_is_geometric():
    ratio = compare_paired(keyed([2.0, 8.0]), keyed([1.0, 1.0]))
    assert ratio.mean == pytest.approx(4.0)
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_swapping_the_arms_inverts_ratio_and_interval():
    rng = np.random.default_rng(1)
    a, b = keyed(rng.uniform(1, 2, 20)), keyed(rng.uniform(1, 2, 20))
    there, back = compare_paired(a, b), compare_paired(b, a)
    assert there.mean == pytest.approx(1 / back.mean)
    assert there.low == pytest.approx(1 / back.high, rel=0.02)


def test_hard_and_easy_prompts_cancel_in_pairs():
    """Prompts differ tenfold, the arm is 10 % faster on each: paired it shows, unpaired it drowns."""
    rng = np.random.default_rng(2)
    base = rng.uniform(10, 100, 12)
    ours = 1.1 * base * rng.uniform(0.99, 1.01, 12)
    right = compare_paired(keyed(ours), keyed(base))
    assert right.reading == "faster"
    assert right.low < 1.1 < right.high
    shuffled = compare_paired(keyed(rng.permutation(ours)), keyed(base))
    assert shuffled.reading == "includes 1"


def test_the_prompt_is_what_is_resampled():
    """Ten turns of the same prompt are no ten prompts: the interval does not shrink."""
    rng = np.random.default_rng(4)
    ease = rng.normal(0, 0.2, 8)
    one = compare_paired({(p, 0, 0): math.exp(e) for p, e in enumerate(ease)}, keyed([1.0] * 8))
    many_ours = {(p, 0, t): math.exp(e) for p, e in enumerate(ease) for t in range(10)}
    many_base = {(p, 0, t): 1.0 for p in range(8) for t in range(10)}
    many = compare_paired(many_ours, many_base)
    assert many.prompts == one.prompts == 8
    assert many.low == pytest.approx(one.low)
    pretended = bootstrap(np.repeat(ease, 10)[:, None])
    assert math.exp(pretended[0]) > one.low + 0.02


def test_the_noise_between_rounds_is_in_the_interval():
    """The machine was 20 % faster in one of two rounds, for all prompts alike."""
    base = {(p, r, 0): 1.0 for p in range(10) for r in range(2)}
    noisy = {(p, r, 0): 1.2**r for p in range(10) for r in range(2)}
    ratio = compare_paired(noisy, base)
    assert (ratio.low, ratio.high) == (pytest.approx(1.0), pytest.approx(1.2))
    as_turns = [{(p, 0, r): speed for (p, r, _), speed in s.items()} for s in (noisy, base)]
    blind = compare_paired(*as_turns)  # within one round nothing is known of the noise
    assert blind.low == pytest.approx(blind.high) == pytest.approx(ratio.mean)


def test_a_round_that_was_not_finished_counts_where_it_was_decoded():
    ours = {(p, 0, 0): 2.0 for p in range(6)} | {(0, 1, 0): 8.0}
    ratio = compare_paired(ours, dict.fromkeys(ours, 1.0))
    assert ratio.prompts == 6
    assert ratio.mean == pytest.approx(2 ** (7 / 6))


def test_only_pairs_count():
    ratio = compare_paired(
        {("a", 0, 0): 2.0, ("b", 0, 0): 100.0}, {("a", 0, 0): 1.0, ("c", 0, 0): 1.0}
    )
    assert ratio.mean == pytest.approx(2.0)
    assert ratio.prompts == 1
    assert compare_paired({("a", 0, 0): 1.0}, {("b", 0, 0): 1.0}) is None


def test_few_prompts_give_no_interval():
    ratio = compare_paired(keyed([2.0] * (FEWEST - 1)), keyed([1.0] * (FEWEST - 1)))
    assert ratio.low is None
    assert ratio.reading == "too few prompts"


def test_a_seed_gives_the_same_interval():
    a, b = keyed([1.0, 2.0, 3.0, 4.0, 5.0]), keyed([1.0] * 5)
    assert compare_paired(a, b) == compare_paired(a, b)


@pytest.mark.parametrize(
    ("low", "high", "reading"),
    [
        (1.01, 1.2, "faster"),
        (0.8, 0.99, "slower"),
        (0.9, 1.1, "includes 1"),
        (1.0, 1.1, "includes 1"),
    ],
)
def test_the_reading_of_an_interval(low, high, reading):
    assert Ratio(1.0, low, high, 9).reading == reading


def test_a_mean_leaves_out_what_was_not_measured():
    assert mean([1.0, None, 3.0]) == 2.0
    assert mean([None]) is None
    assert geometric_mean([]) is None

"""Bootstrap intervals, against known truths."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from toolkit import bootstrap as module
from toolkit.bootstrap import bootstrap, bootstrap_columns, bootstrap_share, widen_tail


def coverage(count, tries=500):
    """How often an interval of `count` prompts holds the truth."""
    rng, inside = np.random.default_rng(3), 0
    for seed in range(tries):
        low, high = bootstrap(rng.normal(0.2, 0.3, (count, 1)), seed)
        inside += low <= 0.2 <= high
    return inside / tries


@pytest.mark.parametrize("count", [6, 10, 30])
def test_an_interval_holds_the_truth_in_about_19_of_20(count, monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 2000)
    assert 0.92 < coverage(count) < 0.98


def test_plain_percentiles_of_few_prompts_would_not(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 2000)
    monkeypatch.setattr(module, "widen_tail", lambda count: 0.025)
    assert coverage(6) < 0.92


@pytest.mark.parametrize(("count", "t"), [(5, 2.776), (6, 2.571), (11, 2.228), (31, 2.042)])
def test_the_tail_is_students(count, t):
    wanted = NormalDist().cdf(-t * math.sqrt(count / (count - 1)))
    assert widen_tail(count) == pytest.approx(wanted, rel=0.03)


def test_a_share_has_an_interval_over_prompts():
    """A ratio of sums: equal prompts have no spread, unequal ones do, few have no interval."""
    wholes = np.full(10, 20.0)
    assert bootstrap_share(wholes / 2, wholes) == (0.5, 0.5)
    low, high = bootstrap_share(np.arange(10.0), wholes)
    assert low < 45 / 200 < high
    assert bootstrap_share(np.array([1.0, 3.0]), np.array([4.0, 4.0])) == (0.5, 0.5)


def test_columns_are_resampled_together_and_in_blocks(monkeypatch):
    """Each column has the interval that it has alone; a small block changes nothing."""
    values = np.random.default_rng(5).normal(size=(30, 3))
    low, high = bootstrap_columns(values)
    alone = [bootstrap(column[:, None]) for column in values.T]
    assert list(zip(low, high, strict=True)) == [pytest.approx(ends) for ends in alone]
    monkeypatch.setattr(module, "BLOCK", 100)
    assert bootstrap_columns(values)[0] == pytest.approx(low)

"""Regret: within the bound, and beyond it for both controls."""

import os

import numpy as np
import pytest
from toolkit.cascade.policies.expweights import ExpWeights
from toolkit.cascade.regret import Uniform, Unweighted, measure_regret

from toolkit import Outcomes


def hard(prompts=4096):
    """The first stage is right where its score is high; the second is right, and costs much."""
    scores = np.random.default_rng(0).random((prompts, 2))
    qualities = np.stack([(scores[:, 0] > 0.7).astype(float), np.ones(prompts)], 1)
    return Outcomes(scores, np.tile([0.1, 0.9], (prompts, 1)), qualities)


def test_regret_is_measured_against_the_best_in_hindsight():
    found = measure_regret(ExpWeights, hard(), 3.0, 200, seeds=2)
    assert found.after.shape == (2, 200)
    assert (found.after[:, -1] <= found.bound[-1]).all()
    assert found.bound[-1] == pytest.approx(ExpWeights(horizon=200).bound)


@pytest.mark.skipif(
    os.environ.get("TOOLKIT_PROFILE", "quick") == "quick", reason="a minute: set TOOLKIT_PROFILE"
)
def test_the_bound_holds_and_both_controls_exceed_it():
    seeds = 20
    found = {
        each.name: measure_regret(each, hard(), 3.0, 65_536, seeds)
        for each in (ExpWeights, Uniform, Unweighted)
    }
    learnt = found["expweights"].after[:, -1]
    upper = learnt.mean() + 2.54 * learnt.std(ddof=1) / np.sqrt(seeds)  # 99 %, Student, 19 degrees
    assert upper <= found["expweights"].bound[-1]
    for control in ("uniform", "unweighted"):
        assert (found[control].after[:, -1] > found[control].bound[-1]).all()
    assert (found["uniform"].after[:, -1] > 2 * found["uniform"].bound[-1]).all()

"""Fitted cascades as files: the round trip, and splits that cannot overlap."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from toolkit.cascade.calibration import Calibrated
from toolkit.cascade.outcomes import stops_of
from toolkit.cascade.policies.dp import DP
from toolkit.cascade.policies.frugal import Frugal
from toolkit.cascade.policies.gain import Gain
from toolkit.cascade.policies.threshold import Threshold
from toolkit.cascade.policy_file import FittedCascade, read_fitted, split_by_prompt, write_fitted
from toolkit.cascade.scorers.logistic import Logistic

from toolkit import Evidence, Outcomes, Registry, ToolkitError


@pytest.fixture
def outcomes():
    rng = np.random.default_rng(0)
    qualities = (rng.random((80, 2)) < [0.5, 0.9]).astype(float)
    return Outcomes(
        0.5 * qualities + 0.5 * rng.random((80, 2)), np.tile([1.0, 4.0], (80, 1)), qualities
    )


@pytest.mark.parametrize(
    "policy", [DP(bins=3), Frugal(), Gain(), Threshold()], ids=lambda p: p.name
)
def test_a_fitted_cascade_stops_alike_once_read_again(policy, outcomes, tmp_path):
    rng = np.random.default_rng(1)
    held = [Evidence((-float(x), -0.1), (float(x), 1.0), 3) for x in rng.random(40)]
    scorer = Calibrated.fit(Logistic(), held, [float(each.logprobs[0] > -0.5) for each in held])
    fitted = policy.fit(outcomes, 5.0)
    whole = FittedCascade(["a", "b"], [scorer, scorer], [fitted], 0.0, 5.0, "seconds", ["00ff"])
    write_fitted(whole, tmp_path / "c.json")
    again = read_fitted(tmp_path / "c.json", Registry.installed())
    draws = np.zeros(80)
    stops = stops_of(again.policies[0], outcomes.scores, draws)
    assert stops.tolist() == stops_of(fitted, outcomes.scores, draws).tolist()
    assert len({*stops.tolist()}) == 2  # the comparison says something
    assert [again.scorers[0].score(each) for each in held] == [scorer.score(each) for each in held]


def test_another_file_is_refused(tmp_path):
    (tmp_path / "c.json").write_text('{"kind": "other"}')
    with pytest.raises(ToolkitError, match="is no fitted cascade"):
        read_fitted(tmp_path / "c.json", Registry.installed())


def test_a_prompt_is_on_one_side_of_a_split_every_time():
    ids = [hashlib.sha256(bytes([n])).hexdigest()[:16] for n in range(200)]
    first, again = ([*map(split_by_prompt(0.5), ids)] for _ in range(2))
    assert first == again
    assert 60 < sum(first) < 140

"""The oracle that reaches a quality at the least cost."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toolkit.cascade.outcomes import at, cheapest_oracle_stops

from toolkit import Outcomes


def test_it_goes_on_for_as_many_prompts_as_it_takes():
    """Stages that cost 1 and 10 are right in 60 and 80 of 100 prompts: 16 more are 95 % of 80."""
    qualities = np.zeros((100, 2))
    qualities[:60, 0] = qualities[:80, 1] = 1
    found = Outcomes(qualities, np.tile([1.0, 10.0], (100, 1)), qualities)
    for quality, going in ((0.95 * 0.8, 16), (0.8, 20), (0.6, 0), (0.0, 0)):
        stops = cheapest_oracle_stops(found, quality)
        assert at(qualities, stops).mean() >= min(quality, 0.6)
        assert at(found.costs.cumsum(1), stops).mean() == pytest.approx(1 + 10 * going / 100)


@given(seed=st.integers(0, 500), share=st.floats(0.1, 1), stages=st.integers(2, 3))
def test_no_stops_reach_the_quality_for_less(seed, share, stages):
    """Up to one prompt's cost, against all stops."""
    rng = np.random.default_rng(seed)
    qualities = rng.integers(0, 3, (5, stages)) / 2
    found = Outcomes(qualities, rng.uniform(0.5, 5, (5, stages)), qualities)
    wanted, spent = share * qualities.max(1).mean(), found.costs.cumsum(1)
    every = [np.array(stops) for stops in product(range(stages), repeat=5)]
    least = min(
        at(spent, stops).mean() for stops in every if at(qualities, stops).mean() >= wanted - 1e-12
    )
    stops = cheapest_oracle_stops(found, wanted)
    assert at(qualities, stops).mean() >= wanted - 1e-9
    assert at(spent, stops).mean() <= least + found.costs.sum(1).max() / 5 + 1e-9

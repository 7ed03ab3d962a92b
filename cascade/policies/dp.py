"""Optimal stopping by backward induction."""

from __future__ import annotations

from bisect import bisect_right

import attrs
import numpy as np
from attrs.validators import ge

from toolkit import Outcomes, StopPolicy, option

from ..bins import Bins, bin_scores


@attrs.define(eq=False)
class DP(StopPolicy):
    """DP: optimal stopping of a Markov chain of binned scores, by backward induction (Snell envelope).

    It stops where λ times the expected lost quality is at most the expected cost and loss of going
    on. The sets of bins in which it stops are not assumed to be intervals: a high score is no reason
    to stop where the next stage would gain more.
    """

    name = "dp"
    bins: int = option(8, help="bins of the score of each stage", validator=ge(1))
    _edges: list[list[float]] = attrs.field(init=False, factory=list)  # by stage
    _stops: list[list[bool]] = attrs.field(init=False, factory=list)  # by stage and bin

    def fit(self, outcomes: Outcomes, trade_off: float) -> DP:
        fitted = DP(bins=self.bins)
        chain = bin_scores(outcomes, self.bins)
        fitted._edges = [list(edges) for edges in chain.edges]
        fitted._stops = [list(map(bool, row)) for row in stop_sets(chain, trade_off)]
        return fitted

    def stop(self, scores: list[float], draw: float) -> bool:
        stage = len(scores) - 1
        return self._stops[stage][bisect_right(self._edges[stage], scores[-1])]


def stop_sets(chain: Bins, trade_off: float) -> list[np.ndarray]:
    """For each stage but the last, in which bins [B] stopping costs no more than going on."""
    found: list[np.ndarray] = []
    value = trade_off * (1 - chain.qualities[-1])  # of reaching each bin of the last stage
    for stage in reversed(range(len(chain.steps))):
        now = trade_off * (1 - chain.qualities[stage])
        later = chain.go_on(stage, value)
        found.insert(0, now <= later)
        value = np.minimum(now, later)
    return found

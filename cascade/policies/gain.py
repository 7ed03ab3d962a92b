"""Deferral by expected gain, for two stages."""

from __future__ import annotations

from bisect import bisect_right

import attrs
from attrs.validators import ge

from toolkit import Outcomes, StopPolicy, option

from ..bins import bin_scores, mean_by_bin


@attrs.define(eq=False)
class Gain(StopPolicy):
    """Gain: post-hoc deferral (Jitkrittum et al. 2023). With two stages, it runs the second where the
    expected gain in quality is worth its expected cost, E[Q₂ − Q₁ | score] > E[C₂ | score] / λ."""

    name = "gain"
    minimises = True
    bins: int = option(8, help="bins of the score", validator=ge(1))
    _edges: list[float] = attrs.field(init=False, factory=list)
    _stops: list[bool] = attrs.field(init=False, factory=list)  # by bin

    def fit(self, outcomes: Outcomes, trade_off: float) -> Gain:
        if outcomes.stages != 2:
            raise ValueError(f"gain is for two stages, and there are {outcomes.stages}: use dp")
        edges = bin_scores(outcomes, self.bins).edges[0]
        gained = outcomes.qualities[:, 1] - outcomes.qualities[:, 0]
        worth = trade_off * mean_by_bin(outcomes.scores[:, 0], edges, gained)
        fitted = attrs.evolve(self)
        fitted._edges = edges.tolist()
        fitted._stops = (
            worth <= mean_by_bin(outcomes.scores[:, 0], edges, outcomes.costs[:, 1])
        ).tolist()
        return fitted

    def stop(self, scores: list[float], draw: float) -> bool:
        return self._stops[bisect_right(self._edges, scores[0])]

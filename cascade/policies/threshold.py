"""One threshold on the score."""

from __future__ import annotations

import attrs
import numpy as np
from attrs.validators import and_, ge, le

from toolkit import Outcomes, StopPolicy, option

from ..outcomes import mean_loss, stops_at


@attrs.define(eq=False)
class Threshold(StopPolicy):
    """Threshold: stops at the first stage whose score reaches one value, the same for all stages. It is
    fitted by trying percentiles of the recorded scores (confidence deferral; Chow 1970)."""

    name = "threshold"
    minimises = True
    value: float = option(0.5, help="stop at this score", validator=and_(ge(0), le(1)))

    def fit(self, outcomes: Outcomes, trade_off: float) -> Threshold:
        reached = outcomes.scores[:, :-1]
        tried = [0.0, *np.unique(np.quantile(reached, np.linspace(0, 1, 101))), 1.0]
        losses = [
            mean_loss(
                outcomes, stops_at(outcomes.scores, [value] * (outcomes.stages - 1)), trade_off
            )
            for value in tried
        ]
        return attrs.evolve(self, value=float(tried[int(np.argmin(losses))]))

    def stop(self, scores: list[float], draw: float) -> bool:
        return scores[-1] >= self.value

"""A threshold for each stage, under a budget."""

from __future__ import annotations

from itertools import product

import attrs
import numpy as np
from attrs.validators import ge

from toolkit import Outcomes, StopPolicy, option

from ..outcomes import at, losses, stops_at


@attrs.define(eq=False)
class Frugal(StopPolicy):
    """Frugal: a threshold for each stage, by search over quantiles of the scores of the prompts that
    reach it (FrugalGPT; Chen, Zaharia and Zou 2023).

    With `budget` it maximises quality among thresholds whose mean cost is within it, else it minimises
    cost and λ times the lost quality.
    """

    name = "frugal"
    minimises = True
    budget: float = option(0.0, help="mean cost of a prompt; 0: no limit", validator=ge(0))
    quantiles: int = option(12, help="thresholds tried for each stage", validator=ge(2))
    _thresholds: list[float] = attrs.field(init=False, factory=list)

    def fit(self, outcomes: Outcomes, trade_off: float) -> Frugal:
        spent = outcomes.costs.cumsum(1)
        weighed = losses(outcomes, trade_off) if not self.budget else 1 - outcomes.qualities
        best: tuple[float, float, list[float]] | None = None
        for levels in product(np.linspace(0, 1, self.quantiles), repeat=outcomes.stages - 1):
            thresholds = _conditional_quantiles(outcomes.scores, levels)
            stops = stops_at(outcomes.scores, thresholds)
            cost, loss = float(at(spent, stops).mean()), float(at(weighed, stops).mean())
            within = not self.budget or cost <= self.budget
            if within and (best is None or (loss, cost) < best[:2]):
                best = loss, cost, thresholds
        if best is None:
            least = float(outcomes.costs[:, 0].mean())
            raise ValueError(
                f"budget={self.budget:g} is below the mean cost of the first stage, {least:.4g}"
            )
        fitted = attrs.evolve(self)
        fitted._thresholds = best[2]
        return fitted

    def stop(self, scores: list[float], draw: float) -> bool:
        return scores[-1] >= self._thresholds[len(scores) - 1]


def _conditional_quantiles(scores: np.ndarray, levels: tuple[float, ...]) -> list[float]:
    """Thresholds of which each is a quantile of the scores of prompts that reach its stage; one above
    all scores for level 1."""
    reach, found = np.ones(len(scores), dtype=bool), []
    for stage, level in enumerate(levels):
        held = scores[reach, stage]
        stops_nobody = level >= 1 or not held.size
        found.append(float(np.inf if stops_nobody else np.quantile(held, level)))
        reach = reach & (scores[:, stage] < found[-1])
    return found

"""Learning thresholds online, with a bound on the regret."""

from __future__ import annotations

from itertools import product
from math import log, sqrt

import attrs
import numpy as np
from attrs.validators import ge, gt
from numpy.typing import NDArray

from toolkit import Outcomes, StopPolicy, option

LARGEST = 100_000  # threshold vectors: each prompt weighs all of them


@attrs.define(eq=False)
class ExpWeights(StopPolicy):
    """ExpWeights: exponential weights over threshold vectors, with nested feedback.

    Having run stages 0 … k, it is told the grades of all of them, so it knows the loss of every policy
    that would have stopped there or before. Losses are weighted by the probability of running so far
    (Exp4 with feedback graphs, Alon et al. 2015). For T prompts, L stages and |Π| threshold vectors, in
    any order, the expected regret against the best vector of the grid is at most √(2 L T ln |Π|), in
    losses scaled to [0, 1]. The bound holds for the horizon that was given.
    """

    name = "expweights"
    feedback = "graded"
    stages: int = option(2, help="L", validator=ge(2))
    grid: int = option(9, help="thresholds tried for each stage, from 0 to 1", validator=ge(2))
    horizon: int = option(1000, help="T, prompts that it will see", validator=ge(1))
    trade_off: float = option(
        1.0, help="λ, the cost that one unit of quality is worth", validator=ge(0)
    )
    cost: float = option(1.0, help="the most that all stages of a prompt cost", validator=gt(0))

    _policies: NDArray[np.float64] = attrs.field(init=False)  # [Π, L − 1]
    _losses: NDArray[np.float64] = attrs.field(init=False)  # [Π], estimated sums
    _scores: list[float] = attrs.field(init=False, factory=list)  # of the prompt in hand
    _weights: NDArray[np.float64] = attrs.field(init=False)  # [Π], of the prompt in hand

    def __attrs_post_init__(self) -> None:
        count = self.grid ** (self.stages - 1)
        if count > LARGEST:
            raise ValueError(
                f"grid={self.grid} gives too many threshold vectors for {self.stages} stages: expected "
                f"at most {LARGEST}, use a smaller grid"
            )
        levels = [*np.linspace(0, 1, self.grid - 1), np.inf]  # the last one never stops
        self._policies = np.array(list(product(levels, repeat=self.stages - 1)))
        self._losses = np.zeros(len(self._policies))
        self._weights = self._new_weights()

    @property
    def bound(self) -> float:
        """The bound on the expected regret after `horizon` prompts, in scaled losses."""
        return sqrt(2 * self.stages * self.horizon * log(len(self._policies)))

    def fit(self, outcomes: Outcomes, trade_off: float) -> ExpWeights:
        most = float(outcomes.costs.sum(1).max())
        return attrs.evolve(self, stages=outcomes.stages, trade_off=trade_off, cost=most)

    def stop(self, scores: list[float], draw: float) -> bool:
        self._scores = scores
        playing = int(self._weights.cumsum().searchsorted(draw, "right"))
        playing = min(playing, len(self._policies) - 1)
        return bool(scores[-1] >= self._policies[playing, len(scores) - 1])

    def update(self, costs: list[float], qualities: list[float]) -> None:
        spent, going = 0.0, np.ones(len(self._policies), dtype=bool)
        for stage, (cost, quality) in enumerate(zip(costs, qualities, strict=True)):
            spent += cost
            loss = (spent + self.trade_off * (1 - quality)) / (self.cost + self.trade_off)
            estimate = loss / self._chance(going)
            if stage == self.stages - 1:
                self._losses[going] += estimate
                break
            passed = going & (self._policies[:, stage] > self._scores[stage])
            self._losses[going ^ passed] += estimate
            going = passed
        self._weights = self._new_weights()

    def _chance(self, going: NDArray[np.bool_]) -> float:
        """The probability of running as far as the stage that the policies `going` [Π] run."""
        return float(self._weights[going].sum())

    def _new_weights(self) -> NDArray[np.float64]:
        """The probability [Π] of playing each policy for the next prompt."""
        eta = sqrt(2 * log(len(self._policies)) / (self.stages * self.horizon))
        weights = np.exp(-eta * (self._losses - self._losses.min()))
        return np.asarray(weights / weights.sum())

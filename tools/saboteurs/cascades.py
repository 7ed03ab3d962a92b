"""Broken scorers and stop policies."""

from __future__ import annotations

import random

import attrs

from toolkit.cascade_interfaces import Evidence, Outcomes, Scorer, StopPolicy


@attrs.define(eq=False)
class SumOfLogprobs(Scorer):
    """It gives a log-probability, which is no number in [0, 1]."""

    name = "sum-of-logprobs"

    def score(self, answer: Evidence) -> float:
        return sum(answer.logprobs)


@attrs.define(eq=False)
class TossesToStop(StopPolicy):
    """It draws chances of its own, so that a replay is not repeatable."""

    name = "tosses-to-stop"

    def stop(self, scores: list[float], draw: float) -> bool:
        return random.random() < scores[-1]


@attrs.define(eq=False)
class KnowsTwoStages(StopPolicy):
    """It has a threshold for the first stage alone, whatever the number of stages."""

    name = "knows-two-stages"
    _limits: list[float] = attrs.field(init=False, factory=lambda: [0.5])

    def stop(self, scores: list[float], draw: float) -> bool:
        return scores[-1] >= self._limits[len(scores) - 1]


@attrs.define(eq=False)
class SaysNothing(StopPolicy):
    """It forgets to return an answer where a score is below its threshold."""

    name = "says-nothing"

    def stop(self, scores: list[float], draw: float) -> bool:
        if scores[-1] >= 0.5:
            return True
        return None  # type: ignore[return-value]


@attrs.define(eq=False)
class TurnedLambda(StopPolicy):
    """The larger λ, the sooner it stops."""

    name = "turned-lambda"
    minimises = True
    _limit: float = attrs.field(init=False, default=1.0)

    def fit(self, outcomes: Outcomes, trade_off: float) -> TurnedLambda:
        fitted = TurnedLambda()
        fitted._limit = 1 / (1 + trade_off)
        return fitted

    def stop(self, scores: list[float], draw: float) -> bool:
        return scores[-1] >= self._limit


@attrs.define(eq=False)
class ReadsTheLastGrade(StopPolicy):
    """It learns from the second stage's grade, which is not known where the first one answered."""

    name = "reads-the-last-grade"
    feedback = "graded"
    _limit: float = attrs.field(init=False, default=0.5)

    def stop(self, scores: list[float], draw: float) -> bool:
        return scores[-1] >= self._limit

    def update(self, costs: list[float], qualities: list[float]) -> None:
        self._limit += 0.01 * (qualities[1] - qualities[0])

"""Broken scorers and stop policies."""

from __future__ import annotations

import random

import attrs

from toolkit.cascade_interfaces import Evidence, Scorer, StopPolicy


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

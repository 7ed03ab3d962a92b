"""Replay a policy on recorded outcomes: what it would have cost and been worth."""

from __future__ import annotations

import hashlib

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from toolkit import Outcomes, StopPolicy

from .outcomes import at, stops_of

Floats = NDArray[np.float64]
RESAMPLES = 2000


@frozen
class Interval:
    """A mean and its 95 % bootstrap interval over prompts."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Floats) -> Interval:
        rng = np.random.default_rng(0)
        means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        return cls(float(values.mean()), float(low), float(high))


@frozen(eq=False)
class Replayed:
    """A policy on n prompts: mean cost and quality, and the share of prompts that each stage
    answers."""

    name: str
    cost: Interval
    quality: Interval
    usage: list[float]
    costs: Floats
    qualities: Floats


def draws_of(prompt_ids: list[str]) -> Floats:
    """A uniform draw [n] for each prompt, from its id."""
    digests = [hashlib.sha256(prompt.encode()).digest() for prompt in prompt_ids]
    return np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])


def replay_policy(name: str, policy: StopPolicy, outcomes: Outcomes, draws: Floats) -> Replayed:
    """Replay a policy that learns nothing on the way."""
    return replay_stops(name, stops_of(policy, outcomes.scores, draws), outcomes)


def replay_stops(name: str, stops: NDArray[np.int64], outcomes: Outcomes) -> Replayed:
    """What it costs and is worth to stop at `stops[n]`."""
    costs, qualities = at(outcomes.costs.cumsum(1), stops), at(outcomes.qualities, stops)
    usage = [float((stops == stage).mean()) for stage in range(outcomes.stages)]
    return Replayed(name, Interval.of(costs), Interval.of(qualities), usage, costs, qualities)


def alone(stage: int, outcomes: Outcomes) -> Replayed:
    """One stage without those before it: what a user has without a cascade."""
    costs, qualities = outcomes.costs[:, stage], outcomes.qualities[:, stage]
    usage = [float(other == stage) for other in range(outcomes.stages)]
    return Replayed(
        f"stage {stage} alone", Interval.of(costs), Interval.of(qualities), usage, costs, qualities
    )

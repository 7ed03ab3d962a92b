"""Replay a policy on recorded outcomes: what it would have cost and been worth."""

from __future__ import annotations

import hashlib

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from toolkit import Outcomes, ToolkitError

from .answers import Answer, by_prompt, outcomes_of, require_cascade
from .outcomes import at, oracle_stops
from .policy_file import FittedCascade

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


def mixing_draws_of(prompt_ids: list[str]) -> Floats:
    """A second draw [n] for each prompt, which chooses between two policies."""
    return draws_of([f"{prompt} mixing" for prompt in prompt_ids])


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


def replay_fitted(fitted: FittedCascade, answers: list[Answer]) -> list[Replayed]:
    """A fitted cascade on recorded answers, beside the oracle and each stage alone. Prompts that it was
    fitted to are left out.

    Raises `ToolkitError` when no others are there, or when the answers are of other stages.
    """
    rows = by_prompt(answers)
    require_cascade(rows, fitted.cost)
    names = [answer.name for answer in next(iter(rows.values()))]
    if names != fitted.stages:
        raise ToolkitError(
            f"the answers are of the stages {', '.join(names)}, and the cascade has "
            f"{', '.join(fitted.stages)}: replay answers of the same stages"
        )
    used = set(fitted.fitted_on)
    rest = {prompt: row for prompt, row in rows.items() if prompt not in used}
    if not rest:
        raise ToolkitError(
            "the cascade was fitted to every one of these prompts, so a replay would flatter it: "
            "record others"
        )
    outcomes = outcomes_of(rest, fitted.scorers, fitted.cost)
    names = [policy.name for policy in fitted.policies]
    return [
        replay_stops(
            " or ".join(dict.fromkeys(names)), _play(fitted, outcomes, list(rest)), outcomes
        ),
        replay_stops("oracle", oracle_stops(outcomes, fitted.trade_off), outcomes),
        *(alone(stage, outcomes) for stage in range(outcomes.stages)),
    ]


def _play(fitted: FittedCascade, outcomes: Outcomes, ids: list[str]) -> NDArray[np.int64]:
    """The stage [n] at which the cascade stops each prompt. Policies that learn are told the grades of
    the stages that ran."""
    found = []
    draws = zip(draws_of(ids).tolist(), mixing_draws_of(ids).tolist(), strict=True)
    for prompt, (draw, mixing) in enumerate(draws):
        policy, row, stage = fitted.policy_of(mixing), outcomes.scores[prompt].tolist(), 0
        while stage < len(row) - 1 and not policy.stop(row[: stage + 1], draw):
            stage += 1
        ran = slice(stage + 1)
        policy.update(
            outcomes.costs[prompt, ran].tolist(), outcomes.qualities[prompt, ran].tolist()
        )
        found.append(stage)
    return np.asarray(found, dtype=np.int64)

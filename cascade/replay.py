"""Replay a policy on recorded outcomes: what it would have cost and been worth."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from toolkit import Outcomes, ToolkitError
from toolkit.bootstrap import FEWEST, bootstrap_columns

from .answers import Answer, by_prompt, outcomes_of, require_cascade
from .outcomes import at, oracle_stops
from .policy_file import FittedCascade

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@frozen
class Interval:
    """A mean or a ratio, and its 95 % bootstrap interval over prompts."""

    mean: float
    low: float
    high: float

    def describe(self, form: str) -> str:
        """Its three numbers in a format, as `.3f`."""
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


@frozen(eq=False)
class Replayed:
    """A rule of stopping on n prompts: mean cost and quality, the share of prompts that each stage
    answers, and cost and quality of each prompt [n]."""

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


def replay_stops(rules: Sequence[tuple[str, Ints]], outcomes: Outcomes) -> list[Replayed]:
    """What each rule costs and is worth that stops at `stops[n]`. The rules have names."""
    spent = outcomes.costs.cumsum(1)
    return _summarise(
        [(name, stops, at(spent, stops), at(outcomes.qualities, stops)) for name, stops in rules],
        outcomes.stages,
    )


def replay_alone(outcomes: Outcomes) -> list[Replayed]:
    """Each stage without those before it: what a user has without a cascade."""
    found = []
    for stage in range(outcomes.stages):
        costs, qualities = outcomes.costs[:, stage], outcomes.qualities[:, stage]
        found.append((f"stage {stage} alone", np.full(len(costs), stage), costs, qualities))
    return _summarise(found, outcomes.stages)


def _summarise(rules: Sequence[tuple[str, Ints, Floats, Floats]], stages: int) -> list[Replayed]:
    """The means of each rule's stops, costs and qualities [n], with their intervals."""
    values = np.stack([column for _, _, *both in rules for column in both], axis=1)
    low, high = bootstrap_columns(values)
    intervals = iter(map(Interval, values.mean(0).tolist(), low.tolist(), high.tolist()))
    found = []
    for name, stops, costs, qualities in rules:
        usage = [float((stops == stage).mean()) for stage in range(stages)]
        found.append(Replayed(name, next(intervals), next(intervals), usage, costs, qualities))
    return found


def replay_fitted(fitted: FittedCascade, answers: list[Answer]) -> list[Replayed]:
    """A fitted cascade on recorded answers, beside the oracle and each stage alone. Prompts that it was
    fitted to are left out.

    Raises `ToolkitError` when there are few others, or when the answers are of other stages.
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
    if len(rest) < FEWEST:
        raise ToolkitError(
            f"the cascade was fitted to {len(rows) - len(rest)} of these {len(rows)} prompts, and a "
            f"replay is of at least {FEWEST} others: record more"
        )
    outcomes = outcomes_of(rest, fitted.scorers, fitted.cost)
    name = " or ".join(dict.fromkeys(policy.name for policy in fitted.policies))
    rules = [
        (name, _play(fitted, outcomes, list(rest))),
        ("oracle", oracle_stops(outcomes, fitted.trade_off)),
    ]
    return [*replay_stops(rules, outcomes), *replay_alone(outcomes)]


def _play(fitted: FittedCascade, outcomes: Outcomes, ids: list[str]) -> Ints:
    """The stage [n] at which the cascade stops each prompt. Policies that learn are told the grades of
    the stages that ran."""
    found = []
    draws = zip(draws_of(ids).tolist(), mixing_draws_of(ids).tolist(), strict=True)
    for prompt, (draw, mixing) in enumerate(draws):
        policy, row = fitted.policy_of(mixing), outcomes.scores[prompt].tolist()
        ran = len(policy.run(len(row), row.__getitem__, draw))
        if policy.feedback == "graded":
            told = (part[prompt, :ran].tolist() for part in (outcomes.costs, outcomes.qualities))
            policy.update(*told)
        found.append(ran - 1)
    return np.asarray(found, dtype=np.int64)

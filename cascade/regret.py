"""Regret of the online policy over T prompts, beside two controls that break its bound."""

from __future__ import annotations

import attrs
import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from toolkit import Outcomes

from .outcomes import at, losses, stops_at
from .policies.expweights import ExpWeights

Floats = NDArray[np.float64]


@attrs.define(eq=False)
class Uniform(ExpWeights):
    """A control: it learns nothing, and plays every threshold vector with the same probability."""

    name = "uniform"

    def _new_weights(self) -> Floats:
        return np.full(len(self._losses), 1 / len(self._losses))


@attrs.define(eq=False)
class Unweighted(ExpWeights):
    """A control: losses are not divided by the probability of seeing them, so policies that run more
    stages, which are seen less often, look better than they are."""

    name = "unweighted"

    def _chance(self, going: NDArray[np.bool_]) -> float:
        return 1.0


LEARNERS: tuple[type[ExpWeights], ...] = (ExpWeights, Unweighted, Uniform)


@frozen(eq=False)
class Regret:
    """Regret [seeds, T] after each prompt, in losses scaled to [0, 1], and the bound [T]."""

    name: str
    after: Floats
    bound: Floats


def measure_regret(
    learner: type[ExpWeights], outcomes: Outcomes, trade_off: float, prompts: int, seeds: int
) -> Regret:
    """Run a learner over `prompts` draws of the recorded prompts, against the best threshold vector of
    its grid in hindsight after each."""
    made = learner(horizon=prompts).fit(outcomes, trade_off)
    scale = made.cost + made.trade_off
    lost = losses(outcomes, trade_off) / scale
    every = np.stack([at(lost, stops_at(outcomes.scores, row)) for row in made._policies], axis=1)
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = rng.integers(0, len(lost), prompts)
        best = every[order].cumsum(0).min(1)
        found.append(play_online(attrs.evolve(made), outcomes, lost, order, rng).cumsum() - best)
    bound = made.bound * np.sqrt(np.arange(1, prompts + 1) / prompts)
    return Regret(learner.name, np.stack(found), bound)


def play_online(
    policy: ExpWeights,
    outcomes: Outcomes,
    lost: Floats,
    order: NDArray[np.int64],
    rng: np.random.Generator,
) -> Floats:
    """The loss of each prompt in order."""
    scores, costs = outcomes.scores.tolist(), outcomes.costs.tolist()
    qualities, draws = outcomes.qualities.tolist(), rng.random(len(order)).tolist()
    found = np.empty(len(order))
    for turn, prompt in enumerate(order.tolist()):
        ran = len(policy.run(outcomes.stages, scores[prompt].__getitem__, draws[turn]))
        policy.update(costs[prompt][:ran], qualities[prompt][:ran])
        found[turn] = lost[prompt, ran - 1]
    return found

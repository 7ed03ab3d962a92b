"""A bandit over shapers: each step is grown by the one that has paid best so far."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from math import exp, log, sqrt

import attrs
from attrs.validators import in_, min_len

from toolkit import Candidates, Choice, Costs, Expand, TokenTree, TreeShaper, Verdict, option

SEED = 0  # of the draws of `expweights`, so that a request repeats


@attrs.define
class Arm:
    """What one shaper has brought: steps, tokens committed, and their cost in ms."""

    steps: int = 0
    tokens: int = 0
    cost: float = 0.0
    loss: float = 0.0  # importance-weighted, for `expweights`


@attrs.define(eq=False)
class Select(TreeShaper):
    """BanditSpec style (Hou et al. 2025): a bandit chooses one of several shapers for every step.

    A step's reward is its tokens less ρ times its cost, where ρ is the request's own tokens per ms so
    far: the shaper with the highest mean reward is the one with the highest throughput (Dinkelbach
    1967). Costs are those of this machine after the prompt (`toolkit costs`), not the step's own
    time, so a request repeats; without costs every step costs the same. `ucb` plays the arm with the
    highest upper confidence bound (UCB1, Auer et al. 2002a), `expweights` draws one by exponential
    weights (Exp3, Auer et al. 2002b), and `constant` always plays the first. Which shaper grows a tree
    never changes the output.
    """

    name = "select"
    arms: tuple[Choice[TreeShaper], ...] = option(
        ("chain:k=2", "chain:k=5", "adaptive", "budget"),
        help="shapers to choose from, as [chain:k=2]+[adaptive]",
        kind="shaper",
        validator=min_len(1),
    )
    policy: str = option(
        "ucb",
        help="ucb, expweights or constant",
        validator=in_(["ucb", "expweights", "constant"]),
    )

    _shapers: list[TreeShaper] = attrs.field(init=False, factory=list)
    _arms: list[Arm] = attrs.field(init=False, factory=list)  # made with the first tree
    _most: int = attrs.field(init=False, default=1)  # tokens of a step
    _squares: int = attrs.field(init=False, default=0)  # sum of the squared tokens of all steps
    _rng: random.Random = attrs.field(init=False, factory=lambda: random.Random(SEED))  # noqa: S311
    # Of a pass of so many nodes, and of a level from so many: in ms after the prompt.
    _pass_cost: Callable[[int], float] = attrs.field(init=False, default=lambda _: 1.0)
    _level_cost: Callable[[int], float] = attrs.field(init=False, default=lambda _: 0.0)
    _playing: int = attrs.field(init=False, default=0)
    _share: float = attrs.field(init=False, default=1.0)  # the probability of the arm that plays
    _widths: list[int] = attrs.field(init=False, factory=list)  # of the step's levels

    @property
    def nodes(self) -> int:
        shapers = self._shapers or [arm.build() for arm in self.arms]
        return max(shaper.nodes for shaper in shapers)

    def plan(self, costs: Costs, length: int) -> None:
        self._pass_cost = cache(lambda nodes: float(costs.passes(length, nodes)[-1]))
        self._level_cost = cache(lambda width: float(costs.levels(length, width)[-1]))
        self._open()
        for shaper in self._shapers:
            shaper.plan(costs, length)

    def _open(self) -> None:
        self._shapers = [arm.build() for arm in self.arms]
        self._arms = [Arm() for _ in self.arms]

    def grow(self, root: TokenTree, expand: Expand) -> TokenTree:
        if not self._shapers:
            self._open()
        self._playing, self._share, self._widths = *self._choose(), []

        def counted(tree: TokenTree, frontier: list[int], k: int) -> Candidates:
            self._widths.append(len(frontier))
            return expand(tree, frontier, k)

        return self._shapers[self._playing].grow(root, counted)

    def observe(self, tree: TokenTree, verdict: Verdict) -> None:
        self._shapers[self._playing].observe(tree, verdict)
        arm, tokens = self._arms[self._playing], len(verdict.path)
        cost = self._pass_cost(len(tree)) + sum(map(self._level_cost, self._widths))
        self._most, self._squares = max(self._most, tokens), self._squares + tokens**2
        arm.steps, arm.tokens, arm.cost = arm.steps + 1, arm.tokens + tokens, arm.cost + cost
        reward = min(max((tokens - self._rate * cost) / self._most, -1.0), 1.0)
        arm.loss += (1 - reward) / 2 / self._share

    @property
    def _rate(self) -> float:
        """ρ: tokens per ms of the request so far."""
        return sum(arm.tokens for arm in self._arms) / sum(arm.cost for arm in self._arms)

    def _choose(self) -> tuple[int, float]:
        """The arm to play, and the probability with which it was chosen."""
        everyone = range(len(self._arms))
        if self.policy == "constant":
            return 0, 1.0
        if self.policy == "ucb":
            new = [i for i in everyone if not self._arms[i].steps]
            return new[0] if new else max(everyone, key=self._upper_bound), 1.0
        steps = 1 + sum(arm.steps for arm in self._arms)
        eta = (
            sqrt(2 * log(len(self._arms)) / (len(self._arms) * steps))
            if len(self._arms) > 1
            else 0.0
        )
        least = min(arm.loss for arm in self._arms)
        weights = [exp(-eta * (arm.loss - least)) for arm in self._arms]
        (playing,) = self._rng.choices(everyone, weights)
        return playing, weights[playing] / sum(weights)

    def _upper_bound(self, index: int) -> float:
        """The mean reward of an arm, and the width of its confidence interval."""
        arm = self._arms[index]
        reward = (arm.tokens - self._rate * arm.cost) / arm.steps
        steps = sum(arm.steps for arm in self._arms)
        mean = sum(arm.tokens for arm in self._arms) / steps
        spread = sqrt(max(0.0, self._squares / steps - mean**2))  # of a step's tokens
        return reward + spread * sqrt(2 * log(steps) / arm.steps)

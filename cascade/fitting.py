"""Fitting a cascade to recorded answers: for a λ, within a budget, or above a floor of quality."""

from __future__ import annotations

from math import ceil, log, log1p

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from toolkit import Outcomes, Scorer, StopPolicy, ToolkitError

from .answers import Answer, by_prompt, evidence_of_all, outcomes_of, require_cascade
from .calibration import Calibrated, fit_scorers
from .outcomes import at, find_hull, stops_of
from .policy_file import FittedCascade, split_by_prompt
from .replay import draws_of

Floats = NDArray[np.float64]
SWEEP = np.array([0, *np.geomspace(0.03, 100, 25)])  # λ, in mean costs of the large model
FEWEST = 20  # prompts of each split
BOLDEST = 0.9  # of the largest bet that cannot lose everything


@frozen(eq=False)
class Setting:
    """A policy fitted for one λ, with its mean cost and quality on the fitting prompts."""

    trade_off: float
    policy: StopPolicy
    cost: float
    quality: float


@frozen(eq=False)
class Fitting:
    """The outcomes that a cascade is fitted to. Half of the prompts, chosen by their ids, are left out:
    they are for the replay. With `floor`, half of the others test what was fitted."""

    stages: list[str]
    cost: str
    ids: list[str]
    scorers: list[Calibrated]
    outcomes: Outcomes
    tested: Outcomes | None
    draws: Floats  # [n] of the tested prompts

    @classmethod
    def of(
        cls, answers: list[Answer], scorer: Scorer, cost: str, *, floor: bool = False
    ) -> Fitting:
        """Fit and calibrate the scorers. Raises `ToolkitError` for rows that cannot be fitted to."""
        rows = by_prompt(answers)
        require_cascade(rows, cost)
        ours, inner = split_by_prompt(0.5), split_by_prompt(0.25)
        known = {prompt: row for prompt, row in rows.items() if ours(prompt)}
        fit = {prompt: row for prompt, row in known.items() if not floor or inner(prompt)}
        rest = {prompt: row for prompt, row in known.items() if prompt not in fit}
        if len(fit) < FEWEST or (floor and len(rest) < FEWEST):
            parts = "a quarter fits, a quarter tests the floor" if floor else "half of them fit"
            raise ToolkitError(
                f"{len(rows)} prompts are too few, because {parts}, and the rest is for the replay: "
                f"record {4 * FEWEST * (1 + floor)} or more"
            )
        scorers = fit_scorers(
            scorer,
            [evidence_of_all(row) for row in fit.values()],
            [[float(answer.quality or 0) for answer in row] for row in fit.values()],
        )
        tested = outcomes_of(rest, scorers, cost) if rest else None
        names = [answer.name for answer in next(iter(rows.values()))]
        outcomes = outcomes_of(fit, scorers, cost)
        return cls(names, cost, list(known), scorers, outcomes, tested, draws_of(list(rest)))

    def finish(self, settings: list[Setting], share: float = 0.0) -> FittedCascade:
        """The fitted cascade of one setting, or of two."""
        policies = [setting.policy for setting in settings]
        return FittedCascade(
            self.stages, self.scorers, policies, share, settings[0].trade_off, self.cost, self.ids
        )

    def for_trade_off(self, policy: StopPolicy, trade_off: float) -> FittedCascade:
        """The policy fitted for one λ."""
        return self.finish([fit_setting(policy, self.outcomes, trade_off)])

    def within_budget(self, policy: StopPolicy, budget: float) -> FittedCascade:
        """Neighbours on the hull of settings over λ, mixed so that the mean cost is the budget."""
        settings, share = meet_budget(fit_settings(policy, self.outcomes), budget)
        return self.finish(settings, share)

    def above_floor(self, policy: StopPolicy, floor: float, delta: float) -> FittedCascade:
        """The cheapest setting that is shown to keep `floor` of the last stage's quality, with
        probability 1 − `delta`.

        Settings are tested from the largest λ down, up to the first that fails, so that all tests
        together are wrong with probability `delta` (fixed-sequence testing; Angelopoulos et al. 2021,
        arXiv:2110.01052). Raises `ToolkitError` when none passes.
        """
        assert self.tested is not None  # noqa: S101 made with floor=True
        large = self.tested.qualities[:, -1]
        passed: list[Setting] = []
        for setting in reversed(fit_settings(policy, self.outcomes)):
            stops = stops_of(setting.policy, self.tested.scores, self.draws)
            found = at(self.tested.qualities, stops)
            if not is_above_zero(found - floor * large, floor, delta):
                break
            passed.append(setting)
        if not passed:
            raise ToolkitError(
                f"quality is {found.mean():.3f} with {policy.name} and {large.mean():.3f} with the "
                f"last stage alone, on the {len(large)} prompts that test the floor, a quarter of "
                f"those recorded; this does not show with probability {1 - delta:.1%} that "
                f"{floor:.1%} is kept: {_advise(found, large, floor, delta)}"
            )
        return self.finish([min(passed, key=lambda setting: setting.cost)])


def fit_setting(policy: StopPolicy, outcomes: Outcomes, trade_off: float) -> Setting:
    """Fit a policy for one λ. Raises `ToolkitError` for stages or options that it cannot fit."""
    try:
        fitted = policy.fit(outcomes, trade_off)
    except ValueError as error:
        raise ToolkitError(str(error)) from error
    draws = np.random.default_rng(0).random(len(outcomes.scores))
    stops = stops_of(fitted, outcomes.scores, draws)
    cost = at(outcomes.costs.cumsum(1), stops).mean()
    return Setting(trade_off, fitted, float(cost), float(at(outcomes.qualities, stops).mean()))


def fit_settings(policy: StopPolicy, outcomes: Outcomes) -> list[Setting]:
    """The policy fitted for each λ of `SWEEP`."""
    return [fit_setting(policy, outcomes, rate) for rate in rates_of(outcomes)]


def rates_of(outcomes: Outcomes) -> list[float]:
    """The λ that are tried: from 0 to 100 mean costs of the last stage."""
    return [float(rate) for rate in SWEEP * outcomes.costs[:, -1].mean()]


def meet_budget(settings: list[Setting], budget: float) -> tuple[list[Setting], float]:
    """One setting, or two neighbours and the share of prompts that take the second: their mean cost is
    the budget, or the best setting's if that is less. Raises `ToolkitError` for too small a budget."""
    by_point = {(setting.cost, setting.quality): setting for setting in settings}
    hull = [by_point[point] for point in find_hull(list(by_point))]
    if budget < hull[0].cost:
        raise ToolkitError(
            f"budget {budget:g} is below {hull[0].cost:.4g}, the least mean cost of a prompt: raise "
            f"--budget"
        )
    above = next((n for n, setting in enumerate(hull) if setting.cost > budget), None)
    if above is None:
        return [hull[-1]], 0.0
    low, high = hull[above - 1], hull[above]
    return [low, high], (budget - low.cost) / (high.cost - low.cost)


def _advise(found: Floats, large: Floats, floor: float, delta: float) -> str:
    """What to do about qualities found[n] that do not show that a floor under large[n] is kept. As many
    prompts are to be recorded as a bettor takes who knows what to bet."""
    limit, wanted = BOLDEST / floor, log(1 / delta)
    best = log1p(limit * (1 - floor) * large.mean())  # a prompt's gain with the large model itself
    if 0 < best * len(large) < wanted:
        return f"record at least {4 * ceil(wanted / best)} prompts, lower --floor or raise --delta"
    stakes = np.linspace(0, limit, 100)[:, None]
    gain = np.log1p(stakes * (found - floor * large)).mean(1).max()
    if gain > 0:
        more = max(2 * len(found), ceil(wanted / gain))
        return f"record about {4 * more} prompts, lower --floor or raise --delta"
    return "lower --floor, or give another --policy or --scorer"


def is_above_zero(values: Floats, most_lost: float, delta: float) -> bool:
    """Whether independent `values[n]`, none below −`most_lost`, show that their mean is above zero.

    It says so wrongly with probability `delta` at most, for any n and any distribution: a bettor's
    wealth, whose mean never rises when the mean of the values is zero or less, reaches 1/δ (testing by
    betting; Waudby-Smith and Ramdas 2023, arXiv:2010.09686).
    """
    if most_lost == 0:
        return True
    seen = np.arange(1, len(values) + 1)
    means = (values.cumsum() - values) / seen  # of the values before
    squares = (0.25 + (values**2).cumsum() - values**2) / seen
    stakes = np.clip(means / squares, 0, BOLDEST / most_lost)
    return bool(np.log1p(stakes * values).cumsum().max() >= log(1 / delta))

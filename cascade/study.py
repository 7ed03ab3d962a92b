"""What recorded answers say of cascades: curves over λ, speed-ups at a kept quality, reliability.

Policies and calibrations are fitted on one half of the prompts. What is reported is of the other half.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from toolkit import Outcomes, Registry, Scorer, StopPolicy, ToolkitError
from toolkit.bootstrap import bootstrap_share

from .answers import Answer, by_prompt, outcomes_of
from .fitting import FEWEST, Fitting, Setting, fit_setting, fit_settings, rates_of
from .outcomes import cheapest_oracle_stops, oracle_stops, stops_of
from .policies.random import Random
from .regret import LEARNERS, Regret, measure_regret
from .replay import Interval, Replayed, draws_of, replay_alone, replay_stops

Floats = NDArray[np.float64]
KEPT = (0.9, 0.95, 0.99)  # of the large model's quality
TURNS = 65_536  # prompts that the online policies see: with fewer, controls may keep the bound
SHARES = [n / 10 for n in range(11)]  # of prompts that go on by chance


@frozen(eq=False)
class Point:
    """A policy fitted for one λ: what it was on the fitting half, and is on the other."""

    trade_off: float
    fitted_cost: float
    fitted_quality: float
    held: Replayed


@frozen(eq=False)
class Row:
    """A policy's setting that kept a share of the large model's quality on the fitting half; the
    oracle's, on the reporting half."""

    policy: str
    kept: float
    held: Replayed | None  # None: no setting keeps so much
    speedup: Interval | None
    share: float | None  # of the large model's quality, on the reporting half


@frozen(eq=False)
class Reliability:
    """Calibrated scores of one stage beside the qualities, by bins of scores."""

    predicted: Floats
    observed: Floats
    counts: NDArray[np.int64]
    ece: float
    brier: float
    auc: float | None  # None: all answers have the same grade


@frozen(slots=False, eq=False)
class Study:
    """Recorded outcomes of L stages, halved by prompt."""

    stages: list[str]
    cost: str
    fitting: Outcomes
    held: Outcomes
    draws: Floats  # [n] of the reporting half
    settings: list[Setting]  # of every policy, over λ
    left_out: list[str]  # why a policy could not be fitted

    @classmethod
    def of(
        cls,
        answers: list[Answer],
        scorer: Scorer,
        policies: list[StopPolicy],
        cost: str = "seconds",
    ) -> Study:
        """Fit a scorer to each stage, calibrate it, and fit policies for many λ. Raises `ToolkitError`
        for too few prompts or stages, and for missing grades."""
        made = Fitting.of(answers, scorer, cost)
        known = set(made.ids)
        rest = by_prompt([answer for answer in answers if answer.prompt_id not in known])
        if len(rest) < FEWEST:
            raise ToolkitError(
                f"{len(known) + len(rest)} prompts are too few to fit on one half and report on the "
                f"other: record {4 * FEWEST} or more"
            )
        settings: list[Setting] = []
        left_out = []
        for policy in policies:
            try:
                settings += fit_settings(policy, made.outcomes)
            except ToolkitError as error:
                left_out.append(str(error))
        settings += [fit_setting(Random(share), made.outcomes, share) for share in SHARES]
        held = outcomes_of(rest, made.scorers, cost)
        return cls(made.stages, cost, made.outcomes, held, draws_of(list(rest)), settings, left_out)

    @property
    def large(self) -> Replayed:
        """The last stage alone: what every speed-up is against."""
        return self.alone[-1]

    @cached_property
    def alone(self) -> list[Replayed]:
        """Every stage without those before it."""
        return replay_alone(self.held)

    @cached_property
    def curves(self) -> dict[str, list[Point]]:
        """Each policy over λ, and `random` over the share of prompts that go on."""
        stops = [
            (each.policy.name, stops_of(each.policy, self.held.scores, self.draws))
            for each in self.settings
        ]
        curves: dict[str, list[Point]] = {}
        for each, held in zip(self.settings, replay_stops(stops, self.held), strict=True):
            point = Point(each.trade_off, each.cost, each.quality, held)
            curves.setdefault(held.name, []).append(point)
        return curves

    @cached_property
    def oracle(self) -> list[Point]:
        """The best stop of each prompt, chosen with knowledge of all qualities and costs: a ceiling."""
        rates = rates_of(self.held)
        stops = [("oracle", oracle_stops(self.held, rate)) for rate in rates]
        points = zip(rates, replay_stops(stops, self.held), strict=True)
        return [Point(rate, held.cost.mean, held.quality.mean, held) for rate, held in points]

    @cached_property
    def rows(self) -> list[Row]:
        """For each policy and kept share, the cheapest setting that kept it on the fitting half. The
        oracle keeps it on the reporting half."""
        whole = self.large.quality.mean
        stops = [("oracle", cheapest_oracle_stops(self.held, kept * whole)) for kept in KEPT]
        found = []
        for kept, best in zip(KEPT, replay_stops(stops, self.held), strict=True):
            wanted = kept * float(self.fitting.qualities[:, -1].mean())
            for name, points in self.curves.items():
                found.append(self._row(name, kept, find_cheapest(points, wanted)))
            found.append(self._row("oracle", kept, best))
        return found

    def _row(self, name: str, kept: float, held: Replayed | None) -> Row:
        if held is None:
            return Row(name, kept, None, None, None)
        whole = self.large.quality.mean
        share = held.quality.mean / whole if whole else None
        return Row(name, kept, held, compare_costs(self.large.costs, held.costs), share)

    @cached_property
    def reliability(self) -> list[Reliability]:
        """Of each stage, on the reporting half."""
        columns = zip(self.held.scores.T, self.held.qualities.T, strict=True)
        return [measure_reliability(scores, qualities) for scores, qualities in columns]

    @cached_property
    def regret(self) -> list[Regret]:
        """The online policy and its controls, on draws of the reporting half, at λ = 3 large models."""
        rate = 3 * float(self.held.costs[:, -1].mean())
        return [measure_regret(each, self.held, rate, TURNS, seeds=1) for each in LEARNERS]


def list_fitted_policies(registry: Registry) -> list[StopPolicy]:
    """The registered policies that are fitted to outcomes and a λ, and do not learn from grades."""
    made = (registry.resolve("policy", name).build() for name in registry.names("policy"))
    return [
        policy
        for policy in made
        if policy.feedback == "none" and type(policy).fit is not StopPolicy.fit
    ]


def find_cheapest(points: list[Point], quality: float) -> Replayed | None:
    """Of the points that had this quality on the fitting half, the cheapest one there."""
    enough = [point for point in points if point.fitted_quality >= quality - 1e-12]
    return min(enough, key=lambda point: point.fitted_cost).held if enough else None


def compare_costs(theirs: Floats, ours: Floats) -> Interval:
    """Σ theirs[n] / Σ ours[n], with its 95 % bootstrap interval over prompts."""
    return Interval(float(theirs.sum() / ours.sum()), *bootstrap_share(theirs, ours))


def measure_reliability(scores: Floats, qualities: Floats, bins: int = 10) -> Reliability:
    """Mean score and quality by bins of equal width, with the errors of the scores as probabilities."""
    from sklearn.metrics import roc_auc_score

    cells = np.minimum((scores * bins).astype(int), bins - 1)
    counts = np.bincount(cells, minlength=bins)
    held = counts > 0
    predicted = np.bincount(cells, scores, bins)[held] / counts[held]
    observed = np.bincount(cells, qualities, bins)[held] / counts[held]
    ece = float((counts[held] * abs(predicted - observed)).sum() / len(scores))
    good = qualities >= 0.5
    auc = float(roc_auc_score(good, scores)) if good.any() and not good.all() else None
    brier = float(((scores - qualities) ** 2).mean())
    return Reliability(predicted, observed, counts[held], ece, brier, auc)

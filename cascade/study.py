"""What recorded answers say of cascades: curves over λ, speed-ups at a kept quality, reliability.

Policies and calibrations are fitted on one half of the prompts. What is reported is of the other half.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from toolkit import Outcomes, Scorer, StopPolicy, ToolkitError

from .answers import Answer, by_prompt, evidence_of_all, outcomes_of, require_cascade
from .calibration import fit_scorers
from .fitting import FEWEST, SWEEP
from .outcomes import oracle_stops, stops_of
from .policies.dp import DP
from .policies.frugal import Frugal
from .policies.gain import Gain
from .policies.random import Random
from .policies.threshold import Threshold
from .policy_file import split_by_prompt
from .regret import LEARNERS, Regret, measure_regret
from .replay import RESAMPLES, Interval, Replayed, alone, draws_of, replay_stops

Floats = NDArray[np.float64]
KEPT = (0.9, 0.95, 0.99)  # of the large model's quality
TURNS = 65_536  # prompts that the online policies see: with fewer, controls may keep the bound
SHARES = np.linspace(0, 1, 11)  # of prompts that go on by chance


@frozen(eq=False)
class Point:
    """A policy fitted for one λ: what it was on the fitting half, and is on the other."""

    trade_off: float
    fitted_cost: float
    fitted_quality: float
    held: Replayed


@frozen(eq=False)
class Row:
    """A policy's setting that kept a share of the large model's quality on the fitting half."""

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

    @classmethod
    def of(cls, answers: list[Answer], scorer: Scorer, cost: str = "seconds") -> Study:
        """Fit a scorer to each stage and calibrate it. Raises `ToolkitError` for too few prompts or
        stages, and for missing grades."""
        rows = by_prompt(answers)
        require_cascade(rows, cost)
        is_ours = split_by_prompt(0.5)
        ours = {prompt: row for prompt, row in rows.items() if is_ours(prompt)}
        rest = {prompt: row for prompt, row in rows.items() if not is_ours(prompt)}
        if min(len(ours), len(rest)) < FEWEST:
            raise ToolkitError(
                f"{len(rows)} prompts are too few to fit on one half and report on the other: record "
                f"{4 * FEWEST} or more"
            )
        scorers = fit_scorers(
            scorer,
            [evidence_of_all(row) for row in ours.values()],
            [[float(answer.quality or 0) for answer in row] for row in ours.values()],
        )
        names = [answer.name for answer in next(iter(rows.values()))]
        fitting, held = (outcomes_of(half, scorers, cost) for half in (ours, rest))
        return cls(names, cost, fitting, held, draws_of(list(rest)))

    @cached_property
    def large(self) -> Replayed:
        """The last stage alone: what every speed-up is against."""
        return alone(self.held.stages - 1, self.held)

    @cached_property
    def alone(self) -> list[Replayed]:
        """Every stage without those before it."""
        return [alone(stage, self.held) for stage in range(self.held.stages)]

    @cached_property
    def curves(self) -> dict[str, list[Point]]:
        """Each policy over λ, and `random` over the share of prompts that go on."""
        policies: list[StopPolicy] = [Threshold(), DP(), Frugal()]
        if self.held.stages == 2:
            policies.append(Gain())
        unit = float(self.fitting.costs[:, -1].mean())
        rates = (SWEEP * unit).tolist()
        found = {
            policy.name: [self._point(policy.fit(self.fitting, rate), rate) for rate in rates]
            for policy in policies
        }
        found["random"] = [self._point(Random(float(share)), float(share)) for share in SHARES]
        return found

    def _point(self, policy: StopPolicy, rate: float) -> Point:
        draws = np.random.default_rng(0).random(len(self.fitting.scores))
        fitted = replay_stops("", stops_of(policy, self.fitting.scores, draws), self.fitting)
        stops = stops_of(policy, self.held.scores, self.draws)
        held = replay_stops(policy.name, stops, self.held)
        return Point(rate, fitted.cost.mean, fitted.quality.mean, held)

    @cached_property
    def oracle(self) -> list[Point]:
        """The best stop of each prompt, chosen with knowledge of all qualities and costs: a ceiling."""
        unit = float(self.held.costs[:, -1].mean())
        points = []
        for rate in (SWEEP * unit).tolist():
            held = replay_stops("oracle", oracle_stops(self.held, rate), self.held)
            points.append(Point(rate, held.cost.mean, held.quality.mean, held))
        return points

    @cached_property
    def rows(self) -> list[Row]:
        """For each policy and kept share, the cheapest setting that kept it on the fitting half."""
        wanted = float(self.fitting.qualities[:, -1].mean())
        found = []
        for kept in KEPT:
            for name, points in self.curves.items():
                found.append(self._row(name, kept, points, kept * wanted))
            found.append(self._row("oracle", kept, self.oracle, kept * self.large.quality.mean))
        return found

    def _row(self, name: str, kept: float, points: list[Point], wanted: float) -> Row:
        enough = [point for point in points if point.fitted_quality >= wanted - 1e-12]
        if not enough:
            return Row(name, kept, None, None, None)
        held = min(enough, key=lambda point: point.fitted_cost).held
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


def compare_costs(theirs: Floats, ours: Floats) -> Interval:
    """Σ theirs[n] / Σ ours[n], with its 95 % bootstrap interval over prompts."""
    picks = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
    ratios = theirs[picks].sum(1) / ours[picks].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(theirs.sum() / ours.sum()), float(low), float(high))


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
